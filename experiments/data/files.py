# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Indexed image files with labels, from folders or a dataset prepared by tensorflow-datasets."""

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
# Maximum number of files, evenly spaced, whose sizes go into a fingerprint.
_LOOKED_AT = 10_000


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Returns the suffixes of files that Pillow can open."""
    return tuple(sorted(end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN))


class Files(Protocol):
    """Indexed image files with labels. Instances can be pickled."""

    def __len__(self) -> int:
        """Returns the number of files."""

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """Returns the contents and the label of a file."""

    def name(self, i: int) -> str:
        """Returns the location of a file, for messages."""

    def fingerprint(self) -> dict[str, Any]:
        """Returns a JSON-compatible fingerprint of the files; see `Dataset.fingerprint`."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder with one folder of images per class.

    Attributes:
      root: the folder.
      paths: paths of the images, relative to `root`.
      labels: index of each image's class.
    """

    root: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        return Path(self.name(i)).read_bytes(), self.labels[i]

    def name(self, i: int) -> str:
        """Returns the path of a file."""
        return str(Path(self.root, self.paths[i]))

    def fingerprint(self) -> dict[str, Any]:
        """Returns the number of files and checksums of their names and of the sizes of at most 10,000 files."""
        every = -(-max(len(self), 1) // _LOOKED_AT)
        sizes = [os.stat(self.name(i)).st_size for i in range(0, len(self), every)]
        names = zlib.crc32("\n".join(self.paths).encode(errors="surrogateescape"))
        return {"examples": len(self), "names": names, "sizes": zlib.crc32(repr(sizes).encode())}


class Prepared:
    """A split of a dataset prepared by tensorflow-datasets, with encoded images."""

    def __init__(self, folder: str, split: str):
        """Initializes a split; `folder` is the one that holds `dataset_info.json`."""
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
        """Returns the index of an example and its split."""
        return f"example {i} of {self._split} in {self._folder}"

    def fingerprint(self) -> dict[str, Any]:
        """Returns the version of the dataset, the number of examples, and a checksum of its files' sizes."""
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._folder)
        entries = os.scandir(self._folder)
        sizes = sorted((entry.name, entry.stat().st_size) for entry in entries if f"-{self._split}." in entry.name)
        return {"examples": len(self), "version": str(builder.version), "sizes": zlib.crc32(repr(sizes).encode())}

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_split": self._split, "_source": None}


def classes_of(root: Path) -> list[str]:
    """Returns the sorted names of the subfolders, without hidden ones such as `.ipynb_checkpoints`."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def listed(root: Path, classes: Sequence[str]) -> Folder:
    """Lists the images in one folder per class, sorted by class and path, so that every process has the same order.

    Subfolders of a class are searched as well. Hidden files and folders are skipped. Other files that Pillow cannot
    open, and broken links, are skipped and counted in a warning.

    Args:
      root: folder with one folder per class.
      classes: names of the classes, in the order of labels.

    Raises:
      UsageError: for a class that is not in `classes`.
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
