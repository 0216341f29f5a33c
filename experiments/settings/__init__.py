# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Validation of configs, and their options as frozen, typed values."""

from experiments.settings.schema import Settings, parse, require_valid, run_steps, section

__all__ = ["Settings", "parse", "require_valid", "run_steps", "section"]
