# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Steering the strength of a regularizer, so that a network ends at a given size.

Pass the fraction of the network that a prune would leave (`demp_jax.preview`) to a `TargetController` every few steps,
and multiply the strength by the factor that it returns (`demp_jax.set_strength_factor`). `demp_jax.Pruner` does this.
"""

from demp_jax._src.pruning.target import TargetController as TargetController

__all__ = [
    "TargetController",
]
