# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that cut units and hold weights at zero."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import optax

from baselines import chase, masking, rigl
from experiments.core.durations import to_steps
from experiments.core.errors import require, require_choice
from experiments.recipe.methods.demp import demp
from experiments.recipe.methods.masked import dynamic, updater
from experiments.recipe.methods.method import Method
from experiments.recipe.methods.ranked import structured_method


def chased(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """Channels leave every so often until `ranking.until`; connections beyond the target until `masking.end`."""
    section = config.ranking
    target, beta = section.sparsity, section.floor
    require(0 <= target < 1, "config.ranking.sparsity", target, "in [0, 1)")
    require(0 <= beta <= 1, "config.ranking.floor", beta, "in [0, 1]")
    every = to_steps("config.ranking.every", section.every, epoch=epoch, run=run)
    until = to_steps("config.ranking.until", section.until, epoch=epoch, run=run)
    require(every >= 1, "config.ranking.every", section.every, "at least one step")
    require(1 <= until <= run, "config.ranking.until", section.until, f"between 1 step and the run's {run} steps")
    # An optimizer that starts anew would draw other masks.
    require_choice("config.ranking.optimizer", section.optimizer, ("sliced",))
    wanted = chase.channels(target, end=until)

    def possible(step: int) -> bool:
        return 0 < step <= until and (step % every == 0 or step == until)

    def due(step: int, opt_state: Any) -> float | None:
        del opt_state
        return wanted(step) if possible(step) else None

    def make(section: Any, distribution: Any, schedule: Any, seed: int, end: int) -> masking.Masking:
        extra = optax.cosine_decay_schedule(0.05, max(end, 1), 0.1)
        # Half of the connections at first, a two-hundredth at the end.
        last = optax.cosine_decay_schedule(0.5, max(run - end, 1), 0.01)
        whole = dataclasses.replace(schedule, end=run)
        return chase.Chase(distribution, whole, seed, drop=lambda t: last(t - end), extra=extra, switch=end)

    masks = updater(config, make, moves=True, epoch=epoch, run=run)
    when = f"every {every:,} steps until step {until:,}, ever more"
    plain = structured_method(config, masks.wrap_optax(base), chase.score, due, possible, when, epoch=epoch, run=run)
    assert plain.ranking is not None
    options = {**plain.ranking.options, "steps": 1, "rule": "exact"}
    floors = functools.partial(chase.floors, sparsity=target, beta=beta)
    ranking = dataclasses.replace(plain.ranking, options=options, floors=floors)
    return dataclasses.replace(plain, ranking=ranking, updater=masks)


def demp_rigl(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """DemP's cuts and RigL's masks: the regularizer and the noise act on what RigL left open."""
    plain = demp(config, base, epoch=epoch, run=run)
    masks = updater(config, dynamic(rigl.RigL), moves=True, epoch=epoch, run=run)
    return dataclasses.replace(plain, name="demp_rigl", tx=masks.wrap_optax(plain.tx), updater=masks)
