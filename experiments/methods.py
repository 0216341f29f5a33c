# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruning methods: what each adds to the optimizer, and when and by what rule it cuts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

import demp_jax
from experiments.durations import to_steps
from experiments.errors import UsageError, require, require_choice
from experiments.optimizers import require_nonnegative, require_positive

PENALISED: dict[str, Callable[[Any], Any]] = {"scales": demp_jax.norm_scales, "all": demp_jax.everything}


@dataclasses.dataclass(frozen=True)
class Method:
    """A method, ready for a run.

    Attributes:
      name: its name in configs.
      tx: the optimizer chain.
      strength, noise: what the schedules give at a step, for the records; 0 for methods without.
      cuts: whether the network is cut at a step (before the update of that step), the end of the run included.
      options: of `demp_jax.cut`.
      needs_live: whether the optimizer takes the mask of live weights.
    """

    name: str
    tx: optax.GradientTransformation
    strength: optax.Schedule
    noise: optax.Schedule
    cuts: Callable[[int], bool]
    options: dict[str, Any]
    needs_live: bool


def _never(step: int) -> bool:
    del step
    return False


def _dense(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    _demp(config, base, epoch=epoch, run=run)  # Its fields are held to the same rules, though dense uses none.
    zero = demp_jax.constant(0.0)
    return Method("dense", base, zero, zero, _never, {}, False)


def _demp(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    section = config.method
    strength = _schedule("strength", section, epoch=epoch, run=run)
    noise = _schedule("noise", section, epoch=epoch, run=run)
    require_choice("config.method.regularizer", section.regularizer, ("lasso", "l2"))
    require_choice("config.method.penalised", section.penalised, PENALISED)
    require_choice("config.method.noise_amplitude", section.noise_amplitude, ("variance", "std"))
    has_noise = section.noise > 0
    tx = demp_jax.demp(
        base,
        strength=strength,
        noise=noise if has_noise else 0.0,
        key=config.seed,
        kind=section.regularizer,
        where=PENALISED[section.penalised],
        decoupled=section.decoupled,
        amplitude=section.noise_amplitude,
        asymmetric=section.noise_asymmetric,
    )
    cuts, options = _pruning(config, epoch=epoch, run=run)
    return Method("demp", tx, strength, noise, cuts, options, has_noise and section.noise_asymmetric)


def _schedule(name: str, section: Any, *, epoch: float, run: int) -> optax.Schedule:
    peak, kind = section[name], section[f"{name}_schedule"]
    field = f"config.method.{name}"
    require_nonnegative(field, peak)
    require_choice(f"{field}_schedule", kind, demp_jax.SCHEDULES)
    span = to_steps(f"{field}_span", section[f"{name}_span"], epoch=epoch, run=run)
    require(1 <= span <= run, f"{field}_span", section[f"{name}_span"], f"between 1 step and the run's {run} steps")
    make: Any = demp_jax.SCHEDULES[kind]
    return make(peak, span)


def _pruning(config: Any, *, epoch: float, run: int) -> tuple[Callable[[int], bool], dict[str, Any]]:
    """Returns when to cut and the options of a cut."""
    section = config.pruning
    every = to_steps("config.pruning.every", section.every, epoch=epoch, run=run)
    require(every >= 1, "config.pruning.every", section.every, "at least one step (tau >= 1)")
    start = to_steps("config.pruning.start", section.start, epoch=epoch, run=run)
    require(start <= run, "config.pruning.start", section.start, f"at most the run's {run} steps")
    require_choice("config.pruning.criterion", section.criterion, demp_jax.CRITERIA)
    require_positive("config.pruning.epsilon", section.epsilon)
    require(section.min_units >= 1, "config.pruning.min_units", section.min_units, "at least 1")
    for name in ("constant", "tolerance"):
        if section[name] is not None:
            require_nonnegative(f"config.pruning.{name}", section[name])
    options = {
        "criterion": section.criterion,
        "epsilon": section.epsilon,
        "constant": section.constant,
        "tolerance": section.tolerance,
        "min_units": section.min_units,
        "exclude": tuple(section.exclude),
    }
    dynamic = section.dynamic

    def cuts(step: int) -> bool:
        return step == run or (dynamic and 0 < step < run and step >= start and step % every == 0)

    return cuts, options


METHODS: dict[str, Callable[..., Method]] = {"dense": _dense, "demp": _demp}


def build(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """Returns the method of a config.

    Args:
      config: the whole config.
      base: the base optimizer.
      epoch: steps per epoch.
      run: steps of the run.

    Raises:
      UsageError: for a bad field.
    """
    require_choice("config.method.name", config.method.name, METHODS)
    try:
        return METHODS[config.method.name](config, base, epoch=epoch, run=run)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"config.method: {error}") from error
