"""Configs of experiments."""
