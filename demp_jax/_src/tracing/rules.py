# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The rules by which operations propagate labels.

A rule takes the axes of the operands and returns those of the results. It may unite labels, freeze them, or record the
end of an axis: a contraction that sums over it. An operation without a rule freezes the labels of its operands, and the
report names it.

Example: the rule of `dot_general` for `x @ w` unites the last axis of `x` with the first axis of `w`, records that both
end here, and returns the first axis of `x` and the second axis of `w`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jax.lax import GatherScatterMode

from demp_jax._src.tracing.axes import (
    BATCH,
    DATA,
    MEMBER,
    SELECT,
    Axes,
    Axis,
    Contraction,
    Fixed,
    Labels,
    Read,
    Route,
    Sink,
    has_labels,
)
from demp_jax._src.tracing.program import LAYER_COPIES, MOST_STEPS, STACK, Op, Operand, Program, scan_counts, subprogram

Rule = Callable[[Labels, Op, Sequence[Axes]], list[Axes]]
RULES: dict[str, Rule] = {}


def _lost(op: Op) -> Fixed:
    """Returns the axis of a result whose positions are not tracked."""
    where = f" ({op.source})" if op.source else ""
    return Fixed(DATA, f"it meets the result of `{op.name}`{where}, whose positions are not followed")


def label(
    program: Program,
    variables: int,
    inputs: int,
    batch_axis: int | None,
    updates: Mapping[int, int] | None = None,
    stacked: Collection[int] = (),
) -> Labels:
    """Returns the labeled axes of a program.

    Args:
      program: a traced function.
      variables: the number of its first inputs that are variables.
      inputs: the number of the following inputs that are arrays of a batch.
      batch_axis: the axis of these arrays along which examples lie.
      updates: for each output that is the new value of a variable, its position among the outputs and the position of
        the variable among the inputs. Such an output is not frozen: its units can be removed together with those of the
        variable. Example: if `seen = 0.9 * seen + 0.1 * (h > 0).mean(0)` is returned as the new value of `seen`, the
        same units are removed from `seen` and `h`.
      stacked: positions of the variables that hold the weights of layers, see `Program.stacked`.

    Raises:
      ValueError: if the shapes of an update and its variable differ, or if there is no such output or variable.
    """
    labels = Labels(program, variables, inputs, batch_axis, stacked)
    updates = {} if updates is None else updates
    _check_updates(labels, variables, updates)
    for op in program.leaves:
        _visit(labels, op)
    made_by = {out: op for op in program.leaves for out in op.outputs}
    for position, output in enumerate(program.outputs):
        if position in updates:
            _join_update(labels, output, program.inputs[updates[position]], made_by.get(output))
        elif isinstance(output, int):
            for axis in labels.axes[output]:
                labels.freeze(axis, "it is an output of the network", made_by.get(output))
    return labels


def _check_updates(labels: Labels, variables: int, updates: Mapping[int, int]) -> None:
    program = labels.program
    for position, variable in updates.items():
        if not 0 <= position < len(program.outputs) or not 0 <= variable < variables:
            raise ValueError(
                f"updates[{position}]={variable} must be the positions of one of {len(program.outputs)} outputs and of "
                f"one of {variables} variables."
            )
        shapes = [labels.shape(operand) for operand in (program.outputs[position], program.inputs[variable])]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"updates[{position}]={variable}: the new value has shape {shapes[0]}, the variable {shapes[1]}; "
                "return the new value in the variable's shape."
            )


def _join_update(labels: Labels, output: Operand, variable: int, op: Op | None) -> None:
    """Unites the axes of a variable with those of its new value, which the next step reads as the variable."""
    for axis, old in zip(labels.operand_axes(output), labels.axes[variable], strict=True):
        if isinstance(axis, Fixed):
            labels.freeze(old, f"its new value does not follow the units: {axis.reason}", op)
        elif isinstance(axis, np.ndarray) and isinstance(old, np.ndarray):
            if axis.ndim != old.ndim:
                axis, old = labels.of_one_width(axis), labels.of_one_width(old)
            labels.unite(axis, old)


def _visit(labels: Labels, op: Op) -> None:
    """Applies the rule of an operation. Stores which results depend on data, are statistics, or are looked up."""
    ins = [labels.operand_axes(operand) for operand in op.inputs]
    if any(_is_stacked(axis) for axes in ins for axis in axes) and not _keeps_layers(labels, op):
        ins = [tuple(labels.of_one_width(a) if isinstance(a, np.ndarray) else a for a in axes) for axes in ins]
    numbers = [operand for operand in op.inputs if isinstance(operand, int)]
    depends = [operand for operand in numbers if operand in labels.data]
    outs = RULES.get(op.name, _unknown)(labels, op, ins)
    statistic = bool(depends) and all(operand in labels.statistics for operand in depends)
    # A statistic that is combined with weights computes units, as in a squeeze-and-excitation block.
    statistic &= not any(has_labels(axis) for operand in set(numbers) - labels.data for axis in labels.axes[operand])
    if op.name in _CONTRACTIONS:
        statistic = False
    elif op.name in _REDUCTIONS:
        # A reduction over units, or over all positions, such as the mean or variance of a norm.
        over_units = any(_is_unit_axis(ins[0][a]) for a in _reduced_axes(op))
        statistic |= over_units or not any(_is_unit_axis(axis) for axis in outs[0])
    # Weights at indices that depend on data, such as those of the experts of a token.
    looked_up = all(operand in labels.looked_up for operand in depends)
    if op.name == "gather":
        looked_up = op.inputs[0] in labels.looked_up or op.inputs[0] not in labels.data
    for output, axes in zip(op.outputs, outs, strict=True):
        assert isinstance(output, int)
        assert len(axes) == len(labels.shape(output)), op.name
        labels.axes[output] = tuple(axes)
        if depends:
            labels.data.add(output)
            if statistic:
                labels.statistics.add(output)
            if looked_up:
                labels.looked_up.add(output)


def _is_stacked(axis: Axis) -> bool:
    return isinstance(axis, np.ndarray) and axis.ndim == 2


def _keeps_layers(labels: Labels, op: Op) -> bool:
    """Returns whether an operation takes one layer of stacked weights, or copies all layers in place."""
    if op.name != "slice":
        return op.name in LAYER_COPIES or op.name == STACK
    before, after = labels.shape(op.inputs[0]), labels.shape(op.outputs[0])
    return after[:1] == (1,) and before[1:] == after[1:]


def _is_unit_axis(axis: Axis) -> bool:
    return has_labels(axis) or (isinstance(axis, Fixed) and axis.kind == MEMBER)


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register


# Operations with bodies, each with the reason why units that are summed over inside are kept.
LOOPS = {
    "scan": "it is read inside a `scan`, where units are not followed",
    "while": "it is read inside a `while` loop, where units are not followed",
    "cond": "it is read inside a `cond`, where units are not followed",
}
_STACKED = "layers stacked by a `scan` inside a `scan` share one width; call them one by one so that each can shrink"
_RECURRENT = (
    "it is in the hidden state of a recurrence (`scan`), which every step reads; with sequences of at most "
    f"{MOST_STEPS} steps its units are found"
)
_OUTSIDE = "it is handed to code outside of JAX (`{}`), whose shapes are fixed"
_FROZEN = {name: _OUTSIDE.format(name) for name in ("pure_callback", "io_callback", "ffi_call")} | {
    "custom_linear_solve": "it is part of a linear system, whose solution mixes all of it",
    "shard_map": "it is used inside a `shard_map`, which is not followed; let `jit` divide the work among devices",
}


def _unknown(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    text = _FROZEN.get(op.name, f"it is used by `{op.name}`, for which there is no rule")
    for axes in ins:
        for axis in axes:
            labels.freeze(axis, text, op)
    if any(has_labels(axis) for axes in ins for axis in axes):
        labels.unfollowed.append((op.name, labels.reason(text, op)))
    # Assume that an axis of examples keeps its position.
    batch = {
        (i, labels.shape(operand)[i])
        for operand, axes in zip(op.inputs, ins, strict=True)
        for i, axis in enumerate(axes)
        if isinstance(axis, Fixed) and axis.kind == BATCH
    }
    shapes = [labels.shape(output) for output in op.outputs]
    return [tuple(Fixed(BATCH if place in batch else DATA, text) for place in enumerate(shape)) for shape in shapes]


@_rule(
    *"""abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex
    conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt
    igamma igamma_grad_a igammac imag integer_pow is_finite layout_constraint le le_to lgamma log log1p logistic lt
    lt_to max min mul mulhi name ne neg nextafter not or polygamma population_count pow random_gamma
    real reduce_precision regularized_incomplete_beta rem reshard round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh with_memory_space_constraint xor
    xla_metadata_value zeta sharding_constraint pvary pcast""".split()
)
def _elementwise(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    shape = labels.shape(op.outputs[0])
    out: list[Axis] = [None] * len(shape)
    for operand, axes in zip(op.inputs, ins, strict=True):
        sizes = labels.shape(operand)
        if len(sizes) != len(shape):
            continue  # A scalar.
        for i, axis in enumerate(axes):
            if sizes[i] == shape[i]:
                out[i] = labels.join(out[i], axis, op)
    return [tuple(out)]


def is_pointwise(op: Op) -> bool:
    """Returns whether every entry of the result only depends on the same entry of each operand."""
    return RULES.get(op.name) is _elementwise


@_rule("bitcast_convert_type")
def _bitcast(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Propagates the axes. If the sizes of the types differ, there is a further axis for the parts of a number."""
    rank = len(labels.shape(op.outputs[0]))
    for axis in ins[0][rank:]:
        labels.freeze(axis, "its values are parts of one number", op)
    parts = Fixed(MEMBER, "it is part of the bits of a number")
    return [(*ins[0], parts)[:rank]]


@_rule("optimization_barrier", "device_put", "create_token")
def _identity(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del labels, op
    return list(ins)


@_rule("broadcast_in_dim")
def _broadcast(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    shape = labels.shape(op.outputs[0])
    sizes = labels.shape(op.inputs[0])
    out: list[Axis] = [None] * len(shape)
    for i, d in enumerate(op.params["broadcast_dimensions"]):
        if sizes[i] == shape[d]:
            out[d] = ins[0][i]
    return [tuple(out)]


@_rule("squeeze")
def _squeeze(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del labels
    gone = {int(d) % len(ins[0]) for d in op.params["dimensions"]}
    return [tuple(axis for i, axis in enumerate(ins[0]) if i not in gone)]


@_rule("transpose")
def _transpose(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del labels
    return [tuple(ins[0][p] for p in op.params["permutation"])]


@_rule("rev")
def _rev(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del labels
    turned = set(op.params["dimensions"])
    return [tuple(a[::-1] if i in turned and isinstance(a, np.ndarray) else a for i, a in enumerate(ins[0]))]


@_rule("reshape")
def _reshape(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    old, new = labels.shape(op.inputs[0]), labels.shape(op.outputs[0])
    if op.params.get("dimensions") is not None:
        return _unknown(labels, op, ins)
    out: list[Axis] = [None] * len(new)
    for sources, targets in _segments(old, new):
        axis = _merge(labels, op, [ins[0][i] for i in sources], [old[i] for i in sources])
        parted = len(targets) > 1 and _is_taken_apart(labels, op.outputs[0], targets[0])
        for target, part in zip(targets, _split(labels, op, axis, [new[i] for i in targets], parted), strict=True):
            out[target] = part
    return [tuple(out)]


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Splits a reshape into the smallest groups of old and new axes with equal products of sizes.

    Axes of size 1 are left out. Example: `[2, 6, 5] -> [2, 2, 3, 5]` gives `([0], [0])`, `([1], [1, 2])`, `([2], [3])`.
    """
    sources = [i for i, size in enumerate(old) if size > 1]
    targets = [i for i, size in enumerate(new) if size > 1]
    segments = []
    while sources or targets:
        left, right = [sources.pop(0)], [targets.pop(0)]
        a, b = old[left[0]], new[right[0]]
        while a != b:
            if a < b:
                left.append(sources.pop(0))
                a *= old[left[-1]]
            else:
                right.append(targets.pop(0))
                b *= new[right[-1]]
        segments.append((left, right))
    return segments


def _merge(labels: Labels, op: Op, axes: Sequence[Axis], sizes: Sequence[int]) -> Axis:
    """Returns the axis that results from flattening `axes` in row-major order."""
    if len(axes) == 1:
        return axes[0]
    labeled = [i for i, axis in enumerate(axes) if isinstance(axis, np.ndarray)]
    if len(labeled) > 1:
        for i in labeled:
            labels.freeze(axes[i], "a reshape merges it with another axis of units", op)
        return _lost(op)
    if labeled:
        [i] = labeled
        shape = [size if j == i else 1 for j, size in enumerate(sizes)]
        axis = axes[i]
        assert isinstance(axis, np.ndarray)
        return np.broadcast_to(axis.reshape(shape), sizes).reshape(-1)
    fixed = [axis for axis in axes if isinstance(axis, Fixed)]
    batch = [axis for axis in fixed if axis.kind == BATCH]
    return (batch + fixed + [None])[0]


def _is_taken_apart(labels: Labels, value: Operand, axis: int) -> bool:
    """Returns whether an axis is only laid out to take its positions one by one, such as queries, keys and values."""
    waiting = [(value, axis)]
    while waiting:
        value, axis = waiting.pop()
        for op in labels.consumers.get(value, ()):
            if op.name == "transpose":
                waiting.append((op.outputs[0], list(op.params["permutation"]).index(axis)))
            elif op.name in ("convert_element_type", "copy", "name", "optimization_barrier"):
                waiting.append((op.outputs[0], axis))
            elif op.name == "unstack":
                if op.params["axis"] == axis:
                    return True
            elif op.name in ("slice", "dynamic_slice", "split") and labels.shape(op.outputs[0])[axis] == 1:
                return True
    return False


def _split(labels: Labels, op: Op, axis: Axis, sizes: Sequence[int], parted: bool) -> list[Axis]:
    """Returns the axes that result from unflattening one axis to `sizes`.

    Example: 48 units that are unflattened to `[4, 12]` are 4 groups of 12 units, such as attention heads. Unflattened
    to `[3, 4, 4]` and `parted`, they are queries, keys and values of 4 heads: a group has units of all three.
    """
    if len(sizes) == 1 or axis is None:
        return [axis] * len(sizes)
    if isinstance(axis, Fixed):
        # Examples are along the first axis. The others count as space.
        return [axis, *[Fixed(DATA, axis.reason)] * (len(sizes) - 1)]
    grid = axis.reshape(sizes)
    for j in range(len(sizes)):
        line = grid[tuple(slice(None) if k == j else 0 for k in range(len(sizes)))]
        shape = [size if k == j else 1 for k, size in enumerate(sizes)]
        if (grid == line.reshape(shape)).all():
            out: list[Axis] = [Fixed(DATA, "it is flattened with space")] * len(sizes)
            out[j] = line
            return out
    # The axis is split into groups of units, which can only be removed as a whole.
    along = int(parted)
    groups = np.moveaxis(grid, along, 0).reshape(sizes[along], -1)
    for member in groups.T[1:]:
        labels.unite(groups[:, 0].copy(), member.copy())
    axes: list[Axis] = [Fixed(MEMBER, "it is one of a group of units")] * len(sizes)
    axes[along] = groups[:, 0]
    return axes


@_rule("concatenate")
def _concatenate(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    dim = op.params["dimension"]
    out: list[Axis] = []
    for i in range(len(ins[0])):
        axes = [axes[i] for axes in ins]
        if i != dim:
            joined: Axis = None
            for axis in axes:
                joined = labels.join(joined, axis, op)
            out.append(joined)
        elif any(isinstance(axis, np.ndarray) for axis in axes):
            sizes = [labels.shape(operand)[i] for operand in op.inputs]
            out.append(np.concatenate([labels.marked(a, s, op) for a, s in zip(axes, sizes, strict=True)]))
        else:
            out.append(_merge(labels, op, axes, [1] * len(axes)) or Fixed(DATA, "it meets concatenated constants"))
    return [tuple(out)]


@_rule("stack")
def _stack(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    joined: list[Axis] = [None] * len(ins[0])
    for axes in ins:
        joined = [labels.join(one, other, op) for one, other in zip(joined, axes, strict=True)]
    joined.insert(op.params["axis"], Fixed(DATA, "it meets values that are stacked side by side"))
    return [tuple(joined)]


@_rule("unstack")
def _unstack(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    dim = op.params["axis"]
    labels.freeze(ins[0][dim], "its axis is unstacked into a fixed number of values", op)
    kept = tuple(axis for i, axis in enumerate(ins[0]) if i != dim)
    return [kept for _ in op.outputs]


@_rule("tile")
def _tile(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Repeats axes. All copies of a unit can only be removed together."""
    del labels
    return [
        tuple(np.tile(a, n) if isinstance(a, np.ndarray) else a for a, n in zip(ins[0], op.params["reps"], strict=True))
    ]


@_rule("pad")
def _pad(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    out: list[Axis] = []
    sizes = labels.shape(op.inputs[0])
    for axis, size, (low, high, interior) in zip(ins[0], sizes, op.params["padding_config"], strict=True):
        if (low, high, interior) == (0, 0, 0):
            out.append(axis)
        elif isinstance(axis, np.ndarray) and interior == 0 and min(low, high) >= 0:
            mark = -1 - labels.reason("it meets padding of a fixed width", op)
            out.append(np.concatenate([np.full(low, mark), labels.marked(axis, size, op), np.full(high, mark)]))
        else:
            labels.freeze(axis, "its axis is padded or cropped by a fixed width", op)
            out.append(Fixed(DATA, "it meets padding of a fixed width") if not isinstance(axis, Fixed) else axis)
    return [tuple(out)]


@_rule(STACK)
def _stack_layers(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Stacks results of layers, which have their own labels."""
    out: list[Axis] = [Fixed(DATA, "it meets the layers of a stack")]
    for i, size in enumerate(labels.shape(op.inputs[0])):
        axes = [axes[i] for axes in ins]
        if any(isinstance(axis, np.ndarray) for axis in axes):
            out.append(np.stack([labels.marked(axis, size, op) for axis in axes]))
        else:
            out.append(_merge(labels, op, axes, [1] * len(axes)))
    return [tuple(out)]


@_rule("slice")
def _slice(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    out: list[Axis] = []
    shape = labels.shape(op.outputs[0])
    if any(map(_is_stacked, ins[0])):
        layer = int(op.params["start_indices"][0])
        ins = [tuple(axis[layer] if isinstance(axis, np.ndarray) else axis for axis in ins[0])]
    for axis, size, new in zip(ins[0], labels.shape(op.inputs[0]), shape, strict=True):
        if size != new and isinstance(axis, np.ndarray):
            labels.freeze(axis, "its axis is sliced at fixed positions", op)
            axis = _lost(op)
        out.append(axis if new > 1 or isinstance(axis, Fixed) else None)
    return [tuple(out)]


@_rule("split")
def _split_rule(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    dim = op.params["axis"]
    sizes = [int(size) for size in op.params["sizes"]]
    axis = ins[0][dim]
    parts: list[Axis] = [axis] * len(sizes)
    if isinstance(axis, np.ndarray):
        parts = list(np.split(axis, np.cumsum(sizes)[:-1]))
        if len(set(sizes)) == 1:
            # Equal parts only stay equal if they lose the same positions.
            for piece in parts[1:]:
                assert isinstance(parts[0], np.ndarray)
                assert isinstance(piece, np.ndarray)
                labels.unite(parts[0].copy(), piece.copy())
        else:
            # `split(x, [4])` splits at 4 for every width, so the first 4 positions are kept, and one of the rest.
            fixed = axis[: sum(sizes[:-1]) + 1]
            labels.freeze(fixed, "its axis is split into parts of fixed, unequal sizes", op)
        parts = [part if size > 1 else None for part, size in zip(parts, sizes, strict=True)]
    return [tuple(part if i == dim else axis for i, axis in enumerate(ins[0])) for part in parts]


@_rule("dynamic_slice")
def _dynamic_slice(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    return _slice(labels, op, ins)


@_rule("dynamic_update_slice")
def _dynamic_update_slice(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    out: list[Axis] = []
    sizes, new = labels.shape(op.inputs[0]), labels.shape(op.inputs[1])
    for i, (axis, update) in enumerate(zip(ins[0], ins[1], strict=True)):
        if sizes[i] == new[i]:
            out.append(labels.join(axis, update, op))
        else:
            labels.freeze(axis, "its axis is written to at fixed positions", op)
            labels.freeze(update, "it is written into part of an axis", op)
            out.append(axis if axis is not None else _lost(op))
    return [tuple(out)]


@_rule("gather")
def _gather(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Looks up slices of the operand at given indices.

    Axes of the operand that slices contain completely pass, such as the features of an embedding or of experts
    (`w[i]`). Axes along which slices are looked up are frozen. Axes of the indices pass, and so do axes that operand
    and indices share (`take_along_axis`).
    """
    numbers = op.params["dimension_numbers"]
    offsets, shared = _window_axes(op, numbers.offset_dims, len(labels.shape(op.outputs[0])))
    full = _taken_whole(op, offsets)
    text = "its axis is indexed at fixed positions (`demp_jax.select` routes channels through an index variable)"
    examples: Axis = None
    for i, axis in enumerate(ins[0]):
        if i not in full and i not in shared:
            labels.freeze(axis, text, op)
            if isinstance(axis, Fixed) and axis.kind == BATCH:
                examples = axis
    out: list[Axis] = [Fixed(DATA, "it meets looked-up positions")] * len(labels.shape(op.outputs[0]))
    for i, offset in offsets.items():
        if i in full:
            out[offset] = ins[0][i]
    batch = [d for d in range(len(out)) if d not in numbers.offset_dims]
    for d, axis in zip(batch, ins[1][:-1], strict=True):
        # Looked-up examples, such as the neighbors of nodes in a graph, are examples.
        out[d] = axis if examples is None or has_labels(axis) else examples
    for i, (offset, index) in shared.items():
        out[offset] = labels.join(ins[0][i], ins[1][index], op)
    return [tuple(out)]


def _taken_whole(op: Op, offsets: Collection[int]) -> set[int]:
    """Returns the axes of a gather's operand that its slices contain completely."""
    sizes = op.eqn.invars[0].aval.shape
    full = {i for i, size in enumerate(sizes) if op.params["slice_sizes"][i] == size and i in offsets}
    # A slice of a whole axis has index 0, unless slices out of bounds are filled.
    filled = op.params["mode"] == GatherScatterMode.FILL_OR_DROP
    return full - set(op.params["dimension_numbers"].start_index_map) if filled else full


def looked_up_axes(op: Op) -> dict[int, int]:
    """Returns the axes of a gather's operand that pass, each with its axis in the result."""
    rank = len(op.eqn.outvars[0].aval.shape)
    offsets, shared = _window_axes(op, op.params["dimension_numbers"].offset_dims, rank)
    full = _taken_whole(op, offsets)
    return {i: offset for i, offset in offsets.items() if i in full} | {i: place for i, (place, _) in shared.items()}


def written_axes(op: Op) -> dict[int, int]:
    """Returns the axes of a scatter's operand along which its updates extend, each with its axis in the updates."""
    rank = len(op.eqn.invars[2].aval.shape)
    window, shared = _window_axes(op, op.params["dimension_numbers"].update_window_dims, rank)
    return window | {i: place for i, (place, _) in shared.items()}


def _window_axes(
    op: Op, window: Sequence[SupportsIndex], rank: int
) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    """Returns the axes of the slices of a gather or scatter that correspond to axes of its operand.

    Args:
      op: a gather or a scatter.
      window: axes of the slices (the result of a gather, the updates of a scatter) that are axes of the operand. They
        are NumPy integers if `jax.vmap` made them.
      rank: the number of axes of the slices.

    Returns:
      For each axis of the operand that a slice extends along, its axis in the slices; and for each axis that operand
      and indices share, its axis in the slices and in the indices.
    """
    numbers = op.params["dimension_numbers"]
    dropped = getattr(numbers, "collapsed_slice_dims", None)
    dropped = numbers.inserted_window_dims if dropped is None else dropped
    # The last axis of the indices holds the positions along several axes of the operand.
    index_axes = getattr(numbers, "start_indices_batching_dims", None)
    index_axes = numbers.scatter_indices_batching_dims if index_axes is None else index_axes
    own = [i for i in range(len(op.eqn.invars[0].aval.shape)) if i not in {*dropped, *numbers.operand_batching_dims}]
    others = [d for d in range(rank) if d not in window]
    shared = {
        int(i): (others[int(index)], int(index))
        for i, index in zip(numbers.operand_batching_dims, index_axes, strict=True)
    }
    return dict(zip(own, map(int, window), strict=True)), shared


@_rule("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")
def _scatter(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Writes or adds slices at given indices, such as sums over segments in a graph network.

    Axes along which whole slices are written pass, and are united with those of the slices. Axes along which single
    positions are written are frozen.
    """
    numbers = op.params["dimension_numbers"]
    sizes, updates = labels.shape(op.inputs[0]), labels.shape(op.inputs[2])
    window, shared = _window_axes(op, numbers.update_window_dims, len(updates))
    others = [axis for d, axis in enumerate(ins[2]) if d not in numbers.update_window_dims]
    examples = [axis for axis in others if isinstance(axis, Fixed) and axis.kind == BATCH]
    out: list[Axis] = []
    for i, axis in enumerate(ins[0]):
        if i in shared:
            update, index = shared[i]
            out.append(labels.join(labels.join(axis, ins[2][update], op), ins[1][index], op))
        elif i in window and sizes[i] == updates[window[i]]:
            out.append(labels.join(axis, ins[2][window[i]], op))
        else:
            labels.freeze(axis, "its axis is written to at fixed positions", op)
            if i in window:
                labels.freeze(ins[2][window[i]], "it is written into part of an axis", op)
            # Sums over segments of examples count as examples.
            out.append((examples or [axis if isinstance(axis, Fixed) else _lost(op)])[0])
    taken = {update for update, _ in shared.values()} | set(map(int, numbers.update_window_dims))
    for d, axis in enumerate(ins[2]):
        if d not in taken:
            labels.freeze(axis, "it is written to positions that an index names", op)
    for d, axis in enumerate(ins[1]):
        if d not in {index for _, index in shared.values()}:
            labels.freeze(axis, "it is used as an index", op)
    return [tuple(out)]


@_rule("iota")
def _iota(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del ins
    out: list[Axis] = [None] * len(labels.shape(op.outputs[0]))
    out[op.params["dimension"]] = Fixed(DATA, "it meets numbered positions (`arange`)")
    return [tuple(out)]


@_rule(
    *"""random_bits random_wrap random_unwrap random_seed random_split random_fold_in random_clone threefry2x32
    rng_bit_generator rng_uniform threefry4x32 philox2x32 philox4x32 iota_2x32_shape empty empty2""".split()
)
def _random(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del ins
    return [(None,) * len(labels.shape(output)) for output in op.outputs]


_REDUCTIONS = set(
    """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin reduce psum pmax
    pmin""".split()  # The last three occur under `vmap` with an axis name, as in Equinox's BatchNorm.
)


def _reduced_axes(op: Op) -> tuple[int, ...]:
    axes = op.params.get("axes", op.params.get("dimensions", ()))
    return tuple(int(a) for a in axes if not isinstance(a, str))  # Named axes are those of devices.


@_rule(*_REDUCTIONS)
def _reduce(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    gone = set(_reduced_axes(op))
    for axes in ins[: len(op.outputs)]:
        for i in gone:
            text = "it is reduced over together with other units (mean, norm or softmax over units)"
            labels.freeze(axes[i], text, op)
    # All operands of `reduce` have the same axes, and are followed by the initial values.
    return [tuple(axis for i, axis in enumerate(axes) if i not in gone) for axes in ins[: len(op.outputs)]]


@_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "top_k", "approx_top_k")
def _along(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Mixes the positions of one axis. The other axes pass."""
    rank = len(labels.shape(op.inputs[0]))
    where = op.params.get("axis", op.params.get("dimension", op.params.get("reduction_dimension", rank - 1)))
    dim = int(where) % rank
    out: list[Axis] = [None] * rank
    for axes in ins:
        for i, axis in enumerate(axes):
            if i == dim:
                labels.freeze(axis, f"`{op.name}` mixes it with other units", op)
                # Sorted examples are examples.
                out[i] = labels.join(out[i], axis if isinstance(axis, Fixed) else _lost(op), op)
            else:
                out[i] = labels.join(out[i], axis, op)
    return [tuple(out) for _ in op.outputs]


@_rule(
    *"""reduce_window reduce_window_sum reduce_window_max reduce_window_min cumred_reduce_window_impl""".split(),
)
def _window(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    out: list[Axis] = []
    for i, (axis, window) in enumerate(zip(ins[0], op.params["window_dimensions"], strict=True)):
        if window == 1 and labels.shape(op.inputs[0])[i] == labels.shape(op.outputs[0])[i]:
            out.append(axis)
        else:
            labels.freeze(axis, "it is pooled together with other units", op)
            out.append(axis if isinstance(axis, Fixed) else _lost(op))
    return [tuple(out) for _ in op.outputs]


@_rule("select_and_scatter_add", "select_and_gather_add")
def _window_pairs(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Derivatives of pooling. Axes that are not pooled over pass."""
    out: list[Axis] = []
    for i, (first, second, window) in enumerate(zip(ins[0], ins[1], op.params["window_dimensions"], strict=True)):
        if window == 1 and labels.shape(op.inputs[0])[i] == labels.shape(op.inputs[1])[i]:
            out.append(labels.join(first, second, op))
        else:
            for axis in (first, second):
                labels.freeze(axis, "it is pooled together with other units", op)
            out.append(first if isinstance(first, Fixed) else _lost(op))
    return [tuple(out)]


@_rule("fft")
def _fft(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    kept = len(ins[0]) - len(op.params["fft_lengths"])
    for axis in ins[0][kept:]:
        labels.freeze(axis, "`fft` mixes it with other units", op)
    return [(*ins[0][:kept], *[axis if isinstance(axis, Fixed) else _lost(op) for axis in ins[0][kept:]])]


@_rule(
    *"""cholesky cholesky_update eig eigh geqp3 geqrf hessenberg householder_product lu lu_pivots_to_permutation ormqr
    qr schur svd symmetric_product triangular_solve tridiagonal tridiagonal_solve""".split()
)
def _linear_algebra(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Freezes rows and columns of matrices. Batch axes pass."""
    single = 1 if op.name in ("lu_pivots_to_permutation", "tridiagonal_solve") else 2
    stacked = max(len(ins[0]) - single, 0)
    batch: list[Axis] = [None] * stacked
    for axes in ins:
        for i, axis in enumerate(axes):
            if i < stacked:
                batch[i] = labels.join(batch[i], axis, op)
            else:
                labels.freeze(axis, f"it is a row or column of a matrix, all of which `{op.name}` mixes", op)
    mixed = Fixed(DATA, f"it meets the result of `{op.name}`, which mixes rows and columns")
    return [(*batch, *[mixed] * (len(labels.shape(output)) - stacked)) for output in op.outputs]


# Control flow. `program.py` unrolls stacks of layers and short recurrences, which are labeled like the rest of the
# program. The body of another loop is labeled once, and one step stands for all steps. The carry of a step is the input
# of the next one, so their labels are united, and the body is labeled again until the axes of the carry no longer
# change. Units inside a body have labels, but their values cannot be measured. A unit that a product inside a body sums
# over is therefore kept, unless its value enters the body unchanged. Example: `lax.map(lambda row: jnp.tanh(row *
# scale), h)` passes the units of `h`. In a long `lax.scan(cell, state, xs)` with the cell `tanh(state @ u + x @ w)`,
# the units of `xs` can be removed, and those of `state` are kept.


def _body(labels: Labels, op: Op, jaxpr: Any, ins: Sequence[Axes], data: Collection[int]) -> tuple[list[Axes], Labels]:
    """Labels a body, given the axes of its inputs. Returns the axes of its outputs, and its labels."""
    program = subprogram(jaxpr)
    inside = labels.inside(program, ins, data)
    for leaf in program.leaves:
        _visit(inside, leaf)
    return [inside.operand_axes(output) for output in program.outputs], inside


def _hold(
    labels: Labels,
    op: Op,
    inside: Labels,
    entries: Mapping[int, tuple[Operand, int]],
    special: Mapping[str, Collection[int]] | None = None,
) -> None:
    """Records units that are passed to a body unchanged and summed over inside; freezes others that are summed over.

    Args:
      labels: the labels of the program that contains the loop or branch.
      op: the loop or branch.
      inside: the labels of its body.
      entries: for each input of the body, the operand of `op`, and how many of its leading axes the input lacks.
      special: more specific reasons, each with inputs of the body. A reason applies to sums that depend on its inputs.
    """
    labels.bodies.setdefault(id(op), []).append(inside)
    made = {reason: _made_from(inside.program, numbers) for reason, numbers in (special or {}).items()}
    text = LOOPS[op.name]
    copied = {leaf.outputs[0]: leaf.inputs[0] for leaf in inside.program.leaves if leaf.name in LAYER_COPIES}
    ends: list[Sink] = [*inside.contractions, *inside.routes, *inside.reads]
    for end in ends:
        value: Operand = end.value
        while value in copied:
            value = copied[value]
        outside, lacking = entries.get(value, (None, 0)) if isinstance(value, int) else (None, 0)
        if isinstance(outside, int) and outside in labels.data and not isinstance(end, Route):
            if has_labels(labels.axes[outside][end.axis + lacking]):
                labels.reads.append(Read(op, outside, end.axis + lacking))
            continue
        operands = {operand for operand in end.op.inputs if isinstance(operand, int)}
        reason = next((reason for reason, values in made.items() if operands & values), text)
        blamed = op if op.source else end.op
        axis = end.axis if not isinstance(end, Route) else len(inside.axes[end.value]) - 1
        inside.freeze(inside.axes[end.value][axis], reason, blamed)
        if (entry := (op.name, labels.reason(reason, blamed))) not in labels.unfollowed:
            labels.unfollowed.append(entry)


def _made_from(program: Program, numbers: Collection[int]) -> set[int]:
    """Returns the values of a program that depend on any of `numbers`."""
    made = set(numbers)
    for op in program.leaves:
        if not made.isdisjoint(i for i in op.inputs if isinstance(i, int)):
            made.update(out for out in op.outputs if isinstance(out, int))
    return made


def _carried(
    labels: Labels,
    op: Op,
    jaxpr: Any,
    fixed: Sequence[Axes],
    carry: Sequence[Axes],
    rest: Sequence[Axes],
    data: set[int],
) -> tuple[list[Axes], list[Axes], Labels]:
    """Labels the body of a loop, whose inputs are constants, the carry, and slices.

    Args:
      labels: the labels of the program that contains the loop.
      op: the loop.
      jaxpr: its body.
      fixed, carry, rest: axes of the constants, the carry and the slices.
      data: positions of the inputs that depend on data.

    Returns:
      The axes of the carry, those of further outputs, and the labels of the body.
    """
    data = set(data)
    now = [list(axes) for axes in carry]
    while True:
        outs, inside = _body(labels, op, jaxpr, [*fixed, *map(tuple, now), *rest], data)
        joined = [
            [labels.join(one, other, op) for one, other in zip(axes, out, strict=True)]
            for axes, out in zip(now, outs, strict=False)
        ]
        flows = {
            len(fixed) + i
            for i, output in enumerate(inside.program.outputs[: len(now)])
            if isinstance(output, int) and output in inside.data
        }
        if flows <= data and all(
            _kind(a) == _kind(b) for old, new in zip(now, joined, strict=True) for a, b in zip(old, new, strict=True)
        ):
            return [tuple(axes) for axes in joined], outs[len(now) :], inside
        # Axes only change from `None` to labels, and from labels to fixed, so the loop ends.
        now, data = joined, data | flows


def _kind(axis: Axis) -> object:
    """Returns the part of an axis that decides how a body is labeled, without the labels themselves."""
    return (axis < 0).tobytes() if isinstance(axis, np.ndarray) else axis if axis is None else axis.kind


def _data_of(labels: Labels, operands: Sequence[Operand]) -> set[int]:
    return {i for i, operand in enumerate(operands) if isinstance(operand, int) and operand in labels.data}


@_rule("scan")
def _scan(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    constants, carried = scan_counts(op.params)
    slices = range(constants + carried, len(ins))
    steps: Axis = Fixed(DATA, "it meets the steps of a `scan`")
    for i in slices:
        first = ins[i][0]
        labels.freeze(first, "its axis is scanned over", op)
        if isinstance(first, Fixed) and first.kind == BATCH:
            steps = first
    carry, outs, inside = _carried(
        labels,
        op,
        op.params["jaxpr"],
        ins[:constants],
        ins[constants : constants + carried],
        [axes[1:] for axes in ins[constants + carried :]],
        _data_of(labels, op.inputs),
    )
    numbers = inside.program.inputs
    stacked = [numbers[i] for i in slices if numbers[i] not in inside.data]
    state = [numbers[i] for i in range(constants, constants + carried) if numbers[i] in inside.data]
    entries = {numbers[i]: (op.inputs[i], int(i in slices)) for i in (*range(constants), *slices)}
    _hold(labels, op, inside, entries, {_STACKED: stacked, _RECURRENT: state})
    return [*carry, *[(steps, *axes) for axes in outs]]


@_rule("while")
def _while(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    tests, constants = op.params["cond_nconsts"], op.params["body_nconsts"]
    data = _data_of(labels, op.inputs)
    carry, _, inside = _carried(
        labels,
        op,
        op.params["body_jaxpr"],
        ins[tests : tests + constants],
        ins[tests + constants :],
        [],
        {i - tests for i in data if i >= tests},
    )
    constant = zip(inside.program.inputs[:constants], op.inputs[tests:], strict=False)
    _hold(labels, op, inside, {number: (operand, 0) for number, operand in constant})
    tested = [i for i in data if i < tests] + [tests + i for i in range(len(carry))]
    _, inside = _body(labels, op, op.params["cond_jaxpr"], [*ins[:tests], *carry], tested)
    constant = zip(inside.program.inputs[:tests], op.inputs, strict=False)
    _hold(labels, op, inside, {number: (operand, 0) for number, operand in constant})
    return carry


@_rule("cond")
def _cond(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    joined: list[Axes] | None = None
    data = {i - 1 for i in _data_of(labels, op.inputs) if i > 0}
    for branch in op.params["branches"]:
        outs, inside = _body(labels, op, branch, ins[1:], data)
        _hold(labels, op, inside, dict(zip(inside.program.inputs, ((i, 0) for i in op.inputs[1:]), strict=True)))
        if joined is None:
            joined = outs
        else:
            joined = [
                tuple(labels.join(a, b, op) for a, b in zip(one, other, strict=True))
                for one, other in zip(joined, outs, strict=True)
            ]
    return joined or []


_CONTRACTIONS = {"dot_general", "conv_general_dilated", "ragged_dot_general"}


def _contract(labels: Labels, op: Op, operand: int, axis: int, other: int) -> None:
    """Records that a labeled axis of data is summed over, together with axis `other` of the other operand."""
    value = op.inputs[operand]
    if isinstance(value, int) and value in labels.data and has_labels(labels.axes[value][axis]):
        labels.contractions.append(Contraction(op, operand, value, axis, other))


def dot_dimensions(op: Op) -> tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]:
    """Returns the contracted axes of a matrix product, and its batch axes."""
    if op.name == "ragged_dot_general":
        return op.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    return op.params["dimension_numbers"]


@_rule("dot_general")
def _dot_general(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    (left, right), (left_batch, right_batch) = dot_dimensions(op)
    for i, j in zip(left, right, strict=True):
        labels.join(ins[0][i], ins[1][j], op)
        _contract(labels, op, 0, i, j)
        _contract(labels, op, 1, j, i)
    out = [labels.join(ins[0][i], ins[1][j], op) for i, j in zip(left_batch, right_batch, strict=True)]
    out += [axis for i, axis in enumerate(ins[0]) if i not in left and i not in left_batch]
    out += [axis for j, axis in enumerate(ins[1]) if j not in right and j not in right_batch]
    return [tuple(out)]


@_rule("ragged_dot_general")
def _ragged_dot(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Multiplies sorted rows by the matrices of their groups, such as tokens by the weights of their experts."""
    numbers = op.params["ragged_dot_dimension_numbers"]
    (left, right), (left_batch, right_batch) = dot_dimensions(op)
    groups = list(map(int, numbers.rhs_group_dimensions))
    if not groups or any(int(i) in {*left, *left_batch} for i in numbers.lhs_ragged_dimensions):
        return _unknown(labels, op, ins)
    for i in numbers.lhs_ragged_dimensions:
        labels.freeze(ins[0][i], "its axis is divided among groups", op)
    for j in groups:
        labels.freeze(ins[1][j], "it is one of the groups of a ragged product", op)
    for i, j in zip(left, right, strict=True):
        labels.join(ins[0][i], ins[1][j], op)
        _contract(labels, op, 0, i, j)
        _contract(labels, op, 1, j, i)
    out = [labels.join(ins[0][i], ins[1][j], op) for i, j in zip(left_batch, right_batch, strict=True)]
    out += [axis for i, axis in enumerate(ins[0]) if i not in left and i not in left_batch]
    out += [axis for j, axis in enumerate(ins[1]) if j not in right and j not in right_batch and j not in groups]
    return [tuple(out)]


@_rule("conv_general_dilated")
def _convolution(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    numbers = op.params["dimension_numbers"]
    groups = op.params["feature_group_count"]
    if op.params["batch_group_count"] != 1:
        return _unknown(labels, op, ins)
    lhs_batch, lhs_feature, *lhs_space = numbers.lhs_spec
    rhs_out, rhs_in, *rhs_space = numbers.rhs_spec
    for i in lhs_space:
        labels.freeze(ins[0][i], "its axis is convolved over", op)
    for i in rhs_space:
        labels.freeze(ins[1][i], "it is the spatial extent of a kernel", op)
    features = ins[1][rhs_out]
    if groups == 1:
        labels.join(ins[0][lhs_feature], ins[1][rhs_in], op)
        _contract(labels, op, 0, lhs_feature, rhs_in)
    else:
        labels.freeze(ins[1][rhs_in], "it is the input width of one group of a grouped convolution", op)
        features = _grouped(labels, op, ins[0][lhs_feature], features, groups)
    out: list[Axis] = [None] * len(numbers.out_spec)
    out[numbers.out_spec[0]] = ins[0][lhs_batch]
    out[numbers.out_spec[1]] = features
    for i in numbers.out_spec[2:]:
        out[i] = Fixed(DATA, "it meets an axis of space")
    return [tuple(out)]


def _grouped(labels: Labels, op: Op, inputs: Axis, outputs: Axis, groups: int) -> Axis:
    """Unites the inputs and outputs of each group of a convolution, which can only be removed as a whole."""
    width = labels.shape(op.inputs[0])[op.params["dimension_numbers"].lhs_spec[1]]
    per_group = labels.marked(inputs, width, op).reshape(groups, -1)
    if not isinstance(outputs, np.ndarray):
        labels.freeze(inputs, "it feeds a grouped convolution whose outputs cannot leave", op)
        return outputs
    outs = outputs.reshape(groups, -1)
    for column in [*per_group.T, *outs.T[1:]]:
        labels.unite(outs[:, 0].copy(), column.copy())
    return outputs


@_rule(SELECT)
def _select(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    x, index, fill = op.inputs
    assert isinstance(x, int)
    out = labels.join(ins[1][0], ins[2][0], op)
    if isinstance(index, int) and isinstance(fill, int) and {index, fill} <= set(labels.program.inputs):
        labels.routes.append(Route(op, x, index, fill))
    else:
        labels.freeze(ins[0][-1], "the index and fill of its `demp_jax.select` are not variables of the network", op)
        labels.freeze(out, "the index and fill of its `demp_jax.select` are not variables of the network", op)
    return [(*ins[0][:-1], out)]
