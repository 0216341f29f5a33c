# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Where values are zero because a unit is dead: removing the unit loses nothing where it is read as zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing.program import Constant, Op, Operand, Program

# For a value, by axis: the positions at which it is zero whenever the activations of the unit there are zero.
Zero = tuple[np.ndarray | None, ...]

# Operations that give zero where their first operand is zero, position by position.
_KEEP = set(
    """abs asin asinh atan atanh cbrt ceil convert_element_type copy copy_p div erf expm1 floor integer_pow log1p name
    neg reduce_precision round sign sin sinh sqrt square stop_gradient tan tanh sharding_constraint
    optimization_barrier""".split()
)
# The same, at other positions of other axes: a unit is followed by its labels.
_MOVE = set(
    """broadcast_in_dim reshape squeeze transpose rev slice dynamic_slice split gather cumsum cummax cummin reduce_sum
    reduce_max reduce_min reduce_window_sum reduce_window_max reduce_window_min reduce_window concatenate
    dynamic_update_slice pad""".split()
)
_ADD = {"add", "add_any", "sub", "max", "min", "select_n"}


def zeros(
    program: Program, labels: axes_lib.Labels, component: np.ndarray, sites: Mapping[int, int]
) -> dict[int, Zero]:
    """Returns where each value is zero.

    Args:
      program: the traced network.
      labels: its labelled axes.
      component: of every label, what leaves together.
      sites: the unit axis of every activation, by the number of its value.
    """
    return _Walk(program, labels, component).run(sites)


class _Walk:
    def __init__(self, program: Program, labels: axes_lib.Labels, component: np.ndarray):
        self._program = program
        self._labels = labels
        self._component = component
        self._zero: dict[int, Zero] = {}

    def run(self, sites: Mapping[int, int]) -> dict[int, Zero]:
        for op in self._program.leaves:
            for out, zero in zip(op.outputs, self._results(op), strict=True):
                if isinstance(out, int):
                    if out in sites:
                        units = self._components(out, sites[out]) >= 0
                        zero = tuple(units if i == sites[out] else z for i, z in enumerate(zero))
                    if any(z is not None and z.any() for z in zero):
                        self._zero[out] = zero
        return self._zero

    def _components(self, operand: Operand, axis: int) -> np.ndarray:
        """Returns `[size]`, what the positions of an axis belong to, -1 where to nothing."""
        found = self._labels.operand_axes(operand)[axis]
        if not isinstance(found, np.ndarray):
            return np.full(self._labels.shape(operand)[axis], -1)
        return np.where(found >= 0, self._component[np.maximum(found, 0)], -1)

    def _of(self, operand: Operand) -> Zero:
        none = (None,) * len(self._labels.shape(operand))
        return none if isinstance(operand, Constant) else self._zero.get(operand, none)

    def _nothing(self, op: Op) -> list[Zero]:
        return [(None,) * len(self._labels.shape(out)) for out in op.outputs]

    def _results(self, op: Op) -> list[Zero]:
        if op.name in _KEEP:
            if op.name == "integer_pow" and op.params["y"] <= 0:
                return self._nothing(op)
            return [
                self._pointwise(out, [operand], np.logical_and)
                for out, operand in zip(op.outputs, op.inputs, strict=False)
            ]
        if op.name in _ADD:
            terms = op.inputs[1:] if op.name == "select_n" else op.inputs
            terms = tuple(term for term in terms if not _is_zero(term))
            return [self._pointwise(op.outputs[0], terms, np.logical_and)]
        if op.name == "mul":
            return [self._pointwise(op.outputs[0], op.inputs, np.logical_or)]
        if op.name in _MOVE:
            return self._moved(op, op.inputs[: 1 if op.name in ("gather", "dynamic_slice") else None])
        if op.name == "conv_general_dilated" and op.params["feature_group_count"] > 1:
            # Each group's outputs belong to the units of its inputs. Otherwise the outputs are units of their own.
            return self._moved(op, op.inputs[:1])
        if op.name == "dot_general":
            return [self._product(op)]
        return self._nothing(op)

    def _pointwise(self, out: Operand, operands: Sequence[Operand], join: Callable[..., np.ndarray]) -> Zero:
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

    def _moved(self, op: Op, operands: Sequence[Operand]) -> list[Zero]:
        vanish: set[int] = set()
        stay: set[int] = set()
        for operand in operands:
            if isinstance(operand, int) and operand in self._labels.axes:
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

    def _product(self, op: Op) -> Zero:
        contracted, batched = op.params["dimension_numbers"]
        left, right = self._of(op.inputs[0]), self._of(op.inputs[1])
        found = [_either(left[i], right[j]) for i, j in zip(*batched, strict=True)]
        found += [zero for i, zero in enumerate(left) if i not in contracted[0] and i not in batched[0]]
        found += [zero for j, zero in enumerate(right) if j not in contracted[1] and j not in batched[1]]
        return tuple(found)


def _either(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _is_zero(operand: Operand) -> bool:
    return isinstance(operand, Constant) and bool(np.all(operand.value == 0))
