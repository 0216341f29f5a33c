# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Which units leave: the criterion's verdict, made safe.

A unit that a criterion calls dead leaves only if nothing else needs it: every place that reads it must read zero, or
a constant that another variable can take up. A site is never emptied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from demp_jax._src import axes as axes_lib
from demp_jax._src.activity import Activity, Observation, Range, alive
from demp_jax._src.graph import Graph, Use


class Fold(NamedTuple):
    """Constants that leave with their units and are taken up elsewhere.

    Attributes:
      use: index of the use that reads them.
      constants: `[size of the use's axis]`, the constant of each position that leaves, 0 elsewhere.
    """

    use: int
    constants: np.ndarray


@dataclasses.dataclass(frozen=True)
class Decision:
    """Which classes of units leave.

    Attributes:
      removed: `[classes]` bool.
      protected: by site, how many units the criterion condemned but the floor of the site kept.
      needed: by site, how many it condemned but another use of their values kept.
      folds: constants to take up.
      condemned: `[classes]` bool, what the criterion calls dead; other classes leave because they are constant.
    """

    removed: np.ndarray
    protected: dict[str, int]
    needed: dict[str, int]
    folds: tuple[Fold, ...]
    condemned: np.ndarray


def needed_uses(graph: Graph, constant: float | None) -> tuple[int, ...]:
    """Returns the uses whose values decide whether a unit may leave: those that may read something but zero."""
    needed = []
    for i, use in enumerate(graph.uses):
        if constant is not None or not use.negligible[use.classes >= 0].all():
            needed.append(i)
    return tuple(needed)


def decide(
    graph: Graph,
    observation: Observation,
    *,
    criterion: str = "auto",
    epsilon: float = 0.01,
    constant: float | None = None,
    min_units: int = 1,
    multiple: int = 1,
    chosen: np.ndarray | None = None,
    like: Mapping[str, np.ndarray] | None = None,
    only: np.ndarray | None = None,
) -> Decision:
    """Returns which classes leave.

    Args:
      graph: the removable units.
      observation: what they did on the death set.
      criterion, epsilon: see `alive`.
      constant: past the paper: units whose value varies by at most this much wherever it is read leave, too, and
        their constant is folded into what reads it. `None` (off) by default.
      min_units: every site keeps at least this many units, the most active ones.
      multiple: every site keeps a multiple of this many units, or all that it has.
      chosen: `[classes]` bool, what leaves instead of what the criterion condemns; it was held at zero when observed.
      like: by name of a site or branch, `[width]` bool: no more units leave of each than are named here, these before
        others (but for channels that nothing reads), and none of those that are not named.
      only: `[classes]` bool, which may leave; all by default.
    """
    verdicts = [alive(a, criterion, epsilon=epsilon) for a in observation.sites[: len(graph.sites)]]
    condemned = dead_classes(graph, verdicts) if chosen is None else chosen
    idle = np.zeros_like(condemned) if constant is None else _idle(graph, observation.uses, constant)
    wanted = condemned | idle
    if only is not None:
        wanted &= only
    removed = wanted & ~_blocked(graph, observation.uses, condemned, idle, constant)
    needed = _count(graph, wanted & ~removed)
    before = removed.copy()
    options: dict[str, Any] = {"min_units": min_units, "multiple": multiple, "like": like}
    nothing = np.zeros_like(removed)
    _keep_floor(graph.sites, observation.sites[: len(graph.sites)], removed, nothing, **options)
    unread = _drop_unread(graph, removed)
    _keep_floor(graph.branches, observation.sites[len(graph.sites) :], removed, unread, **options)
    protected = _count(graph, before & ~removed)
    return Decision(removed, protected, needed, _folds(graph, observation.uses, removed), condemned)


def masked_values(graph: Graph, observation: Observation, decision: Decision) -> list[np.ndarray]:
    """Returns what a decision makes of every unit, per site and branch: zero, its constant, or NaN where it stays."""
    values = []
    for site, activity in zip((*graph.sites, *graph.branches), observation.sites, strict=True):
        leaves = np.append(decision.removed, False)[site.classes]
        dead = np.append(decision.condemned, False)[site.classes]
        values.append(np.where(leaves, np.where(dead, 0.0, _middle(activity)), np.nan).astype(np.float32))
    return values


def dead_classes(graph: Graph, verdicts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns `[classes]`: which classes have activations, all of them dead; `verdicts` says per site who is alive."""
    held = np.zeros(graph.classes, bool)
    lives = np.zeros(graph.classes, bool)
    for site, bits in zip(graph.sites, verdicts, strict=True):
        ours = site.classes >= 0
        held[site.classes[ours]] = True
        lives[site.classes[ours & np.asarray(bits)]] = True
    return held & ~lives


def _idle(graph: Graph, uses: Mapping[int, Range], constant: float) -> np.ndarray:
    """Returns which classes are read as constants everywhere."""
    idle = np.ones(graph.classes, bool)
    for i, use in enumerate(graph.uses):
        varies = ~(_span(uses[i]) <= constant)
        idle[use.classes[varies & (use.classes >= 0)]] = False
    return idle


def _span(activity: Activity | Range) -> np.ndarray:
    return np.asarray(activity.maximum, np.float32) - np.asarray(activity.minimum, np.float32)


def _middle(activity: Activity | Range) -> np.ndarray:
    return (np.asarray(activity.maximum, np.float32) + np.asarray(activity.minimum, np.float32)) / 2


def _blocked(
    graph: Graph, uses: Mapping[int, Range], condemned: np.ndarray, idle: np.ndarray, constant: float | None
) -> np.ndarray:
    """Returns which classes are read as something that neither vanishes nor can be taken up."""
    blocked = np.zeros(graph.classes, bool)
    for i, use in enumerate(graph.uses):
        if i not in uses:
            continue
        middle, span = _middle(uses[i]), _span(uses[i])
        ours = use.classes >= 0
        slack = np.where(ours & idle[use.classes], constant or 0.0, 1e-6 * (1 + np.abs(middle)))
        # What a criterion with a soft tail condemns is small here, not constant: it leaves all the same.
        small = ours & use.negligible & condemned[use.classes]
        slack = np.where(small, np.inf, slack)
        stays = ~(span <= slack)
        if not use.absorbs:
            stays |= (middle != 0) & ~small
        blocked[use.classes[ours & stays]] = True
    return blocked


def _keep_floor(
    sites: Sequence,
    activities: Sequence[Activity],
    removed: np.ndarray,
    unread: np.ndarray,
    *,
    min_units: int,
    multiple: int,
    like: Mapping[str, np.ndarray] | None,
) -> None:
    """Takes units back in where more would leave than `decide` allows: not named in `like` first, then most active.

    What is `unread`, `[classes]` bool, comes last. So where a sum and what it adds lose as many channels they lose the
    same ones, whichever they are, and the sum stays a plain one.
    """
    for site, activity in zip(sites, activities, strict=True):
        leaves = (site.classes >= 0) & removed[site.classes] if len(removed) else np.zeros(site.width, bool)
        kept = int((~leaves).sum())
        named = np.ones(site.width, bool) if like is None else like.get(site.name, np.zeros(site.width, bool))
        floor = max(min_units, int((~named).sum()), -(-kept // multiple) * multiple)
        short = min(floor, site.width) - kept
        if short > 0:
            # Of those that would leave, the ones that are read, of these the ones that are not named, then by activity.
            useless = np.append(unread, False)[site.classes]
            ranked = np.lexsort((-np.asarray(activity.magnitude), named, useless, ~leaves))
            removed[site.classes[ranked[:short]]] = False


def _drop_unread(graph: Graph, removed: np.ndarray) -> np.ndarray:
    """Removes the channels of branches that no `select` reads any more; returns which these are, `[classes]` bool."""
    while True:
        read = np.ones(graph.classes, bool)
        for branch in graph.branches:
            read[branch.classes[branch.classes >= 0]] = False
        for use in graph.uses:
            if not isinstance(use.sink, axes_lib.Route):
                read[use.classes[use.classes >= 0]] = True
        for route, use in _routed(graph):
            stays = ~removed_positions(graph, route.index, 0, removed)
            index = index_values(graph, route)[stays]
            classes = use.classes[index[(index >= 0) & (index < len(use.classes))]]
            read[classes[classes >= 0]] = True
        if not (~read & ~removed).any():
            return ~read
        removed |= ~read


def _routed(graph: Graph) -> list[tuple[axes_lib.Route, Use]]:
    return [(use.sink, use) for use in graph.uses if isinstance(use.sink, axes_lib.Route)]


def index_values(graph: Graph, route: axes_lib.Route) -> np.ndarray:
    """Returns the present index of a route."""
    return graph.indices[graph.variable(route.index)]


def removed_positions(graph: Graph, number: int, axis: int, removed: np.ndarray) -> np.ndarray:
    """Returns which positions of an axis of a variable leave, given the number of its value in the program."""
    variable = graph.variable(number)
    classes = graph.axes[variable][axis]
    if classes is None:
        return np.zeros(graph.shapes[variable][axis], bool)
    return np.append(removed, False)[classes]


def _count(graph: Graph, classes: np.ndarray) -> dict[str, int]:
    counts = {s.name: int(np.append(classes, False)[s.classes].sum()) for s in (*graph.sites, *graph.branches)}
    return {name: count for name, count in counts.items() if count}


def _folds(graph: Graph, uses: Mapping[int, Range], removed: np.ndarray) -> tuple[Fold, ...]:
    folds = []
    for i, activity in uses.items():
        use = graph.uses[i]
        leaves = np.append(removed, False)[use.classes]
        constants = np.where(leaves, _middle(activity), 0)
        if use.absorbs and (constants != 0).any():
            folds.append(Fold(i, constants))
    return tuple(folds)
