# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Image files with labels, by number: in folders, or in a dataset prepared by tensorflow-datasets."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from experiments.errors import UsageError

SUFFIXES = (".jpeg", ".jpg", ".png")


class Files(Protocol):
    """Image files with labels, by number; what reads them can be sent to another process."""

    def __len__(self) -> int:
        """Returns how many there are."""

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """Returns a file and its label."""

    def name(self, i: int) -> str:
        """Returns where a file is, for messages."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder with one folder of images per class.

    Attributes:
      root: the folder.
      paths: of the images in it.
      labels: the rank of an image's class.
    """

    root: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        return Path(self.name(i)).read_bytes(), self.labels[i]

    def name(self, i: int) -> str:
        """Returns its path."""
        return str(Path(self.root, self.paths[i]))


class Prepared:
    """A split of a dataset prepared by tensorflow-datasets; the images are left encoded."""

    def __init__(self, folder: str, split: str):
        """Opens a split of the prepared dataset in `folder`, the one with `dataset_info.json`."""
        self._folder, self._split = folder, split
        self._source: Any = None

    def _open(self) -> Any:
        if self._source is None:  # Once per process.
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(self._folder)
            decoders = {"image": tfds.decode.SkipDecoding()}
            self._source = builder.as_data_source(self._split, decoders=decoders)
        return self._source

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        example = self._open()[i]
        image = example["image"]
        return image if isinstance(image, bytes) else bytes(image), int(example["label"])

    def name(self, i: int) -> str:
        """Returns its number in the split."""
        return f"example {i} of {self._split} in {self._folder}"

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_split": self._split, "_source": None}


def listed(root: Path, classes: Sequence[str]) -> Folder:
    """Lists the images of one folder per class, in the order of class and name, so that every process agrees."""
    strange = sorted({entry.name for entry in os.scandir(root) if entry.is_dir()} - set(classes))
    if strange:
        raise UsageError(f"config.data.dir: {root} has the class {strange[0]!r}, which train/ lacks.")
    paths, labels = [], []
    for label, name in enumerate(classes):
        folder = root / name
        names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        chosen = [f"{name}/{each}" for each in names if each.lower().endswith(SUFFIXES)]
        paths += chosen
        labels += [label] * len(chosen)
    return Folder(str(root), tuple(paths), tuple(labels))
