# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The plan of a prune, which slices every tree that mirrors the variables of a network.

All slicing is done on the host, because on a device every new shape would be compiled.

Dimension names: positions, those of one axis that are kept.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact, Integer, Num, Shaped

from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing import mirror
from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing.graph import Consumer, Graph, per_unit
from demp_jax._src.tracing.select import NOTHING
from demp_jax._src.types import GroupMask, SomeGroups, SomePositions


@dataclasses.dataclass(frozen=True)
class Fold:
    """The constants of removed units that a consumer reads and another variable absorbs.

    Attributes:
      consumer: index of the consumer that reads them.
      constants: `[size of the consumer's axis]`, the constant of each removed position, 0 elsewhere.
    """

    consumer: int
    constants: Inexact[np.ndarray, " units"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The groups of units to remove. A plan slices any tree that mirrors the variables.

    Example:
      >>> from demp_jax import prune
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
      >>> plan = prune(network, params, [jnp.array([[1.0], [2.0]])]).plan  # The second unit is dead.
      >>> plan.slice({"average": {"hidden": jnp.array([[3.0, 4.0, 5.0]])}})["average"]["hidden"].tolist()
      [[3.0, 5.0]]

    Attributes:
      graph: the network before the prune.
      removed: `[num_groups]` bool, the groups to remove.
      dead: `[num_groups]` bool, the groups that the criterion calls dead. Other removed groups are constant.
      folds: the constants to absorb, by name: `"evaluation"` for the network itself, and the names of its copies.
      protected: by site, how many units are dead but kept because of `min_units`, `multiple`, `at_most`, or the equal
        width of stacked layers.
      needed: by site, how many units are dead but kept because a consumer needs their value.
      needed_by: by site, that consumer and the reason.
      dead_alone: by mode, how many units are dead only in that mode.
      trained: the leaves of the trained tree, whose paths `slice` matches as well.
    """

    graph: Graph
    removed: GroupMask
    dead: GroupMask
    folds: Mapping[str, tuple[Fold, ...]] = dataclasses.field(default_factory=lambda: {"evaluation": ()})
    protected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    needed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    needed_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dead_alone: Mapping[str, int] = dataclasses.field(default_factory=dict)
    trained: tuple[mirror.Leaf, ...] = ()

    @functools.cached_property
    def keep(self) -> tuple[tuple[SomePositions | None, ...], ...]:
        """For each variable and axis, the kept positions, ascending; `None` if all are kept.

        For stacked weights, the shape is `[layers, positions]`. All layers keep equally many positions.
        """

        def kept(groups: SomeGroups | None) -> SomePositions | None:
            removed = None if groups is None else per_unit(self.removed, groups)
            if removed is None or not removed.any():
                return None
            rows = [np.flatnonzero(~row) for row in np.atleast_2d(removed)]
            return np.stack(rows) if removed.ndim > 1 else rows[0]

        return tuple(tuple(map(kept, axes)) for axes in self.graph.axes)

    def slice(self, tree: Any) -> Any:
        """Returns a tree that mirrors the variables, or some of them, without the removed units.

        A leaf mirrors a variable if its path ends with the full path of the variable and the shapes are equal (see
        `Graph.match`). Other leaves are returned unchanged. Parameters, gradients, moments, masks and the state of an
        optimizer chain are sliced, alone or inside larger trees. The index of a `select` is renumbered. Constants are
        not folded. For a copy of the variables, such as their average, use `slice_variables`.

        Raises:
          ValueError: if two variables that are sliced differently match a leaf equally well.
        """
        leaves, structure = jax.tree.flatten(tree)
        matched = self.graph.match(tree, self.trained)
        sliced = [leaf if i is None else self.slice_leaf(leaf, i) for leaf, i in zip(leaves, matched, strict=True)]
        return jax.tree.unflatten(structure, sliced)

    def slice_leaf(self, leaf: Any, variable: int) -> Any:
        """Returns a leaf that mirrors a variable, given by its index, without the removed units."""
        if not is_array(leaf):
            return leaf
        if variable in self._routed and np.issubdtype(leaf.dtype, np.integer):
            return put_like(self._renumbered(self._routed[variable], variable), leaf)
        return self._slice(leaf, self.keep[variable])

    def shrinks(self, variable: int) -> bool:
        """Returns whether a variable, given by its index, gets smaller."""
        return any(positions is not None for positions in self.keep[variable])

    @functools.cached_property
    def absorbers(self) -> frozenset[int]:
        """The indices of the variables that constants are folded into."""
        return frozenset(self._absorber(fold) for fold in self.folds["evaluation"])

    @functools.cached_property
    def _routed(self) -> dict[int, Consumer]:
        routed = [
            (consumer.sink, consumer) for consumer in self.graph.consumers if isinstance(consumer.sink, axes_lib.Route)
        ]
        return {self.graph.variable(sink.index): consumer for sink, consumer in routed}

    def _slice(self, leaf: Any, keep: Sequence[SomePositions | None]) -> Any:
        if all(positions is None for positions in keep):
            return leaf
        array = np.asarray(leaf)
        for axis, positions in enumerate(keep):
            if positions is not None and positions.ndim > 1:
                shape = [positions.shape[0], *[1] * (array.ndim - 1)]
                shape[axis] = positions.shape[1]
                array = np.take_along_axis(array, positions.reshape(shape), axis)
            elif positions is not None:
                array = np.take(array, positions, axis)
        return put_like(array, leaf)

    def slice_variables(self, variables: Any, network: str = "evaluation") -> Any:
        """Returns the smaller variables of a network: sliced, with indices renumbered and constants folded.

        Args:
          variables: a tree with the structure of the variables of the network. Constants are multiplied by its
            weights.
          network: the name of the network whose constants are folded: `"evaluation"` for the network itself, or the
            name of a copy.
        """
        leaves = jax.tree.leaves(variables)
        smaller = [self._slice(leaf, keep) for leaf, keep in zip(leaves, self.keep, strict=True)]
        for number, consumer in self._routed.items():
            smaller[number] = put_like(self._renumbered(consumer, number), leaves[number])
        for fold in self.folds[network]:
            variable, change = self._absorbed(fold, leaves)
            keep = self.keep[variable]
            change = change[
                np.ix_(*(np.arange(n) if k is None else k for n, k in zip(change.shape, keep, strict=True)))
            ]
            smaller[variable] = put_like(
                (np.asarray(smaller[variable]) + change).astype(leaves[variable].dtype), smaller[variable]
            )
        return jax.tree.unflatten(jax.tree.structure(variables), smaller)

    def _renumbered(self, consumer: Consumer, number: int) -> Integer[np.ndarray, " positions"]:
        """Returns the new index of a route, whose entries are positions in the smaller operand."""
        removed = per_unit(self.removed, consumer.groups)
        position = np.where(removed, NOTHING, np.cumsum(~removed) - 1)
        index = self.graph.indices[number]
        valid = (index >= 0) & (index < len(position))
        renumbered = np.where(valid, position[np.where(valid, index, 0)], NOTHING)
        [keep] = self.keep[number]
        return (renumbered if keep is None else renumbered[keep]).astype(index.dtype)

    def _absorber(self, fold: Fold) -> int:
        consumer = self.graph.consumers[fold.consumer]
        if isinstance(consumer.sink, axes_lib.Route):
            return self.graph.variable(consumer.sink.fill)
        assert consumer.absorber is not None
        return consumer.absorber.variable

    def _absorbed(self, fold: Fold, leaves: Sequence[Any]) -> tuple[int, Num[np.ndarray, "..."]]:
        """Returns the variable that absorbs constants, and its change, at the widths before the prune."""
        consumer = self.graph.consumers[fold.consumer]
        if isinstance(consumer.sink, axes_lib.Route):
            index = self.graph.indices[self.graph.variable(consumer.sink.index)]
            valid = (index >= 0) & (index < len(fold.constants))
            return self.graph.variable(consumer.sink.fill), np.where(
                valid, fold.constants[np.where(valid, index, 0)], 0
            )
        assert consumer.absorber is not None
        assert isinstance(consumer.sink, axes_lib.Contraction)
        weights = self._weights(consumer.sink, leaves)
        op = consumer.sink.op
        if op.name == "dot_general":
            contracted, _ = op.params["dimension_numbers"]
            weighed = contracted[1 - consumer.sink.operand]
            axis = weighed[list(contracted[consumer.sink.operand]).index(consumer.axis)]
            summed = tuple(i for i in weighed if i != axis)
        else:
            axis = op.params["dimension_numbers"].rhs_spec[1]
            summed = tuple(op.params["dimension_numbers"].rhs_spec[2:])
        shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
        change = np.sum(weights * fold.constants.reshape(shape), axis=(axis, *summed))
        variable = consumer.absorber.variable
        return variable, consumer.absorber.sign * change.reshape(self.graph.shapes[variable])

    def _weights(self, sink: axes_lib.Contraction, leaves: Sequence[Any]) -> Inexact[np.ndarray, "..."]:
        program = self.graph.program
        number = sink.op.inputs[1 - sink.operand]
        assert isinstance(number, int)
        if number in program.inputs[: len(leaves)]:
            # The leaf may have another dtype than the variable, such as float32 instead of bfloat16.
            return _wide(leaves[self.graph.variable(number)])
        leaves = [
            jnp.asarray(leaf, program.avals[n].dtype) if is_array(leaf) else leaf
            for n, leaf in zip(program.inputs, leaves, strict=False)
        ]

        def read(variables: Sequence[Any]) -> Any:
            data = [jnp.zeros(program.avals[i].shape, program.avals[i].dtype) for i in program.inputs[len(leaves) :]]
            return program_lib.evaluate(program, [*variables, *data], [number])[1][0]

        return _wide(jax.jit(read)(leaves))

    @property
    def folds_exactly(self) -> bool:
        """Whether folding is exact: no constant is read by a convolution that pads with zeros."""
        return not any(self.graph.consumers[fold.consumer].padded for folds in self.folds.values() for fold in folds)


def _wide(weights: Any) -> Inexact[np.ndarray, "..."]:
    return np.asarray(weights, np.complex64 if np.iscomplexobj(weights) else np.float32)


def is_array(leaf: Any) -> bool:
    """Returns whether a leaf is an array of numbers, not a random key or a Python object."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended)


def put_like(array: Shaped[np.ndarray, "..."], leaf: Any) -> Any:
    """Returns `array` on the devices of `leaf` and with its sharding, or on the host.

    If `leaf` is not committed to a device, the result is not, either. Otherwise a step would be compiled again.
    """
    if not isinstance(leaf, jax.Array):
        return array
    return jax.device_put(array, _fitting(leaf.sharding, array.shape)) if leaf.committed else jnp.asarray(array)


def _fitting(sharding: Any, shape: Sequence[int]) -> Any:
    """Returns a sharding without the mesh axes whose sizes do not divide the shape."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return sharding
    kept = []
    for size, names in zip(shape, (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec))), strict=True):
        axes = () if names is None else (names,) if isinstance(names, str) else tuple(names)
        parts = int(np.prod([sharding.mesh.shape[axis] for axis in axes], dtype=np.int64))
        kept.append(names if size % parts == 0 else None)
    spec = jax.sharding.PartitionSpec(*kept)
    return jax.sharding.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
