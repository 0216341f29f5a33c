# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The cuts of a run: by scores, of units without weights, of dead units."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import demp_jax
from baselines import early, masking, structured
from experiments.recipe.methods import Method, Ranking
from experiments.recipe.network import Network, calibrated
from experiments.recipe.problem import Problem
from experiments.training.batches import Feed
from experiments.training.run import Run

# In a trial a unit counts as constant if it varies by this part of what it may vary by when it leaves, as of those at
# the limit many are beyond it some steps later; and of every site so many, or this part, are left out, for those that
# are all the same. A step compiled for widths that come to be too small is of no use.
_FIRM = 0.5
_SPARED, _SPARED_PART = 2, 1 / 8


class Standing(NamedTuple):
    """Where a run stands when it is cut.

    Attributes:
      problem, feed: the run.
      step: how many updates were made.
      network, variables, graph: the network, its variables and its removable units.
      opt_state: of the optimizer; `None` in a trial, which cuts the variables alone.
      least_gain: the part of the FLOPs that a cut of dead units has to save.
      at_most: what leaves of dead units, as `demp_jax.prune` takes it; `None` for all of them.
    """

    problem: Problem
    feed: Feed
    step: int
    network: Network
    variables: Any
    graph: demp_jax.Graph
    opt_state: Any
    least_gain: float = 0.0
    at_most: Mapping[str, np.ndarray] | None = None

    @property
    def trained(self) -> dict[str, Any]:
        """What a cut slices besides the variables, as `demp_jax.prune` takes it."""
        return {
            "opt_state": self.opt_state,
            "tx": self.problem.method.tx,
            "params": lambda variables: variables["params"],
        }


def standing(run: Run, step: int, **more: Any) -> Standing:
    """Returns where a run stands; `more` are further fields."""
    learner = run.learner
    opt_state = learner.state.opt_state
    return Standing(run.problem, run.feed, step, learner.network, learner.variables, learner.graph, opt_state, **more)


# From where a run stands to a prune and what else its record says.
Cutter = Callable[[Standing], tuple[demp_jax.PruneResult, dict[str, Any]]]


def due(method: Method, step: int, opt_state: Any) -> list[Cutter]:
    """Returns the cuts of a step, in order."""
    found: list[Cutter] = []
    if method.ranking is not None:
        target = method.ranking.due(step, opt_state)
        if target is not None:
            found.append(functools.partial(_ranked, ranking=method.ranking, target=target))
    if method.prunes(step):
        found += [dead] if method.updater is None else [_unread, dead]
    return found


def possible(method: Method, step: int) -> bool:
    """Returns whether a step can have cuts."""
    return method.prunes(step) or (method.ranking is not None and method.ranking.possible(step))


def _ranked(at: Standing, *, ranking: Ranking, target: float) -> tuple[demp_jax.PruneResult, dict[str, Any]]:
    problem, variables, options = at.problem, at.variables, dict(ranking.options)
    most, devices = problem.dataset.train_examples, problem.devices.count
    size = max(min(ranking.batch_size, most) // devices, 1) * devices
    batches = at.feed.scored(at.step, min(ranking.batches, max(most // size, 1)), size)
    if ranking.floors is not None:
        options["min_units"] = ranking.floors(problem.routed)
    # The target is one of the dense network's units; some may have left.
    dense, now = (structured.ranked_units(graph, options["unranked"]) for graph in (problem.routed, at.graph))
    gone = sum(problem.routed.widths[name] - at.graph.widths[name] for name in dense)
    missing = (target * sum(dense.values()) - gone) / max(sum(now.values()), 1)
    pruned = structured.prune(
        at.network,
        variables,
        batches,
        ranking.score,
        min(max(missing, 0.0), 0.999) if gone else target,
        # Before the first step the running statistics say nothing yet.
        scored=None if at.step else calibrated(at.network, variables, batches[0][0]),
        key=jax.random.fold_in(jax.random.key(problem.settings.seed + 4), at.step),
        exclude=problem.exclude,
        heads=problem.heads,
        **at.trained,
        **options,
    )
    cut = pruned.cut
    if ranking.restarts and cut.plan is not None:
        fresh = problem.method.tx.init(cut.variables["params"])
        cut = dataclasses.replace(cut, opt_state=early.restarted(cut.opt_state, fresh))
    stages = [{"planned": planned, "measured": measured} for planned, measured in pruned.stages]
    return cut, {"why": "lowest scores", "target": target, "stages": stages}


def _unread(at: Standing) -> tuple[demp_jax.PruneResult, dict[str, Any]]:
    idle = masking.idle_units(at.graph, at.variables)
    kept = {name: _options(at)[name] for name in ("multiple", "exclude", "modes", "heads")}
    options = demp_jax.PruneOptions(**kept, least_gain=at.least_gain)
    death_set = at.feed.death_set(at.step)
    cut = demp_jax.prune(at.network, at.variables, death_set, remove=idle, **at.trained, options=options)
    return cut, {"why": "read with weights of zero alone", "least_gain": at.least_gain}


def dead(at: Standing) -> tuple[demp_jax.PruneResult, dict[str, Any]]:
    """Cuts dead units; a trial those that can be expected to leave when the cut is due."""
    options, at_most = {**_options(at), "least_gain": at.least_gain}, at.at_most
    # Units that are zero get no gradient, and stay; constants move.
    if at.opt_state is None and options["constant"] is not None:
        options["constant"] *= _FIRM
        found = forecast(at, constant=options["constant"]).removed
        at_most = {name: _spared(bits) for name, bits in found.items()}
    given = {**at.trained, "at_most": at_most, "options": demp_jax.PruneOptions(**options)}
    cut = demp_jax.prune(at.network, at.variables, at.feed.death_set(at.step), **given)
    return cut, {"why": "dead", "least_gain": at.least_gain}


def forecast(at: Standing, **changed: Any) -> demp_jax.Preview:
    """Returns what a cut of all that is dead would leave, with options of `demp_jax.preview` changed."""
    options = demp_jax.PruneOptions(**(_options(at) | changed))
    death_set, params = at.feed.death_set(at.step), at.trained["params"]
    return demp_jax.preview(at.network, at.variables, death_set, params=params, options=options)


def _spared(bits: np.ndarray) -> np.ndarray:
    """Returns which of the units that could leave are to leave."""
    count = int(bits.sum())
    return bits & (np.cumsum(bits) <= count - max(_SPARED, math.ceil(_SPARED_PART * count)))


def _options(at: Standing) -> dict[str, Any]:
    """Returns the options of a cut; the last one is not for the speed of steps to come, and cuts whatever is dead."""
    options = at.problem.method.options
    return options | {"multiple": 1} if at.step == at.problem.settings.steps else options
