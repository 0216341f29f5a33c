# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The dataset that a config names."""

from __future__ import annotations

from typing import Any

from experiments.data import arrays
from experiments.data.dataset import Dataset
from experiments.errors import require_choice

STREAMED = ("imagenet", "image_folder")
DATASETS = (*arrays.ARRAYS, *STREAMED)


def load(config: Any) -> Dataset:
    """Returns the dataset of a config.

    Raises:
      UsageError: for an unknown name or a bad field, or when the data is not there and cannot be downloaded.
    """
    require_choice("config.data.name", config.data.name, DATASETS)
    if config.data.name in STREAMED:
        from experiments.data import streamed  # Grain takes a while to import.

        return streamed.load(config)
    return arrays.load(config)
