# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What each operation does to the labels of its operands.

A rule takes the axes of the operands and returns those of the results. It may unite labels, freeze them, or note where
they end. An operation without a rule freezes what it touches: nothing is guessed, and nothing is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    Route,
    has_labels,
)
from demp_jax._src.tracing.program import Op, Program

Rule = Callable[[Labels, Op, Sequence[Axes]], list[Axes]]
RULES: dict[str, Rule] = {}

_LOST = Fixed(DATA, "it meets a value whose positions are not followed")


def label(program: Program, variables: int, inputs: int, batch_axis: int | None) -> Labels:
    """Returns the labelled axes of a program.

    Args:
      program: a traced function.
      variables: how many of its first inputs are variables.
      inputs: how many of the next are arrays of a batch.
      batch_axis: the axis of each of them along which examples lie.
    """
    labels = Labels(program, variables, inputs, batch_axis)
    for op in program.leaves:
        _visit(labels, op)
    for output in program.outputs:
        if isinstance(output, int):
            for axis in labels.axes[output]:
                labels.freeze(axis, "it is an output of the network")
    return labels


def _visit(labels: Labels, op: Op) -> None:
    ins = [labels.operand_axes(operand) for operand in op.inputs]
    depends = [operand for operand in op.inputs if isinstance(operand, int) and operand in labels.data]
    statistic = bool(depends) and all(operand in labels.statistics for operand in depends)
    outs = RULES.get(op.name, _unknown)(labels, op, ins)
    if op.name in _CONTRACTIONS:
        statistic = False
    elif op.name in _REDUCTIONS and any(_is_unit_axis(ins[0][a]) for a in _reduced_axes(op)):
        statistic = True
    for output, axes in zip(op.outputs, outs, strict=True):
        assert isinstance(output, int)
        assert len(axes) == len(labels.shape(output)), op.name
        labels.axes[output] = tuple(axes)
        if depends:
            labels.data.add(output)
            if statistic:
                labels.statistics.add(output)


def _is_unit_axis(axis: Axis) -> bool:
    return has_labels(axis) or (isinstance(axis, Fixed) and axis.kind == MEMBER)


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register


LOOPS = {
    "scan": "layers stacked by `scan` share one width; call them one by one so that each can shrink on its own",
    "while": "it is used inside a `while` loop, which is not followed",
    "cond": "it is used inside a `cond`, whose branches are not followed",
}


def _unknown(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    text = LOOPS.get(op.name, f"it is used by `{op.name}`, for which there is no rule")
    for axes in ins:
        for axis in axes:
            labels.freeze(axis, text, op)
    labels.unfollowed.append((op.name, labels.reason(text, op)))
    # An axis of examples usually comes out where it went in.
    batch = {
        (i, labels.shape(operand)[i])
        for operand, axes in zip(op.inputs, ins, strict=True)
        for i, axis in enumerate(axes)
        if isinstance(axis, Fixed) and axis.kind == BATCH
    }
    shapes = [labels.shape(output) for output in op.outputs]
    return [tuple(Fixed(BATCH if place in batch else DATA, text) for place in enumerate(shape)) for shape in shapes]


@_rule(
    *"""abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp conj convert_element_type copy copy_p
    cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma imag integer_pow is_finite le lgamma log
    log1p logistic lt max min mul name ne neg nextafter not or population_count pow real reduce_precision rem round
    rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub
    tan tanh xor sharding_constraint pvary pcast""".split()
)
def _elementwise(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    shape = labels.shape(op.outputs[0])
    out: list[Axis] = [None] * len(shape)
    for operand, axes in zip(op.inputs, ins, strict=True):
        sizes = labels.shape(operand)
        if len(sizes) != len(shape):
            continue  # A scalar beside arrays.
        for i, axis in enumerate(axes):
            if sizes[i] == shape[i]:
                out[i] = labels.join(out[i], axis, op)
    return [tuple(out)]


def is_pointwise(op: Op) -> bool:
    """Returns whether every entry of the result depends on the same entry of each operand alone."""
    return RULES.get(op.name) is _elementwise


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
        for target, part in zip(targets, _split(labels, op, axis, [new[i] for i in targets]), strict=True):
            out[target] = part
    return [tuple(out)]


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Returns the smallest groups of old and new dimensions, of size over 1, that hold the same elements."""
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
    """Returns the one axis that `axes` are flattened to, the last running fastest."""
    if len(axes) == 1:
        return axes[0]
    labelled = [i for i, axis in enumerate(axes) if isinstance(axis, np.ndarray)]
    if len(labelled) > 1:
        for i in labelled:
            labels.freeze(axes[i], "a reshape merges it with another axis of units", op)
        return _LOST
    if labelled:
        [i] = labelled
        shape = [size if j == i else 1 for j, size in enumerate(sizes)]
        axis = axes[i]
        assert isinstance(axis, np.ndarray)
        return np.broadcast_to(axis.reshape(shape), sizes).reshape(-1)
    fixed = [axis for axis in axes if isinstance(axis, Fixed)]
    batch = [axis for axis in fixed if axis.kind == BATCH]
    return (batch + fixed + [None])[0]


def _split(labels: Labels, op: Op, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Returns the axes of `sizes` that one axis is unflattened to."""
    if len(sizes) == 1 or axis is None:
        return [axis] * len(sizes)
    if isinstance(axis, Fixed):
        # Examples stay on the axis that runs slowest; the rest is space.
        return [axis, *[Fixed(DATA, axis.reason)] * (len(sizes) - 1)]
    grid = axis.reshape(sizes)
    for j in range(len(sizes)):
        line = grid[tuple(slice(None) if k == j else 0 for k in range(len(sizes)))]
        shape = [size if k == j else 1 for k, size in enumerate(sizes)]
        if (grid == line.reshape(shape)).all():
            out: list[Axis] = [Fixed(DATA, "it is flattened with space")] * len(sizes)
            out[j] = line
            return out
    # Groups of units: a group can leave, its members cannot leave one by one.
    groups = grid.reshape(sizes[0], -1)
    for member in groups.T[1:]:
        labels.unite(groups[:, 0].copy(), member.copy(), op)
    return [groups[:, 0], *[Fixed(MEMBER, "it is one of a group of units")] * (len(sizes) - 1)]


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


@_rule("slice")
def _slice(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    out: list[Axis] = []
    shape = labels.shape(op.outputs[0])
    for axis, size, new in zip(ins[0], labels.shape(op.inputs[0]), shape, strict=True):
        if size != new and isinstance(axis, np.ndarray):
            labels.freeze(axis, "its axis is sliced at fixed positions", op)
            axis = _LOST
        out.append(axis if new > 1 or isinstance(axis, Fixed) else None)
    return [tuple(out)]


@_rule("split")
def _split_rule(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    dim = op.params["axis"]
    sizes = [int(size) for size in op.params["sizes"]]
    axis = ins[0][dim]
    parts: list[Axis] = [axis] * len(sizes)
    if isinstance(axis, np.ndarray):
        if len(set(sizes)) == 1:
            # Equal parts stay equal only if they lose the same positions.
            pieces = axis.reshape(len(sizes), -1)
            for piece in pieces[1:]:
                labels.unite(pieces[0].copy(), piece.copy(), op)
            parts = list(pieces) if sizes[0] > 1 else [None] * len(sizes)
        else:
            labels.freeze(axis, "its axis is split into parts of fixed, unequal sizes", op)
            parts = [_LOST] * len(sizes)
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
            out.append(axis if axis is not None else _LOST)
    return [tuple(out)]


@_rule("gather")
def _gather(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Looks up whole slices: axes taken in full are handed on (an embedding's features), looked-up ones frozen."""
    numbers = op.params["dimension_numbers"]
    sizes = labels.shape(op.inputs[0])
    full = [op.params["slice_sizes"][i] == size for i, size in enumerate(sizes)]
    # Where indices are clipped, the only one at which a whole axis can be taken is 0.
    indexed = () if op.params["mode"] == GatherScatterMode.CLIP else numbers.start_index_map
    gone = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    kept = [i for i in range(len(sizes)) if i not in gone]
    out: list[Axis] = [Fixed(DATA, "it meets looked-up positions")] * len(labels.shape(op.outputs[0]))
    for i in range(len(sizes)):
        if i in gone or not full[i] or i in indexed:
            text = (
                "its axis is indexed at fixed positions (`demp_jax.select` routes channels through an index variable)"
            )
            labels.freeze(ins[0][i], text, op)
    for offset, i in zip(numbers.offset_dims, kept, strict=True):
        if full[i] and i not in indexed:
            out[offset] = ins[0][i]
    batch = [d for d in range(len(out)) if d not in numbers.offset_dims]
    for d, axis in zip(batch, ins[1][:-1], strict=True):
        labels.freeze(axis, "it is used as an index", op)
        if isinstance(axis, Fixed):
            out[d] = axis
    return [tuple(out)]


@_rule("iota")
def _iota(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del ins
    out: list[Axis] = [None] * len(labels.shape(op.outputs[0]))
    out[op.params["dimension"]] = Fixed(DATA, "it meets numbered positions (`arange`)")
    return [tuple(out)]


@_rule(
    *"""random_bits random_wrap random_unwrap random_seed random_split random_fold_in random_clone threefry2x32
    rng_bit_generator rng_uniform""".split()
)
def _random(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    del ins
    return [(None,) * len(labels.shape(output)) for output in op.outputs]


_REDUCTIONS = set(
    """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin reduce""".split()
)


def _reduced_axes(op: Op) -> tuple[int, ...]:
    return tuple(int(a) for a in op.params.get("axes", op.params.get("dimensions", ())))


@_rule(*_REDUCTIONS)
def _reduce(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    gone = set(_reduced_axes(op))
    for i in gone:
        labels.freeze(ins[0][i], "it is reduced over together with other units (mean, norm or softmax over units)", op)
    kept = tuple(axis for i, axis in enumerate(ins[0]) if i not in gone)
    return [kept for _ in op.outputs]


@_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "top_k", "approx_top_k")
def _along(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    """Mixes the positions of one axis and leaves the others alone."""
    rank = len(labels.shape(op.inputs[0]))
    where = op.params.get("axis", op.params.get("dimension", op.params.get("reduction_dimension", rank - 1)))
    dim = int(where) % rank
    out: list[Axis] = [None] * rank
    for axes in ins:
        for i, axis in enumerate(axes):
            if i == dim:
                labels.freeze(axis, f"`{op.name}` mixes it with other units", op)
                out[i] = axis if isinstance(axis, Fixed) else _LOST
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
            out.append(axis if isinstance(axis, Fixed) else _LOST)
    return [tuple(out) for _ in op.outputs]


_CONTRACTIONS = {"dot_general", "conv_general_dilated"}


def _contract(labels: Labels, op: Op, operand: int, axis: int) -> None:
    """Notes that a labelled axis of data ends here."""
    value = op.inputs[operand]
    if isinstance(value, int) and value in labels.data and has_labels(labels.axes[value][axis]):
        labels.contractions.append(Contraction(op, operand, value, axis))


@_rule("dot_general")
def _dot_general(labels: Labels, op: Op, ins: Sequence[Axes]) -> list[Axes]:
    (left, right), (left_batch, right_batch) = op.params["dimension_numbers"]
    for i, j in zip(left, right, strict=True):
        labels.join(ins[0][i], ins[1][j], op)
        _contract(labels, op, 0, i)
        _contract(labels, op, 1, j)
    out = [labels.join(ins[0][i], ins[1][j], op) for i, j in zip(left_batch, right_batch, strict=True)]
    out += [axis for i, axis in enumerate(ins[0]) if i not in left and i not in left_batch]
    out += [axis for j, axis in enumerate(ins[1]) if j not in right and j not in right_batch]
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
        _contract(labels, op, 0, lhs_feature)
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
    """Unites each group's inputs and outputs: only a whole group can leave. Depthwise: a channel with its outputs."""
    width = labels.shape(op.inputs[0])[op.params["dimension_numbers"].lhs_spec[1]]
    per_group = labels.marked(inputs, width, op).reshape(groups, -1)
    if not isinstance(outputs, np.ndarray):
        labels.freeze(inputs, "it feeds a grouped convolution whose outputs cannot leave", op)
        return outputs
    outs = outputs.reshape(groups, -1)
    for column in [*per_group.T, *outs.T[1:]]:
        labels.unite(outs[:, 0].copy(), column.copy(), op)
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
