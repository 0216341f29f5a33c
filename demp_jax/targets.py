# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Steering the strength of a regularizer, so that a network ends at a given size.

Every few steps, pass the fraction of the network that would remain after a prune (`demp_jax.preview`) to a
`TargetController`, and set the factor that it returns with `demp_jax.set_strength_factor`. `demp_jax.Pruner` does this.
"""

from demp_jax._src.pruning.target import TargetController as TargetController

__all__ = [
    "TargetController",
]
