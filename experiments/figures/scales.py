# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The recipes of the figures by scale, and the grids of runs on them.

`paper` is the paper's recipe, `gpu` takes minutes on one GPU, `cpu` minutes on two cores.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import command
from experiments.cli.launch import Run
from experiments.figures.figure import Case
from experiments.settings import options

_ROOT = Path(__file__).resolve().parents[2]

Changes = Mapping[str, Any]  # Config fields, and the values that they are set to.

# Units are pruned whenever pruning is scheduled, even if it does not pay off: algorithm 1 of the paper.
AT_ONCE: dict[str, Any] = {"pruning.cut_cost": "0", "pruning.ahead": "0"}
_SHORT: dict[str, Any] = {
    "optimizer.schedule": "cosine",
    "method.strength_span": "60%",
    "method.noise_span": "60%",
    # Only figures about noise turn it on: in short runs the variance 5e-5 costs more accuracy than it prunes.
    "method.noise": 0.0,
    "eval_every": "50%",
    "checkpoint_every": "50%",
    "step_time_seconds": 0.5,
}
_CPU = _SHORT | {"steps": "12ep", "model.base_width": 8, "pruning.every": "10%", **AT_ONCE}
_GPU = _SHORT | {"steps": "20ep", "model.dtype": "bfloat16", "pruning.every": "5%"}

_IMAGENET_GPU: dict[str, Any] = {
    "steps": "2ep",
    "method.strength_span": "30%",
    "method.noise_span": "30%",
    "pruning.start": "0",
    "pruning.every": "5%",
    "eval_every": "50%",
    "checkpoint_every": "50%",
}

# By network and scale: the config, and the changes to it.
RECIPES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "resnet18": {
        "paper": ("configs/resnet18_cifar.py", AT_ONCE),
        "gpu": ("configs/resnet18_cifar.py", _GPU),
        "cpu": ("configs/resnet18_cifar.py", _CPU | {"model.stem_stride": 2}),
    },
    "vgg16": {
        "paper": ("configs/vgg16_cifar.py", AT_ONCE),
        "gpu": ("configs/vgg16_cifar.py", _GPU | {"optimizer.schedule": "one_cycle"}),
        "cpu": (
            "configs/vgg16_cifar.py",
            _CPU | {"optimizer.schedule": "one_cycle", "model.hidden": 128, "data.upsample": 0, "data.crop": 4},
        ),
    },
    "resnet50": {
        "paper": ("configs/resnet50_imagenet.py", AT_ONCE),
        "gpu": ("configs/resnet50_imagenet.py:bf16", _IMAGENET_GPU | {"optimizer.boundaries": ("30%", "70%", "90%")}),
        # On CIFAR-10, upsampled to 64 pixels, as the stem halves the image twice.
        "cpu": (
            "configs/resnet50_imagenet.py",
            _CPU
            | {
                "data.name": "cifar10",
                "data.upsample": 64,
                "data.crop": 4,
                "batch_size": 128,
                "label_smoothing": 0.0,
                "model.blocks": (2, 2, 2, 2),
                "pruning.examples": 512,
            },
        ),
    },
    "vit": {
        "paper": ("configs/vit_b16_imagenet.py", AT_ONCE),
        "gpu": ("configs/vit_b16_imagenet.py:bf16", _IMAGENET_GPU | {"optimizer.warmup": "10%"}),
        # On CIFAR-10. The sum of learning rate x weight decay over the steps is 18; it is 21 in the paper.
        "cpu": (
            "configs/vit_b16_imagenet.py",
            {
                "steps": "12000",
                "batch_size": 128,
                "accumulate": 1,
                "label_smoothing": 0.0,
                "data.name": "cifar10",
                "data.crop": 4,
                "data.mixup": 0.0,
                "data.cutmix": 0.0,
                "model.patch": 8,
                "model.features": 64,
                "model.depth": 4,
                "model.heads": 4,
                "model.hidden": 256,
                "optimizer.warmup": "5%",
                "optimizer.weight_decay": 1.0,
                "method.noise": 0.0,
                "pruning.start": "50%",
                "pruning.every": "10%",
                "pruning.examples": 512,
                **AT_ONCE,
                "log_every": "100",
                "eval_every": "25%",
                "checkpoint_every": "25%",
                "step_time_seconds": 0.5,
            },
        ),
    },
}
VIT_PROXY = "a ViT of four blocks, 64 features and 256 hidden units on CIFAR-10 in place of ViT-B/16 on ImageNet"
# Dead units are measured twenty times in a run.
WATCHED: dict[str, Any] = {"watch.every": "5%"}
# Runs that measure dead units, not accuracy, are shorter on a CPU.
BRIEF: dict[str, dict[str, Any]] = {"cpu": {"steps": "6ep"}, "gpu": {}, "paper": {}}
# Overrides everything else with `--smoke`, for runs of seconds.
SMOKE: dict[str, Any] = {
    "steps": "6",
    "batch_size": 16,
    "data.train_examples": 64,
    "data.test_examples": 64,
    "pruning.examples": 32,
    "pruning.every": "3",
    **AT_ONCE,
    "eval_batch_size": 64,
    "ranking.batch_size": 32,
    "ranking.batches": 1,
    "masking.every": "2",
    "method.strength_span": "6",
    "method.noise_span": "6",
    "eval_every": "3",
    "checkpoint_every": "3",
    "step_time_seconds": 0.01,
}
SGDM: dict[str, Any] = {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.1}
OPTIMIZERS: dict[str, dict[str, Any]] = {"Adam": {}, "SGDM": SGDM}

NO_DEMP: dict[str, Any] = {"method.strength": 0.0, "method.noise": 0.0}
AT_END: dict[str, Any] = {"pruning.dynamic": False}
DENSE_RUN: dict[str, Any] = {"method.name": "dense", **NO_DEMP}
REGULARIZERS: dict[str, dict[str, Any]] = {
    "L2": {"method.regularizer": "l2", "method.penalized": "all"},
    "L2(gamma)": {"method.regularizer": "l2"},
    "Lasso": {"method.penalized": "all"},
    "Lasso(gamma)": {},
}
VARIANCES = (0.0, 5e-5, 1e-4, 5e-4, 1e-3)  # Levels of the noise.

# Peak strengths of the regularizer, by network, optimizer and scale. The released code has those of scale `paper`.
STRENGTHS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "resnet18": {
        "Adam": {
            "paper": (0.0, 1e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25),
            "gpu": (1e-3, 3e-3, 0.01, 0.03, 0.1),
            "cpu": (3e-3, 6e-3, 0.012, 0.024, 0.04),
        },
        "SGDM": {
            "paper": (0.0, 1e-4, 5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 9e-3, 0.014),
            "gpu": (5e-4, 1e-3, 3e-3, 6e-3, 0.014),
            "cpu": (1e-3, 2e-3, 3e-3, 5e-3, 8e-3),
        },
    },
    "vgg16": {
        "Adam": {
            "paper": (0.0, 1e-4, 5e-4, 1e-3, 5e-3, 7.5e-3, 0.01),
            "gpu": (1e-4, 1e-3, 5e-3, 0.01),
            "cpu": (2e-3, 5e-3, 0.02),
        },
        "SGDM": {
            "paper": (0.0, 1e-4, 5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 7.5e-3),
            "gpu": (1e-4, 1e-3, 3e-3, 7.5e-3),
            "cpu": (1e-3, 3e-3, 7.5e-3),
        },
    },
}
# Neuron sparsities of the structured baselines, weight sparsities of the unstructured ones.
NEURON_SPARSITIES = {
    "paper": (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9),
    "gpu": (0.4, 0.6, 0.7, 0.8, 0.9),
    "cpu": (0.27, 0.4, 0.53, 0.68),
}
WEIGHT_SPARSITIES = {
    "paper": (0.25, 0.5, 0.7, 0.8, 0.9, 0.925, 0.95, 0.97, 0.99),
    "gpu": (0.7, 0.8, 0.9, 0.95),
    "cpu": (0.7, 0.8, 0.9, 0.95),
}


def run_of(network: str, scale: str, *changes: Changes) -> Run:
    """Returns the run of a network's recipe with changes, later ones over earlier ones.

    Equal runs of different figures are the same run: changes to a config's own value are dropped, and without a
    strength of the regularizer so are its other options.
    """
    config, recipe = RECIPES[network][scale]
    merged, defaults = dict(recipe), _defaults(config)
    for each in changes:
        merged |= each
    if merged.get("method.strength") == 0:
        for key in ("regularizer", "penalized", "strength_schedule", "strength_span"):
            merged[f"method.{key}"] = recipe.get(f"method.{key}", defaults[f"method.{key}"])
    return Run.of(config, {key: value for key, value in merged.items() if defaults[key] != value})


def grid(
    network: str,
    scale: str,
    lines: Mapping[str, Changes],
    *changes: Changes,
    field: str = "",
    levels: Sequence[float] = (0.0,),
    panel: int = 0,
) -> list[Case]:
    """Returns the cases of every line at every level, of one seed.

    Example: `grid("resnet18", "cpu", {"SNAP": {"method.name": "snap"}}, field="ranking.sparsity", levels=(0.4, 0.6))`
    returns two cases of one line.

    Args:
      network: name in `RECIPES`.
      scale: one of `figure.SCALES`.
      lines: config options of each line by its name. In the name, `{}` is replaced by the level.
      *changes: config options common to all lines; those of a line take precedence.
      field: the config option that is set to the level; none for lines of a single point.
      levels: the levels.
      panel: index of the panel.
    """
    return [
        Case(run_of(network, scale, *changes, own, {field: level} if field else {}), panel, name.format(level), level)
        for name, own in lines.items()
        for level in levels
    ]


def vit_kinds(scale: str) -> dict[str, Changes]:
    """Returns the lines of a ViT that figure 17 and table 3 share.

    The released code prunes a unit if its values have no positive sum over a batch. By this criterion a third of the
    GELU units are dead at initialization. It has a line of its own at the scale of a CPU.
    """
    demp, relu = {"method.strength": 0.0, **WATCHED}, {"model.activation": "relu"}
    dense = {**DENSE_RUN, **WATCHED}
    kinds: dict[str, Changes] = {"DemP": demp, "DemP + ReLU": demp | relu, "Dense": dense}
    if scale == "cpu":
        kinds |= {"Dense + ReLU": dense | relu, "DemP, sum <= 0": demp | {"pruning.criterion": "sum"}}
    return kinds


@functools.cache
def _defaults(config: str) -> dict[str, Any]:
    """Returns the options of a config and their values."""
    return options.flat(command.config_of([f"--config={_ROOT / config}"]).to_dict())
