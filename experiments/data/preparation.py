# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Preprocessing and augmentation of images within the compiled step.

Dimension letters: B batch, H W C image, K classes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from experiments.core.errors import require
from experiments.data.dataset import Dataset
from experiments.settings.schema import Data

PADDINGS = {"reflect": "reflect", "zero": "constant"}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Normalizes images to `(pixel - mean) / std` per channel, and augments them in training. Hashable.

    Attributes:
      mean: mean per channel, in pixel values.
      std: standard deviation per channel, in pixel values.
      upsample: side of the square that images are resized to (bilinear), in pixels; 0 for none.
      crop: padding on each side before a random crop, in pixels; 0 for none.
      padding: a key of `PADDINGS`.
      crop_first: whether to crop before resizing.
      flip: whether to flip images horizontally at random.
      mixup: concentration `alpha` of Mixup's Beta distribution (https://arxiv.org/abs/1710.09412); 0 for none.
      cutmix: concentration `alpha` of CutMix's Beta distribution (https://arxiv.org/abs/1905.04899); 0 for none. If
        both are set, one of them is drawn for each batch.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    upsample: int = 0
    crop: int = 0
    padding: str = "reflect"
    crop_first: bool = False
    flip: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0

    def shape(self, image: tuple[int, int, int]) -> tuple[int, int, int]:
        """Returns the shape of a network input for images of shape `image`, both `(H, W, C)`."""
        return (self.upsample, self.upsample, image[2]) if self.upsample else image

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns inputs `[B, H, W, C]` float32 from uint8 images, without augmentation."""
        return self._normalize(self._resize(images))

    def train(self, key: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns augmented inputs and their targets.

        Args:
          key: PRNG key.
          images: `[B, H, W, C]` uint8.
          targets: class probabilities, `[B, K]`.
        """
        crop_key, flip_key, mix_key = jax.random.split(key, 3)
        if not self.crop_first:
            images = self._resize(images)
        if self.crop:
            images = _random_crop(crop_key, images, self.crop, PADDINGS[self.padding])
        if self.crop_first:
            images = self._resize(images)
        if self.flip:
            turned = jax.random.bernoulli(flip_key, shape=(images.shape[0], 1, 1, 1))
            images = jnp.where(turned, images[:, :, ::-1], images)
        x = self._normalize(images)
        if self.mixup or self.cutmix:
            x, targets = self._mix(mix_key, x, targets)
        return x, targets

    def _resize(self, images: jax.Array) -> jax.Array:
        batch, height, width, channels = images.shape
        if not self.upsample or (height, width) == (self.upsample, self.upsample):
            return images
        shape = (batch, self.upsample, self.upsample, channels)
        return jax.image.resize(images.astype(jnp.float32), shape, "bilinear")

    def _normalize(self, images: jax.Array) -> jax.Array:
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        shape = (1, 1, 1, len(self.mean))
        return (images.astype(jnp.float32) - mean.reshape(shape)) / std.reshape(shape)

    def _mix(self, key: jax.Array, x: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        choice, beta, box = jax.random.split(key, 3)
        if not (self.mixup and self.cutmix):
            return mixup(beta, x, targets, self.mixup) if self.mixup else cutmix(beta, box, x, targets, self.cutmix)
        mixed, cut = mixup(beta, x, targets, self.mixup), cutmix(beta, box, x, targets, self.cutmix)
        return jax.tree.map(lambda a, b: jnp.where(jax.random.bernoulli(choice), a, b), mixed, cut)


def mixup(key: jax.Array, x: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Returns `t x + (1 - t) x'` and the targets mixed likewise, with `t ~ Beta(alpha, alpha)`.

    As in torchvision, `x'` is the batch rolled by one, and `t` is drawn once per batch.
    """
    t = jax.random.beta(key, alpha, alpha)
    return t * x + (1 - t) * jnp.roll(x, 1, 0), t * targets + (1 - t) * jnp.roll(targets, 1, 0)


def cutmix(
    beta: jax.Array, box: jax.Array, x: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Returns images with a box pasted from the previous example of the batch, and the targets mixed by area.

    The box measures `sqrt(1 - t)` of the height and width, with `t ~ Beta(alpha, alpha)`, around a uniformly drawn
    center. It is clipped to the image, and the targets are mixed by the clipped area.

    Args:
      beta: PRNG key of the size of the box.
      box: PRNG key of its center.
      x: `[B, H, W, C]`.
      targets: `[B, K]`.
      alpha: concentration, > 0.
    """
    height, width = x.shape[1:3]
    half = 0.5 * jnp.sqrt(1 - jax.random.beta(beta, alpha, alpha))
    center = jax.random.uniform(box, (2,))
    rows, columns = jnp.arange(height), jnp.arange(width)

    def inside(places: jax.Array, side: int, middle: jax.Array) -> jax.Array:
        # Rounded, so that the area is a whole number of pixels.
        low, high = jnp.round(side * (middle - half)), jnp.round(side * (middle + half))
        return (places >= low) & (places < high)

    mask = inside(rows, height, center[0])[:, None] & inside(columns, width, center[1])[None, :]
    share = jnp.mean(mask.astype(x.dtype))
    mixed = jnp.where(mask[None, :, :, None], jnp.roll(x, 1, 0), x)
    return mixed, (1 - share) * targets + share * jnp.roll(targets, 1, 0)


def _random_crop(key: jax.Array, images: jax.Array, pad: int, mode: str) -> jax.Array:
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
    corners = jax.random.randint(key, (batch, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def preparation(section: Data, dataset: Dataset) -> Preparation:
    """Returns the preprocessing of a dataset's images.

    Raises:
      UsageError: if the padding before a crop is not smaller than the image.
    """
    side = min(dataset.image_shape[:2])
    if section.upsample and not section.crop_first:
        side = section.upsample
    allowed = f"between 0 and {side - 1}, the side of an image less one"
    require(section.crop < side, "config.data.crop", section.crop, allowed)
    mean, std = dataset.mean, dataset.std
    if section.normalize == "unit":
        mean, std = (0.0,) * len(mean), (dataset.largest,) * len(mean)
    return Preparation(
        mean=mean,
        std=std,
        upsample=section.upsample,
        crop=section.crop,
        padding=section.padding,
        crop_first=section.crop_first,
        flip=section.flip,
        mixup=section.mixup,
        cutmix=section.cutmix,
    )
