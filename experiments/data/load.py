# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The dataset that a config names."""

from __future__ import annotations

from collections.abc import Callable

from experiments.core import named
from experiments.data import arrays
from experiments.data.dataset import Dataset
from experiments.settings.schema import Data


def _streamed(section: Data, seed: int) -> Dataset:
    from experiments.data import streamed  # Grain takes a while to import.

    return streamed.load(section, seed)


# From the section of the settings and the seed of what is random to a dataset.
DATASETS: dict[str, Callable[[Data, int], Dataset]] = {
    **dict.fromkeys(arrays.ARRAYS, arrays.load),
    "imagenet": _streamed,
    "image_folder": _streamed,
}


def load(section: Data, seed: int) -> Dataset:
    """Returns the dataset that the settings name.

    Raises:
      UsageError: for an unknown name, or when the data is not there and cannot be downloaded.
    """
    return named.find("config.data.name", section.name, DATASETS)(section, seed)
