# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Schedules of the strength of a regularizer and of the variance of noise (paper, section 3.1 and figure 4).

Each function returns an `optax.Schedule`, a function of the step, and names its arguments as Optax does. The value is 0
after the last step, except for `warmup_hold`, and for `constant` without a number of steps.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float32


def one_cycle(
    peak_value: float, transition_steps: int, *, pct_start: float = 0.3, shape: str = "linear"
) -> optax.Schedule:
    """Returns a schedule that grows to a peak and decays to 0 by a cosine, the schedule of the paper.

    With t the step, T the transition steps and w = floor(pct_start * T)::

        t <  w:  peak_value * t / w                                        (shape "linear", the paper's text)
                 peak_value * (1/25 + 24/25 * (1 - cos(pi t / w)) / 2)     (shape "cosine", the released code)
        t >= w:  peak_value * (1 + cos(pi (t - w) / (T - w))) / 2          for t < T, else 0

    The released code uses `optax.cosine_onecycle_schedule`, whose decay ends at `peak_value` / 250,000 instead of 0.

    Args:
      peak_value: the largest value, >= 0.
      transition_steps: number of steps of the whole cycle, >= 1.
      pct_start: fraction of the steps spent growing, in [0, 1).
      shape: shape of the growth, `"linear"` or `"cosine"`.

    Returns:
      The schedule.

    Raises:
      ValueError: for an argument out of its range.

    References:
      Smith and Topin, 2018, https://arxiv.org/abs/1708.07120
    """
    _check("one_cycle", "peak_value", peak_value, "transition_steps", transition_steps)
    if not 0 <= pct_start < 1:
        raise ValueError(f"one_cycle: pct_start must be in [0, 1); got {pct_start=}.")
    if shape not in ("linear", "cosine"):
        raise ValueError(f"one_cycle: shape must be 'linear' or 'cosine'; got {shape=}.")
    grown = math.floor(pct_start * transition_steps)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        rise = t / max(grown, 1)
        if shape == "cosine":
            rise = 1 / 25 + 24 / 25 * (1 - jnp.cos(jnp.pi * rise)) / 2
        fall = _half_cosine((t - grown) / (transition_steps - grown))
        return peak_value * jnp.where(t < grown, rise, jnp.where(t < transition_steps, fall, 0.0))

    return schedule


def warmup_hold(peak_value: float, warmup_steps: int) -> optax.Schedule:
    """Returns a schedule that grows linearly from 0 to `peak_value` and stays there, the "warmup" of the paper.

    Args:
      peak_value: the largest value, >= 0.
      warmup_steps: number of steps of the growth, >= 1.

    Raises:
      ValueError: for an argument out of its range.
    """
    _check("warmup_hold", "peak_value", peak_value, "warmup_steps", warmup_steps)
    return lambda step: peak_value * jnp.minimum(jnp.asarray(step, jnp.float32) / warmup_steps, 1.0)


def cosine_decay(init_value: float, decay_steps: int) -> optax.Schedule:
    """Returns a schedule that decays from `init_value` to 0 by a cosine, and stays at 0.

    Args:
      init_value: the value at step 0, >= 0.
      decay_steps: number of steps of the decay, >= 1.

    Raises:
      ValueError: for an argument out of its range.
    """
    _check("cosine_decay", "init_value", init_value, "decay_steps", decay_steps)
    return lambda step: init_value * _half_cosine(jnp.minimum(jnp.asarray(step, jnp.float32) / decay_steps, 1.0))


def constant(value: float, transition_steps: int | None = None) -> optax.Schedule:
    """Returns a constant schedule.

    Args:
      value: the value, >= 0.
      transition_steps: number of steps with this value, >= 1, after which it is 0; `None` for all steps.

    Raises:
      ValueError: for an argument out of its range.
    """
    _check("constant", "value", value, "transition_steps", 1 if transition_steps is None else transition_steps)
    last = math.inf if transition_steps is None else transition_steps
    return lambda step: value * jnp.where(jnp.asarray(step, jnp.float32) < last, 1.0, 0.0)


SCHEDULES = {
    "one_cycle": one_cycle,
    "one_cycle_cosine": functools.partial(one_cycle, shape="cosine"),
    "warmup_hold": warmup_hold,
    "cosine_decay": cosine_decay,
    "constant": constant,
}


def _half_cosine(progress: Float32[jax.Array, "*steps"]) -> Float32[jax.Array, "*steps"]:
    return (1 + jnp.cos(jnp.pi * progress)) / 2


def _check(name: str, field: str, value: float, steps_field: str, steps: int) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: {field} must be a finite number >= 0; got {field}={value}.")
    if steps < 1:
        raise ValueError(f"{name}: {steps_field} must be >= 1 step; got {steps_field}={steps}.")
