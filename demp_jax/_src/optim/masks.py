# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Which weights belong to live neurons, inside a compiled step.

Dimension names: units, those of all sites, one site after the other; positions, those of axes of parameters; readers,
pairs of groups; entries, one per group and one for what is always alive.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32

from demp_jax._src.optim.parts import parts
from demp_jax._src.tracing.axes import Route
from demp_jax._src.tracing.graph import Graph
from demp_jax._src.types import SomeGroups


@no_type_check
@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["units", "positions", "readers", "bare"],
    meta_fields=["sites", "axes"],
)
@dataclasses.dataclass(frozen=True)
class WeightGroups:
    """Which class every unit and every position of every parameter belongs to; a pytree, so a step takes it.

    All of a step's look-ups are one: few operations compile fast. The number of groups K stands for "always alive".

    Attributes:
      sites: the sites with removable units, in the order of `units`.
      units: `[units]`, the group of each unit.
      positions: `[positions]`, the group of each position of every axis that has removable ones, axes that are labelled
        alike once.
      axes: per parameter in the order of the flattened tree, per axis, where in `positions` its own begin and how many
        they are, or `None` where all are always alive.
      readers: `[readers]` each: which groups of a branch live if which others do that are of none, K where none;
        through however many sums, so that a step need not go from one to the next.
      bare: `[entries]` bool, with K + 1 entries: other groups without an activation (and the entry K): alive whatever
        the activations do.
    """

    sites: tuple[str, ...]
    units: Int32[jax.Array, " units"]
    positions: Int32[jax.Array, " positions"]
    axes: tuple[tuple[tuple[int, int] | None, ...], ...]
    readers: tuple[Int32[jax.Array, " readers"], Int32[jax.Array, " readers"]]
    bare: Bool[jax.Array, " entries"]


def weight_groups(graph: Graph, params: Any) -> WeightGroups:
    """Returns the weight_groups of the parameters `params`, a tree of which the leaves mirror variables of the graph.

    Raises:
      ValueError: when the graph was traced from shapes alone and has residual sums, whose routing is then unknown.
    """
    none = graph.num_groups
    bare = np.ones(none + 1, bool)
    for site in graph.sites:
        bare[site.groups[site.groups >= 0]] = False
    readers = _readers(graph, bare)
    places: dict[bytes, tuple[int, int]] = {}
    vectors: list[Int32[np.ndarray, " _"]] = []

    def place(groups: Int32[np.ndarray, " _"]) -> tuple[int, int]:
        key = groups.tobytes()
        if key not in places:
            places[key] = (sum(v.size for v in vectors), groups.size)
            vectors.append(groups)
        return places[key]

    axes = []
    for variable, leaf in zip(graph.match(params), jax.tree.leaves(params), strict=True):
        found = graph.axes[variable] if variable is not None else (None,) * leaf.ndim
        axes.append(tuple(None if a is None else place(np.where(a < 0, none, a).astype(np.int32)) for a in found))
    removable = [site for site in graph.sites if (site.groups >= 0).any()]
    units = [np.where(site.groups < 0, none, site.groups) for site in removable]
    return WeightGroups(
        tuple(site.name for site in removable),
        _joined(units),
        _joined(vectors),
        tuple(axes),
        readers,
        jnp.asarray(bare),
    )


def _joined(vectors: list[SomeGroups]) -> Int32[jax.Array, " positions"]:
    return jnp.asarray(np.concatenate(vectors) if vectors else np.zeros(0), jnp.int32)


def _readers(
    graph: Graph, bare: Bool[np.ndarray, " {graph.num_groups}+1"]
) -> tuple[Int32[jax.Array, " readers"], Int32[jax.Array, " readers"]]:
    """Returns who reads the channels of branches, and marks those channels in `bare`: they live if a reader does."""
    routed = np.zeros_like(bare)
    for use in graph.consumers:
        if isinstance(use.sink, Route):
            routed[use.groups[use.groups >= 0]] = True
    for use in graph.consumers:
        if not isinstance(use.sink, Route):
            routed[use.groups[use.groups >= 0]] = False
    branches = routed & bare
    # By class of a branch: all others that it lives by. Of the last sums first, as those before lead to them.
    ends: dict[int, set[int]] = {}
    # Per sum: the groups of its operand, and how many such others each position of its has at most.
    sums: list[tuple[SomeGroups, int]] = []
    pairs, most = [], 0
    for use in reversed(graph.consumers):
        if isinstance(use.sink, Route):
            index = graph.indices.get(graph.variable(use.sink.index))
            if index is None:
                raise ValueError(
                    "weight_groups: the graph was traced from shapes. Trace with arrays to know the routing."
                )
            readers = graph.axes[graph.variable(use.sink.index)][0]
            readers = np.full(index.size, -1) if readers is None else readers
            if not branches[use.groups[use.groups >= 0]].any():
                continue
            valid = (index >= 0) & (index < len(use.groups))
            read = np.where(valid, use.groups[np.where(valid, index, 0)], -1)
            ours = (read >= 0) & branches[read]
            # What cannot leave is always alive, as is the group beyond all others.
            staying = np.where(readers < 0, graph.num_groups, readers)
            for one, reader in zip(read[ours].tolist(), staying[ours].tolist(), strict=True):
                further = ends.get(reader, set()) if branches[reader] else {reader}
                ends.setdefault(one, set()).update(further)
                pairs += [(one, end) for end in further]
            # Which channels meet differs from cut to cut, and a step that was compiled for these widths has to serve
            # all of them: there is room for those that could.
            beyond = sum(count for operand, count in sums if np.isin(readers[readers >= 0], operand).any())
            sums.append((use.groups, beyond + int((~branches[staying]).any())))
            most += sums[-1][1] * index.size
    bare &= ~branches
    filled = np.full((2, max(most, len(pairs))), graph.num_groups, np.int32)
    if pairs:
        filled[:, : len(pairs)] = np.asarray(pairs).T
    return jnp.asarray(filled[0]), jnp.asarray(filled[1])


def weight_mask(members: WeightGroups, alive: Mapping[str, Bool[jax.Array, " _"]], params: Any) -> Any:
    """Returns which weights belong to live neurons only.

    A weight belongs to the neuron that computes with it and to the neuron whose output it multiplies. Pure, to be
    called inside a compiled step.

    Args:
      members: from `weight_groups(graph, params)`.
      alive: by site, `[units]` bool, which units are alive, as from `alive`.
      params: the parameters.

    Returns:
      A tree like `params` of bool arrays that broadcast against the parameters.
    """
    # All indices are within bounds; to check them takes as many operations again, which have to be compiled.
    within = "promise_in_bounds"

    lives = members.bare
    if members.sites:
        bits = jnp.concatenate([alive[name] for name in members.sites])
        lives = lives.at[members.units].max(bits, mode=within)
    branches, readers = members.readers
    if branches.size:
        lives = lives.at[branches].max(lives.at[readers].get(mode=within), mode=within)
    bits = lives.at[members.positions].get(mode=within)
    of_axes = iter(parts(bits, [place for axes in members.axes for place in axes if place is not None]))
    leaves = []
    for leaf, axes in zip(jax.tree.leaves(params), members.axes, strict=True):
        lines = [
            next(of_axes).reshape([-1 if j == i else 1 for j in range(leaf.ndim)])
            for i, place in enumerate(axes)
            if place is not None
        ]
        leaves.append(functools.reduce(operator.and_, lines) if lines else jnp.ones((1,) * leaf.ndim, bool))
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
