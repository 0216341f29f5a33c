# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Schedules of the strength of the regulariser and of the variance of the noise (paper, section 3.1 and figure 4).

Each has a `span`, the number of steps after which the quantity is and stays 0 (`warmup_hold` and `constant` may go on
without end). Each is an `optax.Schedule`: a function of the step, traceable.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import optax


def one_cycle(peak: float, span: int, *, warmup: float = 0.3, shape: str = "linear") -> optax.Schedule:
    """Returns the paper's schedule: growth to a peak, then a cosine decay to 0.

    With t the step and w = floor(warmup * span)::

        t <  w:  peak * t / w                                        (shape "linear", the paper's text)
                 peak * (1/25 + 24/25 * (1 - cos(pi t / w)) / 2)     (shape "cosine", the released code)
        t >= w:  peak * (1 + cos(pi (t - w) / (span - w))) / 2       for t < span, else 0

    The released code uses `optax.cosine_onecycle_schedule`, whose decay ends at peak / 250,000 instead of 0.

    Args:
      peak: the largest value, >= 0.
      span: number of steps of the whole cycle, >= 1.
      warmup: fraction of the span spent growing, in [0, 1).
      shape: of the growth, `"linear"` or `"cosine"`.

    Returns:
      The schedule.

    Raises:
      ValueError: for an argument out of its range.

    References:
      Smith and Topin, 2018, https://arxiv.org/abs/1708.07120
    """
    _check("one_cycle", peak, span)
    if not 0 <= warmup < 1:
        raise ValueError(f"one_cycle: warmup must be in [0, 1); got {warmup=}.")
    if shape not in ("linear", "cosine"):
        raise ValueError(f"one_cycle: shape must be 'linear' or 'cosine'; got {shape=}.")
    grown = math.floor(warmup * span)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(step, jnp.float32)
        rise = t / max(grown, 1)
        if shape == "cosine":
            rise = 1 / 25 + 24 / 25 * (1 - jnp.cos(jnp.pi * rise)) / 2
        fall = _half_cosine((t - grown) / (span - grown))
        return peak * jnp.where(t < grown, rise, jnp.where(t < span, fall, 0.0))

    return schedule


def warmup_hold(peak: float, span: int) -> optax.Schedule:
    """Returns a linear growth from 0 to `peak` over `span` steps that then holds (the paper's "warmup")."""
    _check("warmup_hold", peak, span)
    return lambda step: peak * jnp.minimum(jnp.asarray(step, jnp.float32) / span, 1.0)


def cosine_decay(peak: float, span: int) -> optax.Schedule:
    """Returns a cosine decay from `peak` at step 0 to 0 at step `span`, where it stays."""
    _check("cosine_decay", peak, span)
    return lambda step: peak * _half_cosine(jnp.minimum(jnp.asarray(step, jnp.float32) / span, 1.0))


def constant(peak: float, span: int | None = None) -> optax.Schedule:
    """Returns `peak` at every step, or at the first `span` steps only and 0 after them."""
    _check("constant", peak, 1 if span is None else span)
    last = math.inf if span is None else span
    return lambda step: peak * jnp.where(jnp.asarray(step, jnp.float32) < last, 1.0, 0.0)


SCHEDULES = {
    "one_cycle": one_cycle,
    "one_cycle_cosine": functools.partial(one_cycle, shape="cosine"),
    "warmup_hold": warmup_hold,
    "cosine_decay": cosine_decay,
    "constant": constant,
}


def _half_cosine(progress: jax.Array) -> jax.Array:
    return (1 + jnp.cos(jnp.pi * progress)) / 2


def _check(name: str, peak: float, span: int) -> None:
    if not (peak >= 0 and math.isfinite(peak)):
        raise ValueError(f"{name}: peak must be a finite number >= 0; got {peak=}.")
    if span < 1:
        raise ValueError(f"{name}: span must be >= 1 step; got {span=}.")
