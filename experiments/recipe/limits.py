# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What the value of every key of a config may be, whatever else the config says.

These limits hold for keys that a run does not use as well, so that a mistake is not found later, when another method or
dataset is asked for. What depends on other keys or on the data is checked where it is used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.core.durations import to_steps
from experiments.core.errors import UsageError, require, require_choice
from experiments.recipe import fields

_LARGEST = float(np.finfo(np.float32).max)
_INT32 = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, without the ends where these are `open`; of a tuple, each of its elements."""

    least: float
    most: float = _LARGEST
    open: str = ""  # "low", "high" or "both"
    empty: bool = True  # Of a tuple: whether it may have no elements.

    def __contains__(self, value: float) -> bool:
        low = value > self.least if self.open in ("low", "both") else value >= self.least
        return low and self.below(value)

    def below(self, value: float) -> bool:
        """Returns whether a value is not beyond the upper end; NaN is not."""
        return value < self.most if self.open in ("high", "both") else value <= self.most

    def __str__(self) -> str:
        if self.most in (_LARGEST, _INT32):
            return f"a finite number {'>' if self.open else '>='} {self.least:g}"
        left, right = "(" if self.open in ("low", "both") else "[", ")" if self.open in ("high", "both") else "]"
        return f"in {left}{self.least:g}, {self.most:g}{right}"


_COUNT, _SIZE = Range(1, _INT32), Range(1, 2**16)
_PART, _POSITIVE, _NONNEGATIVE = Range(0, 1), Range(0, open="low"), Range(0)
_SPARSITY, _INSIDE = Range(0, 1, "high"), Range(0, 1, "both")
_SCHEDULE = ("one_cycle", "one_cycle_cosine", "warmup_hold", "cosine_decay", "constant")
ANY = "any"  # Text that means itself, such as a folder.
DURATION, OPTIONAL_DURATION, PATTERNS = "duration", "duration or empty", "patterns"

LIMITS: dict[str, Range | tuple[str, ...] | str] = {
    "seed": Range(0, _INT32),
    "steps": DURATION,
    "batch_size": _COUNT,
    "accumulate": _COUNT,
    "steps_per_call": Range(1, 10_000),
    "devices": Range(0, _INT32),
    "label_smoothing": _SPARSITY,
    "data.name": ANY,
    "data.dir": ANY,
    "data.cache": ANY,
    "data.normalize": ("unit", "standardize"),
    "data.crop": Range(0, 2**14),
    "data.padding": ("reflect", "zero"),
    "data.upsample": Range(0, 2**14),
    "data.mixup": Range(0, 1000),
    "data.cutmix": Range(0, 1000),
    "data.train_examples": Range(0, _INT32),
    "data.test_examples": Range(0, _INT32),
    "data.side": Range(1, 2**14),
    "data.framing": ("resize_crop", "random_resized_crop"),
    "data.resize": Range(1, 2**14, empty=False),
    "data.eval_resize": Range(1, 2**14),
    "data.randaugment_operations": Range(0, 100),
    "data.randaugment_magnitude": Range(0, 30),
    "data.workers": Range(0, 1024),
    "model.name": ANY,
    "model.activation": ("relu", "leaky_relu", "swish", "gelu"),
    "model.dtype": ("float32", "bfloat16"),
    "model.widths": Range(1, 2**20, empty=False),
    "model.base_width": _SIZE,
    "model.blocks": Range(1, 1000, empty=False),
    "model.stem_stride": Range(1, 2),
    "model.hidden": Range(1, 2**20),
    "model.patch": Range(1, 2**14),
    "model.features": Range(1, 2**20),
    "model.depth": Range(1, 1000),
    "model.heads": _SIZE,
    "optimizer.name": ("adam", "adamw", "sgdm"),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.schedule": ("step", "piecewise", "one_cycle", "cosine", "constant"),
    "optimizer.step_every": DURATION,
    "optimizer.boundaries": DURATION,
    "optimizer.step_factor": _POSITIVE,
    "optimizer.warmup": DURATION,
    "optimizer.warmup_from": Range(0, 1e6),
    "optimizer.clip_norm": _NONNEGATIVE,
    "optimizer.weight_decay": Range(0, 1e6),
    "optimizer.b1": _SPARSITY,
    "optimizer.b2": _SPARSITY,
    "optimizer.eps": Range(0, 1e6, "low"),
    "optimizer.momentum": _SPARSITY,
    "method.name": ANY,
    "method.strength": Range(0, 1e6),
    "method.strength_schedule": _SCHEDULE,
    "method.strength_span": DURATION,
    "method.regularizer": ("lasso", "l2"),
    "method.penalised": ("scales", "all"),
    "method.noise": Range(0, 1e6),
    "method.noise_amplitude": ("variance", "std"),
    "method.noise_schedule": _SCHEDULE,
    "method.noise_span": DURATION,
    "method.target.weight_sparsity": _INSIDE,
    "method.target.neuron_sparsity": _INSIDE,
    "method.target.parameters": _COUNT,
    "method.target.inference_flops": _INSIDE,
    "method.target.step_time": _INSIDE,
    "method.target.every": DURATION,
    "ranking.sparsity": _SPARSITY,
    "ranking.when": DURATION,
    "ranking.early_rule": ("paper", "released"),
    "ranking.latest": OPTIONAL_DURATION,
    "ranking.every": DURATION,
    "ranking.until": DURATION,
    "ranking.floor": _PART,
    "ranking.definition": ("demp", "released"),
    "ranking.rule": ("auto", "exact", "layerwise", "percentile", "topk"),
    "ranking.stages": Range(1, 10_000),
    "ranking.feedback": ("planned", "measured"),
    "ranking.optimizer": ("sliced", "restarted"),
    "ranking.batches": Range(1, 1_000_000),
    "ranking.batch_size": Range(1, 1_000_000),
    "ranking.exclude": PATTERNS,
    "masking.sparsity": _SPARSITY,
    "masking.distribution": ("erk", "uniform"),
    "masking.exclude": PATTERNS,
    "masking.algorithm": ANY,
    "masking.schedule": ("polynomial", "one_shot"),
    "masking.start": DURATION,
    "masking.end": DURATION,
    "masking.every": DURATION,
    "masking.drop": _PART,
    "masking.drop_schedule": ("cosine", "constant"),
    "masking.ablation": _PART,
    "masking.never_ablated": PATTERNS,
    "pruning.every": DURATION,
    "pruning.start": DURATION,
    "pruning.examples": _COUNT,
    "pruning.criterion": ("auto", "zero", "epsilon", "negative", "sum"),
    "pruning.modes": ("both", "evaluation"),
    "pruning.epsilon": Range(0, 1e6, "low"),
    "pruning.constant": Range(0, 1e6),
    "pruning.tolerance": Range(0, 1e6),
    "pruning.min_units": Range(1, 2**20),
    "pruning.exclude": PATTERNS,
    "pruning.multiple": Range(0, 2**20),
    "pruning.cut_cost": OPTIONAL_DURATION,
    "pruning.ahead": OPTIONAL_DURATION,
    "watch.every": DURATION,
    "eval_batch_size": Range(1, 2**20),
    "log_every": DURATION,
    "eval_every": DURATION,
    "checkpoint_every": DURATION,
    "checkpoints_kept": Range(1, _INT32),
    "resume": ("strict", "anyway"),
    "step_time_seconds": Range(0, 1e6, "low"),
    "tracker": ("", "wandb"),
    "progress": ("auto", "bar", "lines", "off"),
    "compile_cache": ANY,
}


def require_sizes(config: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a number beyond its upper end, before anything is made as large as it says."""
    for key, limit in LIMITS.items():
        value = fields.flat(config)[key]
        if isinstance(limit, Range) and value is not None:
            for each in _each(value):
                require(math.isnan(each) or limit.below(each), f"config.{key}", value, str(limit))


def require_all(config: Mapping[str, Any], *, epoch: float, run: int) -> None:
    """Raises `UsageError` for a value that is never right.

    Args:
      config: the whole config.
      epoch, run: steps of an epoch and of the run.
    """
    for key, value in fields.flat(config).items():
        limit, field = LIMITS.get(key, ANY), f"config.{key}"
        if limit == ANY or value is None:
            continue
        if isinstance(limit, Range):
            require(limit.empty or bool(_each(value)), field, value, "one or more numbers")
            for each in _each(value):
                require(each in limit, field, value, str(limit))
        elif isinstance(limit, tuple):
            require_choice(field, value, limit)
        elif limit == PATTERNS:
            require(all(each.strip() for each in value), field, value, "patterns that are not empty")
        elif not (limit == OPTIONAL_DURATION and not value):
            for each in value if isinstance(value, tuple | list) else (value,):
                steps = to_steps(field, each, epoch=epoch, run=None if key == "steps" else run)
                if key == "steps" and steps > _INT32:
                    raise UsageError(f"{field} must be at most {_INT32} steps; got {value!r}.")


def _each(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
