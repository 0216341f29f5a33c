# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Gradual pruning by magnitude (Zhu and Gupta, 2017, https://arxiv.org/abs/1710.01878)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from baselines.masking import Masking


@dataclasses.dataclass(frozen=True, eq=False)
class Magnitude(Masking):
    """Masks the weights with the smallest `|w|` of every parameter, at the sparsity of `sparsity.Schedule`."""

    def scores(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns `|w|`."""
        del grads, count
        return jax.tree.map(jnp.abs, params)
