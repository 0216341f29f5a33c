# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""How images become inputs, inside the compiled step.

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
    """How images become inputs: `(pixel - mean) / std` per channel, and what training adds. Hashable.

    Attributes:
      mean, std: per channel, in units of a pixel.
      upsample: side of the square that images are resized to (bilinear); 0 for none.
      crop: how many pixels an image is padded on each side before a random crop; 0 for none.
      padding: a key of `PADDINGS`.
      crop_first: whether it is cropped before it is resized.
      flip: whether images are flipped left to right at random.
      mixup: concentration of Mixup's Beta distribution, `alpha` (https://arxiv.org/abs/1710.09412); 0 for none.
      cutmix: that of CutMix (https://arxiv.org/abs/1905.04899). With both, each batch draws one of them.
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
        """Returns the shape of an input, for that of an image, `(H, W, C)`."""
        return (self.upsample, self.upsample, image[2]) if self.upsample else image

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns inputs `[B, H, W, C]` float32 for uint8 images, without augmentation."""
        return self._normalize(self._resize(images))

    def train(self, key: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns augmented inputs, and the targets that belong to them.

        Args:
          key: random key; it is consumed.
          images: `[B, H, W, C]` uint8.
          targets: `[B, K]`, probabilities of the classes.
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
    """Returns `t x + (1 - t) x'` and the targets mixed likewise, `t ~ Beta(alpha, alpha)`, x' the example before.

    As in torchvision, one `t` for a batch, mixed with the batch rolled by one.
    """
    t = jax.random.beta(key, alpha, alpha)
    return t * x + (1 - t) * jnp.roll(x, 1, 0), t * targets + (1 - t) * jnp.roll(targets, 1, 0)


def cutmix(
    beta: jax.Array, box: jax.Array, x: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Returns images in which a box comes from the example before, and the targets mixed by area.

    The box has `sqrt(1 - t)` of height and width, `t ~ Beta(alpha, alpha)`, and a centre anywhere; what of it lies
    outside the image is cut off, and the targets go by what is left.

    Args:
      beta, box: random keys, of its size and its place.
      x: `[B, H, W, C]`.
      targets: `[B, K]`.
      alpha: concentration, > 0.
    """
    height, width = x.shape[1:3]
    half = 0.5 * jnp.sqrt(1 - jax.random.beta(beta, alpha, alpha))
    centre = jax.random.uniform(box, (2,))
    rows, columns = jnp.arange(height), jnp.arange(width)

    def inside(places: jax.Array, side: int, middle: jax.Array) -> jax.Array:
        # Whole pixels, as the area is counted in pixels.
        low, high = jnp.round(side * (middle - half)), jnp.round(side * (middle + half))
        return (places >= low) & (places < high)

    mask = inside(rows, height, centre[0])[:, None] & inside(columns, width, centre[1])[None, :]
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
    """Returns how the images of a dataset are prepared.

    Raises:
      UsageError: for a crop that leaves nothing of an image.
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
