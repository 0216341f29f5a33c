# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A size to end at, instead of a strength."""

from demp_jax._src.pruning.target import TargetController as TargetController

__all__ = [
    "TargetController",
]
