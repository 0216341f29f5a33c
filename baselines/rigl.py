# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""RigL: connections grow where the gradient is large (Evci et al., 2020, https://arxiv.org/abs/1911.11134)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from baselines.masking import DynamicSparse


@dataclasses.dataclass(frozen=True, eq=False)
class RigL(DynamicSparse):
    """Drops the connections with the smallest `|w|` and grows those with the largest `|dL/dw|` of the step's batch.

    In the paper, step t moves a fraction `drop(t) = a / 2 (1 + cos(pi t / T))` with a = 0.3, up to the step T.
    """

    dense_gradients: bool = dataclasses.field(default=True, init=False)

    def growth(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns `|dL/dw|`."""
        del params, count
        return jax.tree.map(jnp.abs, grads)
