# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Residual networks (He et al., 2016, https://arxiv.org/abs/1512.03385), for small images and for ImageNet."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from demp_jax.models.activations import ACTIVATIONS
from demp_jax.nnx import ChannelSum

# He initialization with a truncated normal distribution, as in the released code of the paper.
_HE = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def _conv(inputs: int, outputs: int, size: int, stride: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs, outputs, (size, size), strides=stride, use_bias=False, kernel_init=_HE, dtype=dtype, rngs=rngs
    )


def _norm(channels: int, dtype: Any, rngs: nnx.Rngs, scale: float = 1.0) -> nnx.BatchNorm:
    initial = nnx.initializers.constant(scale)
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, scale_init=initial, dtype=dtype, rngs=rngs)


class _Residual(nnx.Module):
    """The base class of blocks: the shortcut, which is projected if shapes differ, the sum and the last activation."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activation: str, coupled: bool, dtype: Any, rngs: nnx.Rngs
    ):
        self.activation = ACTIVATIONS[activation]
        self.projected = stride != 1 or inputs != outputs
        if self.projected:
            self.shortcut_conv = _conv(inputs, outputs, 1, stride, dtype, rngs)
            self.shortcut_bn = _norm(outputs, dtype, rngs)
        self.coupled = coupled
        if not coupled:
            self.sum = ChannelSum(outputs)

    def _join(self, x: jax.Array, y: jax.Array) -> jax.Array:
        skip = self.shortcut_bn(self.shortcut_conv(x)) if self.projected else x
        return self.activation(y + skip if self.coupled else self.sum(y, skip))


class BasicBlock(_Residual):
    """A block of two 3 x 3 convolutions, `act(bn2(conv2(act(bn1(conv1(x))))) + shortcut(x))`."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, activation: str, coupled: bool, dtype: Any, rngs: nnx.Rngs
    ):
        """Initializes a block from `inputs` to `width` channels; see `ResNet` for the other arguments."""
        self.conv1 = _conv(inputs, width, 3, stride, dtype, rngs)
        self.bn1 = _norm(width, dtype, rngs)
        self.conv2 = _conv(width, width, 3, 1, dtype, rngs)
        self.bn2 = _norm(width, dtype, rngs)
        super().__init__(inputs, width, stride, activation, coupled, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[batch, height, width, outputs]`."""
        y = self.activation(self.bn1(self.conv1(x)))
        return self._join(x, self.bn2(self.conv2(y)))


class Bottleneck(_Residual):
    """A block of three convolutions, `act(bn3(conv3(act(bn2(conv2(act(bn1(conv1(x)))))))) + shortcut(x))`.

    The kernels are 1 x 1, 3 x 3 with the stride, and 1 x 1. The scale of `bn3` is initialized to zero, so that the
    block initially computes its shortcut (Goyal et al., 2017, https://arxiv.org/abs/1706.02677, section 5.1).
    """

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, activation: str, coupled: bool, dtype: Any, rngs: nnx.Rngs
    ):
        """Initializes a block from `inputs` to `4 * width` channels; see `ResNet` for the other arguments."""
        outputs = self.expansion * width
        self.conv1 = _conv(inputs, width, 1, 1, dtype, rngs)
        self.bn1 = _norm(width, dtype, rngs)
        self.conv2 = _conv(width, width, 3, stride, dtype, rngs)
        self.bn2 = _norm(width, dtype, rngs)
        self.conv3 = _conv(width, outputs, 1, 1, dtype, rngs)
        self.bn3 = _norm(outputs, dtype, rngs, scale=0.0)
        super().__init__(inputs, outputs, stride, activation, coupled, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[batch, height, width, outputs]`."""
        y = self.activation(self.bn1(self.conv1(x)))
        y = self.activation(self.bn2(self.conv2(y)))
        return self._join(x, self.bn3(self.conv3(y)))


class ResNet(nnx.Module):
    """A residual network: a stem, four stages of blocks, global average pooling, a linear head.

    With the defaults it is the paper's ResNet-18 for 32 x 32 images: 11,173,962 parameters for 3 input channels and 10
    classes, and 3,904 neurons (stem, and two activations in each of eight blocks). `resnet50` builds a ResNet-50.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        base_width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        stem: str = "small",
        stem_stride: int = 1,
        activation: str = "relu",
        coupled: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Initializes the network.

        Args:
          channels: number of channels of the input images.
          classes: size of the output.
          base_width: number of channels of the stem and the first stage, doubled at each further stage.
          blocks: number of blocks per stage.
          block: `BasicBlock` or `Bottleneck`.
          stem: `"small"`, one 3 x 3 convolution; `"imagenet"`, 7 x 7 with stride 2 and a 3 x 3 max-pool with stride 2.
          stem_stride: stride of the small stem. The paper uses 1; 2 divides the FLOPs of the network by four.
          activation: a name in `ACTIVATIONS`.
          coupled: whether a channel can only be removed from all blocks of a stage together. By default, it can be
            removed from each block independently, as the paper counts channels.
          dtype: dtype of the computation, such as `jnp.bfloat16`. Parameters, statistics and the head are float32.
          rngs: random keys for the initialization.

        Raises:
          ValueError: for an unknown stem.
          KeyError: for an unknown activation.
        """
        if stem not in ("small", "imagenet"):
            raise ValueError(f"stem must be 'small' or 'imagenet'; got {stem!r}.")
        self.activation = ACTIVATIONS[activation]
        size, stride = (3, stem_stride) if stem == "small" else (7, 2)
        self.stem_conv = _conv(channels, base_width, size, stride, dtype, rngs)
        self.stem_bn = _norm(base_width, dtype, rngs)
        self.pooled = stem == "imagenet"
        layers: list[BasicBlock | Bottleneck] = []
        inputs = base_width
        for stage, depth in enumerate(blocks):
            width = base_width * 2**stage
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(block(inputs, width, stride, activation, coupled, dtype, rngs))
                inputs = width * block.expansion
        self.blocks = nnx.List(layers)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `[batch, classes]` for `x`, `[batch, height, width, channels]`."""
        x = self.activation(self.stem_bn(self.stem_conv(x)))
        if self.pooled:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))


# 25,557,032 parameters for 3 channels and 1,000 classes; 22,720 neurons, in the stem and three activations per block.
resnet50 = functools.partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck, stem="imagenet")
