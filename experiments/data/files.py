# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Image files with labels, by number: in folders, or in a dataset prepared by tensorflow-datasets."""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from experiments.core.errors import UsageError

_LOG = logging.getLogger(__name__)
# Of how many files the sizes are looked at, evenly over all.
_LOOKED_AT = 10_000


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Returns the ends of the names of files that Pillow can open."""
    return tuple(sorted(end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN))


class Files(Protocol):
    """Image files with labels, by number; what reads them can be sent to another process."""

    def __len__(self) -> int:
        """Returns how many there are."""

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """Returns a file and its label."""

    def name(self, i: int) -> str:
        """Returns where a file is, for messages."""

    def fingerprint(self) -> dict[str, Any]:
        """Returns, for JSON, what tells these files from others; see `Dataset.fingerprint`."""


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

    def fingerprint(self) -> dict[str, Any]:
        """Returns how many files there are, and checksums of their names and of the sizes of 10,000 at most."""
        every = -(-max(len(self), 1) // _LOOKED_AT)
        sizes = [os.stat(self.name(i)).st_size for i in range(0, len(self), every)]
        names = zlib.crc32("\n".join(self.paths).encode(errors="surrogateescape"))
        return {"examples": len(self), "names": names, "sizes": zlib.crc32(repr(sizes).encode())}


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

    def fingerprint(self) -> dict[str, Any]:
        """Returns the version of the dataset, how many examples there are, and a checksum of its files' sizes."""
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._folder)
        entries = os.scandir(self._folder)
        sizes = sorted((entry.name, entry.stat().st_size) for entry in entries if f"-{self._split}." in entry.name)
        return {"examples": len(self), "version": str(builder.version), "sizes": zlib.crc32(repr(sizes).encode())}

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_split": self._split, "_source": None}


def classes_of(root: Path) -> list[str]:
    """Returns the names of the folders in a folder, in order; hidden ones, such as `.ipynb_checkpoints`, are none."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def listed(root: Path, classes: Sequence[str]) -> Folder:
    """Lists the images of one folder per class, in the order of class and path, so that every process agrees.

    Images may lie in folders within that of their class. Hidden files and folders are left out. Other files that Pillow
    cannot open, and links that lead nowhere, are left out, too, and counted in a warning.

    Raises:
      UsageError: for a class that is not among `classes`.
    """
    strange = sorted(set(classes_of(root)) - set(classes))
    if strange:
        raise UsageError(f"config.data.dir: {root} has the class {strange[0]!r}, which train/ lacks.")
    paths: list[str] = []
    labels: list[int] = []
    skipped: collections.Counter[str] = collections.Counter()
    empty = []
    for label, name in enumerate(classes):
        chosen = sorted(_images(root / name, name, skipped)) if (root / name).is_dir() else []
        empty += [] if chosen else [name]
        paths += chosen
        labels += [label] * len(chosen)
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common(6))
        _LOG.warning("%s: files that are no images are left out: %s", root, counts)
    if empty:
        _LOG.warning("%s: %d of %d classes have no image: %s", root, len(empty), len(classes), ", ".join(empty[:6]))
    return Folder(str(root), tuple(paths), tuple(labels))


def _images(folder: Path, name: str, skipped: collections.Counter[str]) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _images(folder / entry.name, path, skipped)
        elif not entry.is_file():
            skipped["links that lead nowhere"] += 1
        elif entry.name.lower().endswith(suffixes()):
            yield path
        else:
            skipped[f"*{Path(entry.name).suffix}" if Path(entry.name).suffix else "without a suffix"] += 1
