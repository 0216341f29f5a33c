# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Plain training and DemP."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optax

import demp_jax
from experiments.core.errors import require
from experiments.recipe import goal, optimizers
from experiments.recipe.methods.method import Method, pruning
from experiments.settings import Settings

PENALIZED: dict[str, Callable[[Any], Any]] = {"scales": demp_jax.norm_scales, "all": demp_jax.regularizers.all_params}


def dense(settings: Settings, base: optax.GradientTransformation) -> Method:
    """Returns plain training."""
    demp(settings, base)  # Validates the options of DemP, which a comparison trains next.
    zero = demp_jax.schedules.constant(0.0)
    return Method("dense", base, zero, zero, lambda step: False, {}, False)


def demp(settings: Settings, base: optax.GradientTransformation) -> Method:
    """Returns DemP: a regularizer, noise, and pruning of dead units."""
    section, peak = settings.method, goal.strength(settings)
    strength, noise = _schedule(settings, "strength"), _schedule(settings, "noise")
    has_noise, unit = section.noise > 0, strength(1.0)
    rate = optimizers.learning_rate(settings)
    make = functools.partial(
        demp_jax.demp,
        base,
        strength=(lambda step: unit(step) * rate(step)) if section.regularizer.startswith("proximal") else unit,
        noise=noise(1.0) if has_noise else 0.0,
        key=settings.seed,
        kind=section.regularizer,
        decoupled=section.decoupled,
        amplitude=section.noise_amplitude,
        asymmetric=section.noise_asymmetric,
    )
    where, power = PENALIZED[section.penalized], section.cost_power
    of_graph = None
    if power > 0:
        field = "config.method.cost_power"
        require(not section.regularizer.endswith("group"), field, power, "0 with a group Lasso, which divides by size")
        of_graph = lambda graph, params: make(  # noqa: E731
            where=demp_jax.regularizers.by_cost(graph, params, power=power, where=where)
        )
    prunes, options = pruning(settings)
    live = has_noise and section.noise_asymmetric
    peaks = (peak, section.noise)
    groups = section.regularizer.endswith("group")
    schedules = (strength(peak), noise(section.noise))
    tx = make(where=where)
    return Method("demp", tx, *schedules, prunes, options, live, needs_groups=groups, peaks=peaks, of_graph=of_graph)


def _schedule(settings: Settings, name: str) -> Callable[[float], optax.Schedule]:
    """Returns a function of a peak that returns the schedule of `name` ("strength" or "noise")."""
    section, run = settings.method, settings.steps
    span = getattr(section, f"{name}_span")
    require(span <= run, f"config.method.{name}_span", span, f"between 1 step and the run's {run} steps")
    make: Any = demp_jax.schedules.SCHEDULES[getattr(section, f"{name}_schedule")]
    return lambda peak: make(peak, span)
