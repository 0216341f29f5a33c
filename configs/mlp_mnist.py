# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP on MNIST: an MLP of 784-300-100-10 with BatchNorm.

    python -m experiments.run --config=configs/mlp_mnist.py --workdir=runs/mlp_mnist --config.data.dir=DIR

DIR holds `mnist/`, prepared by tensorflow-datasets. No result of a full run has been recorded yet.

Variants, joined by commas (`subset,sgdm`):

* `sgdm`: SGD with momentum and learning rate 0.1;
* `subset`: the first 10,000 training images, as in the paper's appendix D.1;
* `smoke`: 4 steps on 512 images, in seconds.
"""

from typing import Any

import ml_collections

from configs.base import SMOKE, variants

_VARIANTS: dict[str, dict[str, Any]] = {
    "": {
        "steps": "10ep",
        "batch_size": 128,
        "data.name": "mnist",
        "model.widths": (300, 100),
        "optimizer.learning_rate": 0.005,
        "optimizer.schedule": "cosine",
        "method.strength": 0.01,
        "method.noise": 5e-5,
    },
    "sgdm": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.1},
    "subset": {"data.train_examples": 10_000},
    "smoke": SMOKE | {"batch_size": 32, "data.train_examples": 512, "data.test_examples": 512, "pruning.examples": 64},
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return variants("configs/mlp_mnist.py", variant, _VARIANTS)
