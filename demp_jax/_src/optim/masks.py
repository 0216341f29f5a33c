# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Masks of the weights that belong to alive neurons, computed inside a compiled step.

Example: in `relu(x @ w) @ v`, column j of `w` and row j of `v` belong to unit j. If unit j is dead, they are masked.
`weight_groups` finds the group of every unit and of every position of every axis once. At each step, `weight_mask`
scatters the alive units to their groups, and gathers the groups along each axis.

Dimension names: units, those of all sites, one site after the other; positions, those of axes of parameters; pairs,
pairs of groups; entries, one per group and one for "always alive".
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
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
    data_fields=["units", "positions", "consumers", "bare"],
    meta_fields=["sites", "axes", "producing"],
)
@dataclasses.dataclass(frozen=True)
class WeightGroups:
    """The group of every unit and of every position of every parameter. A pytree, so it can be passed to a step.

    All axes share one vector of groups, so that a step needs a single gather, which compiles fast. With K groups, the
    number K stands for "always alive". A branch is an array that only `demp_jax.select` reads and that has no
    activation, such as the skip of a residual sum. A channel of a branch is alive if a channel that it is routed to is
    alive.

    Attributes:
      sites: the sites with removable units, in the order of `units`.
      units: `[units]`, the group of each unit.
      positions: `[positions]`, the groups along every axis with removable positions. Axes with equal groups share an
        entry.
      axes: for each parameter of the flattened tree, for each axis, the start and size of its part of `positions`;
        `None` for an axis without removable positions. The part of a parameter that stacks layers has an entry per
        layer and position.
      producing: for each parameter, the axis along which its entries compute units, such as the output axis of a kernel
        and the axis of a bias or a scale; `None` for none.
      consumers: two arrays `[pairs]`: groups of branches, and for each a group that it is routed to, directly or
        through other branches. Padded with K.
      bare: `[entries]` bool, whether a group is always alive: it has no activation and is not of a branch, or it is the
        entry K.
    """

    sites: tuple[str, ...]
    units: Int32[jax.Array, " units"]
    positions: Int32[jax.Array, " positions"]
    axes: tuple[tuple[tuple[int, int] | None, ...], ...]
    producing: tuple[int | None, ...]
    consumers: tuple[Int32[jax.Array, " pairs"], Int32[jax.Array, " pairs"]]
    bare: Bool[jax.Array, " entries"]


def weight_groups(graph: Graph, params: Any) -> WeightGroups:
    """Returns the groups of the parameters, for `weight_mask`. Call it once per architecture.

    Args:
      graph: the trace of the network.
      params: the parameters, a tree whose leaves mirror variables of the graph.

    Raises:
      ValueError: if the graph was traced from shapes and has channels routed by `select`, whose indices are unknown, or
        if a parameter mirrors two variables with different groups equally well.
    """
    none = graph.num_groups
    bare = np.ones(none + 1, bool)
    for site in graph.sites:
        bare[site.groups[site.groups >= 0]] = False
    consumers = _branch_consumers(graph, bare)
    places: dict[bytes, tuple[int, int]] = {}
    vectors: list[Int32[np.ndarray, "..."]] = []

    def place(groups: Int32[np.ndarray, "..."]) -> tuple[int, int]:
        key = groups.tobytes()
        if key not in places:
            places[key] = (sum(v.size for v in vectors), groups.size)
            vectors.append(groups)
        return places[key]

    axes, producing = [], []
    reads = {(use.variable, use.weight_axis + (use.layer is not None)) for use in graph.consumers}
    for variable, leaf in zip(graph.match(params), jax.tree.leaves(params), strict=True):
        found = graph.axes[variable] if variable is not None else (None,) * leaf.ndim
        makes = [i for i, a in enumerate(found) if a is not None and (variable, i) not in reads]
        producing.append(makes[-1] if makes else None)
        axes.append(tuple(None if a is None else place(np.where(a < 0, none, a).astype(np.int32)) for a in found))
    removable = [site for site in graph.sites if (site.groups >= 0).any()]
    units = [np.where(site.groups < 0, none, site.groups) for site in removable]
    return WeightGroups(
        tuple(site.name for site in removable),
        _joined(units),
        _joined(vectors),
        tuple(axes),
        tuple(producing),
        consumers,
        jnp.asarray(bare),
    )


def _joined(vectors: list[SomeGroups]) -> Int32[jax.Array, " positions"]:
    return jnp.asarray(np.concatenate([v.reshape(-1) for v in vectors]) if vectors else np.zeros(0), jnp.int32)


def broadcastable(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    """Returns the shape in which `size` values along an axis of an array broadcast against it.

    There is one value per position, or one per layer and position if the array stacks layers along its first axis.
    """
    layers = shape[0] if size != shape[axis] else 1
    return tuple(shape[axis] if i == axis else layers if i == 0 else 1 for i in range(len(shape)))


def _branch_consumers(
    graph: Graph, bare: Bool[np.ndarray, " {graph.num_groups}+1"]
) -> tuple[Int32[jax.Array, " pairs"], Int32[jax.Array, " pairs"]]:
    """Returns `WeightGroups.consumers`, and clears the groups of branches in `bare`.

    Example: in `select(select(x, i) + y, j) + z`, channels of `x` are routed to channels of the first sum, which is
    itself a branch, and from there to channels of the second sum. Routes are visited from the last to the first, so
    that the groups that a branch ends in are known when an earlier branch is routed to it.
    """
    routed = np.zeros_like(bare)
    for consumer in graph.consumers:
        if isinstance(consumer.sink, Route):
            routed[consumer.groups[consumer.groups >= 0]] = True
    for consumer in graph.consumers:
        if not isinstance(consumer.sink, Route):
            routed[consumer.groups[consumer.groups >= 0]] = False
    branches = routed & bare
    # By group of a branch, the groups of activations that it ends in.
    ends: dict[int, set[int]] = {}
    # For each visited route, the groups of its operand, and the largest number of ends that each of its channels has.
    sums: list[tuple[SomeGroups, int]] = []
    pairs, most = [], 0
    for consumer in reversed(graph.consumers):
        if isinstance(consumer.sink, Route):
            index = graph.indices.get(graph.variable(consumer.sink.index))
            if index is None:
                raise ValueError(
                    "weight_groups: the graph was traced from shapes. Trace with arrays to know the routing."
                )
            results = graph.axes[graph.variable(consumer.sink.index)][0]
            results = np.full(index.size, -1) if results is None else results
            if not branches[consumer.groups[consumer.groups >= 0]].any():
                continue
            valid = (index >= 0) & (index < len(consumer.groups))
            read = np.where(valid, consumer.groups[np.where(valid, index, 0)], -1)
            ours = (read >= 0) & branches[read]
            # Channels that cannot be removed are always alive.
            routed_to = np.where(results < 0, graph.num_groups, results)
            for one, result in zip(read[ours].tolist(), routed_to[ours].tolist(), strict=True):
                further = ends.get(result, set()) if branches[result] else {result}
                ends.setdefault(one, set()).update(further)
                pairs += [(one, end) for end in further]
            # Different prunes to the same widths route channels differently. The array has room for the most pairs that
            # these widths allow, so that one compiled step serves all of them.
            beyond = sum(count for operand, count in sums if np.isin(results[results >= 0], operand).any())
            sums.append((consumer.groups, beyond + int((~branches[routed_to]).any())))
            most += sums[-1][1] * index.size
    bare &= ~branches
    filled = np.full((2, max(most, len(pairs))), graph.num_groups, np.int32)
    if pairs:
        filled[:, : len(pairs)] = np.asarray(pairs).T
    return jnp.asarray(filled[0]), jnp.asarray(filled[1])


def weight_mask(members: WeightGroups, alive: Mapping[str, Bool[jax.Array, " _"]], params: Any) -> Any:
    """Returns the mask of the weights that belong to alive neurons only.

    A weight belongs to the neuron that it computes and to the neuron whose output it multiplies. The function is pure
    and can be compiled.

    Example:
      >>> from demp_jax import trace
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["w"]) @ params["v"]
      >>> params = {"w": jnp.ones((3, 2)), "v": jnp.ones((2, 1))}
      >>> members = weight_groups(trace(network, params, jnp.ones((2, 3))), params)
      >>> mask = weight_mask(members, {"w": jnp.array([True, False])}, params)
      >>> mask["w"].tolist(), mask["v"].tolist()
      ([[True, False]], [[True], [False]])

    Args:
      members: the groups, `weight_groups(graph, params)`.
      alive: for each site of `members.sites`, `[units]` bool, which units are alive, from `demp_jax.alive`.
      params: the parameters.

    Returns:
      A tree like `params` of bool arrays that broadcast against the parameters.
    """
    # All indices are within bounds. Checks would double the number of operations to compile.
    within = "promise_in_bounds"

    lives = members.bare
    if members.sites:
        bits = jnp.concatenate([alive[name] for name in members.sites])
        lives = lives.at[members.units].max(bits, mode=within)
    branches, ends = members.consumers
    if branches.size:
        lives = lives.at[branches].max(lives.at[ends].get(mode=within), mode=within)
    bits = lives.at[members.positions].get(mode=within)
    of_axes = iter(parts(bits, [place for axes in members.axes for place in axes if place is not None]))
    leaves = []
    for leaf, axes in zip(jax.tree.leaves(params), members.axes, strict=True):
        lines = [
            next(of_axes).reshape(broadcastable(leaf.shape, i, place[1]))
            for i, place in enumerate(axes)
            if place is not None
        ]
        leaves.append(functools.reduce(operator.and_, lines) if lines else jnp.ones((1,) * leaf.ndim, bool))
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
