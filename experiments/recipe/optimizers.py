# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Base optimizers and learning-rate schedules."""

from __future__ import annotations

import itertools

import optax

from experiments.core.errors import require
from experiments.settings import Settings


def learning_rate(settings: Settings) -> optax.Schedule:
    """Returns the learning rate schedule.

    Raises:
      UsageError: for inconsistent options.
    """
    section, run = settings.optimizer, settings.steps
    field, warmup, peak = "config.optimizer.warmup", section.warmup, section.learning_rate
    require(warmup < run, field, warmup, f"shorter than the run of {run} steps")
    if section.schedule == "one_cycle":
        require(warmup == 0, field, warmup, "0 with config.optimizer.schedule='one_cycle', which has its own")
        return optax.cosine_onecycle_schedule(run, peak)
    if section.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, run - warmup)
    elif section.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        # Boundaries count from the start of the run, steps of this schedule from the end of the warm-up.
        steps = [step - warmup for step in _boundaries(settings) if step > warmup]
        after = optax.piecewise_constant_schedule(peak, dict.fromkeys(steps, section.step_factor))
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(section.warmup_from, peak, warmup), after], [warmup])


def _boundaries(settings: Settings) -> tuple[int, ...]:
    """Returns the steps at which the learning rate is multiplied by `step_factor`."""
    section = settings.optimizer
    if section.schedule == "step":
        # As in the released code: after 77, 154 and 231 epochs of 390 steps, for the paper's "every 77 epochs".
        return tuple(range(section.step_every, settings.steps + 1, section.step_every))
    steps = section.boundaries
    rising = all(a < b for a, b in itertools.pairwise((0, *steps)))
    require(rising, "config.optimizer.boundaries", steps, "durations that grow")
    return steps


def base_optimizer(settings: Settings, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns the base optimizer, with constant weight decay on all parameters.

    Decoupled weight decay is added after the moments and scaled by the learning rate (AdamW, and the paper's SGDM).
    Coupled weight decay is added to the gradient.

    Raises:
      UsageError: for inconsistent options.
    """
    section = settings.optimizer
    if section.name in ("adam", "adamw"):
        scale = optax.scale_by_adam(b1=section.b1, b2=section.b2, eps=section.eps)
    else:
        scale = optax.trace(decay=section.momentum)
    decay = optax.add_decayed_weights(section.weight_decay)
    decoupled = section.decoupled_decay
    require(decoupled or section.name != "adamw", "config.optimizer.decoupled_decay", decoupled, "true with adamw")
    parts = (scale, decay) if decoupled else (decay, scale)
    clip = (optax.clip_by_global_norm(section.clip_norm),) if section.clip_norm else ()
    return optax.chain(*clip, *parts, optax.scale_by_learning_rate(rate))
