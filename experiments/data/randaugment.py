# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""RandAugment (Cubuk et al., 2020, https://arxiv.org/abs/1909.13719) with Pillow's operations.

The ranges are those of torchvision's ViT-B/16 recipe, which the paper follows: magnitudes are 0 to 30, and the sign of
directed operations is random.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

LARGEST = 30.0
_BILINEAR = Image.Resampling.BILINEAR


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    # `matrix` maps points of the result to points of the image. Points outside the image are black.
    return image.transform(image.size, Image.Transform.AFFINE, matrix, _BILINEAR)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, value: kind(image).enhance(1 + value)


# By name: the operation, its value at the largest magnitude, and whether it is directed (its sign is random).
_OPERATIONS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, bool]] = {
    "identity": (lambda image, _: image, 0, False),
    "shear_x": (lambda image, v: _affine(image, (1, v, 0, 0, 1, 0)), 0.3, True),
    "shear_y": (lambda image, v: _affine(image, (1, 0, 0, v, 1, 0)), 0.3, True),
    "translate_x": (lambda image, v: _affine(image, (1, 0, v * image.width, 0, 1, 0)), 150 / 331, True),
    "translate_y": (lambda image, v: _affine(image, (1, 0, 0, 0, 1, v * image.height)), 150 / 331, True),
    "rotate": (lambda image, v: image.rotate(v, _BILINEAR), 30.0, True),
    "brightness": (_enhance(ImageEnhance.Brightness), 0.9, True),
    "color": (_enhance(ImageEnhance.Color), 0.9, True),
    "contrast": (_enhance(ImageEnhance.Contrast), 0.9, True),
    "sharpness": (_enhance(ImageEnhance.Sharpness), 0.9, True),
    "posterize": (lambda image, v: ImageOps.posterize(image, 8 - round(v)), 4.0, False),
    # Inverts no pixel at magnitude 0, and all at the largest.
    "solarize": (lambda image, v: ImageOps.solarize(image, round(255 - v)), 255.0, False),
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), 0, False),
    "equalize": (lambda image, _: ImageOps.equalize(image), 0, False),
}
OPERATIONS = tuple(_OPERATIONS)


def apply(image: Image.Image, name: str, magnitude: float, *, mirrored: bool = False) -> Image.Image:
    """Applies one operation to an image.

    Args:
      image: an RGB image.
      name: one of `OPERATIONS`.
      magnitude: in [0, 30].
      mirrored: whether to negate the value of a directed operation.
    """
    operation, largest, directed = _OPERATIONS[name]
    value = magnitude / LARGEST * largest
    return operation(image, -value if mirrored and directed else value)


def randaugment(image: Image.Image, rng: np.random.Generator, operations: int, magnitude: float) -> Image.Image:
    """Applies `operations` operations of a magnitude in [0, 30], drawn uniformly with replacement."""
    for _ in range(operations):
        name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        image = apply(image, name, magnitude, mirrored=bool(rng.integers(2)))
    return image
