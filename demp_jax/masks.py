# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Which weights belong to live units, inside a compiled step."""

from demp_jax._src.optim.masks import WeightGroups as WeightGroups
from demp_jax._src.optim.masks import weight_groups as weight_groups
from demp_jax._src.optim.masks import weight_mask as weight_mask

__all__ = [
    "WeightGroups",
    "weight_groups",
    "weight_mask",
]
