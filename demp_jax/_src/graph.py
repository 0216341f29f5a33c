# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The neurons of a network: what has to leave together.

A class is a set of positions of variables that can only leave together. It is removable when nothing in it is frozen
and it holds a unit of an activation, or a channel of a branch that `select` routes. Removing a class is exact when
every place that still reads it reads zero; `Use` says where those places are. `tracing.py` finds all this.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from demp_jax._src import activations as activations_lib
from demp_jax._src import axes as axes_lib
from demp_jax._src import mirror
from demp_jax._src.program import Program


class Refusal(NamedTuple):
    """Something that cannot be pruned: `what`, `reason`, and `source`, the line of user code ("" when none)."""

    what: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}" + (f" at {self.source}" if self.source else "")


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in the network where units have values: an activation, or a branch on its way into a `select`.

    Attributes:
      name: the path of the module whose variables made it.
      kind: how it saturates, `"zero"`, `"soft"` or `"negative"`; `"branch"` for a branch.
      width: how many units it has.
      classes: `[width]`, the class each unit belongs to, or -1 for a unit that cannot be removed.
      value: the number of its value in the program.
      root: the number of the value that the activation is a function of.
      alone: whether nothing but the activation reads its root.
      axis: the axis of the units.
      source: the line of user code.
    """

    name: str
    kind: str
    width: int
    classes: np.ndarray
    value: int
    root: int
    alone: bool
    axis: int
    source: str


@dataclasses.dataclass(frozen=True)
class Use:
    """A place where values of removable classes are read for the last time.

    Attributes:
      value, axis: what is read, and the axis of the units.
      classes: `[size of the axis]`, the class of each position or -1.
      negligible: `[size of the axis]`, whether what is read there is zero whenever the unit's activations are zero.
      sink: the contraction or the route that reads it.
      absorber: the variable that can take up a constant contribution, if there is one.
      variable: the index of the variable that holds the weights of the contraction; `None` where there is none alone.
      weight_axis: the axis of that variable along which the units lie.
    """

    value: int
    axis: int
    classes: np.ndarray
    negligible: np.ndarray
    sink: axes_lib.Contraction | axes_lib.Route
    absorber: Absorber | None
    variable: int | None
    weight_axis: int

    @property
    def padded(self) -> bool:
        """Whether a convolution reads it with zeros around: a constant is then none at the border."""
        op = self.sink.op
        return op.name == "conv_general_dilated" and any(tuple(pair) != (0, 0) for pair in op.params["padding"])


class Absorber(NamedTuple):
    """A variable that is added to (`sign` +1) or subtracted from (-1) the result of a contraction."""

    variable: int
    sign: int


class Maker(NamedTuple):
    """A matrix product or convolution that computes units from others.

    Attributes:
      value: the number of its result, a bias included.
      axis: the axis of the units in it.
      classes: `[size]`, the class of each unit or -1.
      variable: the index of the variable that holds its weights; `None` where they are computed from several.
      weight_axis: the axis of that variable along which the units lie.
    """

    value: int
    axis: int
    classes: np.ndarray
    variable: int | None
    weight_axis: int


class Product(NamedTuple):
    """FLOPs of one operation: 2 times the product of `sizes`.

    Attributes:
      sizes: of the axes of the result and of those summed over.
      classes: beside each size the classes along that axis, to count what remains.
      variable: the index of the variable that holds its weights; `None` where there is none alone.
    """

    sizes: tuple[int, ...]
    classes: tuple[np.ndarray | None, ...]
    variable: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The removable units of a network at its present widths.

    Attributes:
      paths: the path of every variable, in the order of the flattened tree.
      keys: the same as key paths of JAX.
      shapes: their shapes.
      axes: per variable, per axis, the class of each position (-1: stays) or `None` where all stay.
      classes: how many removable classes there are.
      sites: the activations, in the order they are computed; their units are the network's neurons.
      branches: channels that only a `select` reads; they are removable, and not counted as neurons.
      uses: where the values of classes are read.
      makers: the products that compute them.
      routes: the selections of channels.
      indices: the present index of every route, by the index of its variable; empty for a trace of shapes alone.
      refusals: what cannot be pruned and why.
      examples: batch size of the trace.
      program: the traced forward pass.
    """

    paths: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[tuple[np.ndarray | None, ...], ...]
    classes: int
    sites: tuple[Site, ...]
    branches: tuple[Site, ...]
    uses: tuple[Use, ...]
    makers: tuple[Maker, ...]
    routes: tuple[axes_lib.Route, ...]
    indices: dict[int, np.ndarray]
    refusals: tuple[Refusal, ...]
    examples: int
    program: Program = dataclasses.field(repr=False)
    products: tuple[Product, ...] = dataclasses.field(repr=False)

    @property
    def neurons(self) -> int:
        """How many neurons the network has, the units of all its activations, as the paper counts."""
        return sum(site.width for site in self.sites)

    @property
    def widths(self) -> dict[str, int]:
        """The width of every activation, by name."""
        return {site.name: site.width for site in self.sites}

    @functools.cached_property
    def fed(self) -> np.ndarray:
        """`[classes]`, the class of activations that a class computes for, its own or that a branch is routed to.

        -1 for branches that nothing reads.

        Raises:
          ValueError: when the graph was traced from shapes alone and has residual sums, whose routing is then unknown.
        """
        held = np.zeros(self.classes, bool)
        for site in self.sites:
            held[site.classes[site.classes >= 0]] = True
        fed = np.where(held, np.arange(self.classes), -1)
        # The last first: what a branch feeds may be a branch itself.
        for use in reversed(self.uses):
            if not isinstance(use.sink, axes_lib.Route):
                continue
            variable = self.variable(use.sink.index)
            if variable not in self.indices:
                raise ValueError("the graph was traced from shapes; trace with arrays to know the routing.")
            readers, index = self.axes[variable][0], self.indices[variable]
            if readers is None:
                continue
            valid = (index >= 0) & (index < len(use.classes)) & (readers >= 0)
            read = np.where(valid, use.classes[np.where(valid, index, 0)], -1)
            ours = (read >= 0) & ~np.append(held, False)[read]
            fed[read[ours]] = fed[readers[ours]]
        return fed

    def variable(self, number: int) -> int:
        """Returns the index of a variable, given the number of its value in the program."""
        return self.program.inputs.index(number)

    def match(self, tree: Any, trained: Sequence[mirror.Leaf] | None = None) -> tuple[int | None, ...]:
        """Returns the index of the variable that each leaf of another tree mirrors, `None` where there is none.

        A leaf mirrors a variable if its key path ends with the variable's full path, from the root of the variables or
        of the trained tree, and their shapes are equal; the longest full path wins. A tree that is a part of the
        variables as a whole, such as `variables["params"]`, mirrors that part.

        Args:
          tree: the other tree.
          trained: the leaves of the trained tree, from `mirror.trained_leaves`.

        Raises:
          ValueError: when two variables with different classes match a leaf equally well.
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
                    f"the tree mirrors several parts of the variables equally well ({names}); name it as one."
                )
        for n, variable in zip(arrays, best[0][1], strict=True):
            found[n] = variable
        return tuple(found)

    @functools.cached_property
    def leaves(self) -> tuple[mirror.Leaf, ...]:
        """The variables with their key paths and shapes."""
        return tuple(mirror.Leaf(*leaf, i) for i, leaf in enumerate(zip(self.keys, self.shapes, strict=True)))

    def alike(self, one: int, other: int) -> bool:
        """Returns whether two variables have the same classes along every axis."""
        return one == other or _same_axes(self.axes[one], self.axes[other])

    def flops(self, removed: np.ndarray | None = None, densities: Mapping[str, float] | None = None) -> int:
        """Returns the FLOPs of a forward pass for one example.

        A multiplication with its addition counts as two, taps on zero padding are counted, and only convolutions
        and matrix products count: 8.2e9 for a ResNet-50 at 224 x 224, the paper's convention.

        Args:
          removed: `[classes]`, which classes to leave out; none by default.
          densities: by path of a variable, which part of its weights is not zero: multiplications by zero are then not
            counted, as if the hardware could leave them out.
        """
        total = 0
        for product in self.products:
            count = 2
            for size, classes in zip(product.sizes, product.classes, strict=True):
                gone = 0 if removed is None or classes is None else int(np.append(removed, False)[classes].sum())
                count *= size - gone
            if densities is not None and product.variable is not None:
                count = round(count * densities.get(self.paths[product.variable], 1.0))
            total += count
        return total // self.examples

    def parameters(self, select: Callable[[str], bool] = lambda path: True, removed: np.ndarray | None = None) -> int:
        """Returns how many entries the variables have whose path satisfies `select`, without the removed classes."""
        total = 0
        for path, shape, classes in zip(self.paths, self.shapes, self.axes, strict=True):
            if select(path):
                sizes = list(shape)
                for i, axis in enumerate(classes):
                    if removed is not None and axis is not None:
                        sizes[i] -= int(np.append(removed, False)[axis].sum())
                total += int(np.prod(sizes, dtype=np.int64))
        return total

    def floor(self, min_units: int = 1) -> np.ndarray:
        """Returns `[classes]`: which classes leave when every activation keeps just `min_units` of its units.

        What `parameters` and `flops` give for it is the least that cuts can leave.
        """
        removed = np.ones(self.classes, bool)
        for site in self.sites:
            fixed = int((site.classes < 0).sum())
            stay = site.classes[site.classes >= 0][: max(min_units - fixed, 0)]
            removed[stay] = False
        return removed

    def report(self) -> str:
        """Returns a table of the sites, what each is coupled with, and everything that was refused, with reasons."""
        lines = [f"{self.neurons} neurons in {len(self.sites)} activations, {self.classes} removable units"]
        for site in (*self.sites, *self.branches):
            removable = int((site.classes >= 0).sum())
            coupled = self._coupled_with(site)
            tail = f", together with {', '.join(coupled)}" if coupled else ""
            what = "branch" if site.kind == "branch" else activations_lib.describe(site.kind)
            lines.append(f"  {site.name}: {removable} of {site.width} removable ({what}){tail}  [{site.source}]")
        if self.refusals:
            lines.append("not prunable:")
            lines.extend(f"  {refusal}" for refusal in self.refusals)
        return "\n".join(lines)

    def _coupled_with(self, site: Site) -> list[str]:
        mine = site.classes[site.classes >= 0]
        return [s.name for s in (*self.sites, *self.branches) if s is not site and np.isin(mine, s.classes).any()]

    @property
    def prunable(self) -> bool:
        """Whether any unit can be removed, or a layer has been cut down to its last one."""
        return any((site.classes >= 0).any() or site.width == 1 for site in self.sites)

    def require_prunable(self) -> None:
        """Raises `ValueError` when no unit can be removed, with what to do."""
        if self.prunable:
            return
        why = "; ".join(map(str, self.refusals[:3])) or "no activation that saturates at zero was found"
        raise ValueError(
            f"no prunable neuron found: {why}. Use ReLU, Leaky ReLU, GELU or Swish between two layers with weights, "
            "or mark the units with `demp_jax.neurons(x, kind=...)`."
        )


def _same_axes(first: Sequence[np.ndarray | None], second: Sequence[np.ndarray | None]) -> bool:
    return all(
        np.array_equal(a, b) if a is not None and b is not None else a is b for a, b in zip(first, second, strict=True)
    )
