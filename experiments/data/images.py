# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Decoding and cropping of image files on the host. Worker processes import this module, so it must not import JAX.

Dimension letters: S side of the result.
"""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
from PIL import Image, ImageOps

from experiments.data.randaugment import randaugment

FRAMINGS = ("resize_crop", "random_resized_crop")
_BILINEAR = Image.Resampling.BILINEAR


@dataclasses.dataclass(frozen=True)
class Framing:
    """Resizing and cropping of images of any size to squares.

    Attributes:
      side: side of the square in pixels.
      train: method in training, one of `FRAMINGS`. `resize_crop` resizes the shorter side to a length drawn from
        `resize` and takes a random crop. `random_resized_crop` resizes a random box with 8% to 100% of the area and an
        aspect ratio of 3/4 to 4/3 (Szegedy et al., 2015, https://arxiv.org/abs/1409.4842).
      resize: lengths of the shorter side before the crop, in pixels.
      evaluation: length of the shorter side before the center crop in evaluation, in pixels.
      randaugment: number of RandAugment operations, and their magnitude in [0, 30].
    """

    side: int = 224
    train: str = "resize_crop"
    resize: tuple[int, ...] = (256,)
    evaluation: int = 256
    randaugment: tuple[int, float] = (0, 9.0)

    def for_training(self, data: bytes, rng: np.random.Generator) -> np.ndarray:
        """Returns an augmented image `[S, S, 3]` uint8 from the contents of a file; `rng` is advanced."""
        if self.train == "random_resized_crop":
            image = self._random_resized_crop(data, rng)
        else:
            short = int(rng.choice(self.resize))
            image = _shorter_side(decode(data, short), short)
            left, top = (int(rng.integers(0, size - self.side + 1)) for size in image.size)
            image = image.crop((left, top, left + self.side, top + self.side))
        operations, magnitude = self.randaugment
        return np.asarray(randaugment(image, rng, operations, magnitude) if operations else image)

    def for_evaluation(self, data: bytes) -> np.ndarray:
        """Returns the resized and center-cropped image `[S, S, 3]` uint8 from the contents of a file."""
        image = _shorter_side(decode(data), self.evaluation)
        left, top = (round((size - self.side) / 2) for size in image.size)
        return np.asarray(image.crop((left, top, left + self.side, top + self.side)))

    def _random_resized_crop(self, data: bytes, rng: np.random.Generator) -> Image.Image:
        # The box is drawn before decoding, so that a JPEG can be decoded at a lower resolution.
        opened = Image.open(io.BytesIO(data))
        width, height = _upright_size(opened)
        box = _random_box((width, height), rng)
        scale = min(box[2] / self.side, box[3] / self.side)
        image = _rgb(opened, (width / scale, height / scale))
        ratio = image.width / width, image.height / height
        left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
        region = (left * ratio[0], top * ratio[1], right * ratio[0], bottom * ratio[1])
        return image.resize((self.side, self.side), _BILINEAR, box=region)


def decode(data: bytes, shortest: int = 0) -> Image.Image:
    """Decodes an image to RGB.

    Args:
      data: contents of a file in any format that Pillow reads.
      shortest: minimum length of the shorter side. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that suffices,
        which is faster. 0 for full size.
    """
    image = Image.open(io.BytesIO(data))
    if not shortest:
        return _rgb(image)
    width, height = _upright_size(image)
    scale = shortest / min(width, height)
    return _rgb(image, (width * scale, height * scale))


_ORIENTATION = 0x0112  # An EXIF tag. Values of 5 and more swap rows and columns.


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height of an image after applying its EXIF orientation."""
    turned = image.getexif().get(_ORIENTATION, 1) >= 5
    return (image.height, image.width) if turned else image.size


def _rgb(image: Image.Image, enough: tuple[float, float] | None = None) -> Image.Image:
    """Converts an image to 8-bit RGB, with its EXIF orientation applied and transparency blended with white.

    Args:
      image: the image as opened.
      enough: minimum width and height after orientation, so that a JPEG can be decoded at a fraction of its size.

    Raises:
      ValueError: for floating-point pixels, whose range is unknown.
    """
    if enough is not None:
        width, height = enough if _upright_size(image) == image.size else enough[::-1]
        image.draft("RGB", (math.ceil(width), math.ceil(height)))
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are of floating point")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _shorter_side(image: Image.Image, length: int) -> Image.Image:
    scale = length / min(image.size)
    size = (max(round(image.width * scale), length), max(round(image.height * scale), length))
    return image if size == image.size else image.resize(size, _BILINEAR)


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Returns left, top, width and height of a random box with 8% to 100% of the area and an aspect of 3/4 to 4/3."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    # No box fits into a very long image: use its center, with the nearest aspect ratio.
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h
