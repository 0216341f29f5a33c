# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""SET: sparse evolutionary training (Mocanu et al., 2018, https://arxiv.org/abs/1707.04780)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from baselines.masking import DynamicSparse, random_like


@dataclasses.dataclass(frozen=True, eq=False)
class SET(DynamicSparse):
    """Drops a fraction `drop(t)` of the connections, those with the smallest `|w|`, and grows as many random ones."""

    def growth(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns uniform random numbers that differ between steps."""
        del grads
        return random_like(params, jax.random.fold_in(jax.random.key(self.seed), count))
