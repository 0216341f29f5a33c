# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Labels: which positions of which axes can only be removed together.

Every position of every axis of every variable has a label. Labels are propagated through the operations of a program.
Operations unite labels that can only be removed together: elementwise operations unite their operands position by
position, a contraction unites the contracted axes, a convolution unites its input features with the input axis of the
kernel. Positions that cannot be removed are frozen, with the reason and the line of the user's code. `rules.py` has the
rule of each operation. At the end, the connected components of united labels can only be removed as a whole
(`components`), and a component with a frozen label cannot be removed.

Example: in `relu(x @ w) @ v` with `w` of shape `[3, 4]` and `v` of shape `[4, 2]`, the axes of `w` have the labels 0-2
and 3-6, and those of `v` 7-10 and 11-12. The first product sums over the labels 0-2 and the input, and freezes
them. Its result has the labels 3-6, which pass through the ReLU. The second product unites 3-6 with 7-10, position by
position. The labels 11-12 are those of an output and are frozen. Four components remain: {3, 7}, {4, 8}, {5, 9} and
{6, 10}, each a column of `w` and a row of `v`.

An axis of an intermediate value is one of

* `None`: the same value at every position (a broadcast), so that it can have any size;
* `Fixed`: positions that cannot be removed, such as examples, space, or the input of the network;
* an integer array: a label per position, where an entry `-1 - k` is fixed for `reasons[k]`. Weights of layers that a
  `scan` runs have a label per layer and position, `[layers, positions]`.

Dimension names: positions, labels and components as in `types`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy import sparse

from demp_jax._src.tracing.program import Constant, Op, Operand, Program
from demp_jax._src.types import AxisLabels, ComponentReasons, LabelComponents, SomeLabels

SELECT = "demp_jax.select"

BATCH, DATA, MEMBER = "batch", "data", "member"


class Fixed(NamedTuple):
    """An axis whose positions cannot be removed.

    Attributes:
      kind: `BATCH` (examples), `DATA` (space, time, anything else) or `MEMBER` (the units of one group, which a
        reshape set apart from the group's own axis).
      reason: why, for the report.
    """

    kind: str
    reason: str


Axis = Fixed | SomeLabels | None
Axes = tuple[Axis, ...]


class Reason(NamedTuple):
    """The reason why positions are frozen: `text`, and `source`, the line of user code or `""`."""

    text: str
    source: str


@dataclasses.dataclass(frozen=True)
class Contraction:
    """A sum over the axis `axis` of `value`, in the product or convolution `op`, whose operand `operand` is `value`.

    The axis `other` of the other operand, usually weights, is summed over together with it. If both operands depend on
    data, such as queries and keys, there are two contractions, one for each operand.
    """

    op: Op
    operand: int
    value: int
    axis: int
    other: int


@dataclasses.dataclass(frozen=True)
class Route:
    """A selection of channels, `demp_jax.select(x, index, fill)`. The result has the labels of `index`, not of `x`."""

    op: Op
    value: int
    index: int
    fill: int


@dataclasses.dataclass(frozen=True)
class Read:
    """A sum over the axis `axis` of `value`, inside the loop or branch `op`, to which `value` is passed unchanged."""

    op: Op
    value: int
    axis: int


Sink = Contraction | Route | Read


class Labels:
    """The labeled axes of a program.

    Attributes:
      stacked: positions of the variables that hold the weights of layers, stacked along their first axis.
      axes: the axes of every value, by its number.
      size: the number of labels.
      edges: pairs of label arrays that are united position by position.
      frozen: pairs of a label array and the index of the reason why it is frozen.
      reasons: the reasons.
      unfollowed: names of operations without a rule, each with the index of the reason.
      contractions, routes, reads: where labeled axes of data end.
      consumers: by the number of a value, the operations that read it.
      bodies: by the identity of a loop or `cond`, the labels inside its bodies.
      data: numbers of the values that depend on the inputs, and not only on variables.
      looked_up: numbers of the values that are rows of variables at indices that depend on the inputs, such as `w[i]`.
      statistics: numbers of the values that are sums over units or over all positions, such as the mean of a norm.
    """

    def __init__(
        self, program: Program, variables: int, inputs: int, batch_axis: int | None, stacked: Collection[int] = ()
    ):
        """Labels the inputs of a program.

        Args:
          program: a traced function.
          variables: the number of its first inputs that are variables. Each position of their axes gets a label.
          inputs: the number of the following inputs that are arrays of a batch.
          batch_axis: the axis of these arrays along which examples lie.
          stacked: positions of the variables that hold the weights of layers. They get a label per layer and position.
        """
        self.program = program
        self.stacked = frozenset(stacked)
        self.axes: dict[int, Axes] = {}
        self.size = 0
        self.edges: list[tuple[SomeLabels, SomeLabels]] = []
        self.frozen: list[tuple[SomeLabels, int]] = []
        self.reasons: list[Reason] = []
        self._reason_index: dict[Reason, int] = {}
        self.unfollowed: list[tuple[str, int]] = []
        self.contractions: list[Contraction] = []
        self.routes: list[Route] = []
        self.reads: list[Read] = []
        self.consumers = _consumers(program)
        self.bodies: dict[int, list[Labels]] = {}
        self.data: set[int] = set()
        self.looked_up: set[int] = set()
        self.statistics: set[int] = set()
        self._label_inputs(variables, inputs, batch_axis, stacked)

    def _label_inputs(self, variables: int, inputs: int, batch_axis: int | None, stacked: Collection[int]) -> None:
        for position, number in enumerate(self.program.inputs[:variables]):
            shape = self.program.avals[number].shape
            axes: list[Axis] = []
            layers = shape[:1] if position in stacked else ()
            for size in shape[len(layers) :]:
                sizes = (*layers, size)
                axes.append(self.size + np.arange(math.prod(sizes)).reshape(sizes) if size > 1 else None)
                self.size += math.prod(sizes)
            self.axes[number] = (*[Fixed(DATA, "it meets the layers of a stack")] * len(layers), *axes)
        for position, number in enumerate(self.program.inputs[variables:]):
            shape = self.program.avals[number].shape
            axes = [Fixed(DATA, "it meets the network's input")] * len(shape)
            if position < inputs and batch_axis is not None and len(shape) > batch_axis:
                axes[batch_axis] = Fixed(BATCH, "it meets the examples of a batch")
            self.axes[number] = tuple(axes)
            self.data.add(number)
        for number in self.program.constants:
            self.axes[number] = self._captured(self.program, number)

    @staticmethod
    def _captured(program: Program, number: int) -> Axes:
        return (Fixed(DATA, "it meets a constant that the function captured"),) * len(program.avals[number].shape)

    def inside(self, program: Program, axes: Sequence[Axes], data: Collection[int]) -> Labels:
        """Returns the labels of the body of a loop or branch.

        The body has its own values. It shares the labels, and which of them are united and frozen, with `self`.

        Args:
          program: the body.
          axes: the axes of its inputs.
          data: positions of the inputs that depend on data.
        """
        labels = copy.copy(self)
        labels.program = program
        labels.consumers = _consumers(program)
        labels.axes = dict(zip(program.inputs, axes, strict=True))
        for number in program.constants:
            labels.axes[number] = self._captured(program, number)
        labels.contractions, labels.routes, labels.reads = [], [], []
        labels.data = {program.inputs[i] for i in data}
        labels.looked_up, labels.statistics = set(), set()
        return labels

    # Methods for rules.

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """Returns the shape of an operand."""
        if isinstance(operand, Constant):
            return np.shape(operand.value)
        # Random keys have a shape. A value without a shape counts as a scalar.
        return tuple(getattr(self.program.avals[operand], "shape", ()))

    def operand_axes(self, operand: Operand) -> Axes:
        """Returns the axes of an operand. A literal array is fixed."""
        if isinstance(operand, int):
            return self.axes[operand]
        return (Fixed(DATA, "it meets a constant array"),) * np.ndim(operand.value)

    def reason(self, text: str, op: Op | None = None) -> int:
        """Returns the index of a reason, which is added if it is new, with the operation and its line of user code."""
        if op is not None and f"`{op.name}`" not in text:
            text += f" (`{op.name}`)"
        reason = Reason(text, op.source if op is not None else "")
        if reason not in self._reason_index:
            self._reason_index[reason] = len(self.reasons)
            self.reasons.append(reason)
        return self._reason_index[reason]

    def freeze(self, axis: Axis, text: str, op: Op | None = None) -> None:
        """Freezes the labels of an axis."""
        if isinstance(axis, np.ndarray) and (axis >= 0).any():
            self.frozen.append((axis[axis >= 0], self.reason(text, op)))

    def unite(self, first: AxisLabels, second: AxisLabels) -> AxisLabels:
        """Unites two label arrays of one shape position by position. The result is fixed where either is fixed."""
        both = (first >= 0) & (second >= 0)
        if (first[both] != second[both]).any():
            self.edges.append((first[both], second[both]))
        for one, other in ((first, second), (second, first)):
            held = (one >= 0) & (other < 0)
            for mark in np.unique(other[held]):
                self.frozen.append((one[held & (other == mark)], -1 - int(mark)))
        return np.where(first < 0, first, np.where(second < 0, second, first))

    def join(self, first: Axis, second: Axis, op: Op) -> Axis:
        """Returns the axis of the result of an elementwise operation on two axes of equal length.

        Two label arrays are united. If one axis is fixed, the labels of the other are frozen.
        """
        if first is None:
            return second
        if second is None:
            return first
        if isinstance(first, Fixed) and isinstance(second, Fixed):
            return second if second.kind == BATCH else first
        if isinstance(first, Fixed):
            first, second = second, first
        assert isinstance(first, np.ndarray)
        if isinstance(second, Fixed):
            self.freeze(first, second.reason, op)
            return second
        return self.unite(first, second)

    def of_one_width(self, axis: AxisLabels) -> Int[np.ndarray, " positions"]:
        """Returns an axis of stacked layers with equal labels for all layers, which can only be removed together."""
        if axis.ndim == 1:
            return axis
        for layer in axis[1:]:
            self.unite(axis[0], layer)
        return axis[0]

    def components(self) -> tuple[LabelComponents, ComponentReasons]:
        """Returns the components of this program; see `components`."""
        return components([self])

    def marked(self, axis: Axis, size: int, op: Op) -> Int[np.ndarray, " {size}"]:
        """Returns an axis as an array of labels, with `-1 - k` at fixed positions and broadcasts, for a reason k."""
        if isinstance(axis, np.ndarray):
            return axis
        text = axis.reason if axis is not None else "it meets positions filled with a constant"
        return np.full(size, -1 - self.reason(text, op))


def _consumers(program: Program) -> dict[Operand, list[Op]]:
    consumers: dict[Operand, list[Op]] = {}
    for op in program.leaves:
        for operand in op.inputs:
            if isinstance(operand, int):
                consumers.setdefault(operand, []).append(op)
    return consumers


def has_labels(axis: Axis) -> bool:
    """Returns whether an axis holds labels."""
    return isinstance(axis, np.ndarray) and bool((axis >= 0).any())


def components(traced: Sequence[Labels]) -> tuple[LabelComponents, ComponentReasons]:
    """Returns the components of labels that can only be removed together, over several programs of the same variables.

    Only positions of variables have labels, in order, so that a label is the same position in every program. Labels are
    united if any program unites them, and frozen if any program freezes them. Example: training mode unites a unit with
    the weights of an auxiliary head. These are then in the group of the unit, although evaluation mode never reads
    them.

    Returns:
      For each label, the number of its component. For each component, the index of the first reason why it is frozen,
      or -1, into the reasons of all programs in order.
    """
    empty = np.empty(0, np.int64)
    edges = [edge for labels in traced for edge in labels.edges]
    rows = np.concatenate([empty, *(a for a, _ in edges)])
    cols = np.concatenate([empty, *(b for _, b in edges)])
    size = traced[0].size
    matrix = sparse.coo_matrix((np.ones(len(rows), np.int8), (rows, cols)), shape=(size, size))
    component = sparse.csgraph.connected_components(matrix, directed=False)[1].astype(np.int64)
    frozen = np.full(component.max(initial=-1) + 1, -1)
    first = sum(len(labels.reasons) for labels in traced)
    for labels in reversed(traced):
        first -= len(labels.reasons)
        for positions, reason in reversed(labels.frozen):
            frozen[component[positions]] = first + reason
    return component, frozen
