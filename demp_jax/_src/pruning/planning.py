# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Plans a prune: chooses which dead units can be removed.

A unit that a criterion calls dead is removed only if no consumer needs it: every consumer must read zero, or a constant
that another variable can absorb. This must hold in every mode of the network and in every copy.

Example: after `h = relu(x @ w)`, `y = (h + c) @ v + b` reads the dead units of `h` as the constants `c`. They are
removed, and the sum of `c_j v_j` over the dead units j is added to `b`. Without a `b` they are kept (`needed`).

`make_plan` decides in this order, on groups of units:

1. A group is wanted if it is dead in all runs, or constant in all runs if `constant` is given.
2. Wanted groups that a consumer needs in any run are kept (`_blocked`).
3. Units are kept so that sites respect `min_units`, `multiple` and `at_most` (`_keep_floor`), and so that the outputs
   still depend on the inputs (`_keep_connected`).
4. Units that nothing reads any more are removed as well, such as channels that no `select` selects (`_drop_unread`).
5. Units of stacked layers are kept until all layers of a stack have equal widths (`_keep_one_width`).

Dimension names: groups and units as in `types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Inexact, Int, Integer

from demp_jax._src.pruning.activity import Activity, Range, alive
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.passes import Observation
from demp_jax._src.pruning.slicing import Fold, Plan
from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing.graph import Consumer, Graph, per_unit
from demp_jax._src.tracing.program import Operand
from demp_jax._src.types import AnyArray, AxisMask, GroupMask, SomeMask


class Evidence(NamedTuple):
    """The observation of one run over the death set: of a mode, a call or a copy.

    Attributes:
      name: `"evaluation"`, `"training"`, or the name of a call or copy.
      graph: the trace of that mode or call.
      observation: activity and outputs on the death set.
      own: whether the run has its own variables, as evaluation mode and copies have. Others use those of evaluation
        mode.
    """

    name: str
    graph: Graph
    observation: Observation
    own: bool


def needed_consumers(graph: Graph, constant: float | None) -> tuple[int, ...]:
    """Returns the indices of the consumers that may read nonzero values of dead units, which have to be measured."""
    needed = []
    for i, consumer in enumerate(graph.consumers):
        if constant is not None or not consumer.negligible[consumer.groups >= 0].all():
            needed.append(i)
    return tuple(needed)


def make_plan(
    evidence: Sequence[Evidence],
    options: PruneOptions,
    *,
    chosen: GroupMask | None = None,
    at_most: Mapping[str, SomeMask] | None = None,
    only: GroupMask | None = None,
) -> Plan:
    """Returns the plan of a prune.

    Args:
      evidence: the observations: evaluation mode first, then training mode if it differs, copies and calls.
      options: the criterion, and the units to keep.
      chosen: `[num_groups]` bool, the groups to remove instead of dead ones. They are masked in the observations.
      at_most: by name of a site or branch, `[width]` bool, see `prune`.
      only: `[num_groups]` bool, the groups that may be removed; by default all.
    """
    graph, sites = evidence[0].graph, evidence[0].observation.sites
    dead, dead_alone = _dead(evidence, options) if chosen is None else (chosen, {})
    idle = np.zeros_like(dead)
    if options.constant is not None:
        idle = np.logical_and.reduce([_idle(each, options.constant) for each in evidence])
    wanted = dead | idle
    if only is not None:
        wanted &= only
    blocked_by = _blocked(evidence, dead, idle, options.constant)
    removed = wanted & (blocked_by < 0)
    kept = wanted & ~removed
    before = removed.copy()
    floors: dict[str, Any] = {"min_units": options.min_units, "multiple": options.multiple, "at_most": at_most}
    floors["company"] = options.min_units == 0 and chosen is None
    _keep_floor(graph.sites, sites[: len(graph.sites)], removed, np.zeros_like(removed), **floors)
    if options.min_units == 0:
        _keep_connected(evidence, removed)
    unread = _drop_unread(graph, removed)
    _keep_floor(graph.branches, sites[len(graph.sites) :], removed, unread, **floors)
    _keep_one_width(graph, removed)
    return Plan(
        graph=graph,
        removed=removed,
        protected=_count(graph, before & ~removed),
        needed=_count(graph, kept),
        needed_by=_reasons(evidence, kept, blocked_by),
        folds={each.name: _folds(each.graph, each.observation.consumers, removed) for each in evidence if each.own},
        dead=dead,
        dead_alone=dead_alone,
    )


def masked_values(evidence: Evidence, plan: Plan) -> list[Inexact[np.ndarray, " _"]]:
    """Returns, for each site and branch, the values of its units in the masked network.

    The value is zero for dead units, a constant for other removed units, and NaN for units that are kept.
    """
    values = []
    graph = evidence.graph
    for site, activity in zip((*graph.sites, *graph.branches), evidence.observation.sites, strict=True):
        gone, dead = per_unit(plan.removed, site.groups), per_unit(plan.dead, site.groups)
        values.append(_wide(np.where(gone, np.where(dead, 0.0, _middle(activity)), np.nan)))
    return values


def _dead(evidence: Sequence[Evidence], options: PruneOptions) -> tuple[GroupMask, dict[str, int]]:
    """Returns the groups that are dead in all runs, and by mode, how many units are dead in that mode only."""
    by_name = {}
    for name, graph, observation, own in evidence:
        verdicts = [alive(a, options.criterion, epsilon=options.epsilon) for a in observation.sites[: len(graph.sites)]]
        zero = [np.asarray(activity.magnitude) == 0 for activity in observation.sites[: len(graph.sites)]]
        by_name[name] = dead_groups(graph, verdicts, zero)
        if not own:
            # Evaluation mode decides for groups without a site in this mode or call.
            by_name[name] |= by_name["evaluation"] & ~_held(graph)
    alone = {}
    if "training" in by_name:
        graph = evidence[0].graph
        for one, other in (("evaluation", "training"), ("training", "evaluation")):
            groups = by_name[one] & ~by_name[other]
            alone[one] = sum(int(per_unit(groups, site.groups).sum()) for site in graph.sites)
    return np.logical_and.reduce(list(by_name.values())), alone


def _held(graph: Graph) -> Bool[np.ndarray, " {graph.num_groups}"]:
    """Returns `[num_groups]` bool, the groups with units of an activation."""
    held = np.zeros(graph.num_groups, bool)
    for site in graph.sites:
        held[site.groups[site.groups >= 0]] = True
    return held


def dead_groups(
    graph: Graph, verdicts: Sequence[Bool[AnyArray, " _"]], zero: Sequence[Bool[np.ndarray, " _"]]
) -> Bool[np.ndarray, " {graph.num_groups}"]:
    """Returns `[num_groups]` bool, the groups that are dead at all of their activations, or zero at a sufficient one.

    Args:
      graph: the network.
      verdicts: for each site, `[width]` bool, which units are alive.
      zero: for each site, `[width]` bool, which units are exactly zero on every example.
    """
    lives, gated = np.zeros((2, graph.num_groups), bool)
    for site, bits, nothing, enough in zip(graph.sites, verdicts, zero, graph.sufficient, strict=True):
        held = site.groups >= 0
        lives[site.groups[held & np.asarray(bits)]] = True
        # A group can have several units at a site, and all of them have to be zero.
        here = np.zeros_like(gated)
        here[site.groups[held & enough]] = True
        here[site.groups[held & ~nothing]] = False
        gated |= here
    return _held(graph) & (~lives | gated)


def _idle(evidence: Evidence, constant: float) -> Bool[np.ndarray, " {evidence.graph.num_groups}"]:
    """Returns the groups that every consumer reads as a constant."""
    graph, observation = evidence.graph, evidence.observation
    idle = np.ones(graph.num_groups, bool)
    for i, consumer in enumerate(graph.consumers):
        varies = ~(_span(observation.consumers[i]) <= constant)
        idle[consumer.groups[varies & (consumer.groups >= 0)]] = False
    return idle


def _span(activity: Activity | Range) -> Float32[np.ndarray, " units"]:
    """Returns maximum minus minimum of each unit; for complex values, the larger of the real and imaginary part."""
    span = _wide(activity.maximum) - _wide(activity.minimum)
    return np.maximum(span.real, span.imag) if np.iscomplexobj(span) else span


def _middle(activity: Activity | Range) -> Inexact[np.ndarray, " units"]:
    """Returns the mid-range of each unit, (maximum + minimum) / 2, which is used as its constant."""
    return (_wide(activity.maximum) + _wide(activity.minimum)) / 2


def _wide(values: Any) -> Inexact[np.ndarray, " units"]:
    return np.asarray(values, np.complex64 if np.iscomplexobj(values) else np.float32)


def _blocked(
    evidence: Sequence[Evidence], dead: GroupMask, idle: GroupMask, constant: float | None
) -> Int[np.ndarray, " groups"]:
    """Returns `[num_groups]`, the number of a consumer that needs each group; -1 for none.

    Consumers are numbered consecutively over all evidence. A consumer needs a unit if the value that it reads varies,
    or is a nonzero constant that no variable absorbs. Training mode and further calls use the absorbing variable of
    evaluation mode, so they must read the same constant, unless the mean over the examples is subtracted afterwards
    (BatchNorm), which cancels any constant.
    """
    blocked_by = np.full(len(dead), -1)
    absorbed = _constants(evidence[0])
    first = 0
    for _, graph, observation, own in evidence:
        for i, consumer in enumerate(graph.consumers):
            if i not in observation.consumers:
                continue
            seen = observation.consumers[i]
            middle, span = _middle(seen), _span(seen)
            ours = consumer.groups >= 0
            rounding = 1e-6 * (1 + np.abs(middle))
            slack = np.where(ours & per_unit(idle, consumer.groups), constant or 0.0, rounding)
            # With a soft tail, dead units are small and not constant. They are removed nevertheless.
            small = ours & consumer.negligible & per_unit(dead, consumer.groups)
            stays = ~(span <= np.where(small, np.inf, slack))
            if own:
                lost = np.zeros_like(middle) if consumer.absorbs else middle
            elif consumer.centered:
                lost = np.zeros_like(middle)
            else:
                lost = middle - absorbed.get(_key(consumer), np.zeros_like(middle))
                lost = np.where(np.abs(lost) <= slack, 0, lost)
            stays |= (lost != 0) & ~small
            groups = consumer.groups[ours & stays]
            blocked_by[groups] = np.where(blocked_by[groups] < 0, first + i, blocked_by[groups])
        first += len(graph.consumers)
    return blocked_by


def _key(consumer: Consumer) -> Any:
    """Returns a key that identifies a consumer in two modes of one network."""
    if isinstance(consumer.sink, axes_lib.Route):
        return "route", consumer.sink.index
    if isinstance(consumer.sink, axes_lib.Read):
        return (None,)
    return consumer.variable, consumer.layer, consumer.weight_axis, consumer.sink.operand


def _constants(evidence: Evidence) -> dict[Any, Inexact[np.ndarray, " _"]]:
    """Returns the constants that evaluation mode absorbs, by consumer, without consumers that share a key."""
    found: dict[Any, Inexact[np.ndarray, " _"]] = {}
    twice = set()
    for i, consumer in enumerate(evidence.graph.consumers):
        key = _key(consumer)
        if key in found or key[0] is None:
            twice.add(key)
        elif i in evidence.observation.consumers and consumer.absorbs:
            found[key] = _middle(evidence.observation.consumers[i])
    return {key: middle for key, middle in found.items() if key not in twice}


def _reasons(evidence: Sequence[Evidence], kept: GroupMask, blocked_by: Int[np.ndarray, " groups"]) -> dict[str, str]:
    """Returns, by site, why dead units are kept."""
    numbered = [(each.name, consumer) for each in evidence for consumer in each.graph.consumers]
    reasons = {}
    graph = evidence[0].graph
    for site in (*graph.sites, *graph.branches):
        numbers = per_unit(np.where(kept, blocked_by, -1), site.groups, -1)
        if (numbers >= 0).any():
            name, consumer = numbered[int(numbers[numbers >= 0][0])]
            where = f" ({consumer.sink.op.source})" if consumer.sink.op.source else ""
            mode = "" if name == "evaluation" else " in training mode" if name == "training" else f" in {name}"
            reasons[site.name] = f"`{consumer.sink.op.name}`{where} reads them{mode} as values that nothing can absorb"
    return reasons


def _keep_floor(
    sites: Sequence,
    activities: Sequence[Activity],
    removed: GroupMask,
    unread: GroupMask,
    *,
    min_units: int,
    multiple: int,
    company: bool,
    at_most: Mapping[str, SomeMask] | None,
) -> None:
    """Keeps units of sites of which too many would be removed: those not in `at_most` first, then the most active.

    With `company` no site keeps a single unit. Groups in `unread`, `[num_groups]` bool, are kept last. If equally many
    channels are removed from a sum and from its operands, they are then the same channels, and the selections of the
    sum remain the identity.
    """
    for site, activity in zip(sites, activities, strict=True):
        gone = per_unit(removed, site.groups)
        kept = int((~gone).sum())
        named = np.ones(site.width, bool) if at_most is None else at_most.get(site.name, np.zeros(site.width, bool))
        floor = max(min_units, int((~named).sum()), -(-kept // multiple) * multiple)
        if company and kept == 1:
            floor = 2  # An axis of size one is not recognized as one of units, so its last unit could never be removed.
        short = min(floor, site.width) - kept
        if short > 0:
            # Keep first units that are read, then units that are not in `at_most`, then the most active.
            useless = per_unit(unread, site.groups)
            ranked = np.lexsort((-np.asarray(activity.magnitude), named, useless, ~gone))
            removed[site.groups[ranked[:short]]] = False


def _keep_one_width(graph: Graph, removed: GroupMask) -> None:
    """Keeps dead units of stacked layers, so that all layers of a stack have the width of the widest.

    Example: of two layers with 4 units each, 3 units are dead in the first and 1 in the second. One unit is removed
    from each, and the first layer keeps 2 dead units.
    """
    grouped = (groups for axes in graph.axes for groups in axes)
    stacks = {groups.tobytes(): groups for groups in grouped if groups is not None and groups.ndim > 1}
    changed = True
    while changed:
        changed = False
        for groups in stacks.values():
            gone = per_unit(removed, groups)
            least = gone.sum(1).min()
            for layer, bits in zip(groups, gone, strict=True):
                # A group can be in several stacks. Repeat until all stacks have equal widths.
                extra = np.flatnonzero(bits)[least:]
                removed[layer[extra]] = False
                changed |= bool(extra.size)


def _keep_connected(evidence: Sequence[Evidence], removed: GroupMask) -> None:
    """Keeps the most active unit of each site without which the outputs would not depend on the inputs.

    Sites are emptied in the order of the network while every output still depends on the inputs. Example: if all units
    of two parallel blocks without a skip are dead, the first is emptied and the second keeps a unit.
    """
    graph, activities = evidence[0].graph, evidence[0].observation.sites
    views = [each.graph for each in evidence if each.name in ("evaluation", "training")]
    emptied = []
    for site, activity in zip(graph.sites, activities, strict=False):
        if site.width and per_unit(removed, site.groups).all():
            emptied.append((site, site.groups[int(np.argmax(np.asarray(activity.magnitude)))]))
    if all(view.connected(removed) for view in views):
        return
    wanted = removed.copy()
    removed[[group for _, group in emptied]] = False
    for site, group in emptied:
        attempt = removed.copy()
        attempt[site.groups] = wanted[site.groups]
        if all(view.connected(attempt) for view in views):
            removed[group] = True


def _drop_unread(graph: Graph, removed: GroupMask) -> GroupMask:
    """Removes units that nothing reads any more, and returns them, `[num_groups]` bool.

    These are channels of branches that no `select` reads, and units whose consumers compute nothing. Example: if all
    units of the second layer of a bottleneck block are removed, the product that computes them is empty, and the units
    of the first layer are removed as well, even if they are alive.
    """
    while True:
        read = np.ones(graph.num_groups, bool)
        for branch in graph.branches:
            read[branch.groups[branch.groups >= 0]] = False
        computing = []
        for consumer in graph.consumers:
            if not isinstance(consumer.sink, axes_lib.Route):
                groups = consumer.groups[consumer.groups >= 0]
                read[groups] = False
                if not all(_is_empty(graph, value, removed) for value in consumer.sink.op.outputs):
                    computing.append(groups)
        for groups in computing:
            read[groups] = True
        for route, consumer in _routed(graph):
            stays = ~removed_positions(graph, route.index, 0, removed)
            index = index_values(graph, route)[stays]
            groups = consumer.groups[index[(index >= 0) & (index < len(consumer.groups))]]
            read[groups[groups >= 0]] = True
        if not (~read & ~removed).any():
            return ~read
        removed |= ~read


def _is_empty(graph: Graph, value: Operand, removed: GroupMask) -> bool:
    """Returns whether a value has no entries, or will have none."""
    assert isinstance(value, int)
    axes = graph.emptied_by.get(value, ())
    return 0 in graph.program.avals[value].shape or any(removed[groups].all() for groups in axes)


def _routed(graph: Graph) -> list[tuple[axes_lib.Route, Consumer]]:
    return [(consumer.sink, consumer) for consumer in graph.consumers if isinstance(consumer.sink, axes_lib.Route)]


def index_values(graph: Graph, route: axes_lib.Route) -> Integer[np.ndarray, " positions"]:
    """Returns the current index array of a route."""
    return graph.indices[graph.variable(route.index)]


def removed_positions(graph: Graph, number: int, axis: int, removed: GroupMask) -> AxisMask:
    """Returns which positions of an axis of a variable are removed, given the number of its value in the program."""
    variable = graph.variable(number)
    groups = graph.axes[variable][axis]
    if groups is None:
        return np.zeros(graph.shapes[variable][axis], bool)
    return per_unit(removed, groups)


def _count(graph: Graph, groups: GroupMask) -> dict[str, int]:
    counts = {s.name: int(per_unit(groups, s.groups).sum()) for s in (*graph.sites, *graph.branches)}
    return {name: count for name, count in counts.items() if count}


def _folds(graph: Graph, seen: Mapping[int, Range], removed: GroupMask) -> tuple[Fold, ...]:
    """Returns the constants that consumers read from removed units, as far as a variable absorbs them."""
    folds = []
    for i, values in seen.items():
        consumer = graph.consumers[i]
        constants = np.where(per_unit(removed, consumer.groups), _middle(values), 0)
        if consumer.absorbs and (constants != 0).any():
            folds.append(Fold(i, constants))
    return tuple(folds)
