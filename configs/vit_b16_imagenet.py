# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
r"""ViT-B/16 on ImageNet: the paper's recipe (appendices G.2 and I.3), DemP with noise only.

    python -m experiments.run --config=configs/vit_b16_imagenet.py:VARIANT --workdir=runs/vit \
        --config.data.dir=DIR --config.data.workers=16

DIR is as for `configs/resnet50_imagenet.py`. The recipe has 150 epochs of 312.8 updates of 4,096 images, each in 16
parts. It has not been run to the end here yet. The neurons are the 36,864 hidden units of the twelve MLPs. The paper
starts to prune once units of the last MLP that died early have revived, but does not say when; here, pruning starts in
the middle of the run. It does not give the amount of noise either; here, it is that of the other networks. The paper's
results are in its table 3.

Variants, joined by commas (`relu,bf16`):

* `relu`: ReLU instead of GELU;
* `released`: follows the released code where it differs from the paper's text (docs/differences.md);
* `bf16`: computation in bfloat16;
* `tiny`: 2 blocks, 64 features, images of 64 x 64;
* `smoke`: 4 updates of 4 images, in 2 parts.
"""

from typing import Any

import ml_collections

from configs.base import RELEASED, SMOKE, variants

_VARIANTS: dict[str, dict[str, Any]] = {
    "": {
        "steps": "150ep",
        "batch_size": 4096,
        "accumulate": 16,
        "label_smoothing": 0.11,
        "data.name": "imagenet",
        "data.normalize": "standardize",
        "data.framing": "random_resized_crop",
        "data.flip": True,
        "data.randaugment_operations": 2,
        "data.randaugment_magnitude": 9.0,
        "data.mixup": 0.2,
        "data.cutmix": 1.0,
        "model.name": "vit",
        "model.activation": "gelu",
        "model.hidden": 3072,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 0.003,
        "optimizer.schedule": "cosine",
        "optimizer.warmup": "16ep",
        "optimizer.warmup_from": 9.9e-5,
        "optimizer.weight_decay": 0.3,
        "optimizer.clip_norm": 1.0,
        "method.strength": 0.0,
        "method.noise": 5e-5,
        "method.noise_span": "100%",
        "pruning.every": "5000",
        "pruning.start": "50%",
        "pruning.examples": 2048,
        "eval_batch_size": 256,
        "log_every": "10",
        "eval_every": "5ep",
        "checkpoint_every": "1ep",
    },
    "relu": {"model.activation": "relu"},
    # By its criterion, a sum of at most zero, a third of GELU units are dead at initialization.
    "released": RELEASED | {"pruning.examples": 1280},
    "bf16": {"model.dtype": "bfloat16"},
    "tiny": {
        "model.features": 64,
        "model.depth": 2,
        "model.heads": 4,
        "model.hidden": 256,
        "data.side": 64,
        "data.eval_resize": 72,
        "data.resize": (72,),
    },
    "smoke": SMOKE
    | {
        # The regularizer would kill nearly all hidden units. As in the recipe, only noise kills units.
        "method.strength": 0.0,
        "method.noise": 1.0,
        "batch_size": 4,
        "accumulate": 2,
        "data.test_examples": 8,
        "pruning.examples": 8,
        "eval_batch_size": 8,
        "optimizer.warmup": "2",
    },
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a variant."""
    return variants("configs/vit_b16_imagenet.py", variant, _VARIANTS)
