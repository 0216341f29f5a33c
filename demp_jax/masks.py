# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Masks of the weights that belong to alive units.

`weight_groups` finds, once per architecture, which unit every weight belongs to. `weight_mask` turns the alive units of
a step into a mask like the parameters, which `demp_jax.demp` takes as `live`.
"""

from demp_jax._src.optim.masks import WeightGroups as WeightGroups
from demp_jax._src.optim.masks import weight_groups as weight_groups
from demp_jax._src.optim.masks import weight_mask as weight_mask

__all__ = [
    "WeightGroups",
    "weight_groups",
    "weight_mask",
]
