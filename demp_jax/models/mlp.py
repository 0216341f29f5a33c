# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Multi-layer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from demp_jax.models.activations import ACTIVATIONS


class MLP(nnx.Module):
    """Dense layers, each with BatchNorm (by default) and an activation, and a linear head; inputs are flattened."""

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        widths: Sequence[int] = (128, 128),
        activation: str = "relu",
        norm: bool = True,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Initializes the network.

        Args:
          features: size of a flattened input.
          classes: size of the output.
          widths: number of units of each hidden layer.
          activation: a name in `ACTIVATIONS`.
          norm: whether there is a BatchNorm before each activation.
          dtype: dtype of the computation, such as `jnp.bfloat16`. Parameters, statistics and the head are float32.
          rngs: random keys for the initialization.

        Raises:
          KeyError: for an unknown activation.
        """
        sizes = (features, *widths)
        pairs = list(itertools.pairwise(sizes))
        self.activation = ACTIVATIONS[activation]
        self.dense = nnx.List([nnx.Linear(i, o, use_bias=not norm, dtype=dtype, rngs=rngs) for i, o in pairs])
        normed = sizes[1:] if norm else ()
        self.norm = nnx.List([nnx.BatchNorm(o, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs) for o in normed])
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `[batch, classes]` for `x`, `[batch, ...]`."""
        x = x.reshape(x.shape[0], -1)
        for i, dense in enumerate(self.dense):
            x = dense(x)
            if self.norm:
                x = self.norm[i](x)
            x = self.activation(x)
        return self.head(x.astype(jnp.float32))
