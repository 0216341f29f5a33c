# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Which weights belong to live neurons, inside a compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from demp_jax._src.axes import Route
from demp_jax._src.graph import Graph
from demp_jax._src.paths import leaf_paths


class Membership(NamedTuple):
    """Which class every unit and every position of every parameter belongs to; a tree of arrays, so a step takes it.

    The number of classes K stands for "always alive".

    Attributes:
      units: by site, `[N]`, the class of each unit.
      axes: per parameter in the order of the flattened tree, per axis, `[size]`, or `None` where all are always alive.
      readers: per `select`, the last first: which classes of a branch are read by which classes after it.
      bare: `[K + 1]` bool, other classes without an activation (and the entry K): alive whatever the activations do.
    """

    units: dict[str, Any]
    axes: tuple[tuple[Any, ...], ...]
    readers: tuple[tuple[Any, Any], ...]
    bare: Any


def membership(graph: Graph, params: Any) -> Membership:
    """Returns the membership of the parameters `params`, a tree of which the leaves mirror variables of the graph.

    Raises:
      ValueError: when the graph was traced from shapes alone and has residual sums, whose routing is then unknown.
    """
    none = graph.classes
    bare = np.ones(none + 1, bool)
    for site in graph.sites:
        bare[site.classes[site.classes >= 0]] = False
    readers = _readers(graph, bare)
    axes = []
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        variable = graph.match(path, leaf.shape)
        found = graph.axes[variable] if variable is not None else (None,) * leaf.ndim
        axes.append(tuple(None if a is None else jnp.asarray(np.where(a < 0, none, a), jnp.int32) for a in found))
    removable = [site for site in graph.sites if (site.classes >= 0).any()]
    units = {s.name: jnp.asarray(np.where(s.classes < 0, none, s.classes), jnp.int32) for s in removable}
    return Membership(units, tuple(axes), readers, jnp.asarray(bare))


def _readers(graph: Graph, bare: np.ndarray) -> tuple[tuple[Any, Any], ...]:
    """Returns who reads the channels of branches, and marks those channels in `bare`: they live if a reader does."""
    routed = np.zeros_like(bare)
    for use in graph.uses:
        if isinstance(use.sink, Route):
            routed[use.classes[use.classes >= 0]] = True
    for use in graph.uses:
        if not isinstance(use.sink, Route):
            routed[use.classes[use.classes >= 0]] = False
    branches = routed & bare
    found = []
    for use in graph.uses:
        if isinstance(use.sink, Route):
            index = graph.indices.get(graph.variable(use.sink.index))
            if index is None:
                raise ValueError("membership: the graph was traced from shapes; trace with arrays to know the routing.")
            readers = graph.axes[graph.variable(use.sink.index)][0]
            readers = np.full(index.size, -1) if readers is None else readers
            valid = (index >= 0) & (index < len(use.classes))
            read = np.where(valid, use.classes[np.where(valid, index, 0)], -1)
            ours = (read >= 0) & branches[read]
            pairs = (read[ours], np.where(readers < 0, graph.classes, readers)[ours])
            found.append(tuple(jnp.asarray(a, jnp.int32) for a in pairs))
    bare &= ~branches
    return tuple((branch, reader) for branch, reader in reversed(found))


def weight_mask(members: Membership, alive: Mapping[str, jax.Array], params: Any) -> Any:
    """Returns which weights belong to live neurons only.

    A weight belongs to the neuron that computes with it and to the neuron whose output it multiplies. Pure, to be
    called inside a compiled step.

    Args:
      members: from `membership(graph, params)`.
      alive: by site, `[N]` bool, which units are alive, as from `alive`.
      params: the parameters.

    Returns:
      A tree like `params` of bool arrays that broadcast against the parameters.
    """
    lives = members.bare
    for name, classes in members.units.items():
        lives = lives.at[classes].max(alive[name])
    for branch, reader in members.readers:
        lives = lives.at[branch].max(lives[reader])
    leaves = []
    for leaf, axes in zip(jax.tree.leaves(params), members.axes, strict=True):
        mask = jnp.ones((1,) * leaf.ndim, bool)
        for i, classes in enumerate(axes):
            if classes is not None:
                shape = tuple(-1 if j == i else 1 for j in range(leaf.ndim))
                mask = mask & lives[classes].reshape(shape)
        leaves.append(mask)
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
