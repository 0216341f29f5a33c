# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Finds where values are zero whenever a unit is zero. A unit that is zero at all its consumers can be removed exactly.

Example: if unit 2 of `h = relu(x @ w)` is dead, `h * 3` is zero at position 2, but `h + 1` is not.

For each axis of each value, the analysis stores the positions at which the value is zero whenever the activation of the
unit there is zero. It begins with all units of the given sites and applies one rule per operation: a pointwise function
f keeps zeros if f(0) = 0, a sum is zero if all terms are, and a product if one factor is. A reshape or a reduction
moves positions to other axes, where the labels identify the units. After operations without a rule, nothing is known.

Dimension names: positions and labels as in `types`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing import rules
from demp_jax._src.tracing.program import Constant, Op, Operand, Program
from demp_jax._src.types import AxisMask, LabelComponents, SomeMask

# For each axis of a value, the positions at which it is zero whenever the activations of the unit there are zero.
Zero = tuple[SomeMask | None, ...]

# Operations whose result is zero where their first operand is zero, position by position.
_KEEP = set(
    """abs asin asinh atan atanh bessel_i1e bitcast_convert_type cbrt ceil conj convert_element_type copy copy_p div erf
    erf_inv expm1 floor imag integer_pow layout_constraint log1p name neg real reduce_precision rem reshard round sign
    sin sinh sqrt square stop_gradient tan tanh sharding_constraint optimization_barrier shift_left
    shift_right_arithmetic shift_right_logical with_memory_space_constraint""".split()
)
# The same, but positions move to other axes.
_MOVE = set(
    """broadcast_in_dim cumprod cummax cummin cumsum dynamic_slice fft reduce_max reduce_min reduce_or reduce_prod
    reduce_sum reduce_window_max reduce_window_min reduce_window_sum reshape rev slice split squeeze tile
    transpose unstack""".split()
)
# Operations whose result is zero where all of their operands are zero.
_ALL = {"add", "add_any", "complex", "or", "sub", "xor"}
_ANY = {"and", "mul"}
_SCATTERS = {"scatter", "scatter-add", "scatter-sub", "scatter-min", "scatter-max"}
# Operations that are evaluated, with zero for every operand that is not a known number.
_VALUE: dict[str, Callable[..., float]] = {
    "clamp": lambda low, x, high: min(max(x, low), high),
    "eq": operator.eq,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "max": max,
    "min": min,
    "ne": operator.ne,
}
# Operations whose result is filled with the same number as their operand.
_COPIES = set(
    "broadcast_in_dim convert_element_type copy reshape rev slice squeeze stop_gradient tile transpose".split()
)


def zeros(
    program: Program, labels: axes_lib.Labels, component: LabelComponents, sites: Mapping[int, int]
) -> dict[int, Zero]:
    """Returns, by number of a value, where it is zero if all units of `sites` are zero.

    Args:
      program: the traced network.
      labels: its labeled axes.
      component: the component of each label.
      sites: the unit axis of each activation, by the number of its value.
    """
    return _Walk(program, labels, component).run(sites)


class _Walk:
    def __init__(self, program: Program, labels: axes_lib.Labels, component: LabelComponents):
        self._program = program
        self._labels = labels
        self._component = component
        self._zero: dict[int, Zero] = {}
        self._number: dict[int, float] = {}

    def run(self, sites: Mapping[int, int]) -> dict[int, Zero]:
        for op in self._program.leaves:
            self._note_number(op)
            for out, zero in zip(op.outputs, self._results(op), strict=True):
                if isinstance(out, int):
                    if out in sites:
                        units = self._components(out, sites[out]) >= 0
                        zero = tuple(units if i == sites[out] else z for i, z in enumerate(zero))
                    if any(z is not None and z.any() for z in zero):
                        self._zero[out] = zero
        return self._zero

    def _components(self, operand: Operand, axis: int) -> Int[np.ndarray, " positions"]:
        """Returns the component of each position of an axis, -1 for none."""
        found = self._labels.operand_axes(operand)[axis]
        if not isinstance(found, np.ndarray) or found.ndim > 1:  # Stacked weights are not known to be zero.
            return np.full(self._labels.shape(operand)[axis], -1)
        return np.where(found >= 0, self._component[np.maximum(found, 0)], -1)

    def _note_number(self, op: Op) -> None:
        """Stores the number that the result of an operation is filled with, if it is known."""
        number = self._known(op.inputs[0]) if op.name in _COPIES else None
        if number is not None and isinstance(op.outputs[0], int):
            self._number[op.outputs[0]] = number

    def _known(self, operand: Operand) -> float | None:
        """Returns the number that an operand is filled with; `None` if it is not known to be one number."""
        if not isinstance(operand, Constant):
            return self._number.get(operand)
        value = np.asarray(operand.value)
        plain = value.ndim == 0 and (value.dtype == bool or np.issubdtype(value.dtype, np.number))
        return value.item() if plain and not np.iscomplexobj(value) else None

    def _of(self, operand: Operand) -> Zero:
        """Returns the zeros of an operand."""
        shape = self._labels.shape(operand)
        if self._known(operand) == 0:
            return tuple(np.ones(size, bool) for size in shape)
        return (None,) * len(shape) if isinstance(operand, Constant) else self._zero.get(operand, (None,) * len(shape))

    def _nothing(self, op: Op) -> list[Zero]:
        return [(None,) * len(self._labels.shape(out)) for out in op.outputs]

    def _results(self, op: Op) -> list[Zero]:
        name = op.name
        if name in _KEEP:
            if (name == "integer_pow" and op.params["y"] <= 0) or len(op.outputs) > len(op.inputs):
                return self._nothing(op)
            return [
                self._pointwise(out, [operand], np.logical_and)
                for out, operand in zip(op.outputs, op.inputs, strict=False)
            ]
        if name in _VALUE:
            numbers = [self._known(operand) for operand in op.inputs]
            if _VALUE[name](*(number or 0 for number in numbers)) == 0:
                unknown = [operand for operand, number in zip(op.inputs, numbers, strict=True) if number is None]
                return [self._pointwise(op.outputs[0], unknown, np.logical_and)]
            return self._nothing(op)
        if name in _ALL:
            return [self._all_zero(op.outputs[0], op.inputs)]
        if name == "select_n":
            # All cases are zero, or the condition is false and the first one is: `where(isnan(x), nan, x)`.
            found = [self._all_zero(op.outputs[0], terms) for terms in (op.inputs[1:], op.inputs[:2])]
            return [tuple(_either(*pair) for pair in zip(*found, strict=True))]
        if name in _ANY:
            return [self._pointwise(op.outputs[0], op.inputs, np.logical_or)]
        if name in _MOVE:
            return self._moved(op)
        if name in ("concatenate", "stack"):
            return [self._side_by_side(op)]
        if name == "pad":
            return [self._padded(op)]
        if name == "gather":
            return [self._gathered(op)]
        if name == "dynamic_update_slice":
            return [self._written(op, op.inputs[:2], {i: i for i in range(len(self._labels.shape(op.inputs[0])))})]
        if name in _SCATTERS:
            return [self._written(op, (op.inputs[0], op.inputs[2]), rules.written_axes(op))]
        if name in ("sort", "scatter-mul", "select_and_scatter_add", "top_k"):
            # Products with zero are zero, and sorted zeros are zero. The indices that `top_k` returns are not.
            zeros = [self._along(out, operand) for out, operand in zip(op.outputs, op.inputs, strict=False)]
            return zeros + self._nothing(op)[len(zeros) :]
        if name == "conv_general_dilated" and op.params["feature_group_count"] > 1:
            # The outputs of a group belong to the units of its inputs. Without groups, the outputs are new units.
            return self._moved(op)
        if name == "dot_general":
            return [self._product(op)]
        return self._nothing(op)

    def _all_zero(self, out: Operand, terms: Sequence[Operand]) -> Zero:
        """Returns the zeros of an operation whose result is zero where all of its operands are."""
        return self._pointwise(out, [term for term in terms if self._known(term) != 0], np.logical_and)

    def _pointwise(self, out: Operand, operands: Sequence[Operand], join: Callable[..., np.ndarray]) -> Zero:
        """Returns the zeros of an elementwise operation, from those of its operands by logical `join`."""
        shape = self._labels.shape(out)
        found: list[np.ndarray | None] = []
        for axis, size in enumerate(shape):
            parts = []
            for operand in operands:
                zero, sizes = self._of(operand), self._labels.shape(operand)
                held = zero[axis] if len(sizes) == len(shape) and sizes[axis] == size else None
                parts.append(np.zeros(size, bool) if held is None else held)
            found.append(join.reduce(parts) if parts else None)  # type: ignore[attr-defined]
        return tuple(found)

    def _moved(self, op: Op) -> list[Zero]:
        """Returns the zeros of an operation that moves positions to other axes.

        A unit is zero in the results if it is zero at all of its positions in the first operand.
        """
        vanish: set[int] = set()
        stay: set[int] = set()
        operand = op.inputs[0]
        for axis, zero in enumerate(self._of(operand)):
            units = self._components(operand, axis)
            gone = np.zeros(len(units), bool) if zero is None else zero
            vanish.update(units[gone].tolist())
            stay.update(units[~gone].tolist())
        good = np.array(sorted(vanish - stay - {-1}), np.int64)
        results: list[Zero] = []
        for out in op.outputs:
            axes = range(len(self._labels.shape(out)))
            results.append(tuple(np.isin(self._components(out, axis), good) for axis in axes))
        return results

    def _along(self, out: Operand, operand: Operand) -> Zero:
        """Returns the zeros of an operand along the axes that have labels in both the operand and the result."""
        pairs = zip(self._labels.operand_axes(out), self._labels.operand_axes(operand), self._of(operand), strict=True)
        return tuple(zero if axes_lib.has_labels(a) and axes_lib.has_labels(b) else None for a, b, zero in pairs)

    def _side_by_side(self, op: Op) -> Zero:
        """Returns the zeros of concatenated or stacked arrays."""
        dim = op.params["dimension" if op.name == "concatenate" else "axis"]
        parts = [list(self._of(operand)) for operand in op.inputs]
        found: list[np.ndarray | None] = []
        if op.name == "stack":
            for part in parts:
                part.insert(dim, None)
        for axis in range(len(parts[0])):
            if axis == dim and op.name == "concatenate":
                sizes = [self._labels.shape(operand)[axis] for operand in op.inputs]
                found.append(np.concatenate([_bits(part[axis], n) for part, n in zip(parts, sizes, strict=True)]))
            else:
                held = [part[axis] for part in parts]
                found.append(functools.reduce(_both, held))
        return tuple(found)

    def _padded(self, op: Op) -> Zero:
        """Returns the zeros of a padded array. Other axes have to be padded with zeros."""
        found: list[np.ndarray | None] = []
        padding = op.params["padding_config"]
        blank = self._known(op.inputs[1]) == 0
        for axis, (zero, (low, high, interior)) in enumerate(zip(self._of(op.inputs[0]), padding, strict=True)):
            elsewhere = any(any(pair) for i, pair in enumerate(padding) if i != axis)
            if zero is None or interior or min(low, high) < 0 or (elsewhere and not blank):
                found.append(None)
            else:
                found.append(np.concatenate([np.full(low, blank), zero, np.full(high, blank)]))
        return tuple(found)

    def _gathered(self, op: Op) -> Zero:
        """Returns the zeros of a gather, along the axes that its slices contain completely."""
        found: list[np.ndarray | None] = [None] * len(self._labels.shape(op.outputs[0]))
        if op.params["fill_value"] in (None, 0) or np.isnan(op.params["fill_value"]):
            zero = self._of(op.inputs[0])
            for axis, place in rules.looked_up_axes(op).items():
                found[place] = zero[axis]
        return tuple(found)

    def _written(self, op: Op, operands: Sequence[Operand], places: Mapping[int, int]) -> Zero:
        """Returns the zeros of an array that slices are written into: positions where array and slices are zero."""
        old, new = (self._of(operand) for operand in operands)
        sizes, written = (self._labels.shape(operand) for operand in operands)
        return tuple(
            _both(zero, new[places[i]]) if i in places and written[places[i]] == sizes[i] else None
            for i, zero in enumerate(old)
        )

    def _product(self, op: Op) -> Zero:
        """Returns the zeros of a matrix product, along its batch axes and the axes that are not summed over."""
        contracted, batched = op.params["dimension_numbers"]
        left, right = self._of(op.inputs[0]), self._of(op.inputs[1])
        found = [_either(left[i], right[j]) for i, j in zip(*batched, strict=True)]
        found += [zero for i, zero in enumerate(left) if i not in contracted[0] and i not in batched[0]]
        found += [zero for j, zero in enumerate(right) if j not in contracted[1] and j not in batched[1]]
        return tuple(found)


def _either(first: AxisMask | None, second: AxisMask | None) -> AxisMask | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _both(first: AxisMask | None, second: AxisMask | None) -> AxisMask | None:
    return None if first is None or second is None else first & second


def _bits(zero: AxisMask | None, size: int) -> Bool[np.ndarray, " {size}"]:
    return np.zeros(size, bool) if zero is None else zero
