# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Vision transformer (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from demp_jax.models.activations import ACTIVATIONS

_XAVIER = nnx.initializers.xavier_uniform()
_SMALL = nnx.initializers.truncated_normal(0.02)


class EncoderBlock(nnx.Module):
    """A pre-norm block: `x + attention(norm1(x))`, then `x + dense2(act(dense1(norm2(x))))`.

    The units of `dense1` are neurons.
    """

    def __init__(self, features: int, heads: int, hidden: int, activation: str, dtype: Any, rngs: nnx.Rngs):
        """Initializes a block; see `ViT` for the arguments."""
        self.norm1 = nnx.LayerNorm(features, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, features, kernel_init=_XAVIER, decode=False, dtype=dtype, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(features, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.dense1 = nnx.Linear(features, hidden, kernel_init=_XAVIER, dtype=dtype, rngs=rngs)
        self.activation = ACTIVATIONS[activation]
        self.dense2 = nnx.Linear(hidden, features, kernel_init=_XAVIER, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[batch, tokens, features]`."""
        x = x + self.attention(self.norm1(x))
        return x + self.dense2(self.activation(self.dense1(self.norm2(x))))


class ViT(nnx.Module):
    """A vision transformer: patches, a class token, learned positions, encoder blocks, and a head on the class token.

    With the defaults, for 224 x 224 images of 3 channels and 1,000 classes, it is ViT-B/16: 86,567,656 parameters, and
    36,864 neurons, the hidden units of the twelve MLPs.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        patch: int = 16,
        features: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        activation: str = "gelu",
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Initializes the network.

        Args:
          input_shape: `(height, width, channels)` of an image; height and width are multiples of `patch`.
          classes: size of the output.
          patch: side of a patch in pixels.
          features: number of features of a token.
          depth: number of encoder blocks.
          heads: number of heads of each attention.
          hidden: number of hidden units of each MLP.
          activation: a name in `ACTIVATIONS`.
          dtype: dtype of the computation, such as `jnp.bfloat16`. Parameters, statistics and the head are float32.
          rngs: random keys for the initialization.

        Raises:
          ValueError: if the height or width is not a multiple of `patch`.
          KeyError: for an unknown activation.
        """
        height, width, channels = input_shape
        if height % patch or width % patch:
            raise ValueError(f"ViT needs a height and width that are multiples of {patch}; got {height} x {width}.")
        tokens = (height // patch) * (width // patch) + 1
        self.patches = nnx.Conv(
            channels, features, (patch, patch), strides=patch, padding="VALID", dtype=dtype, rngs=rngs
        )
        self.token = nnx.Param(jnp.zeros((1, 1, features)))
        self.positions = nnx.Param(_SMALL(rngs.params(), (1, tokens, features), jnp.float32))
        self.blocks = nnx.List([EncoderBlock(features, heads, hidden, activation, dtype, rngs) for _ in range(depth)])
        # The residual stream is accumulated in float32.
        self.norm = nnx.LayerNorm(features, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(features, classes, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `[batch, classes]` for `x`, `[batch, height, width, channels]`."""
        x = self.patches(x)
        batch, _, _, features = x.shape
        x = x.reshape(batch, -1, features)
        token = jnp.broadcast_to(self.token[...], (batch, 1, features))
        x = jnp.concatenate([token, x.astype(jnp.float32)], axis=1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))
