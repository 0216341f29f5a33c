# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Residual networks for small images (He et al., 2016, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from demp_jax.models.activations import ACTIVATIONS
from demp_jax.nnx import ChannelSum

# As in the released code of the paper: He initialisation, truncated, by fan-in.
_HE = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def _conv(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (size, size), strides=stride, use_bias=False, kernel_init=_HE, rngs=rngs)


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


class BasicBlock(nnx.Module):
    """`act(bn2(conv2(act(bn1(conv1(x))))) + shortcut(x))`; the shortcut is projected where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str, coupled: bool, rngs: nnx.Rngs):
        """Makes a block from `inputs` to `outputs` channels; see `ResNet` for the other arguments."""
        self.activation = ACTIVATIONS[activation]
        self.conv1 = _conv(inputs, outputs, 3, stride, rngs)
        self.bn1 = _norm(outputs, rngs)
        self.conv2 = _conv(outputs, outputs, 3, 1, rngs)
        self.bn2 = _norm(outputs, rngs)
        self.projected = stride != 1 or inputs != outputs
        if self.projected:
            self.shortcut_conv = _conv(inputs, outputs, 1, stride, rngs)
            self.shortcut_bn = _norm(outputs, rngs)
        self.coupled = coupled
        if not coupled:
            self.sum = ChannelSum(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[batch, height, width, outputs]`."""
        y = self.activation(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        skip = self.shortcut_bn(self.shortcut_conv(x)) if self.projected else x
        return self.activation(y + skip if self.coupled else self.sum(y, skip))


class ResNet(nnx.Module):
    """A residual network for 32 x 32 images: a 3 x 3 stem, four stages of basic blocks, global average pooling.

    With the defaults it is the paper's ResNet-18: 11,173,962 parameters for 3 input channels and 10 classes, and 3,904
    neurons (stem, and two activations in each of eight blocks).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        base_width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem_stride: int = 1,
        activation: str = "relu",
        coupled: bool = False,
        rngs: nnx.Rngs,
    ):
        """Makes the network.

        Args:
          channels: of the input images.
          classes: size of the output.
          base_width: channels of the stem and the first stage; each later stage doubles them.
          blocks: number of basic blocks per stage.
          stem_stride: 1 as in the paper; 2 quarters the cost of everything.
          activation: a key of `ACTIVATIONS`.
          coupled: whether a channel can leave only where it is dead in its whole stage; by default it leaves block by
            block, as the paper counts.
          rngs: random keys of the initialisation.
        """
        self.activation = ACTIVATIONS[activation]
        self.stem_conv = _conv(channels, base_width, 3, stem_stride, rngs)
        self.stem_bn = _norm(base_width, rngs)
        layers = []
        inputs = base_width
        for stage, depth in enumerate(blocks):
            outputs = base_width * 2**stage
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(BasicBlock(inputs, outputs, stride, activation, coupled, rngs))
                inputs = outputs
        self.blocks = nnx.List(layers)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `[batch, classes]` for `x`, `[batch, height, width, channels]`."""
        x = self.activation(self.stem_bn(self.stem_conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))
