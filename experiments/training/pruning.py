# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The prunes of a run: units with low scores, units with all outgoing weights masked, dead units."""

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

# A trial predicts which units can still be removed when its prune is due; a step that was compiled for smaller widths
# cannot be used. Constant units drift. A trial therefore scales `pruning.constant` by `_FIRM`, and spares `_SPARED`
# units or `_SPARED_PART` of the removable units per site, whichever is more.
_FIRM = 0.5
_SPARED, _SPARED_PART = 2, 1 / 8


class Standing(NamedTuple):
    """The state of a run that a prune needs.

    Attributes:
      problem, feed: problem and feed of the run.
      step: number of updates so far.
      network, variables, graph: the network, its variables and its removable units.
      opt_state: the optimizer state; `None` in a trial, which only prunes the variables.
      least_gain: fraction of the FLOPs that a prune of dead units has to save.
      at_most: limits which dead units are removed, see `demp_jax.prune`; `None` for all of them.
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
        """The arguments of `demp_jax.prune` that concern the optimizer."""
        return {
            "opt_state": self.opt_state,
            "tx": self.problem.method.tx,
            "params": lambda variables: variables["params"],
        }


def standing(run: Run, step: int, **more: Any) -> Standing:
    """Returns the state of a run before a step; `more` are further fields of `Standing`."""
    learner = run.learner
    opt_state = learner.state.opt_state
    return Standing(run.problem, run.feed, step, learner.network, learner.variables, learner.graph, opt_state, **more)


# Returns a prune and further fields of its record.
Cutter = Callable[[Standing], tuple[demp_jax.PruneResult, dict[str, Any]]]


def due(method: Method, step: int, opt_state: Any) -> list[Cutter]:
    """Returns the prunes that are due at a step, in order."""
    found: list[Cutter] = []
    if method.ranking is not None:
        target = method.ranking.due(step, opt_state)
        if target is not None:
            found.append(functools.partial(_ranked, ranking=method.ranking, target=target))
    if method.prunes(step):
        found += [dead] if method.updater is None else [_unread, dead]
    return found


def possible(method: Method, step: int) -> bool:
    """Returns whether prunes may be due at a step."""
    return method.prunes(step) or (method.ranking is not None and method.ranking.possible(step))


def _ranked(at: Standing, *, ranking: Ranking, target: float) -> tuple[demp_jax.PruneResult, dict[str, Any]]:
    problem, variables, options = at.problem, at.variables, dict(ranking.options)
    most, devices = problem.dataset.train_examples, problem.devices.count
    size = max(min(ranking.batch_size, most) // devices, 1) * devices
    batches = at.feed.scored(at.step, min(ranking.batches, max(most // size, 1)), size)
    if ranking.floors is not None:
        options["min_units"] = ranking.floors(problem.routed)
    # `target` is the sparsity relative to the dense network; some units may have been pruned already.
    dense, now = (structured.ranked_units(graph, options["unranked"]) for graph in (problem.routed, at.graph))
    gone = sum(problem.routed.widths[name] - at.graph.widths[name] for name in dense)
    missing = (target * sum(dense.values()) - gone) / max(sum(now.values()), 1)
    pruned = structured.prune(
        at.network,
        variables,
        batches,
        ranking.score,
        min(max(missing, 0.0), 0.999) if gone else target,
        # Before the first step, the running statistics are not yet meaningful.
        scored=None if at.step else calibrated(at.network, variables, batches[0][0]),
        key=jax.random.fold_in(jax.random.key(problem.settings.seed + 4), at.step),
        exclude=problem.exclude,
        extra_units=problem.extra_units,
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
    kept = {name: _options(at)[name] for name in ("multiple", "exclude", "modes", "extra_units")}
    options = demp_jax.PruneOptions(**kept, least_gain=at.least_gain)
    death_set = at.feed.death_set(at.step)
    cut = demp_jax.prune(at.network, at.variables, death_set, remove=idle, **at.trained, options=options)
    return cut, {"why": "read with weights of zero alone", "least_gain": at.least_gain}


def dead(at: Standing) -> tuple[demp_jax.PruneResult, dict[str, Any]]:
    """Prunes dead units. A trial only prunes those that can likely still be removed when the prune is due."""
    options, at_most = {**_options(at), "least_gain": at.least_gain}, at.at_most
    # Units that are zero get no gradient and stay dead, but constant units may change.
    if at.opt_state is None and options["constant"] is not None:
        options["constant"] *= _FIRM
        found = forecast(at, constant=options["constant"]).removed
        at_most = {name: _spared(bits) for name, bits in found.items()}
    given = {**at.trained, "at_most": at_most, "options": demp_jax.PruneOptions(**options)}
    cut = demp_jax.prune(at.network, at.variables, at.feed.death_set(at.step), **given)
    return cut, {"why": "dead", "least_gain": at.least_gain}


def forecast(at: Standing, **changed: Any) -> demp_jax.Preview:
    """Returns the preview of a prune of all dead units; `changed` are options of `demp_jax.PruneOptions` to change."""
    options = demp_jax.PruneOptions(**(_options(at) | changed))
    death_set, params = at.feed.death_set(at.step), at.trained["params"]
    return demp_jax.preview(at.network, at.variables, death_set, params=params, options=options)


def _spared(bits: np.ndarray) -> np.ndarray:
    """Returns the mask `bits` of removable units without the last few, which are spared."""
    count = int(bits.sum())
    return bits & (np.cumsum(bits) <= count - max(_SPARED, math.ceil(_SPARED_PART * count)))


def _options(at: Standing) -> dict[str, Any]:
    """Returns the options of a prune. The last prune removes all dead units: no step follows whose speed matters."""
    options = at.problem.method.options
    return options | {"multiple": 1} if at.step == at.problem.settings.steps else options
