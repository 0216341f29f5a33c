# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Base optimizers and learning-rate schedules from a config."""

from __future__ import annotations

import math
from typing import Any

import optax

from experiments.durations import to_steps
from experiments.errors import UsageError, require, require_choice

OPTIMIZERS = ("adam", "sgdm")
LR_SCHEDULES = ("step", "cosine", "constant")


def learning_rate(config: Any, *, epoch: float, run: int) -> optax.Schedule:
    """Returns the learning rate by step.

    Args:
      config: the whole config; reads its `optimizer` section.
      epoch: steps per epoch.
      run: steps of the run.

    Raises:
      UsageError: for a bad field.
    """
    section = config.optimizer
    require_positive("config.optimizer.learning_rate", section.learning_rate)
    require_choice("config.optimizer.schedule", section.schedule, LR_SCHEDULES)
    peak = section.learning_rate
    if section.schedule == "step":
        require_positive("config.optimizer.step_factor", section.step_factor)
        field = "config.optimizer.step_every"
        every = to_steps(field, section.step_every, epoch=epoch, run=run)
        require(every >= 1, field, section.step_every, "at least one step")
        # As the released code: 77, 154 and 231 epochs of 390 steps for the paper's "every 77 epochs".
        return optax.piecewise_constant_schedule(peak, dict.fromkeys(range(every, run + 1, every), section.step_factor))
    if section.schedule == "cosine":
        return optax.cosine_decay_schedule(peak, run)
    return optax.constant_schedule(peak)


def base_optimizer(config: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optimizer of a config, with its constant weight decay on all parameters.

    Decoupled decay is added after the moments and scaled by the learning rate (AdamW, and the paper's SGDM); coupled
    decay is part of the gradient.

    Raises:
      UsageError: for a bad field.
    """
    section = config.optimizer
    require_choice("config.optimizer.name", section.name, OPTIMIZERS)
    require_nonnegative("config.optimizer.weight_decay", section.weight_decay)
    if section.name == "adam":
        require(0 <= section.b1 < 1, "config.optimizer.b1", section.b1, "in [0, 1)")
        require(0 <= section.b2 < 1, "config.optimizer.b2", section.b2, "in [0, 1)")
        require_positive("config.optimizer.eps", section.eps)
        scale = optax.scale_by_adam(b1=section.b1, b2=section.b2, eps=section.eps)
    else:
        require(0 <= section.momentum < 1, "config.optimizer.momentum", section.momentum, "in [0, 1)")
        scale = optax.trace(decay=section.momentum)
    decay = optax.add_decayed_weights(section.weight_decay)
    parts = (scale, decay) if section.decoupled_decay else (decay, scale)
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def require_positive(field: str, value: float) -> None:
    """Raises `UsageError` unless a number is finite and > 0."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{field} must be a finite number > 0; got {value!r}.")


def require_nonnegative(field: str, value: float) -> None:
    """Raises `UsageError` unless a number is finite and >= 0."""
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{field} must be a finite number >= 0; got {value!r}.")
