# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Base optimizers and learning-rate schedules from a config."""

from __future__ import annotations

import itertools
import math
from typing import Any

import optax

from experiments.core.durations import to_steps
from experiments.core.errors import UsageError, require, require_choice

OPTIMIZERS = ("adam", "adamw", "sgdm")
LR_SCHEDULES = ("step", "piecewise", "one_cycle", "cosine", "constant")


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
    field = "config.optimizer.warmup"
    warmup = to_steps(field, section.warmup, epoch=epoch, run=run)
    require(warmup < run, field, section.warmup, f"shorter than the run of {run} steps")
    require_nonnegative("config.optimizer.warmup_from", section.warmup_from)
    if section.schedule == "one_cycle":
        require(warmup == 0, field, section.warmup, "0 with config.optimizer.schedule='one_cycle', which has its own")
        return optax.cosine_onecycle_schedule(run, peak)
    if section.schedule == "cosine":
        # After the warm-up the cosine takes the rest of the run.
        after = optax.cosine_decay_schedule(peak, run - warmup)
    elif section.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        require_positive("config.optimizer.step_factor", section.step_factor)
        # At their steps of the run, whatever the warm-up.
        steps = [step - warmup for step in _boundaries(section, epoch, run) if step > warmup]
        after = optax.piecewise_constant_schedule(peak, dict.fromkeys(steps, section.step_factor))
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(section.warmup_from, peak, warmup), after], [warmup])


def _boundaries(section: Any, epoch: float, run: int) -> list[int]:
    """Returns the steps at which the rate is multiplied."""
    if section.schedule == "step":
        field = "config.optimizer.step_every"
        every = to_steps(field, section.step_every, epoch=epoch, run=run)
        require(every >= 1, field, section.step_every, "at least one step")
        # As the released code: 77, 154 and 231 epochs of 390 steps for the paper's "every 77 epochs".
        return list(range(every, run + 1, every))
    field = "config.optimizer.boundaries"
    steps = [to_steps(field, boundary, epoch=epoch, run=run) for boundary in section.boundaries]
    rising = all(a < b for a, b in itertools.pairwise([0, *steps]))
    require(rising, field, tuple(section.boundaries), "durations that grow, each at least one step")
    return steps


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
    require_nonnegative("config.optimizer.clip_norm", section.clip_norm)
    if section.name in ("adam", "adamw"):
        require(0 <= section.b1 < 1, "config.optimizer.b1", section.b1, "in [0, 1)")
        require(0 <= section.b2 < 1, "config.optimizer.b2", section.b2, "in [0, 1)")
        require_positive("config.optimizer.eps", section.eps)
        scale = optax.scale_by_adam(b1=section.b1, b2=section.b2, eps=section.eps)
    else:
        require(0 <= section.momentum < 1, "config.optimizer.momentum", section.momentum, "in [0, 1)")
        scale = optax.trace(decay=section.momentum)
    decay = optax.add_decayed_weights(section.weight_decay)
    decoupled = section.decoupled_decay
    require(decoupled or section.name != "adamw", "config.optimizer.decoupled_decay", decoupled, "true with adamw")
    parts = (scale, decay) if decoupled else (decay, scale)
    clip = (optax.clip_by_global_norm(section.clip_norm),) if section.clip_norm else ()
    return optax.chain(*clip, *parts, optax.scale_by_learning_rate(rate))


def require_positive(field: str, value: float) -> None:
    """Raises `UsageError` unless a number is finite and > 0."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{field} must be a finite number > 0; got {value!r}.")


def require_nonnegative(field: str, value: float) -> None:
    """Raises `UsageError` unless a number is finite and >= 0."""
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{field} must be a finite number >= 0; got {value!r}.")
