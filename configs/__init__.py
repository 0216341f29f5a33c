"""Configs: plain data."""
