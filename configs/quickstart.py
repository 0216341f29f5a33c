# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP on scikit-learn's handwritten digits: an MLP of 64-128-128-10 with BatchNorm."""

from typing import Any

import ml_collections

from configs.base import variants

_VARIANTS: dict[str, dict[str, Any]] = {
    "": {
        "steps": "2000",
        "optimizer.learning_rate": 0.02,
        "method.strength": 0.03,
        "method.noise": 5e-5,
    },
    "sgdm": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.1},
    "smoke": {"steps": "40", "log_every": "10"},
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant: `sgdm`, `smoke`."""
    return variants("configs/quickstart.py", variant, _VARIANTS)
