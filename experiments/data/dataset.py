# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What the training program asks of a dataset.

Dimension letters: B batch, H W C image.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from experiments.core.errors import require

# Uint8 images `[B, H, W, C]` and int32 labels `[B]`.
Batch = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(abc.ABC):
    """A dataset of images of one size with labels, in two splits, `train` and `test`.

    Attributes:
      name: its name in configs.
      classes: number of classes.
      image_shape: `(H, W, C)`.
      train_examples, test_examples: how many there are.
      mean, std: of the training images, per channel, in units of a pixel.
      largest: the largest value a pixel can have.
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    train_examples: int
    test_examples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    largest: float = 255.0

    @abc.abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Returns, for JSON, what tells this dataset from others and from itself after a change; cheap to compute."""

    @abc.abstractmethod
    def read(self, split: str, rows: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Returns images as an evaluation sees them.

        Args:
          split: `train` or `test`.
          rows: of each batch, the numbers of its examples, `[B]`.
        """


def require_limit(split: str, limit: int, every: int) -> None:
    """Raises `UsageError` unless a split of `every` examples can be limited to the first `limit` of them (0: all)."""
    require(0 <= limit <= every, f"config.data.{split}_examples", limit, f"between 1 and {every}, or 0 for all")
