# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""ResNet-18 on CIFAR-10: the paper's recipe (appendix I.1).

    python -m experiments.run --config=configs/resnet18_cifar.py:VARIANT --workdir=runs/resnet18 --config.data.dir=DIR

DIR holds `cifar10/`, prepared by tensorflow-datasets. The full recipe has 97,656 steps of batch size 128 and needs a
GPU. The paper's accuracies (its figure 3) have not been reproduced here yet.

Variants, joined by commas (`cpu,sgdm`):

* `sgdm`: SGD with momentum and learning rate 0.1 instead of Adam with 0.005;
* `leaky`: Leaky ReLU with slope 0.05;
* `cifar100`: CIFAR-100, which is not in the paper;
* `released`: follows the released code where it differs from the paper's text (docs/differences.md);
* `cpu`: a quarter of the width, half-size feature maps, 12 epochs, cosine learning rate, regularizer over the first
  half of the run, no noise, constant units folded; 6 minutes on two cores. With `sgdm`, another `method.strength` is
  needed; docs/results.md lists those that were tried;
* `smoke`: 4 steps on 512 images.

Expected results of `cpu`, each of one seed, pruned against dense:

* test accuracy 77.7% at 80.2% weight sparsity, against 79.1% (results/shrinking);
* with `--config.model.base_width=32`: 81.8% at 92.1% in 13 minutes, against 83.1% in 19
  (results/benchmarks/train.jsonl);
* with `--config.model.base_width=32 --config.method.strength=0.0005`: 83.2% at 74.4% in 15 minutes, against 83.1% in
  19; with another seed, 82.8% at 77.1%, against 83.5% in 17.
"""

from typing import Any

import ml_collections

from configs.base import RELEASED, SMOKE, variants

_VARIANTS: dict[str, dict[str, Any]] = {
    "": {
        "steps": "250ep",
        "batch_size": 128,
        "data.name": "cifar10",
        "data.crop": 4,
        "data.flip": True,
        "model.name": "resnet18",
        "optimizer.learning_rate": 0.005,
        "optimizer.schedule": "step",
        "optimizer.weight_decay": 5e-4,
        "method.strength": 5e-3,
        "method.strength_span": "85000",
        "method.noise": 5e-5,
        "method.noise_span": "85000",
        "pruning.every": "5000",
        "log_every": "100",
        "eval_every": "5ep",
        "checkpoint_every": "5ep",
    },
    "sgdm": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.1},
    "leaky": {"model.activation": "leaky_relu"},
    "cifar100": {"data.name": "cifar100"},
    "released": RELEASED,
    "cpu": {
        "steps": "12ep",
        "model.base_width": 16,
        "model.stem_stride": 2,
        "optimizer.schedule": "cosine",
        "method.strength": 0.0022,
        "method.strength_span": "50%",
        "method.noise": 0.0,
        "method.noise_span": "50%",
        "pruning.every": "10%",
        "pruning.constant": 0.1,
        # Folding is inexact under zero padding. Here only `constant` bounds the error, which is recorded.
        "pruning.tolerance": 100.0,
        "eval_every": "20%",
        "checkpoint_every": "20%",
    },
    "smoke": SMOKE
    | {
        "batch_size": 16,
        "data.train_examples": 512,
        "data.test_examples": 512,
        "model.base_width": 8,
        "model.stem_stride": 2,
        "pruning.examples": 64,
        "eval_batch_size": 64,
    },
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return variants("configs/resnet18_cifar.py", variant, _VARIANTS)
