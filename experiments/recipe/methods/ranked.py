# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that cut the units that score least."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

import optax

import demp_jax
from baselines import early, selection, slimming, structured
from baselines.subject import Score
from experiments.core.durations import to_steps
from experiments.core.errors import UsageError, require, require_choice
from experiments.recipe.methods.method import Builder, Method, Ranking, pruning
from experiments.recipe.optimizers import require_nonnegative

_LOG = logging.getLogger(__name__)


def ranked(score: Score, released: Score | None = None, *, watches: bool = False, rule: str = "exact") -> Builder:
    """Returns the builder of a method that cuts by scores once.

    Args:
      score: as the DemP paper computes it.
      released: as the method's own code does, where it is another.
      watches: whether it cuts when EarlyCroP's rule says so.
      rule: of the selection, unless the config asks for another.
    """

    def make(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
        section = config.ranking
        require_choice("config.ranking.definition", section.definition, ("demp", "released"))
        chosen = score if section.definition == "demp" else released
        if chosen is None:
            raise UsageError(
                f"config.ranking.definition must be 'demp' with config.method.name={config.method.name!r}; got "
                f"{section.definition!r}."
            )
        require_choice("config.ranking.early_rule", section.early_rule, early.RULES)
        target = section.sparsity
        require(0 <= target < 1, "config.ranking.sparsity", target, "in [0, 1)")
        tx, latest = base, run + 1
        if watches:
            tx = early.watch_distance(base, epoch=epoch, sparsity=target, rule=section.early_rule)
        field = "latest" if watches else "when"
        if not watches or section.latest:
            latest = to_steps(f"config.ranking.{field}", section[field], epoch=epoch, run=run)
            first = 1 if watches else 0
            require(first <= latest <= run, f"config.ranking.{field}", section[field], f"in {first} to {run} steps")

        def possible(step: int) -> bool:
            if not watches:
                return step == latest
            # The state is asked at the ends of epochs alone: it would make every step wait.
            near = any(math.floor((step + d) / epoch) > math.floor((step + d - 1) / epoch) for d in (-1, 0, 1))
            return 0 < step <= latest and (near or step in (latest, run))

        def due(step: int, opt_state: Any) -> float | None:
            if not possible(step):
                return None
            if not watches:
                return target
            fired = early.fired_at(opt_state)
            if step == run and fired < 0 and step < latest:
                _LOG.warning(
                    "config.ranking.early_rule=%r has not fired, so nothing was pruned: give config.ranking.latest",
                    section.early_rule,
                )
            return target if fired == step or (step == latest and fired < 0) else None

        when = f"at step {latest:,}"
        if watches:
            by = f"{when} at the latest" if latest <= run else "never if that does not come"
            when = f"when the weights' distance from the start grows slowly, by config.ranking.early_rule; {by}"
        return structured_method(config, tx, chosen, due, possible, when, rule=rule, epoch=epoch, run=run)

    return make


def structured_method(
    config: Any,
    tx: optax.GradientTransformation,
    score: Score,
    due: Callable[[int, Any], float | None],
    possible: Callable[[int], bool],
    when: str,
    *,
    rule: str = "exact",
    epoch: float,
    run: int,
) -> Method:
    """Returns a method that cuts by a score when it is due, and dead units at the end; see `Ranking`."""
    section = config.ranking
    require_choice("config.ranking.rule", section.rule, ("auto", *selection.RULES))
    require_choice("config.ranking.feedback", section.feedback, structured.FEEDBACK)
    require_choice("config.ranking.optimizer", section.optimizer, ("sliced", "restarted"))
    for name in ("stages", "batches", "batch_size"):
        require(section[name] >= 1, f"config.ranking.{name}", section[name], "at least 1")
    _, options = pruning(config, epoch=epoch, run=run)
    ranking = Ranking(
        score=score,
        due=due,
        possible=possible,
        when=when,
        options={
            "steps": section.stages,
            "feedback": section.feedback,
            "rule": rule if section.rule == "auto" else section.rule,
            "min_units": config.pruning.min_units,
            "unranked": tuple(section.exclude),
        },
        batches=section.batches,
        batch_size=section.batch_size,
        restarts=section.optimizer == "restarted",
    )
    zero = demp_jax.schedules.constant(0.0)
    # Dead units are cut at the end alone.
    return Method(config.method.name, tx, zero, zero, lambda step: step == run, options, False, ranking)


def slimmed(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """L1 on the scales until the cut, nothing after it."""
    plain = ranked(slimming.score)(config, base, epoch=epoch, run=run)
    until = to_steps("config.ranking.when", config.ranking.when, epoch=epoch, run=run)
    require_nonnegative("config.method.strength", config.method.strength)
    require(until >= 1, "config.ranking.when", config.ranking.when, "at least one step with slimming, as in '50%'")
    strength = optax.piecewise_constant_schedule(config.method.strength, {until: 0.0})
    return dataclasses.replace(plain, tx=demp_jax.demp(base, strength=strength), strength=strength)
