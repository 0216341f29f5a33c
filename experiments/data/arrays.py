# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Datasets decoded into memory: digits from scikit-learn, MNIST and CIFAR from tensorflow-datasets."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import prepared
from experiments.data.dataset import Batch, Dataset, require_limit
from experiments.settings.schema import Data

_LOG = logging.getLogger(__name__)

ARRAYS = ("digits", "mnist", "cifar10", "cifar100")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays(Dataset):
    """A dataset in memory.

    Attributes:
      splits: images `[N, H, W, C]` uint8 and labels `[N]` int32 of `train` and `test`.
    """

    splits: dict[str, Batch]

    def fingerprint(self) -> dict[str, Any]:
        """Returns the number of classes, and the size and a checksum of each split."""
        return {
            "classes": self.classes,
            **{
                split: {
                    "examples": len(labels),
                    "checksum": _checksum(labels, _checksum(images)),
                }
                for split, (images, labels) in self.splits.items()
            },
        }

    def read(self, split: str, rows: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Returns the examples of each batch."""
        images, labels = self.splits[split]
        return ((images[chosen], labels[chosen]) for chosen in rows)


def load(section: Data, seed: int) -> Arrays:
    """Loads a dataset into memory.

    Raises:
      UsageError: if the data is missing and cannot be downloaded, or a limit exceeds the size of its split.
    """
    del seed  # These datasets have no randomness.
    name, limits = section.name, {"train": section.train_examples, "test": section.test_examples}
    if name == "digits":
        splits, classes, largest = _digits(), 10, 16.0
    else:
        (splits, classes), largest = _from_tfds(name, section.dir, section.cache, limits), 255.0
    for split, limit in limits.items():
        images, labels = splits[split]
        require_limit(split, limit, len(labels))
        splits[split] = (images[: limit or None], labels[: limit or None])
    return of(name, splits["train"], splits["test"], classes, largest)


def of(name: str, train: Batch, test: Batch, classes: int, largest: float = 255.0) -> Arrays:
    """Returns a dataset of images and labels in memory."""
    images = train[0]
    mean, std = _moments(images)
    return Arrays(
        name=name,
        classes=classes,
        image_shape=tuple(images.shape[1:]),
        train_examples=len(train[1]),
        test_examples=len(test[1]),
        mean=mean,
        std=std,
        largest=largest,
        splits={"train": train, "test": test},
    )


def _checksum(values: np.ndarray, before: int = 0) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data, before)


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of `[N, H, W, C]` uint8, computed from histograms."""
    pixels = images.reshape(-1, images.shape[-1])
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(pixels), 2**22):
        for channel, values in enumerate(pixels[start : start + 2**22].T):
            counts[channel] += np.bincount(values, minlength=256)
    shares, values = counts / len(pixels), np.arange(256.0)
    means = shares @ values
    variances = (shares * (values - means[:, None]) ** 2).sum(1)
    return tuple(means.tolist()), tuple(np.sqrt(variances).tolist())


def _digits() -> dict[str, Batch]:
    """Loads scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 0 to 16, in a fixed split of 1,437 / 360."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, random_state=0, stratify=labels
    )
    return {"train": (train, train_labels), "test": (test, test_labels)}


def _from_tfds(name: str, folder: str, cache: str, limits: Mapping[str, int]) -> tuple[dict[str, Batch], int]:
    """Reads a dataset prepared as array_record.

    Splits that are read in full are cached, decoded, in the folder `cache`.

    Args:
      name: name of the dataset in tensorflow-datasets.
      folder: folder of tensorflow-datasets.
      cache: folder of decoded splits; "" for none.
      limits: number of examples to read of each split, from its start; 0 for all.

    Returns:
      The splits and the number of classes.
    """
    with prepared.open_builder(name, folder) as builder:
        splits = {}
        for split, limit in limits.items():
            every = builder.info.splits[split].num_examples
            kept = _cached(cache, name, split, Path(builder.data_path))
            known = _read(kept)
            if known is not None:
                splits[split] = (known[0][: limit or None], known[1][: limit or None])
                continue
            source = builder.as_data_source(f"{split}[:{limit}]" if 0 < limit < every else split)
            examples = [(example["image"], example["label"]) for example in source]
            images = np.stack([image for image, _ in examples])
            splits[split] = (images, np.array([label for _, label in examples], np.int32))
            if len(images) == every:
                _keep(kept, splits[split])
        return splits, builder.info.features["label"].num_classes


def _cached(cache: str, name: str, split: str, source: Path) -> Path | None:
    """Returns the cache path of a decoded split; it depends on names, sizes and modification times of the source."""
    if not cache:
        return None
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(source.iterdir())]
    digest = hashlib.sha256(repr((str(source), stats)).encode()).hexdigest()[:16]
    return Path(cache).expanduser() / f"{name}-{split}-{digest}.npz"


def _read(path: Path | None) -> Batch | None:
    """Returns a cached split, or `None` if it is missing or cannot be read."""
    if path is None or not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _LOG.warning("%s cannot be read and is made anew (%s)", path, error)
        return None


def _keep(path: Path | None, split: Batch) -> None:
    """Writes a split to the cache atomically. Failure to write is only logged."""
    if path is None:
        return
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = file.name
            np.savez(file, images=split[0], labels=split[1])
        os.replace(part, path)
    except OSError as error:
        _LOG.warning("decoded images are not kept for the next run: config.data.cache=%r: %s", str(path.parent), error)
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)
