# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""VGG-16 on CIFAR-10 at 64 x 64: the paper's recipe (appendix I.2).

    python -m experiments.run --config=configs/vgg16_cifar.py:VARIANT --workdir=runs/vgg16 --config.data.dir=DIR

DIR holds `cifar10/`, prepared by tensorflow-datasets. The recipe has 80 epochs of 195.3 steps of batch size 256, the
network 50.7 million parameters; it needs a GPU. The paper's accuracies (its figure 14) have not been reproduced here
yet. The text gives neither the strength for this network nor the padding before the crop. The strength of 0.005 is one
of the released code's; the padding of 8 pixels for 64 x 64 images corresponds to 4 for 32 x 32.

Variants, joined by commas (`leaky,smoke`):

* `sgdm`: SGD with momentum and learning rate 0.1 instead of Adam with 0.005;
* `leaky`: Leaky ReLU with slope 0.05;
* `released`: follows the released code where it differs from the paper's text (docs/differences.md), including its
  augmentation: flip, zero padding, crop of 32 x 32, and then resize;
* `tiny`: an eighth of the width;
* `cpu`: a quarter of the width on 32 x 32 images, 6 epochs, regularizer over the first half of the run, no noise; 8
  minutes on two cores (results: benchmarks/README.md, suite `train`);
* `smoke`: 4 steps on 64 images.
"""

from typing import Any

import ml_collections

from configs.base import RELEASED, SMOKE, variants

_VARIANTS: dict[str, dict[str, Any]] = {
    "": {
        "steps": "80ep",
        "batch_size": 256,
        "data.name": "cifar10",
        "data.normalize": "standardize",
        "data.upsample": 64,
        "data.crop": 8,
        "data.flip": True,
        "model.name": "vgg16",
        "optimizer.learning_rate": 0.005,
        "optimizer.schedule": "one_cycle",
        "optimizer.weight_decay": 5e-4,
        "method.strength": 5e-3,
        "method.strength_span": "100%",
        "method.noise": 5e-5,
        "method.noise_span": "100%",
        "pruning.every": "1000",
        "log_every": "100",
        "eval_every": "5ep",
        "checkpoint_every": "5ep",
    },
    "sgdm": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.1},
    "leaky": {"model.activation": "leaky_relu"},
    "released": RELEASED | {"data.crop_first": True, "data.crop": 4, "data.padding": "zero"},
    "tiny": {"model.base_width": 8, "model.hidden": 512},
    "cpu": {
        "steps": "6ep",
        "batch_size": 128,
        "data.upsample": 0,
        "data.crop": 4,
        "model.base_width": 16,
        "model.hidden": 256,
        "method.strength_span": "50%",
        "method.noise": 0.0,
        "method.noise_span": "50%",
        "pruning.every": "5%",
        "eval_every": "1ep",
        "checkpoint_every": "50%",
    },
    "smoke": SMOKE
    | {
        "batch_size": 8,
        "data.train_examples": 64,
        "data.test_examples": 64,
        "pruning.examples": 16,
        "eval_batch_size": 16,
    },
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return variants("configs/vgg16_cifar.py", variant, _VARIANTS)
