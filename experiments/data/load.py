# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Loading of datasets by name."""

from __future__ import annotations

from collections.abc import Callable

from experiments.core import named
from experiments.data import arrays
from experiments.data.dataset import Dataset
from experiments.settings.schema import Data


def _streamed(section: Data, seed: int) -> Dataset:
    from experiments.data import streamed  # Importing Grain is slow.

    return streamed.load(section, seed)


# Functions of the section `data` and a seed that return a dataset.
DATASETS: dict[str, Callable[[Data, int], Dataset]] = {
    **dict.fromkeys(arrays.ARRAYS, arrays.load),
    "imagenet": _streamed,
    "image_folder": _streamed,
}


def load(section: Data, seed: int) -> Dataset:
    """Loads the dataset that a config names.

    Args:
      section: section `data` of the settings.
      seed: seed of random crops and augmentation on the host.

    Raises:
      UsageError: for an unknown name, or if the data is missing and cannot be downloaded.
    """
    return named.find("config.data.name", section.name, DATASETS)(section, seed)
