# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Plain training and DemP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

import demp_jax
from experiments.core.durations import to_steps
from experiments.core.errors import require, require_choice
from experiments.recipe import goal
from experiments.recipe.methods.method import Method, pruning
from experiments.recipe.optimizers import require_nonnegative

PENALISED: dict[str, Callable[[Any], Any]] = {"scales": demp_jax.norm_scales, "all": demp_jax.regularizers.all_params}


def _never(step: int) -> bool:
    del step
    return False


def dense(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """Returns plain training."""
    demp(config, base, epoch=epoch, run=run)  # Its fields are held to the same rules, though dense uses none.
    zero = demp_jax.schedules.constant(0.0)
    return Method("dense", base, zero, zero, _never, {}, False)


def demp(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """Returns DemP: the regularizer, the noise, and cuts of dead units."""
    section = config.method
    if goal.asked(config) and section.strength == 0:
        section = section.copy_and_resolve_references().unlock()
        section.strength = goal.GUESS
    strength = _schedule("strength", section, epoch=epoch, run=run)
    noise = _schedule("noise", section, epoch=epoch, run=run)
    require_choice("config.method.regularizer", section.regularizer, ("lasso", "l2"))
    require_choice("config.method.penalised", section.penalised, PENALISED)
    require_choice("config.method.noise_amplitude", section.noise_amplitude, ("variance", "std"))
    has_noise = section.noise > 0
    tx = demp_jax.demp(
        base,
        strength=_schedule("strength", section, epoch=epoch, run=run, peak=1.0),
        noise=_schedule("noise", section, epoch=epoch, run=run, peak=1.0) if has_noise else 0.0,
        key=config.seed,
        kind=section.regularizer,
        where=PENALISED[section.penalised],
        decoupled=section.decoupled,
        amplitude=section.noise_amplitude,
        asymmetric=section.noise_asymmetric,
    )
    cuts, options = pruning(config, epoch=epoch, run=run)
    live = has_noise and section.noise_asymmetric
    return Method("demp", tx, strength, noise, cuts, options, live, peaks=(section.strength, section.noise))


def _schedule(name: str, section: Any, *, epoch: float, run: int, peak: float | None = None) -> optax.Schedule:
    kind, field = section[f"{name}_schedule"], f"config.method.{name}"
    require_nonnegative(field, section[name])
    require_choice(f"{field}_schedule", kind, demp_jax.schedules.SCHEDULES)
    span = to_steps(f"{field}_span", section[f"{name}_span"], epoch=epoch, run=run)
    require(1 <= span <= run, f"{field}_span", section[f"{name}_span"], f"between 1 step and the run's {run} steps")
    make: Any = demp_jax.schedules.SCHEDULES[kind]
    return make(section[name] if peak is None else peak, span)
