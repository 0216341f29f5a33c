# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Masks of the weights that belong to alive units.

`weight_groups` finds the units that every weight belongs to, once per architecture. `weight_mask` returns the mask of
the weights at a step, given the alive units. Pass it as `live` to the update of `demp_jax.demp`.
"""

from demp_jax._src.optim.masks import WeightGroups as WeightGroups
from demp_jax._src.optim.masks import weight_groups as weight_groups
from demp_jax._src.optim.masks import weight_mask as weight_mask

__all__ = [
    "WeightGroups",
    "weight_groups",
    "weight_mask",
]
