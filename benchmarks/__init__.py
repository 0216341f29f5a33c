"""Benchmarks: ratios of times within one run."""
