# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Datasets of image files that are read during training: ImageNet, or a folder of images.

Grain reads them in threads or processes. A batch is a pure function of seed and step. A resumed run therefore needs no
iterator state, and batches do not depend on the numbers of workers and training processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from PIL import Image

from experiments.core.devices import processors
from experiments.core.errors import UsageError, require
from experiments.core.signals import quiet_processes
from experiments.data import prepared
from experiments.data.dataset import Batch, Dataset, require_limit
from experiments.data.files import Files, Prepared, classes_of, listed
from experiments.data.images import Framing
from experiments.data.order import BatchOrder
from experiments.settings.schema import Data

# The usual statistics of the ImageNet training set.
_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
# Maximum number of images that a thread or process reads at a time. Small pieces keep all of them busy.
_PIECE = 32


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """A Grain source of the pieces of training batches, for one process of the run, in order."""

    files: Files
    framing: Framing
    order: BatchOrder
    seed: int
    steps: range
    part: tuple[int, int]
    pieces: int

    def __len__(self) -> int:
        return len(self.steps) * self.pieces

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        step = self.steps[i // self.pieces]
        rows = self.order(step)
        process, processes = self.part
        places = np.array_split(np.arange(len(rows)), processes)[process]
        places = np.array_split(places, self.pieces)[i % self.pieces]
        examples = []
        for place in places:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, step], counter=[0, 0, 1, int(place)]))
            frame = functools.partial(self.framing.for_training, rng=rng)
            examples.append(_framed(self.files, int(rows[place]), frame))
        return _stack(examples)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A Grain source of batches of given examples, preprocessed as for evaluation."""

    files: Files
    framing: Framing
    rows: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return _stack([_framed(self.files, int(row), self.framing.for_evaluation) for row in self.rows[i]])


def _framed(files: Files, i: int, frame: Callable[[bytes], np.ndarray]) -> tuple[np.ndarray, int]:
    data, label = files[i]
    try:
        return frame(data), label
    # Pillow raises these for damaged files and decompression bombs.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"config.data.dir: {files.name(i)} must be an image that Pillow reads ({reason}). Mend or delete it."
        ) from error


def _stack(examples: Sequence[tuple[np.ndarray, int]]) -> dict[str, np.ndarray]:
    return {
        "images": np.stack([image for image, _ in examples]),
        "labels": np.array([label for _, label in examples], np.int32),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streamed(Dataset):
    """A dataset of image files.

    Attributes:
      files: files of `train` and `test`.
      names: names of the classes; empty if classes only have numbers.
      framing: how images are resized and cropped.
      seed: seed of random crops and augmentation.
      workers: number of processes that read training data; 0 for threads.
      threads: number of threads that read if there are no workers, and for evaluation.
    """

    files: dict[str, Files]
    names: tuple[str, ...] = ()
    framing: Framing
    seed: int
    workers: int
    threads: int

    def fingerprint(self) -> dict[str, Any]:
        """Returns the classes and the fingerprint of the files of each split."""
        return {"classes": list(self.names) or self.classes, **{s: f.fingerprint() for s, f in self.files.items()}}

    def read(self, split: str, rows: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields batches of center crops."""
        sizes, pieces = [], []
        for chosen in rows:
            parts = np.array_split(chosen, math.ceil(len(chosen) / _PIECE))
            sizes.append(len(parts))
            pieces += parts
        dataset = grain.MapDataset.source(_Plain(self.files[split], self.framing, pieces))
        read = iter(dataset.to_iter_dataset(grain.ReadOptions(self.threads, 2 * self.threads)))
        for size in sizes:
            yield _joined([next(read) for _ in range(size)])

    def feed(self, order: BatchOrder, steps: range, *, part: tuple[int, int]) -> Generator[Batch, None, None]:
        """Yields the training batches of `steps`; closing the iterator ends the worker processes.

        Args:
          order: examples of each step.
          steps: the steps.
          part: index of this process and number of processes. A process reads its part of the rows of each batch.
        """
        share = len(np.array_split(order(steps.start), part[1])[part[0]])
        pieces = math.ceil(share / _PIECE)
        source = _Pieces(self.files["train"], self.framing, order, self.seed, steps, part, pieces)
        threads = 0 if self.workers else self.threads
        dataset = grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(threads, 2 * max(threads, 1)))
        if self.workers:
            if not flags.FLAGS.is_parsed():  # As in a notebook. Grain's worker processes read its flags.
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=2))
        with contextlib.closing(iter(dataset)) as iterator:
            # The workers start when the first piece is requested.
            with quiet_processes() if self.workers else contextlib.nullcontext():
                read = itertools.chain([next(iterator)], iterator)
            for _ in steps:
                yield _joined([next(read) for _ in range(pieces)])


def _joined(pieces: Sequence[dict[str, np.ndarray]]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]["images"], pieces[0]["labels"]
    return np.concatenate([p["images"] for p in pieces]), np.concatenate([p["labels"] for p in pieces])


def load(section: Data, seed: int) -> Streamed:
    """Returns a dataset of image files.

    Raises:
      UsageError: for inconsistent sizes, or if the data is missing.
    """
    framing = _framing(section)
    names: list[str] = []
    if section.name == "imagenet":
        files, classes = _imagenet(section.dir)
    else:
        files, names = _image_folder(section.dir)
        classes = len(names)
    limits = {"train": section.train_examples, "test": section.test_examples}
    for split, limit in limits.items():
        require_limit(split, limit, len(files[split]))
    return Streamed(
        name=section.name,
        classes=classes,
        image_shape=(framing.side, framing.side, 3),
        train_examples=limits["train"] or len(files["train"]),
        test_examples=limits["test"] or len(files["test"]),
        mean=_MEAN,
        std=_STD,
        files=files,
        names=tuple(names),
        framing=framing,
        seed=seed,
        workers=section.workers,
        threads=max(2, processors()),
    )


def _framing(section: Data) -> Framing:
    side, resize, length = section.side, section.resize, section.eval_resize
    allowed = f"one or more lengths of at least config.data.side={side}"
    require(min(resize) >= side, "config.data.resize", resize, allowed)
    require(length >= side, "config.data.eval_resize", length, f"at least config.data.side={side}")
    randaugment = (section.randaugment_operations, section.randaugment_magnitude)
    return Framing(side, section.framing, resize, length, randaugment)


def _imagenet(folder: str) -> tuple[dict[str, Files], int]:
    with prepared.open_builder("imagenet2012", folder, download=False) as builder:
        classes = builder.info.features["label"].num_classes
        where = str(builder.data_dir)
        files: dict[str, Files] = {
            "train": Prepared(where, "train"),
            "test": Prepared(where, "validation"),
        }
        for split in files.values():
            split[0]  # Opens it, so that errors are raised here.
        return files, classes


def _image_folder(folder: str) -> tuple[dict[str, Files], list[str]]:
    where = Path(os.path.expanduser(folder))
    wanted = "a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG"
    require(bool(folder) and (where / "train").is_dir() and (where / "val").is_dir(), "config.data.dir", folder, wanted)
    classes = classes_of(where / "train")
    files: dict[str, Files] = {"train": listed(where / "train", classes), "test": listed(where / "val", classes)}
    for split, found in (("train", files["train"]), ("val", files["test"])):
        if not len(found):
            raise UsageError(f"config.data.dir must be {wanted}; {where / split} holds no image that Pillow can open.")
    return files, classes
