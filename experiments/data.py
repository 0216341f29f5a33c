# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Datasets as arrays in memory, the order of their batches, and augmentation inside the compiled step.

Dimension letters: N examples, B batch, H W C image.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging as absl_logging

from experiments.errors import UsageError, require, require_choice

TFDS_NAMES = {"cifar10": "cifar10", "mnist": "mnist"}
DATASETS = ("digits", *TFDS_NAMES)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset in memory.

    Attributes:
      name: its name in configs.
      train_images, test_images: `[N, H, W, C]` uint8.
      train_labels, test_labels: `[N]` int32.
      classes: number of classes.
      largest: the largest value a pixel can have.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    largest: float


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images become inputs: `(pixel - mean) / std` per channel, after augmentation. Hashable.

    Attributes:
      mean, std: per channel, in units of a pixel.
      crop: how many pixels an image is padded (by reflection) on each side before a random crop; 0 for none.
      flip: whether images are flipped left to right at random.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int = 0
    flip: bool = False

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns inputs `[B, H, W, C]` float32 for uint8 images, without augmentation."""
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        shape = (1, 1, 1, len(self.mean))
        return (images.astype(jnp.float32) - mean.reshape(shape)) / std.reshape(shape)

    def augment(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Returns randomly cropped and flipped images `[B, H, W, C]`; `key` is consumed."""
        crop_key, flip_key = jax.random.split(key)
        if self.crop:
            images = _random_crop(crop_key, images, self.crop)
        if self.flip:
            turned = jax.random.bernoulli(flip_key, shape=(images.shape[0], 1, 1, 1))
            images = jnp.where(turned, images[:, :, ::-1], images)
        return images


def _random_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    corners = jax.random.randint(key, (batch, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def preparation(config: Any, dataset: Dataset) -> Preparation:
    """Returns how a config prepares the images of a dataset."""
    require_choice("config.data.normalize", config.data.normalize, ("unit", "standardize"))
    crop, side = config.data.crop, min(dataset.train_images.shape[1:3])
    require(0 <= crop < side, "config.data.crop", crop, f"between 0 and {side - 1}, the side of an image less one")
    channels = dataset.train_images.shape[-1]
    mean, std = np.zeros(channels), np.full(channels, dataset.largest)
    if config.data.normalize == "standardize":
        mean = dataset.train_images.mean((0, 1, 2), dtype=np.float64)
        std = dataset.train_images.std((0, 1, 2), dtype=np.float64)
    return Preparation(tuple(mean.tolist()), tuple(std.tolist()), config.data.crop, config.data.flip)


class BatchOrder:
    """Which examples each step takes: one random permutation of the training set after the other.

    A pure function of seed and step, so a resumed run needs no iterator state. Every example is taken exactly once per
    epoch; a batch may reach from one epoch into the next.
    """

    def __init__(self, seed: int, examples: int, batch: int):
        """Orders `examples` examples into batches of `batch`."""
        self._key = jax.random.key(seed)
        self._examples = examples
        self._batch = batch
        self._permutations: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        """Returns `[B]` int32, the examples of a step."""
        first = step * self._batch
        parts = []
        missing = self._batch
        while missing:
            epoch, start = divmod(first, self._examples)
            part = self._permutation(epoch)[start : start + missing]
            parts.append(part)
            first += len(part)
            missing -= len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            # At most two epochs meet in a batch.
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            key = jax.random.fold_in(self._key, epoch)
            self._permutations[epoch] = np.asarray(jax.random.permutation(key, self._examples), np.int32)
        return self._permutations[epoch]


def load(config: Any) -> Dataset:
    """Returns the dataset of a config.

    Raises:
      UsageError: for an unknown name, or when the data is not there and cannot be downloaded.
    """
    require_choice("config.data.name", config.data.name, DATASETS)
    limit = config.data.train_examples
    dataset = _digits() if config.data.name == "digits" else _from_tfds(config.data.name, config.data.dir, limit)
    if limit:
        if not 0 < limit <= len(dataset.train_labels):
            raise UsageError(
                f"config.data.train_examples must be between 1 and {len(dataset.train_labels)}, or 0 for all; "
                f"got {limit}."
            )
        dataset = dataclasses.replace(
            dataset, train_images=dataset.train_images[:limit], train_labels=dataset.train_labels[:limit]
        )
    return dataset


def _require_network() -> None:
    """Raises `OSError` within seconds where there is none; a download would try for minutes."""
    with socket.create_connection(("storage.googleapis.com", 443), timeout=5):
        pass


def _digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 0 to 16, split 1,437 / 360 once and for all."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, random_state=0, stratify=labels
    )
    return Dataset("digits", train, train_labels, test, test_labels, 10, 16.0)


def _from_tfds(name: str, folder: str, limit: int) -> Dataset:
    """Reads a dataset prepared as array_record; of its training set the first `limit` examples, 0 for all."""
    import tensorflow_datasets as tfds

    where = os.path.expanduser(folder or os.environ.get("TFDS_DATA_DIR", ""))
    if where and not os.path.isdir(where):
        field = "config.data.dir" if folder else "TFDS_DATA_DIR"
        raise UsageError(
            f"{field} must be a folder that holds {TFDS_NAMES[name]}/ as prepared by tensorflow-datasets; "
            f"got {where!r}, which does not exist."
        )
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.FATAL)  # It recommends packages and file layouts.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    arrays: list[np.ndarray] = []
    try:
        builder = tfds.builder(TFDS_NAMES[name], data_dir=where or None)
        if not builder.is_prepared():
            _require_network()
            builder.download_and_prepare(file_format="array_record")
        every = builder.info.splits["train"].num_examples
        for split in (f"train[:{limit}]" if 0 < limit < every else "train", "test"):
            source = builder.as_data_source(split)
            examples = [(example["image"], example["label"]) for example in source]
            arrays += [np.stack([image for image, _ in examples]), np.array([label for _, label in examples], np.int32)]
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(
            f"config.data.name={name!r} is not in {where or 'the default folder of tensorflow-datasets'} and could "
            f"not be prepared ({type(error).__name__}: {reason}). Set --config.data.dir or TFDS_DATA_DIR to a folder "
            f"with {TFDS_NAMES[name]} prepared in the array_record format."
        ) from error
    finally:
        absl_logging.set_verbosity(verbosity)
    train, train_labels, test, test_labels = arrays
    return Dataset(name, train, train_labels, test, test_labels, classes=10, largest=255.0)
