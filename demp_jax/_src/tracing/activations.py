# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Finds the activations of a traced network: pointwise functions of one value that saturate at zero.

An activation is recognized by its values, not by its name. Every maximal pointwise function of a single value, such as
`max(x, 0)`, `x * sigmoid(x)` or `where(x > 0, x, a * x)`, is evaluated on a grid and classified by its tail (`_tail`):

* `"zero"`: exactly zero on one side (ReLU, ReLU6, squared ReLU). A unit is dead if it is zero on every example.
* `"soft"`: tends to zero on one side and grows on the other (GELU, Swish, softplus). A unit is dead if |a| < epsilon on
  every example.
* `"negative"`: negative and at most half as steep on one side (Leaky ReLU). A unit is dead if it is never positive
  (paper, appendix F.7).

Other functions (tanh, sigmoid, ELU, softmax) do not saturate at zero, and their outputs are not neurons. `mark_units`
marks other values as units.

Dimension names: grid, the numbers at which functions are evaluated; labels and components as in `types`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float32, Float64, Shaped

from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing import rules
from demp_jax._src.tracing.program import LAYER_COPIES, Constant, Op, Operand, Program, bind
from demp_jax._src.types import ComponentReasons, LabelComponents

KINDS = ("zero", "soft", "negative")
_MARK = "demp_jax.mark_units"
_INSIDE = "it is inside a function with its own derivative rule (custom_jvp or custom_vjp)"


class Activation(NamedTuple):
    """A value of the program that holds units.

    Attributes:
      value: number of the value.
      root: number of the value that it is a pointwise function of; `value` itself for other marked values.
      alone: whether the activation is the only consumer of its root.
      axis: the axis of the units, or `None`.
      kind: one of `KINDS`.
      name: path of the module whose variables compute it, such as `"blocks/0/bn1"`.
      source: the line of user code.
      problem: why the units cannot be pruned, or `None`.
    """

    value: int
    root: int
    alone: bool
    axis: int | None
    kind: str
    name: str
    source: str
    problem: str | None


def mark_units(x: jax.Array, name: str = "", *, kind: str = "") -> jax.Array:
    """Marks an array as the output of neurons, one for each position of its unit axis, and returns it unchanged.

    Activation functions are found without a mark. Use `mark_units` if the units are other values, such as the product
    in a gated MLP, or if the activation has learned parameters (PReLU).

    Example:
      >>> from demp_jax import trace
      >>> def gated(params, x):
      ...     h = jax.nn.silu(x @ params["gate"]) * (x @ params["up"])
      ...     return mark_units(h, "glu", kind="soft") @ params["down"]
      >>> params = {"gate": jnp.ones((4, 6)), "up": jnp.ones((4, 6)), "down": jnp.ones((6, 2))}
      >>> trace(gated, params, jnp.ones((2, 4))).widths
      {'glu': 6}

    Args:
      x: an array with an axis of examples and one axis of units, `[batch, ..., units]` or in another order. The trace
        finds the axes.
      name: name of the site in reports and records; by default the path of the module that computes `x`.
      kind: how it saturates, `"zero"`, `"soft"` or `"negative"`; by default that of the activation, or `"zero"` if `x`
        is not an activation.

    Returns:
      `x`.

    Raises:
      ValueError: if `kind` is not one of the three.
    """
    if kind and kind not in KINDS:
        raise ValueError(f"mark_units: kind must be one of {', '.join(KINDS)}; got {kind=}.")
    return checkpoint_name(x, f"{_MARK}:{kind}:{name}")


def find(
    program: Program, labels: axes_lib.Labels, paths: Sequence[str], extra_units: Collection[str] = ()
) -> tuple[list[Activation], dict[int, str]]:
    """Returns the activations of a program in the order of computation, and the module path of every value.

    Args:
      program: a traced network.
      labels: the labeled axes of the program.
      paths: the path of each variable, in the order of the first inputs of the program.
      extra_units: units besides those of activations, `"heads"` or `"features"` or both.
    """
    flow = _Flow(program, labels, paths)
    producers: dict[Operand, Op] = {out: op for op in program.leaves for out in op.outputs}
    marked = _pointwise_inputs(producers, [op.outputs[0] for op in program.leaves if _mark_of(op) is not None])
    found: list[Activation] = []
    seen: set[tuple[int, str, int]] = set()
    for op in program.leaves:
        mark = _mark_of(op)
        value = op.outputs[0]
        assert isinstance(value, int)
        if mark is None and (value not in flow.outputs or value in marked):
            continue
        tail = flow.classify(value)
        if mark is None and (tail is None or _is_variance(producers, flow.root[value])):
            continue
        kind, side = tail or ("zero", 1)
        if mark is not None:
            kind = mark[0] or kind
        if (flow.root[value], kind, side) in seen and mark is None:
            continue  # The same units, as in relu(x) and 2 * relu(x).
        seen.add((flow.root[value], kind, side))
        name = (mark[1] if mark else "") or flow.owner.get(value, (0, ""))[1]
        activation = _locate(program, labels, value, kind, name, op.source)
        if activation is not None:
            root = flow.root[value] if tail is not None else value
            alone = root not in flow.outputs or root == value
            found.append(activation._replace(root=root, alone=alone))
    if "heads" in extra_units:
        found += _heads(program, labels, flow, found)
    if "features" in extra_units:
        found += _features(program, labels, flow, producers, found)
    return _unique_names(found), {value: module for value, (_, module) in flow.owner.items()}


def _mark_of(op: Op) -> tuple[str, str] | None:
    """Returns the kind and name of a mark if `op` is the operation of `mark_units`, and `None` otherwise."""
    if op.name != "name" or not op.params["name"].startswith(_MARK + ":"):
        return None
    _, kind, name = op.params["name"].split(":", 2)
    return kind, name


def _is_variance(producers: Mapping[Operand, Op], value: int) -> bool:
    """Returns whether a value is `mean(x**2) - mean(x)**2`, which norms clip at zero with the function of a ReLU."""
    difference = producers.get(value)
    if difference is None or difference.name != "sub":
        return False
    mean_of_squares, squared_mean = difference.inputs
    square = producers.get(squared_mean)
    if square is None or not _is_square(square):
        return False
    scales = ("broadcast_in_dim", "convert_element_type", "div", "mul", "reshape", "squeeze", "transpose")
    op = producers.get(mean_of_squares)
    while op is not None and op.name in scales:
        op = producers.get(op.inputs[0])
    return op is not None and op.name == "reduce_sum"


def _is_square(op: Op) -> bool:
    if op.name == "mul":
        return op.inputs[0] == op.inputs[1]
    return op.name == "square" or (op.name == "integer_pow" and op.params["y"] == 2)


def _pointwise_inputs(producers: Mapping[Operand, Op], values: Sequence[Operand]) -> set[Operand]:
    """Returns `values` and the values that they are pointwise functions of.

    If one of these is an activation, the mark replaces it.
    """
    found: set[Operand] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if value not in found:
            found.add(value)
            if value in producers and rules.is_pointwise(producers[value]):
                waiting.extend(i for i in producers[value].inputs if isinstance(i, int))
    return found


def _locate(
    program: Program, labels: axes_lib.Labels, value: int, kind: str, name: str, source: str
) -> Activation | None:
    """Returns the activation with its unit axis, or `None` if the value has no axis of examples or is a statistic."""
    axes = labels.axes[value]
    examples = any(isinstance(axis, axes_lib.Fixed) and axis.kind == axes_lib.BATCH for axis in axes)
    if not jnp.issubdtype(program.avals[value].dtype, jnp.floating) or not examples or value in labels.statistics:
        return None
    units = [i for i, axis in enumerate(axes) if axes_lib.has_labels(axis)]
    if len(units) > 1:
        # The axis of learned tokens or queries has labels, too, but another operation freezes them.
        component, frozen = labels.components()
        units = [i for i in units if _is_free(axes[i], component, frozen)] or units
    axis, problem = (units[0], None) if len(units) == 1 else (None, "")
    if len(units) > 1:
        problem = f"its units lie along more than one axis ({', '.join(map(str, units))})"
    elif not units and program.avals[value].shape[-1] == 1:
        axis, problem = len(axes) - 1, "it has a single unit"
    elif not units and 0 in program.avals[value].shape:
        axis, problem = program.avals[value].shape.index(0), "all of its units have been removed"
    elif not units:
        fixed = axes[-1] if axes else None
        problem = "no axis of it comes from the network's weights alone"
        if isinstance(fixed, axes_lib.Fixed) and fixed.kind == axes_lib.DATA:
            problem += f" ({fixed.reason})"
    elif value in program.unreadable:
        problem = _INSIDE
    return Activation(value, value, True, axis, kind, name, source, problem)


def _heads(
    program: Program, labels: axes_lib.Labels, flow: _Flow, activations: Sequence[Activation]
) -> list[Activation]:
    """Returns the outputs of attention heads, as units along the axis of the heads.

    An axis of heads is a batch axis of a product, and has labels. Example: in
    `scores = einsum("bnhd,bmhd->bhnm", q, k)` and `out = einsum("bhnm,bmhd->bnhd", softmax(scores), v)` the axis `h` is
    a batch axis of both products. It unites the weights of queries, keys, values and the output projection. The last
    such product is the output of the heads.
    """
    component, frozen = labels.components()
    taken = _held(labels, component, activations)
    found: dict[frozenset[int], Activation] = {}
    for op in program.leaves:
        value = op.outputs[0]
        if op.name != "dot_general" or not isinstance(value, int) or value not in labels.data:
            continue
        _, batched = op.params["dimension_numbers"]
        for i in range(len(batched[0])):
            axis = labels.axes[value][i]
            if not isinstance(axis, np.ndarray) or not _is_free(axis, component, frozen):
                continue
            tied = frozenset(component[axis[axis >= 0]].tolist())
            if tied.isdisjoint(taken):
                name = flow.owner.get(value, (0, ""))[1].rpartition("/")[0]
                problem = _INSIDE if value in program.unreadable else None
                heads = f"{name}/heads".lstrip("/")
                found.pop(tied, None)
                found[tied] = Activation(value, value, True, i, "zero", heads, op.source, problem)
    return list(found.values())


def _held(labels: axes_lib.Labels, component: LabelComponents, activations: Sequence[Activation]) -> set[int]:
    """Returns the components that hold units of activations."""
    held: set[int] = set()
    for activation in activations:
        if activation.axis is not None:
            axis = labels.axes[activation.value][activation.axis]
            held.update(component[axis[axis >= 0]].tolist() if isinstance(axis, np.ndarray) else ())
    return held


def _features(
    program: Program,
    labels: axes_lib.Labels,
    flow: _Flow,
    producers: Mapping[Operand, Op],
    activations: Sequence[Activation],
) -> list[Activation]:
    """Returns units without an activation, at their last consumer.

    Example: in `relu((x @ a) @ b)` the second product reads the columns of `a`. A column is dead if it is zero in
    `x @ a` on every example. The features of a residual stream are the sum of several layers. Their site is the last
    sum, and a prune also checks the values that the other consumers read. The features of an attention head are not
    units, because their number scales the scores, and Flax requires equal sizes of all heads.
    """
    component, frozen = labels.components()
    taken = _held(labels, component, activations)
    found = []
    sinks: list[axes_lib.Contraction | axes_lib.Read] = [*labels.contractions, *labels.reads]
    for sink in reversed(sinks):
        axis = labels.axes[sink.value][sink.axis]
        examples = any(isinstance(a, axes_lib.Fixed) and a.kind == axes_lib.BATCH for a in labels.axes[sink.value])
        if not examples or not isinstance(axis, np.ndarray) or sink.value in labels.statistics:
            continue
        if isinstance(sink, axes_lib.Contraction) and _within_heads(labels, sink):
            continue
        own = component[axis[axis >= 0]]
        new = set(own[frozen[own] < 0].tolist()) - taken
        if new and jnp.issubdtype(program.avals[sink.value].dtype, jnp.floating):
            taken |= new
            name = flow.owner.get(sink.value, (0, ""))[1]
            problem = _INSIDE if sink.value in program.unreadable else None
            place = producers[sink.value].source if sink.value in producers else ""
            found.append(Activation(sink.value, sink.value, True, sink.axis, "zero", name, place, problem))
    return found[::-1]


def _within_heads(labels: axes_lib.Labels, sink: axes_lib.Contraction) -> bool:
    """Returns whether a product is batched over heads, or sums over the heads and their features."""
    if sink.op.name != "dot_general":
        return False
    summed, batched = rules.dot_dimensions(sink.op)
    axes = labels.axes[sink.value]
    others = [i for i in (*summed[sink.operand], *batched[sink.operand]) if i != sink.axis]
    return any(axes_lib.has_labels(axes[i]) for i in others)


def _is_free(axis: axes_lib.Axis, component: LabelComponents, frozen: ComponentReasons) -> bool:
    """Returns whether some position of an axis can be removed."""
    return isinstance(axis, np.ndarray) and bool((frozen[component[axis[axis >= 0]]] < 0).any())


def _unique_names(found: list[Activation]) -> list[Activation]:
    taken: dict[str, int] = {}
    named = []
    for activation in found:
        name = activation.name or "activation"
        taken[name] = taken.get(name, 0) + 1
        named.append(activation._replace(name=name if taken[name] == 1 else f"{name}_{taken[name]}"))
    return named


class _Flow:
    """The origin of each value of a program: the value that it is a pointwise function of, and its module.

    Example: in `h = x @ w; y = h * sigmoid(h); z = y @ v`, the root of `y` is `h`, because `y` is a pointwise function
    of `h`. The last product reads `y` and is not pointwise, so `y` is in `outputs`: it is a maximal pointwise function.
    The module that holds `w` owns `h` and `y`.

    Attributes:
      root: for every value, the single value that it is a pointwise function of, possibly itself.
      outputs: values with a consumer that is not a pointwise function of their root.
      owner: for every value, the position and the module path of the last variable that it was computed with.
    """

    def __init__(self, program: Program, labels: axes_lib.Labels, paths: Sequence[str]):
        self.root: dict[int, int] = {}
        self.outputs: set[int] = set()
        self.owner: dict[int, tuple[int, str]] = {}
        self._producer: dict[int, Op] = {}
        self._constants: set[int] = set()
        self._data = labels.data
        self._avals = program.avals
        self._layers: set[Operand] = {program.inputs[i] for i in labels.stacked}
        for number, path in zip(program.inputs, paths, strict=False):
            self.owner[number] = (-1, _module_of(path))
        for position, op in enumerate(program.leaves):
            self._own(position, op)
            self._follow(op)
        self.outputs.update(out for out in program.outputs if isinstance(out, int))

    def _own(self, position: int, op: Op) -> None:
        """Stores the module of the results of an operation.

        It is the module of the last variable among the operands, or else that of the operand with the latest variable.
        """
        stack = op.inputs[0] if op.inputs else None
        if isinstance(stack, int) and stack in self._layers:
            if op.name == "slice":
                name = f"{self.owner[stack][1]}[{int(op.params['start_indices'][0])}]"
                self.owner.update((out, (-1, name)) for out in op.outputs if isinstance(out, int))
                return
            if op.name in LAYER_COPIES:
                self._layers.update(op.outputs)
        inputs = [i for i in op.inputs if isinstance(i, int) and i in self.owner]
        variables = [i for i in inputs if i not in self._data]
        touched = any(isinstance(i, int) and i in self._data for i in op.inputs)
        if variables:
            owner = (position if touched else -1, self.owner[variables[-1]][1])
        elif inputs:
            owner = max(self.owner[i] for i in inputs)
        else:
            return
        self.owner.update((out, owner) for out in op.outputs if isinstance(out, int))

    def _follow(self, op: Op) -> None:
        """Stores the root of the results of an operation: that of its operands if it is pointwise and has only one."""
        numbers = [i for i in op.inputs if isinstance(i, int) and i not in self._constants]
        pointwise = rules.is_pointwise(op)
        shared = op.inputs and all(_is_scalar(i) or i in self._constants for i in op.inputs)
        if shared and (pointwise or op.name == "broadcast_in_dim"):
            self._constants.update(out for out in op.outputs if isinstance(out, int))
            self._producer.update((out, op) for out in op.outputs if isinstance(out, int))
            return
        roots = {self.root.get(i, i) for i in numbers}
        large = any(isinstance(i, Constant) and np.ndim(i.value) > 0 for i in op.inputs)
        # A conversion of complex numbers or integers to real numbers is a new root.
        turned = len({self._field(i) for i in (*numbers, *op.outputs)} - {None}) > 1
        if pointwise and len(roots) == 1 and not large and not turned and roots <= self._data:
            [root] = roots
        else:
            root = None
            self.outputs.update(numbers)
        for out in op.outputs:
            if isinstance(out, int):
                self.root[out] = out if root is None else root
                if root is not None:
                    self._producer[out] = op

    def _field(self, number: Operand) -> Any:
        """Returns whether a value is real, complex or an integer; `None` for conditions."""
        assert isinstance(number, int)
        fields = (jnp.floating, jnp.complexfloating, jnp.integer)
        return next((field for field in fields if jnp.issubdtype(self._avals[number].dtype, field)), None)

    def classify(self, value: int) -> tuple[str, int] | None:
        """Returns the kind of a pointwise function and the side on which it saturates, +1 for negative inputs."""
        root = self.root.get(value, value)
        if root == value or not jnp.issubdtype(self._avals[root].dtype, jnp.floating):
            return None
        text: list[str] = []
        names: dict[int, str] = {root: "x"}
        self._write(value, names, text)
        return _classify_text("\n".join(text), _Function(self._producer, root, value))

    def _write(self, value: int, names: dict[int, str], text: list[str]) -> str:
        """Appends the operations of the function to `text`, the key of the cache of classifications."""
        if value not in names:
            op = self._producer[value]
            operands = [
                repr(np.asarray(i.value).item()) if isinstance(i, Constant) else self._write(i, names, text)
                for i in op.inputs
            ]
            names[value] = f"v{len(text)}"
            params = {k: v for k, v in op.params.items() if k in ("y", "new_dtype", "exponent_bits", "mantissa_bits")}
            text.append(f"{names[value]} = {op.name}{params}({', '.join(operands)})")
        return names[value]


def _is_scalar(operand: Operand) -> bool:
    return isinstance(operand, Constant) and np.ndim(operand.value) == 0


def _module_of(path: str) -> str:
    """Returns the path of the module that holds a variable, without the name of a collection."""
    parts = path.split("/")
    if len(parts) > 2 and parts[0] in ("params", "batch_stats", "state"):
        parts = parts[1:]
    return "/".join(parts[:-1]) or path


class _Function(NamedTuple):
    """A pointwise function, given by the operations that compute `value` from `root`."""

    producer: Mapping[int, Op]
    root: int
    value: int

    def __call__(self, x: Float32[jax.Array, " grid"]) -> Shaped[jax.Array, " grid"]:
        known: dict[int, Any] = {self.root: x}

        def compute(operand: Operand) -> Any:
            if isinstance(operand, Constant):
                return _single(operand.value)
            if operand not in known:
                op = self.producer[operand]
                operands = [compute(i) for i in op.inputs]
                if op.name == "broadcast_in_dim":
                    known[operand] = jnp.broadcast_to(operands[0], x.shape)
                elif op.name == "sharding_constraint":
                    known[operand] = operands[0]
                elif op.name == "convert_element_type":
                    truth = jnp.issubdtype(op.params["new_dtype"], jnp.bool_)
                    known[operand] = operands[0] != 0 if truth else operands[0].astype(jnp.float32)
                else:
                    known[operand] = bind(op, operands)[0]
            return known[operand]

        return compute(self.value)


def _single(value: Any) -> jax.Array:
    """Returns a number in float32, in which tails are more precise than in bfloat16. Conditions are not converted."""
    array = jnp.asarray(value)
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.number) else array


_GRID = np.array([1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 50.0, 60.0, 80.0], np.float32)
_KINDS_BY_TEXT: dict[str, tuple[str, int] | None] = {}


def _classify_text(text: str, function: _Function) -> tuple[str, int] | None:
    if text not in _KINDS_BY_TEXT:
        # Evaluate the function now, even if an outer program is being traced.
        with jax.ensure_compile_time_eval():
            below, above = (_values(function, sign * _GRID) for sign in (-1, 1))
        _KINDS_BY_TEXT[text] = _tail(below, above)
    return _KINDS_BY_TEXT[text]


def _values(function: _Function, grid: Float32[np.ndarray, " grid"]) -> Float64[np.ndarray, " grid"]:
    return np.asarray(function(jnp.asarray(grid)), np.float64)


def _tail(below: Float64[np.ndarray, " grid"], above: Float64[np.ndarray, " grid"]) -> tuple[str, int] | None:
    """Classifies a function by its values at `-_GRID` and `+_GRID`.

    Let low and high be the values on the two sides, in either order. The kind is

    * `"zero"` if low is 0 at all |x| >= 2, and high is not 0 at |x| = 80;
    * `"soft"` if |low| < 0.01 at all |x| >= 50, and high grows from |x| = 50 to 80 by a factor between 1.3 and 5;
    * `"negative"` if low, at negative x, is below 0, high is above 0, |low| <= |high| / 2, and high grows as above.
    """
    for side, (low, high) in ((1, (below, above)), (-1, (above, below))):
        if not np.isfinite(low).all() or not np.isfinite(high[_GRID <= 16]).all():
            continue
        grows = high[-1] / high[10] if high[10] else 0.0
        unbounded = 1.3 < grows < 5.0  # Such as x (1.6) or x squared (2.56), unlike exp and the gate of GELU (1).
        if (low[_GRID >= 2] == 0).all() and high[-1] != 0:
            return "zero", side
        if (np.abs(low[_GRID >= 50]) < 1e-2).all() and unbounded:
            return "soft", side
        flatter = (np.abs(low) <= 0.5 * np.abs(high)).all()
        if side == 1 and (low < 0).all() and (high > 0).all() and flatter and unbounded:
            return "negative", side
    return None


@functools.cache
def describe(kind: str) -> str:
    """Returns a short description of what dead means for an activation of this kind."""
    return {"zero": "zero on every example", "soft": "below epsilon", "negative": "never positive"}[kind]
