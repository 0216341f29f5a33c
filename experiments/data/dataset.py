# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The interface of datasets.

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
    """A dataset of labeled images of one size, with the splits `train` and `test`.

    Attributes:
      name: name in configs.
      classes: number of classes.
      image_shape: `(H, W, C)`.
      train_examples: number of training examples.
      test_examples: number of test examples.
      mean: mean of the training images per channel, in pixel values.
      std: standard deviation of the training images per channel, in pixel values.
      largest: largest possible pixel value.
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
        """Returns a JSON-compatible fingerprint that differs between datasets and changes with the data.

        It must be cheap to compute.
        """

    @abc.abstractmethod
    def read(self, split: str, rows: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Returns batches of examples, preprocessed as for evaluation.

        Args:
          split: `train` or `test`.
          rows: for each batch, the indices of its examples, `[B]`.
        """


def require_limit(split: str, limit: int, every: int) -> None:
    """Raises `UsageError` unless a split of `every` examples can be limited to its first `limit` examples (0: all)."""
    require(0 <= limit <= every, f"config.data.{split}_examples", limit, f"between 1 and {every}, or 0 for all")
