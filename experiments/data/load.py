# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The dataset that a config names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.core import named
from experiments.data import arrays
from experiments.data.dataset import Dataset


def _streamed(config: Any) -> Dataset:
    from experiments.data import streamed  # Grain takes a while to import.

    return streamed.load(config)


# From a config to its dataset.
DATASETS: dict[str, Callable[[Any], Dataset]] = {
    **dict.fromkeys(arrays.ARRAYS, arrays.load),
    "imagenet": _streamed,
    "image_folder": _streamed,
}


def load(config: Any) -> Dataset:
    """Returns the dataset of a config.

    Raises:
      UsageError: for an unknown name or a bad field, or when the data is not there and cannot be downloaded.
    """
    return named.find("config.data.name", config.data.name, DATASETS)(config)
