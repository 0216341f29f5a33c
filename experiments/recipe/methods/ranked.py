# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that prune the units with the lowest scores."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

import optax

import demp_jax
from baselines import early, slimming
from baselines.subject import Score
from experiments.core.errors import UsageError, require
from experiments.recipe.methods.method import Builder, Method, Ranking, pruning
from experiments.settings import Settings

_LOG = logging.getLogger(__name__)


def ranked(score: Score, released: Score | None = None, *, watches: bool = False, rule: str = "exact") -> Builder:
    """Returns the builder of a method that prunes once, by score.

    Args:
      score: the score as in the DemP paper.
      released: the score as in the method's released code; `None` if that has no other.
      watches: whether EarlyCroP's rule decides when to prune.
      rule: the selection rule for `config.ranking.rule="auto"`.
    """

    def make(settings: Settings, base: optax.GradientTransformation) -> Method:
        section, run, epoch = settings.ranking, settings.steps, settings.steps_per_epoch
        chosen = score if section.definition == "demp" else released
        if chosen is None:
            raise UsageError(
                f"config.ranking.definition must be 'demp' with config.method.name={settings.method.name!r}; got "
                f"{section.definition!r}."
            )
        tx, target = base, section.sparsity
        if watches:
            tx = early.watch_distance(base, epoch=epoch, sparsity=target, rule=section.early_rule)
        field, given, first = ("latest", section.latest, 1) if watches else ("when", section.when, 0)
        latest = run + 1 if given is None else given
        if given is not None:
            require(first <= given <= run, f"config.ranking.{field}", given, f"in {first} to {run} steps")

        def possible(step: int) -> bool:
            if not watches:
                return step == latest
            # Reading the optimizer state blocks until its step is done, so it is only read around the ends of epochs.
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
                    "config.ranking.early_rule=%r has not fired, so nothing was pruned: set config.ranking.latest",
                    section.early_rule,
                )
            return target if fired == step or (step == latest and fired < 0) else None

        when = f"at step {latest:,}"
        if watches:
            by = f"{when} at the latest" if latest <= run else "never if the rule does not fire"
            when = f"when the weights' distance from the start grows slowly, by config.ranking.early_rule; {by}"
        return structured_method(settings, tx, chosen, due, possible, when, rule=rule)

    return make


def structured_method(
    settings: Settings,
    tx: optax.GradientTransformation,
    score: Score,
    due: Callable[[int, Any], float | None],
    possible: Callable[[int], bool],
    when: str,
    *,
    rule: str = "exact",
) -> Method:
    """Returns a method that prunes by score when due, and dead units at the end of the run; see `Ranking`."""
    section = settings.ranking
    _, options = pruning(settings)
    ranking = Ranking(
        score=score,
        due=due,
        possible=possible,
        when=when,
        options={
            "steps": section.stages,
            "feedback": section.feedback,
            "rule": rule if section.rule == "auto" else section.rule,
            "min_units": settings.pruning.min_units,
            "unranked": section.exclude,
        },
        batches=section.batches,
        batch_size=section.batch_size,
        restarts=section.optimizer == "restarted",
    )
    zero = demp_jax.schedules.constant(0.0)
    run = settings.steps
    return Method(settings.method.name, tx, zero, zero, lambda step: step == run, options, False, ranking)


def slimmed(settings: Settings, base: optax.GradientTransformation) -> Method:
    """Returns network slimming: an L1 penalty on the scales until the prune, and none after it."""
    plain, until = ranked(slimming.score)(settings, base), settings.ranking.when
    require(until >= 1, "config.ranking.when", until, "at least one step with slimming, as in '50%'")
    strength = optax.piecewise_constant_schedule(settings.method.strength, {until: 0.0})
    return dataclasses.replace(plain, tx=demp_jax.demp(base, strength=strength), strength=strength)
