# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Gradual pruning by saliency, `|weight x gradient|` (Molchanov et al., 2017, https://arxiv.org/abs/1611.06440)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from baselines.masking import Masking


@dataclasses.dataclass(frozen=True, eq=False)
class Saliency(Masking):
    """Masks the weights with the smallest `|w dL/dw|` of every parameter, at the sparsity of `sparsity.Schedule`.

    The gradient is that of the step's batch.
    """

    dense_gradients: bool = dataclasses.field(default=True, init=False)

    def scores(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns `|w dL/dw|`.

        Raises:
          ValueError: without gradients.
        """
        del count
        if grads is None:
            raise ValueError("saliency needs gradients: call instant_sparsify(params, grads).")
        return jax.tree.map(lambda p, g: jnp.abs(p * g), params, grads)
