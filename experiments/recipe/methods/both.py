# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that prune units and mask weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import optax

from baselines import chase, masking, rigl
from experiments.core.errors import require, require_choice
from experiments.recipe.methods.demp import demp
from experiments.recipe.methods.masked import dynamic, updater
from experiments.recipe.methods.method import Method
from experiments.recipe.methods.ranked import structured_method
from experiments.settings import Settings


def chased(settings: Settings, base: optax.GradientTransformation) -> Method:
    """Returns Chase: channels are pruned until `ranking.until`; masks allow extra connections until `masking.end`."""
    section, run, end = settings.ranking, settings.steps, settings.masking.end
    target, until = section.sparsity, section.until
    require(1 <= until <= run, "config.ranking.until", until, f"between 1 step and the run's {run} steps")
    # Restarting the optimizer would draw new masks.
    require_choice("config.ranking.optimizer", section.optimizer, ("sliced",))
    wanted = chase.channels(target, end=until)

    def possible(step: int) -> bool:
        return 0 < step <= until and (step % section.every == 0 or step == until)

    def due(step: int, opt_state: Any) -> float | None:
        del opt_state
        return wanted(step) if possible(step) else None

    def make(settings: Settings, distribution: Any, schedule: Any) -> masking.Masking:
        extra = optax.cosine_decay_schedule(0.05, max(end, 1), 0.1)
        # After `end`, the drop fraction decays from 0.5 to 0.005.
        last = optax.cosine_decay_schedule(0.5, max(run - end, 1), 0.01)
        whole = dataclasses.replace(schedule, end=run)
        drop = lambda step: last(step - end)  # noqa: E731
        return chase.Chase(distribution, whole, settings.seed, drop=drop, extra=extra, switch=end)

    masks = updater(settings, make, moves=True)
    when = f"every {section.every:,} steps until step {until:,}, to increasing sparsity"
    plain = structured_method(settings, masks.wrap_optax(base), chase.score, due, possible, when)
    assert plain.ranking is not None
    options = {**plain.ranking.options, "steps": 1, "rule": "exact"}
    floors = functools.partial(chase.floors, sparsity=target, beta=section.floor)
    ranking = dataclasses.replace(plain.ranking, options=options, floors=floors)
    return dataclasses.replace(plain, ranking=ranking, updater=masks)


def demp_rigl(settings: Settings, base: optax.GradientTransformation) -> Method:
    """Returns DemP with RigL's masks: the regularizer and the noise act on the connections that RigL keeps."""
    plain = demp(settings, base)
    masks = updater(settings, dynamic(rigl.RigL), moves=True)
    of_graph, wrapped = plain.of_graph, masks.wrap_optax(plain.tx)
    masked_of = None if of_graph is None else lambda graph, params: masks.wrap_optax(of_graph(graph, params))
    return dataclasses.replace(plain, name="demp_rigl", tx=wrapped, updater=masks, of_graph=masked_of)
