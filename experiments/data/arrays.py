# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Datasets that fit into memory, decoded once: digits, and MNIST and CIFAR through tensorflow-datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from experiments.data import prepared
from experiments.data.dataset import Batch, Dataset, require_limit

ARRAYS = ("digits", "mnist", "cifar10", "cifar100")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays(Dataset):
    """A dataset in memory.

    Attributes:
      splits: images `[N, H, W, C]` uint8 and labels `[N]` int32 of `train` and of `test`.
    """

    splits: dict[str, Batch]

    def read(self, split: str, rows: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Returns the examples of each batch."""
        images, labels = self.splits[split]
        return ((images[chosen], labels[chosen]) for chosen in rows)


def load(config: Any) -> Arrays:
    """Returns the dataset of a config.

    Raises:
      UsageError: when the data is not there and cannot be downloaded.
    """
    name = config.data.name
    limits = {"train": config.data.train_examples, "test": config.data.test_examples}
    if name == "digits":
        splits, classes, largest = _digits(), 10, 16.0
    else:
        (splits, classes), largest = _from_tfds(name, config.data.dir, limits), 255.0
    for split, limit in limits.items():
        images, labels = splits[split]
        require_limit(split, limit, len(labels))
        splits[split] = (images[: limit or None], labels[: limit or None])
    return of(name, splits["train"], splits["test"], classes, largest)


def of(name: str, train: Batch, test: Batch, classes: int, largest: float = 255.0) -> Arrays:
    """Returns a dataset of given images and labels."""
    images = train[0]
    return Arrays(
        name=name,
        classes=classes,
        image_shape=tuple(images.shape[1:]),
        train_examples=len(train[1]),
        test_examples=len(test[1]),
        mean=tuple(images.mean((0, 1, 2), dtype=np.float64).tolist()),
        std=tuple(images.std((0, 1, 2), dtype=np.float64).tolist()),
        largest=largest,
        splits={"train": train, "test": test},
    )


def _digits() -> dict[str, Batch]:
    """Scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 0 to 16, split 1,437 / 360 once and for all."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, random_state=0, stratify=labels
    )
    return {"train": (train, train_labels), "test": (test, test_labels)}


def _from_tfds(name: str, folder: str, limits: Mapping[str, int]) -> tuple[dict[str, Batch], int]:
    """Reads a dataset prepared as array_record, of each split the first so many examples (0: all); and its classes."""
    with prepared.open_builder(name, folder) as builder:
        splits = {}
        for split, limit in limits.items():
            every = builder.info.splits[split].num_examples
            source = builder.as_data_source(f"{split}[:{limit}]" if 0 < limit < every else split)
            examples = [(example["image"], example["label"]) for example in source]
            images = np.stack([image for image, _ in examples])
            splits[split] = (images, np.array([label for _, label in examples], np.int32))
        return splits, builder.info.features["label"].num_classes
