# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
r"""ResNet-50 on ImageNet: the paper's recipe (appendix I.1).

    python -m experiments.run --config=configs/resnet50_imagenet.py:VARIANT --workdir=runs/resnet50 \
        --config.data.dir=DIR --config.data.workers=16

DIR holds `imagenet2012/`, prepared by tensorflow-datasets as array_record. With `--config.data.name=image_folder`, it
is a folder of `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`. The recipe has 100 epochs of 5,004.6 steps of batch size 256
and needs one or more GPUs; batches are split over all of them (see `--distributed` for several hosts). It has not been
run to the end here yet. The paper's accuracies are in its tables 1 and 2: 74.98% dense, and 71.52% at 80.1% weight
sparsity with Adam and L2.

Variants, joined by commas (`sgdm,bf16`):

* `l2`: L2 on the scales instead of the Lasso, as in the paper's table 1;
* `sgdm`: SGD with momentum, as in the paper's table 2, and learning rate 0.1; the text only gives 0.005;
* `released`: follows the released code where it differs from the paper's text (docs/differences.md), including a linear
  warm-up over 5% of the run and 1,280 examples in the death set;
* `leaky`: Leaky ReLU with slope 0.05;
* `bf16`: computation in bfloat16;
* `tiny`: a quarter of the width, four blocks, and images of 64 x 64;
* `smoke`: 4 steps of 4 images.
"""

from typing import Any

import ml_collections

from configs.base import RELEASED, SMOKE, variants

_VARIANTS: dict[str, dict[str, Any]] = {
    "": {
        "steps": "100ep",
        "batch_size": 256,
        "label_smoothing": 0.1,
        "data.name": "imagenet",
        "data.normalize": "standardize",
        "data.resize": (256, 480),
        "data.flip": True,
        "model.name": "resnet50",
        "optimizer.learning_rate": 0.005,
        "optimizer.schedule": "piecewise",
        "optimizer.boundaries": ("30ep", "70ep", "90ep"),
        "optimizer.step_factor": 0.1,
        "optimizer.weight_decay": 1e-4,
        "method.strength": 5e-4,
        "method.strength_span": "150000",
        "method.noise": 5e-5,
        "method.noise_span": "150000",
        "pruning.every": "5000",
        "pruning.examples": 2048,
        "eval_batch_size": 256,
        "log_every": "100",
        "eval_every": "5ep",
        "checkpoint_every": "1ep",
    },
    "l2": {"method.regularizer": "l2"},
    "sgdm": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.1},
    "released": RELEASED | {"optimizer.warmup": "5%", "optimizer.warmup_from": 1e-6, "pruning.examples": 1280},
    "leaky": {"model.activation": "leaky_relu"},
    "bf16": {"model.dtype": "bfloat16"},
    "tiny": {
        "model.base_width": 16,
        "model.blocks": (1, 1, 1, 1),
        "data.side": 64,
        "data.resize": (72,),
        "data.eval_resize": 72,
    },
    "smoke": SMOKE | {"batch_size": 4, "pruning.examples": 8, "data.test_examples": 8, "eval_batch_size": 8},
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return variants("configs/resnet50_imagenet.py", variant, _VARIANTS)
