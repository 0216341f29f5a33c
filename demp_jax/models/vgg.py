# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""VGG-16 for small images (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556; here with BatchNorm)."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from demp_jax.models.activations import ACTIVATIONS

# The thirteen convolutions in five stages, each of which ends with a pooling: their channels as multiples of the base
# width. The last convolution has 1,024 channels, as in the paper's network.
_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 16))


class VGG(nnx.Module):
    """Convolutions and dense layers, each with bias, BatchNorm and an activation, and a linear head.

    With the defaults, for 64 x 64 images of 3 channels and 10 classes, it is the paper's VGG-16: 50,703,946 parameters,
    12,928 neurons.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        base_width: int = 64,
        hidden: int = 4096,
        activation: str = "relu",
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Initializes the network.

        Args:
          input_shape: `(height, width, channels)` of an image; height and width are multiples of 32.
          classes: size of the output.
          base_width: number of channels of the first stage; the last convolution has 16 times as many.
          hidden: number of units of each of the two dense layers.
          activation: a name in `ACTIVATIONS`.
          dtype: dtype of the computation, such as `jnp.bfloat16`. Parameters, statistics and the head are float32.
          rngs: random keys for the initialization.

        Raises:
          ValueError: if the height or width is not a multiple of 32.
          KeyError: for an unknown activation.
        """
        height, width, channels = input_shape
        if height < 32 or width < 32 or height % 32 or width % 32:
            raise ValueError(f"VGG needs a height and width that are multiples of 32; got {height} x {width}.")
        self.activation = ACTIVATIONS[activation]
        widths = [base_width * part for stage in _STAGES for part in stage]
        pairs = itertools.pairwise((channels, *widths))
        self.conv = nnx.List([nnx.Conv(i, o, (3, 3), dtype=dtype, rngs=rngs) for i, o in pairs])
        self.conv_bn = nnx.List([_norm(w, dtype, rngs) for w in widths])
        # The number of convolutions before each pooling.
        self.last = tuple(itertools.accumulate(len(stage) for stage in _STAGES))
        flat = (height // 32) * (width // 32) * widths[-1]
        self.dense = nnx.List([nnx.Linear(i, hidden, dtype=dtype, rngs=rngs) for i in (flat, hidden)])
        self.dense_bn = nnx.List([_norm(hidden, dtype, rngs) for _ in range(2)])
        self.head = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `[batch, classes]` for `x`, `[batch, height, width, channels]`."""
        for i, (conv, norm) in enumerate(zip(self.conv, self.conv_bn, strict=True), start=1):
            x = self.activation(norm(conv(x)))
            if i == self.last[-1]:
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
            elif i in self.last:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for dense, norm in zip(self.dense, self.dense_bn, strict=True):
            x = self.activation(norm(dense(x)))
        return self.head(x.astype(jnp.float32))


def _norm(features: int, dtype: Any, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)
