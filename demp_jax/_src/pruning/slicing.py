# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The cut: one plan slices every tree that mirrors a network's variables.

This is the only place that slices. It runs on the host: slicing there compiles nothing, while on the device every
new shape would.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from demp_jax._src.pruning import plan as planning
from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing.graph import Consumer, Graph, per_unit
from demp_jax._src.tracing.paths import leaf_paths, path_name
from demp_jax._src.tracing.select import NOTHING


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which positions of every variable stay.

    Attributes:
      graph: the network before the cut.
      decision: what leaves.
      keep: per variable, per axis, the positions that stay, ascending; `None` where all stay.
    """

    graph: Graph
    decision: planning.Decision
    keep: tuple[tuple[np.ndarray | None, ...], ...]

    def slice(self, tree: Any) -> Any:
        """Returns a tree that mirrors the variables, or some of them, with what leaves cut out.

        A leaf mirrors the variable whose path shares the longest end with its own, if their shapes are equal too; any
        other leaf is returned as it is. So parameters, gradients, moments, masks and the state of an optimizer chain
        all go through here, alone or inside larger trees. The index of a `select` is renumbered, too.

        Raises:
          ValueError: when two variables that are cut differently match a leaf equally well.
        """
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        sliced = []
        for path, leaf in leaves:
            variable = self.graph.match(path_name(path), np.shape(leaf) if is_array(leaf) else ())
            if variable is None:
                sliced.append(leaf)
            elif variable in self._routed and np.issubdtype(leaf.dtype, np.integer):
                sliced.append(put_like(self._renumbered(self._routed[variable], variable), leaf))
            else:
                sliced.append(self._slice(leaf, self.keep[variable]))
        return jax.tree.unflatten(jax.tree.structure(tree), sliced)

    @functools.cached_property
    def _routed(self) -> dict[int, Consumer]:
        uses = [(use.sink, use) for use in self.graph.consumers if isinstance(use.sink, axes_lib.Route)]
        return {self.graph.variable(sink.index): use for sink, use in uses}

    def shadows(self, path: str, shape: Sequence[int]) -> bool:
        """Returns whether a leaf holds something for a variable that is cut, without mirroring it.

        Such as the row means of a matrix's second moments. Scalars hold nothing that a cut could touch.
        """
        if self.graph.match(path, shape) is not None or np.prod(shape, dtype=np.int64) <= 1:
            return False
        parts = path.split("/")
        shared = []
        for variable in self.graph.paths:
            pairs = zip(reversed(parts), reversed(variable.split("/")), strict=False)
            shared.append(sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        longest = max(shared, default=0)
        return longest > 0 and any(
            n == longest and any(positions is not None for positions in keep)
            for n, keep in zip(shared, self.keep, strict=True)
        )

    def _slice(self, leaf: Any, keep: Sequence[np.ndarray | None]) -> Any:
        if all(positions is None for positions in keep):
            return leaf
        array = np.asarray(leaf)
        for axis, positions in enumerate(keep):
            if positions is not None:
                array = np.take(array, positions, axis)
        return put_like(array, leaf)

    def slice_variables(self, variables: Any, network: str = "evaluation") -> Any:
        """Returns the smaller variables of a network: sliced, selections of channels renumbered, constants folded.

        Args:
          variables: a tree like that of the network's variables.
          network: whose constants are folded, with the weights in `variables`: the name of a copy that was pruned
            along; by default the network itself.
        """
        leaves = jax.tree.leaves(variables)
        cut = [self._slice(leaf, keep) for leaf, keep in zip(leaves, self.keep, strict=True)]
        for number, use in self._routed.items():
            cut[number] = put_like(self._renumbered(use, number), leaves[number])
        for fold in self.decision.folds[network]:
            variable, change = self._absorbed(fold, leaves)
            keep = self.keep[variable]
            change = change[
                np.ix_(*(np.arange(n) if k is None else k for n, k in zip(change.shape, keep, strict=True)))
            ]
            cut[variable] = put_like((np.asarray(cut[variable]) + change).astype(leaves[variable].dtype), cut[variable])
        return jax.tree.unflatten(jax.tree.structure(variables), cut)

    def _renumbered(self, use: Consumer, number: int) -> np.ndarray:
        """Returns the index of a route, in the numbering of the smaller operand."""
        leaves = per_unit(self.decision.removed, use.groups)
        position = np.where(leaves, NOTHING, np.cumsum(~leaves) - 1)
        index = self.graph.indices[number]
        valid = (index >= 0) & (index < len(position))
        renumbered = np.where(valid, position[np.where(valid, index, 0)], NOTHING)
        [keep] = self.keep[number]
        return (renumbered if keep is None else renumbered[keep]).astype(index.dtype)

    def _absorbed(self, fold: planning.Fold, leaves: Sequence[Any]) -> tuple[int, np.ndarray]:
        """Returns the variable that takes up folded constants, and its change, at the widths before the cut."""
        use = self.graph.consumers[fold.consumer]
        if isinstance(use.sink, axes_lib.Route):
            index = self.graph.indices[self.graph.variable(use.sink.index)]
            valid = (index >= 0) & (index < len(fold.constants))
            return self.graph.variable(use.sink.fill), np.where(valid, fold.constants[np.where(valid, index, 0)], 0)
        assert use.absorber is not None
        weights = self._weights(use.sink, leaves)
        op = use.sink.op
        if op.name == "dot_general":
            contracted, _ = op.params["dimension_numbers"]
            weighed = contracted[1 - use.sink.operand]
            axis = weighed[list(contracted[use.sink.operand]).index(use.axis)]
            summed = tuple(i for i in weighed if i != axis)
        else:
            axis = op.params["dimension_numbers"].rhs_spec[1]
            summed = tuple(op.params["dimension_numbers"].rhs_spec[2:])
        shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
        change = np.sum(weights * fold.constants.reshape(shape), axis=(axis, *summed))
        variable = use.absorber.variable
        return variable, use.absorber.sign * change.reshape(self.graph.shapes[variable])

    def _weights(self, sink: axes_lib.Contraction, leaves: Sequence[Any]) -> np.ndarray:
        program = self.graph.program
        number = sink.op.inputs[1 - sink.operand]
        assert isinstance(number, int)

        def read(variables: Sequence[Any]) -> Any:
            data = [jnp.zeros(program.avals[i].shape, program.avals[i].dtype) for i in program.inputs[len(leaves) :]]
            return program_lib.evaluate(program, [*variables, *data], [number])[1][0]

        return np.asarray(jax.jit(read)(leaves), np.float32)

    @property
    def folds_exactly(self) -> bool:
        """Whether folding loses nothing: no constant is read by a convolution that pads with zeros."""
        return not any(
            self.graph.consumers[fold.consumer].padded for folds in self.decision.folds.values() for fold in folds
        )


def make_plan(graph: Graph, decision: planning.Decision) -> Plan:
    """Returns the plan that carries out a decision."""
    gone = decision.removed
    keep = tuple(
        tuple(
            None if axis is None or not per_unit(gone, axis).any() else np.flatnonzero(~per_unit(gone, axis))
            for axis in axes
        )
        for axes in graph.axes
    )
    return Plan(graph, decision, keep)


def slice_state(plan: Plan, state: Any, params: Any, tx: optax.GradientTransformation | None) -> tuple[Any, list[str]]:
    """Returns the state of an optimizer for the smaller parameters.

    Args:
      plan: the cut.
      state: the state for the parameters before the cut, of any optax chain.
      params: the parameters after the cut.
      tx: the optimizer. With it the result is held against `tx.init(params)`: where the state of a transformation
        holds something for a parameter that was cut and does not mirror it (such as the factored moments of
        Adafactor), all of that transformation's state is initialised anew, its counters included.

    Returns:
      The smaller state, and the paths of the leaves that were initialised anew.

    Raises:
      ValueError: when the state's structure is not that of `tx.init(params)`.
    """
    sliced = plan.slice(state)
    if tx is None:
        return sliced, []
    wanted = jax.eval_shape(tx.init, params)
    structures: list[Any] = [jax.tree.structure(wanted), jax.tree.structure(sliced)]
    if structures[0] != structures[1]:
        raise ValueError("opt_state: its structure is not that of tx.init(params). Give the `tx` that made the state.")
    leaves = jax.tree.leaves(sliced)
    paths = leaf_paths(sliced)
    before = jax.tree.leaves(state)
    stale = {
        i
        for i, (leaf, want) in enumerate(zip(leaves, jax.tree.leaves(wanted), strict=True))
        if is_array(leaf) and (np.shape(leaf) != want.shape or plan.shadows(paths[i], np.shape(before[i])))
    }
    if not stale:
        return sliced, []
    fresh = jax.tree.leaves(tx.init(params))
    numbered = jax.tree.unflatten(jax.tree.structure(sliced), range(len(leaves)))
    renewed = sorted({i for group in _states(numbered) if stale & set(group) for i in group})
    for i in renewed:
        leaves[i] = fresh[i]
    return jax.tree.unflatten(jax.tree.structure(sliced), leaves), [paths[i] for i in renewed]


def _states(tree: Any) -> list[list[int]]:
    """Returns the leaves of a tree of numbers by innermost named tuple: the state of one transformation."""
    groups: list[list[int]] = []

    def walk(node: Any, own: list[int]) -> None:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            own = []
            groups.append(own)
        if isinstance(node, int):
            own.append(node)
            return
        children = jax.tree_util.default_registry.flatten_one_level(node)
        for child in children[0] if children is not None else ():
            walk(child, own)

    loose: list[int] = []
    groups.append(loose)
    walk(tree, loose)
    return groups


def is_array(leaf: Any) -> bool:
    """Returns whether a leaf is an array of numbers, not a random key or a Python object."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended)


def put_like(array: np.ndarray, leaf: Any) -> Any:
    """Returns `array` where `leaf` lives: on its devices with its sharding, or on the host.

    An array that was free to move stays so: a step compiled for free arrays would be compiled again for bound ones.
    """
    if not isinstance(leaf, jax.Array):
        return array
    return jax.device_put(array, _fitting(leaf.sharding, array.shape)) if leaf.committed else jnp.asarray(array)


def _fitting(sharding: Any, shape: Sequence[int]) -> Any:
    """Returns a sharding without the mesh axes that do not divide a shape any more."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return sharding
    kept = []
    for size, names in zip(shape, (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec))), strict=True):
        axes = () if names is None else (names,) if isinstance(names, str) else tuple(names)
        parts = int(np.prod([sharding.mesh.shape[axis] for axis in axes], dtype=np.int64))
        kept.append(names if size % parts == 0 else None)
    spec = jax.sharding.PartitionSpec(*kept)
    return jax.sharding.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
