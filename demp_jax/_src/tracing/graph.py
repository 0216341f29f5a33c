# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The graph of removable units of a network.

A group is a set of positions of variables that can only be removed together. It is removable if none of its positions
is frozen and it holds a unit of an activation, or a channel of a branch, an array that only `select` reads. Removing a
group is exact if every consumer of its values reads zero. `trace.py` builds the graph.

Example: `relu(x @ w) @ v` with 4 hidden units has 4 groups, each of a column of `w` and a row of `v`. Their producer is
the first product, their consumer the second one.

Dimension names: groups and units as in `types`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, Integer, Shaped

from demp_jax._src.tracing import activations as activations_lib
from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing import mirror
from demp_jax._src.tracing.program import Program
from demp_jax._src.types import SomeGroups, SomeMask, UnitGroups, UnitMask


def per_unit(
    values: Shaped[np.ndarray, " groups"], groups: Int[np.ndarray, "*units"], default: Any = False
) -> Shaped[np.ndarray, "*units"]:
    """Returns the value of each unit's group, and `default` for units without a group.

    Example:
      >>> per_unit(np.array([True, False]), np.array([1, 0, -1, 0])).tolist()
      [False, True, False, True]

    Args:
      values: `[num_groups]`, a value per group.
      groups: `[...]`, the group of each unit or -1, such as `Site.groups` or an entry of `Graph.axes`.
      default: the value of units without a group.

    Returns:
      `[...]`, the values in the shape of `groups`.
    """
    return np.append(values, default)[groups]


class Refusal(NamedTuple):
    """Something that cannot be pruned: `what`, the `reason`, and `source`, the line of user code or `""`."""

    what: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}" + (f" at {self.source}" if self.source else "")


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in the network where units have values: an activation, or a branch, which only `select` reads.

    Attributes:
      name: the path of the module whose variables compute it.
      kind: how it saturates, `"zero"`, `"soft"` or `"negative"`; `"branch"` for a branch.
      width: the number of units.
      groups: `[width]`, the group of each unit, or -1 for a unit that cannot be removed.
      value: number of the value in the program.
      root: number of the value that the activation is a pointwise function of.
      alone: whether the activation is the only consumer of its root.
      axis: the axis of the units.
      source: the line of user code.
    """

    name: str
    kind: str
    width: int
    groups: Int[np.ndarray, " {width}"]
    value: int
    root: int
    alone: bool
    axis: int
    source: str


@dataclasses.dataclass(frozen=True)
class Consumer:
    """An operation that reads units: a product that sums over their axis, a loop with such a product, or a `select`.

    Attributes:
      value, axis: number of the value that is read, and its axis of units.
      groups: `[size of the axis]`, the group of each position or -1.
      negligible: `[size of the axis]`, whether the value is zero whenever the activations of the unit are zero.
      sink: the contraction, the loop or the route that reads the value.
      absorber: the variable that can absorb a constant contribution, or `None`.
      centered: whether the mean over the examples is subtracted from the result, so that a constant cancels.
      variable: index of the variable that holds the weights of the contraction, or `None` if it is not a single one.
      weight_axis: the axis of these weights along which the units lie.
      layer: the layer, if the variable stacks the weights of layers along its first axis; otherwise `None`.
    """

    value: int
    axis: int
    groups: UnitGroups
    negligible: UnitMask
    sink: axes_lib.Sink
    absorber: Absorber | None
    centered: bool
    variable: int | None
    weight_axis: int
    layer: int | None

    @property
    def place(self) -> str:
        """The operation and its line of user code."""
        op = self.sink.op
        return f"`{op.name}` reads them" + (f" at {op.source}" if op.source else "")

    @property
    def absorbs(self) -> bool:
        """Whether a constant can be folded into a variable."""
        return self.absorber is not None or isinstance(self.sink, axes_lib.Route)

    @property
    def padded(self) -> bool:
        """Whether a convolution pads the units with zeros, so that a constant differs at the border."""
        op = self.sink.op
        return op.name == "conv_general_dilated" and any(tuple(pair) != (0, 0) for pair in op.params["padding"])


class Absorber(NamedTuple):
    """A variable that is added to (`sign` +1) or subtracted from (-1) the result of a contraction."""

    variable: int
    sign: int


@dataclasses.dataclass(frozen=True)
class Producer:
    """A matrix product or convolution that computes units from others.

    Attributes:
      value: number of the result, with its bias.
      axis: the axis of the units in the result.
      groups: `[size]`, the group of each unit or -1.
      variable: index of the variable that holds the weights, or `None` if they are computed from several.
      weight_axis: the axis of these weights along which the units lie.
      layer: the layer, if the variable stacks the weights of layers along its first axis; otherwise `None`.
    """

    value: int
    axis: int
    groups: UnitGroups
    variable: int | None
    weight_axis: int
    layer: int | None


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product or convolution. Its FLOPs are 2 times the product of `sizes`.

    Attributes:
      sizes: sizes of the axes of the result and of the axes that are summed over.
      groups: for each axis, the group of each position, or `None`.
      variable: index of the variable that holds the weights, or `None` if it is not a single one.
    """

    sizes: tuple[int, ...]
    groups: tuple[SomeGroups | None, ...]
    variable: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The removable units of a network at its current widths.

    Attributes:
      paths: the path of every variable, in the order of the flattened tree.
      keys: the key path of JAX of every variable.
      shapes: the shape of every variable.
      axes: for each variable and axis, the group of each position (-1 for none), or `None` if no position has a group.
        The shape is `[size of the axis]`, or `[layers, size of the axis]` if the variable stacks the weights of layers
        along its first axis.
      num_groups: the number of removable groups.
      sites: the activations, in the order in which they are computed; their units are the network's neurons.
      branches: arrays that only a `select` reads; their channels are removable, and not counted as neurons.
      consumers: the operations that read values of groups.
      producers: the products that compute values of groups.
      routes: the selections of channels.
      indices: the current index array of every route, by the index of its variable; empty for a trace from shapes.
      refusals: what cannot be pruned, with reasons.
      unread: paths of the variables that no output of the traced function depends on, such as the state of dropout in
        evaluation mode, or a head that is only called in training.
      examples: batch size of the trace.
      batched: whether an output has an axis of examples.
      program: the traced forward pass.
      products: its matrix products and convolutions.
      emptied_by: by number of a value, the groups of each axis whose positions are all removable. If all of them are
        removed, the value is empty.
      sufficient: for each site, `[width]` bool, whether all consumers of a unit read zero if the unit is zero at this
        site. For example, if two activations are multiplied, each is sufficient. A group of several sites is dead if it
        is dead at all of them, or zero at one that is sufficient.
      linear: paths of the kernels whose features could be removed but have no activation that saturates at zero.
      training: the trace in training mode, with the same groups, or `None`.
      calls: the traces of further calls, with the same groups.
      extra_units: the extra units of the trace, of `"heads"` and `"features"`.
    """

    paths: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[tuple[SomeGroups | None, ...], ...]
    num_groups: int
    sites: tuple[Site, ...]
    branches: tuple[Site, ...]
    consumers: tuple[Consumer, ...]
    producers: tuple[Producer, ...]
    routes: tuple[axes_lib.Route, ...]
    indices: dict[int, Integer[np.ndarray, " _"]]
    refusals: tuple[Refusal, ...]
    unread: tuple[str, ...]
    examples: int
    batched: bool
    program: Program = dataclasses.field(repr=False)
    products: tuple[Product, ...] = dataclasses.field(repr=False)
    emptied_by: Mapping[int, tuple[SomeGroups, ...]] = dataclasses.field(repr=False)
    sufficient: tuple[SomeMask, ...] = dataclasses.field(repr=False)
    linear: tuple[str, ...] = ()
    training: Graph | None = dataclasses.field(default=None, repr=False)
    calls: tuple[Graph, ...] = dataclasses.field(default=(), repr=False)
    extra_units: tuple[str, ...] = ()

    @property
    def views(self) -> tuple[Graph, ...]:
        """The graph, and the graph of training mode if there is one."""
        return (self,) if self.training is None else (self, self.training)

    @property
    def neurons(self) -> int:
        """The number of neurons, the units of all activations, as the paper counts them."""
        return sum(site.width for site in self.sites)

    @property
    def widths(self) -> dict[str, int]:
        """The width of every activation, by name."""
        return {site.name: site.width for site in self.sites}

    @functools.cached_property
    def fed(self) -> Int[np.ndarray, " {self.num_groups}"]:
        """`[num_groups]`: for a group of a branch, the group of an activation that it is routed to; otherwise itself.

        It is -1 for groups of branches that are not routed to an activation.

        Raises:
          ValueError: if the graph was traced from shapes and has channels routed by `select`.
        """
        held = np.zeros(self.num_groups, bool)
        for site in self.sites:
            held[site.groups[site.groups >= 0]] = True
        fed = np.where(held, np.arange(self.num_groups), -1)
        # In reverse order, because a branch may be routed to another branch.
        for consumer in reversed(self.consumers):
            if not isinstance(consumer.sink, axes_lib.Route):
                continue
            variable = self.variable(consumer.sink.index)
            if variable not in self.indices:
                raise ValueError("the graph was traced from shapes; trace with arrays to know the routing.")
            results, index = self.axes[variable][0], self.indices[variable]
            if results is None:
                continue
            valid = (index >= 0) & (index < len(consumer.groups)) & (results >= 0)
            read = np.where(valid, consumer.groups[np.where(valid, index, 0)], -1)
            of_branch = (read >= 0) & ~per_unit(held, read)
            fed[read[of_branch]] = fed[results[of_branch]]
        return fed

    def variable(self, number: int) -> int:
        """Returns the index of a variable, given the number of its value in the program."""
        return self.program.inputs.index(number)

    def match(self, tree: Any, trained: Sequence[mirror.Leaf] | None = None) -> tuple[int | None, ...]:
        """Returns the index of the variable that each leaf of another tree mirrors, or `None`.

        A leaf mirrors a variable if its key path ends with the variable's full path, from the root of the variables or
        of the trained tree, and their shapes are equal; the longest full path wins. If the whole tree has the structure
        of a part of the variables, such as `variables["params"]`, it mirrors that part.

        Args:
          tree: the other tree.
          trained: the leaves of the trained tree, from `mirror.trained_leaves`.

        Raises:
          ValueError: if two variables with different groups match equally well.
        """
        leaves = [(path, np.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
        own = self.leaves
        found = mirror.match(leaves, [own] if trained is None else [own, trained], self.alike)
        unknown = [n for n, variable in enumerate(found) if variable is None and len(leaves[n][1]) > 0]
        if not unknown:
            return tuple(found)
        arrays = [n for n, (_, shape) in enumerate(leaves) if len(shape) > 0]
        places = mirror.subtree([leaves[n] for n in arrays], own)
        if not places:
            return tuple(found)
        best = [where for where in places if len(where[0]) == len(places[0][0])]
        for other in best[1:]:
            if not all(map(self.alike, best[0][1], other[1])):
                names = ", ".join("/".join(where) for where, _ in best)
                raise ValueError(
                    f"the tree mirrors several parts of the variables equally well ({names}); nest it under one of "
                    "these paths, as in {'params': tree}."
                )
        for n, variable in zip(arrays, best[0][1], strict=True):
            found[n] = variable
        return tuple(found)

    @functools.cached_property
    def leaves(self) -> tuple[mirror.Leaf, ...]:
        """The variables with their key paths and shapes."""
        return tuple(mirror.Leaf(*leaf, i) for i, leaf in enumerate(zip(self.keys, self.shapes, strict=True)))

    def alike(self, one: int, other: int) -> bool:
        """Returns whether two variables have the same groups along every axis."""
        return one == other or _same_axes(self.axes[one], self.axes[other])

    def flops(
        self,
        removed: Bool[np.ndarray, " {self.num_groups}"] | None = None,
        densities: Mapping[str, float] | None = None,
    ) -> int:
        """Returns the FLOPs of a forward pass for one example.

        Only convolutions and matrix products count. A multiplication with its addition counts as two, and products with
        zero padding count. This is the convention of the paper: 8.2e9 for a ResNet-50 at 224 x 224.

        Args:
          removed: `[num_groups]` bool, groups that do not count; none by default.
          densities: by path of a variable, the fraction of nonzero weights, in [0, 1]. Multiplications by zero weights
            do not count.
        """
        total = 0
        for product in self.products:
            count = 2
            for size, groups in zip(product.sizes, product.groups, strict=True):
                without = 0 if removed is None or groups is None else int(per_unit(removed, groups).sum())
                count *= size - without
            if densities is not None and product.variable is not None:
                count = round(count * densities.get(self.paths[product.variable], 1.0))
            total += count
        return total // self.examples

    def parameters(
        self,
        select: Callable[[str], bool] = lambda path: True,
        removed: Bool[np.ndarray, " {self.num_groups}"] | None = None,
    ) -> int:
        """Returns the number of entries of the variables.

        Args:
          select: a predicate of the path of a variable; by default all variables count.
          removed: `[num_groups]` bool, groups that do not count; none by default.
        """
        total = 0
        for path, shape, groups in zip(self.paths, self.shapes, self.axes, strict=True):
            if select(path):
                sizes = list(shape)
                for i, axis in enumerate(groups):
                    if removed is not None and axis is not None:
                        # All layers of a stack have the width of the widest.
                        sizes[i] -= int(per_unit(removed, axis).sum(-1).min(initial=sizes[i]))
                total += int(np.prod(sizes, dtype=np.int64))
        return total

    def connected(self, removed: Bool[np.ndarray, " {self.num_groups}"]) -> bool:
        """Returns whether every output that depends on the batch still does if groups are removed.

        Example: in `y = x + relu(x @ w) @ v` all hidden units can be removed, because `y` still depends on `x`. In
        `y = relu(x @ w) @ v`, one hidden unit has to be kept.

        Args:
          removed: `[num_groups]` bool.
        """
        return self._fed_outputs(removed) == self._fed_outputs(np.zeros_like(removed))

    def _fed_outputs(self, removed: Bool[np.ndarray, " {self.num_groups}"]) -> set[int]:
        """Returns the positions of the outputs that depend on the batch through values that are not empty."""
        empty = {v for v, axes in self.emptied_by.items() if any(removed[groups].all() for groups in axes)}
        fed = set(self.program.inputs[len(self.paths) :])
        for op in self.program.leaves:
            if not fed.isdisjoint(operand for operand in op.inputs if isinstance(operand, int)):
                fed.update(out for out in op.outputs if isinstance(out, int) and out not in empty)
        return {i for i, out in enumerate(self.program.outputs) if out in fed}

    def floor(self, min_units: int = 1) -> Bool[np.ndarray, " {self.num_groups}"]:
        """Returns `[num_groups]` bool: the removed groups if every activation keeps only `min_units` of its units.

        With it, `parameters` and `flops` return lower bounds of what pruning can reach.
        """
        removed = np.ones(self.num_groups, bool)
        for site in self.sites:
            fixed = int((site.groups < 0).sum())
            stay = site.groups[site.groups >= 0][: max(min_units - fixed, 0)]
            removed[stay] = False
        return removed

    def report(self) -> str:
        """Returns a table of the sites and of the sites that they are coupled with, and why others cannot be pruned.

        A unit counts as removable if each consumer reads zero once the unit is dead, or can absorb a constant in a
        variable. Units that are only removable for some data are listed below their site, with the condition.
        """
        zero, constant = self._conditions
        removable = int((zero < 0).sum())
        lines = [f"{self.neurons} neurons in {len(self.sites)} activations, {removable} removable units"]
        for site, *same in self._uses():
            groups = site.groups[site.groups >= 0]
            coupled = self._coupled_with(site, *same)
            tail = f", together with {', '.join(coupled)}" if coupled else ""
            name = f"{site.name} to {same[-1].name} ({len(same) + 1} uses of the same units)" if same else site.name
            what = "branch" if site.kind == "branch" else activations_lib.describe(site.kind)
            count = int((zero[groups] < 0).sum())
            lines.append(f"  {name}: {count} of {site.width} removable ({what}){tail}  [{site.source}]")
            folded = np.where(zero[groups] < 0, constant[groups], -1)
            for consumer, units in zip(*np.unique(folded[folded >= 0], return_counts=True), strict=True):
                place, into = self.consumers[consumer].place, self._into(int(consumer))
                lines.append(f"    {units} of them only while constant where {place}: {into}")
            held = zero[groups]
            for consumer, units in zip(*np.unique(held[held >= 0], return_counts=True), strict=True):
                lines.append(f"    {units} more only while zero where {self.consumers[consumer].place}")
        if self.refusals:
            lines.append("not prunable:")
            lines.extend(f"  {refusal}" for refusal in self.refusals)
        if self.linear:
            more = f" and {len(self.linear) - 6} more" if len(self.linear) > 6 else ""
            lines.append(
                f"no units, as no activation that saturates at zero follows: {', '.join(self.linear[:6])}{more}; "
                'extra_units="features" or demp_jax.mark_units makes them units'
            )
        if self.unread:
            lines.append(f"read by no output: {', '.join(self.unread)}")
        return "\n".join(lines)

    @functools.cached_property
    def _conditions(self) -> tuple[Int[np.ndarray, " groups"], Int[np.ndarray, " groups"]]:
        """Two arrays `[num_groups]`, -1 for none.

        The first has a consumer of each group that has to read zero, and the second one that has to read a constant.
        """
        zero, constant = np.full(self.num_groups, -1), np.full(self.num_groups, -1)
        for i, consumer in reversed(list(enumerate(self.consumers))):
            (constant if consumer.absorbs else zero)[consumer.groups[(consumer.groups >= 0) & ~consumer.negligible]] = i
        return zero, constant

    def _into(self, consumer: int) -> str:
        """Returns the text that names the variable into which a constant is folded."""
        sink, absorber = self.consumers[consumer].sink, self.consumers[consumer].absorber
        variable = self.variable(sink.fill) if isinstance(sink, axes_lib.Route) else absorber and absorber.variable
        assert variable is not None
        return f"it is folded into {self.paths[variable]}"

    def _uses(self) -> list[list[Site]]:
        """Returns the sites; those in a list are one line of code with the same units, such as a step of a loop."""
        uses: dict[tuple[Any, ...], list[Site]] = {}
        for i, site in enumerate((*self.sites, *self.branches)):
            key = (site.kind, site.source, *site.groups.tolist()) if (site.groups >= 0).any() else (i,)
            uses.setdefault(key, []).append(site)
        return list(uses.values())

    def _coupled_with(self, *sites: Site) -> list[str]:
        mine = sites[0].groups[sites[0].groups >= 0]
        others = [s for s in (*self.sites, *self.branches) if all(s is not site for site in sites)]
        return [s.name for s in others if np.isin(mine, s.groups).any()]

    @property
    def prunable(self) -> bool:
        """Whether any unit can be removed, or a site has been pruned to its last unit or emptied."""
        return any((site.groups >= 0).any() or site.width <= 1 for site in self.sites)

    def require_prunable(self) -> None:
        """Raises `ValueError`, with the reason and a remedy, if no unit can be removed."""
        if self.prunable:
            return
        why = "; ".join(map(str, self.refusals[:3])) or "no activation that saturates at zero was found"
        if not self.sites and not self.batched:
            shapes = [self.program.avals[number].shape for number in self.program.inputs[len(self.paths) :]]
            raise ValueError(
                f"no prunable unit found: the outputs have no axis of examples. The batch has the shape "
                f"{', '.join(map(str, shapes))}, of which one axis was taken for {self.examples} examples. Give "
                "batches of examples, `[examples, ...]`, or name their batch_axis."
            )
        raise ValueError(
            f"no prunable unit found: {why}. Use ReLU, Leaky ReLU, GELU or Swish between two layers with weights, "
            "or mark the units with `demp_jax.mark_units(x, kind=...)`."
        )


def _same_axes(first: Sequence[SomeGroups | None], second: Sequence[SomeGroups | None]) -> bool:
    return all(
        np.array_equal(a, b) if a is not None and b is not None else a is b for a, b in zip(first, second, strict=True)
    )
