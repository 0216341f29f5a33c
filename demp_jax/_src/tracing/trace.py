# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Traces a function to the graph of its removable units.

1. `program.trace` turns the function into a list of operations over numbered values.
2. `rules.label` labels every position of every axis of the variables, and propagates the labels (`axes.py`).
3. `activations.find` finds the activations and, by their labels, the axis of each that holds units.
4. `_grouped` forms the groups: components of labels that all programs (evaluation mode, training mode, further calls)
   leave unfrozen, and that contain a unit.
5. `_Assembly` describes the groups of each program: sites, producers, consumers, and refusals for the rest.

Dimension names: positions, labels and components as in `types`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from demp_jax._src.tracing import activations as activations_lib
from demp_jax._src.tracing import axes as axes_lib
from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing import rules
from demp_jax._src.tracing import zeros as zeros_lib
from demp_jax._src.tracing.graph import Absorber, Consumer, Graph, Producer, Product, Refusal, Site, per_unit
from demp_jax._src.tracing.paths import leaf_paths
from demp_jax._src.tracing.program import Op, Program
from demp_jax._src.types import AxisMask, ComponentReasons, LabelComponents, SomeGroups, SomeMask

EXTRA_UNITS = ("heads", "features")


class Analysis(NamedTuple):
    """A traced function with its labeled axes and its activations, before groups are formed."""

    program: Program
    labels: axes_lib.Labels
    activations: list[activations_lib.Activation]
    owners: dict[int, str]
    paths: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]


def analyze(
    fn: Callable[..., Any],
    variables: Any,
    x: Any,
    *args: Any,
    batch_axis: int = 0,
    updating: bool = False,
    extra_units: Collection[str] = (),
) -> Analysis:
    """Traces `fn(variables, x, *args)` and finds its activations and extra units.

    With `updating`, `fn` returns a pair: its outputs, and new values of the variables or `None`.
    """
    program = program_lib.trace(fn, variables, x, *args)
    given: dict[str, Any] = {"batch_axis": batch_axis, "extra_units": extra_units}
    return _analyze(program, variables, x, program.stacked, updating=updating, **given)


def _analyze(
    program: Program,
    variables: Any,
    x: Any,
    stacked: Collection[int],
    *,
    batch_axis: int,
    updating: bool,
    extra_units: Collection[str],
) -> Analysis:
    paths = leaf_paths(variables)
    keys = tuple(path for path, _ in jax.tree_util.tree_leaves_with_path(variables))
    updates = _updates(program, len(paths)) if updating else None
    labels = rules.label(program, len(paths), len(jax.tree.leaves(x)), batch_axis, updates, stacked)
    return Analysis(program, labels, *activations_lib.find(program, labels, paths, extra_units), paths, keys)


def _updates(program: Program, variables: int) -> dict[int, int]:
    """Returns, for each output that is the new value of a variable, its position and that of the variable."""
    children = program.out_tree.children()
    if len(children) != 2 or children[1].num_leaves not in (0, variables):
        raise ValueError(
            "calls: each must return its outputs and the new values of all variables, or None, as in "
            f"`(outputs, variables)`; got a result of the structure {program.out_tree}."
        )
    outputs = children[0].num_leaves
    return {outputs + i: i for i in range(children[1].num_leaves)}


def trace(
    fn: Callable[..., Any],
    variables: Any,
    x: Any,
    *args: Any,
    batch_axis: int = 0,
    exclude: Sequence[str] | str = (),
    train_fn: Callable[..., Any] | None = None,
    calls: Sequence[Callable[..., Any]] = (),
    extra_units: Sequence[str] | str = (),
) -> Graph:
    """Finds the removable units of `fn(variables, x, *args)`.

    Args:
      fn: the network in evaluation mode (BatchNorm with running statistics, no dropout), any JAX function.
      variables: a tree of arrays or `jax.ShapeDtypeStruct`: parameters, statistics, indices of `select`.
      x: a batch of at least two examples, an array or a tree of arrays, or their `jax.ShapeDtypeStruct`.
      *args: further arguments of `fn`.
      batch_axis: the axis of each array of `x` along which examples lie.
      exclude: a pattern or patterns (as in `fnmatch`) of names of sites that keep all their units.
      train_fn: the network in training mode, `train_fn(variables, x, *args)`. A unit is then removable only if it is in
        both modes. `Graph.training` is the trace in training mode with the same groups, or `None` if both modes are the
        same program.
      calls: further functions that use the variables in training, `call(variables, x, *args)`, such as an auxiliary
        head, counters of units, or a teacher that follows its student. Each returns a pair: its outputs, and the new
        values of all variables or `None`. Variables that only calls read are added to the groups.
      extra_units: units besides those of activations that saturate at zero: `"heads"`, attention heads, which are
        removed from queries, keys, values and the output; `"features"`, features of layers that no such activation
        follows, which are dead if they are zero.

    Returns:
      The graph of removable units. `print(graph.report())` lists them.

    Raises:
      ValueError: if a pattern of `exclude` matches no site, if no array of `x` has the axis `batch_axis`, if a call
        returns something other than such a pair, or for unknown `extra_units`.
    """
    extra_units = checked_extra_units(extra_units)
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    programs = [program_lib.trace(each, variables, x, *args) for each in (fn, train_fn) if each is not None]
    if len(programs) > 1 and program_lib.same(*programs):
        del programs[1]  # No BatchNorm, or one that uses batch statistics in both modes.
    modes = len(programs)
    programs += [program_lib.trace(each, variables, x, *args) for each in calls]
    # A variable that one program stacks has a label per layer in all of them.
    stacked = frozenset[int]().union(*(program.stacked for program in programs))
    given: dict[str, Any] = {"batch_axis": batch_axis, "extra_units": extra_units}
    analyses = [
        _analyze(program, variables, x, stacked, updating=i >= modes, **given) for i, program in enumerate(programs)
    ]
    _exclude(analyses[0], exclude)
    grouping = _grouped(analyses)
    examples = examples_of(x, batch_axis)
    if examples < 2:
        raise ValueError(
            f"trace: x must have at least two examples along batch_axis={batch_axis}, or examples cannot be told from "
            f"broadcasts; got {examples}. Give two or more."
        )
    views = [_Assembly(analysis, grouping, examples).graph() for analysis in analyses]
    unread = set.intersection(*(set(view.unread) for view in views))
    graph = dataclasses.replace(
        views[0],
        training=views[1] if modes > 1 else None,
        calls=tuple(views[modes:]),
        extra_units=extra_units,
        unread=tuple(path for path in views[0].unread if path in unread),
    )
    leaves = jax.tree.leaves(variables)
    for route in graph.routes:
        index = leaves[graph.variable(route.index)]
        if isinstance(index, np.ndarray | jax.Array) and not isinstance(index, jax.core.Tracer):
            for view in (*graph.views, *graph.calls):
                view.indices[graph.variable(route.index)] = np.asarray(index)
    return graph


def checked_extra_units(extra_units: Sequence[str] | str) -> tuple[str, ...]:
    """Returns the names of extra units as a tuple. Raises `ValueError` for unknown names."""
    names = (extra_units,) if isinstance(extra_units, str) else tuple(extra_units)
    unknown = [name for name in names if name not in EXTRA_UNITS]
    if unknown:
        raise ValueError(f"extra_units must be of {', '.join(EXTRA_UNITS)}; got {unknown[0]!r}.")
    return names


def _exclude(analysis: Analysis, patterns: Sequence[str]) -> None:
    """Freezes the units of the sites that match a pattern."""
    placed = [activation for activation in analysis.activations if activation.axis is not None]
    for pattern in patterns:
        # The name of a layer in a stack has brackets, which are special in patterns.
        matched = [a for a in placed if a.name == pattern or fnmatch.fnmatch(a.name, pattern)]
        if not matched:
            names = ", ".join(activation.name for activation in placed)
            raise ValueError(f"exclude: no site is named {pattern!r}. The sites are: {names}.")
        for activation in matched:
            assert activation.axis is not None
            analysis.labels.freeze(
                analysis.labels.axes[activation.value][activation.axis], f"it is excluded by {pattern!r}"
            )


@dataclasses.dataclass(frozen=True)
class _Grouping:
    """The groups of units, which are the same for all programs.

    Attributes:
      component: for each label, its component: labels that can only be removed together.
      frozen: for each component, the index of the reason why it is kept, or -1.
      reasons: the reasons of all programs.
      group_of: for each label, its group, or -1 if it is kept.
      num_groups: the number of groups.
    """

    component: LabelComponents
    frozen: ComponentReasons
    reasons: tuple[axes_lib.Reason, ...]
    group_of: Int[np.ndarray, " labels"]
    num_groups: int


def _grouped(analyses: Sequence[Analysis]) -> _Grouping:
    """Returns the groups: components with a unit of the first program that no program freezes.

    Example: in `relu(x @ w) @ v` with 4 units there are 4 components, each of a column of `w` and a row of `v`. The
    axes of the input and of the output are frozen, so there are 4 groups. Groups are numbered in the order of their
    sites.
    """
    component, frozen = axes_lib.components([analysis.labels for analysis in analyses])
    labels = analyses[0].labels
    ends = [labels.axes[a.value][a.axis] for a in analyses[0].activations if a.problem is None and a.axis is not None]
    ends += [labels.axes[route.value][-1] for route in labels.routes]
    held = [axis[axis >= 0] for axis in ends if isinstance(axis, np.ndarray)]
    found = component[np.concatenate([np.empty(0, np.int64), *held])]
    order = found[np.sort(np.unique(found, return_index=True)[1])]
    order = order[frozen[order] < 0]
    numbers = np.full(len(frozen), -1)
    numbers[order] = np.arange(len(order))
    reasons = tuple(reason for analysis in analyses for reason in analysis.labels.reasons)
    group_of = numbers[component] if len(component) else np.empty(0, np.int64)
    return _Grouping(component, frozen, reasons, group_of, len(order))


def examples_of(x: Any, batch_axis: int) -> int:
    """Returns the number of examples in a batch.

    Raises:
      ValueError: if no array of the batch has the axis `batch_axis`.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(x) if hasattr(leaf, "shape")]
    sizes = [shape[batch_axis] for shape in shapes if len(shape) > batch_axis]
    if not sizes:
        raise ValueError(f"a batch must hold an array with an axis of examples (batch_axis={batch_axis}); got {x!r}.")
    return int(sizes[0])


class _Assembly:
    """Describes the groups of one program: its sites, producers, consumers and refusals."""

    def __init__(self, analysis: Analysis, grouping: _Grouping, examples: int):
        self._program, self._labels, activations, self._owners, self._paths, self._keys = analysis
        self._examples = examples
        self._refusals: list[Refusal] = []
        labels = self._labels
        for name, reason in labels.unfollowed:
            text, source = labels.reasons[reason]
            self._refusals.append(Refusal(f"what meets `{name}`", text, source))
        for activation in activations:
            if activation.problem is not None:
                self._refusals.append(Refusal(activation.name, activation.problem, activation.source))
        self._activations = [activation for activation in activations if activation.axis is not None]
        self._group_of, self._num_groups = grouping.group_of, grouping.num_groups
        self._report_frozen(grouping)
        units = {a.value: a.axis for a in self._activations if a.axis is not None}
        self._zero = zeros_lib.zeros(self._program, labels, grouping.component, units)
        self._component, self._frozen = grouping.component, grouping.frozen
        self._consumers = _consumers(self._program)
        self._made_by: dict[program_lib.Operand, Op] = {op.outputs[0]: op for op in self._program.leaves}

    def _axis(self, activation: activations_lib.Activation) -> axes_lib.Axis:
        assert activation.axis is not None
        return self._labels.axes[activation.value][activation.axis]

    def _report_frozen(self, grouping: _Grouping) -> None:
        """Adds a refusal for each reason why units of an activation are frozen."""
        for activation in self._activations:
            axis = self._axis(activation)
            if not isinstance(axis, np.ndarray):
                continue
            for index in np.unique(
                np.where(axis >= 0, grouping.frozen[grouping.component[np.maximum(axis, 0)]], -1 - axis)
            ):
                if index >= 0:
                    reason = grouping.reasons[int(index)]
                    refusal = Refusal(activation.name, reason.text, reason.source or activation.source)
                    self._refusals.append(refusal)

    def _groups_of(self, axis: axes_lib.Axis, size: int) -> Int[np.ndarray, "*layers {size}"]:
        if not isinstance(axis, np.ndarray) or not self._num_groups:
            return np.full(size, -1)
        return np.where(axis >= 0, self._group_of[np.maximum(axis, 0)], -1)

    def _site(self, activation: activations_lib.Activation) -> Site:
        axis = activation.axis
        assert axis is not None
        width = int(self._program.avals[activation.value].shape[axis])
        groups = self._groups_of(self._axis(activation), width)
        return Site(
            name=activation.name,
            kind=activation.kind,
            width=width,
            groups=groups,
            value=activation.value,
            root=activation.root,
            alone=activation.alone,
            axis=axis,
            source=activation.source,
        )

    def _branches(self, sites: Sequence[Site]) -> list[Site]:
        """Returns the operands of routes that hold groups without an activation."""
        ours = np.concatenate([np.empty(0, np.int64), *(site.groups for site in sites)])
        branches = []
        taken = {site.name for site in sites}
        for route in self._labels.routes:
            axes = self._labels.axes[route.value]
            width = int(self._program.avals[route.value].shape[-1])
            groups = self._groups_of(axes[-1], width)
            groups = np.where(np.isin(groups, ours), -1, groups)
            if (groups >= 0).any():
                name = self._owners[route.value]
                while name in taken:
                    name += "+"
                taken.add(name)
                value, axis = route.value, len(axes) - 1
                branches.append(Site(name, "branch", width, groups, value, value, True, axis, route.op.source))
        return branches

    def _consumers_of_units(self) -> list[Consumer]:
        """Returns the contractions, routes and loops that read values of groups."""
        consumers = []
        sinks: list[tuple[int, int, axes_lib.Sink]] = []
        sinks += [(c.value, c.axis, c) for c in self._labels.contractions if self._watched(c)]
        sinks += [(r.value, len(self._labels.axes[r.value]) - 1, r) for r in self._labels.routes]
        sinks += [(r.value, r.axis, r) for r in self._labels.reads]
        for value, axis, sink in sinks:
            groups = self._groups_of(self._labels.axes[value][axis], int(self._program.avals[value].shape[axis]))
            if (groups >= 0).any():
                absorber = self._absorber(sink) if isinstance(sink, axes_lib.Contraction) else None
                negligible = self._read_zero(value, axis, sink, self._zero)
                variable, layer, weight_axis = None, None, 0
                if isinstance(sink, axes_lib.Contraction):
                    variable, layer = self._weights(sink.op.inputs[1 - sink.operand])
                    weight_axis = sink.other
                centered = isinstance(sink, axes_lib.Contraction) and self._centered(sink)
                consumers.append(
                    Consumer(value, axis, groups, negligible, sink, absorber, centered, variable, weight_axis, layer)
                )
        return consumers

    def _watched(self, sink: axes_lib.Contraction) -> bool:
        """Returns whether a contraction is a consumer.

        If both operands of a product depend on data, it is a consumer of only one of them. Of queries and keys, this is
        the first operand. Of hidden units and the weights of the expert that a token chose, it is the hidden units, and
        not the weights that are looked up.
        """
        other = sink.op.inputs[1 - sink.operand]
        paired = any(
            c.op is sink.op and c.operand != sink.operand and c.axis == sink.other for c in self._labels.contractions
        )
        if not paired or not isinstance(other, int):
            return True
        looked_up = [number in self._labels.looked_up for number in (sink.value, other)]
        return looked_up == [False, True] or (looked_up[0] == looked_up[1] and sink.operand == 0)

    def _read_zero(self, value: int, axis: int, sink: axes_lib.Sink, zero: Mapping[int, zeros_lib.Zero]) -> AxisMask:
        """Returns the positions at which a consumer reads zero, given the zeros that follow from dead units."""
        operands: list[tuple[program_lib.Operand, int]] = [(value, axis)]
        if isinstance(sink, axes_lib.Contraction):
            # A product is zero where either factor is.
            operands.append((sink.op.inputs[1 - sink.operand], sink.other))
        found = np.zeros(self._program.avals[value].shape[axis], bool)
        for operand, along in operands:
            where = zero[operand][along] if isinstance(operand, int) and operand in zero else None
            found |= False if where is None else where
        return found

    def _sufficient(self, sites: Sequence[Site], consumers: Sequence[Consumer]) -> tuple[SomeMask, ...]:
        """Returns `Graph.sufficient`.

        Sites that share groups are tested one at a time: the first pass tests the first site of each group, the second
        pass the second site, and so on.
        """
        held, ranks = np.zeros(self._num_groups, int), []
        for site in sites:
            groups = np.unique(site.groups[site.groups >= 0])
            ranks.append(int(held[groups].max(initial=0)))
            held[groups] = ranks[-1] + 1
        found = [per_unit(held == 1, site.groups) for site in sites]
        for rank in range(held.max(initial=0)):
            chosen = [i for i, site in enumerate(sites) if ranks[i] == rank and per_unit(held > 1, site.groups).any()]
            units = {sites[i].value: sites[i].axis for i in chosen}
            zero = zeros_lib.zeros(self._program, self._labels, self._component, units) if units else {}
            enough = np.ones(self._num_groups, bool)
            for consumer in consumers:
                reads = consumer.groups >= 0
                enough[
                    consumer.groups[reads & ~self._read_zero(consumer.value, consumer.axis, consumer.sink, zero)]
                ] = False
            for i in chosen:
                found[i] = per_unit(enough, sites[i].groups)
        return tuple(found)

    def _absorber(self, sink: axes_lib.Contraction) -> Absorber | None:
        """Finds the bias that is added to a contraction's result, or the running mean subtracted from it.

        It must lie along the axes that the weights of the contraction have in the result, and nothing else may read it.
        Example: in `x @ w + b` it is `b`, which lies along the second axis of `w`.
        """
        op = sink.op
        result = op.outputs[0]
        weights = op.inputs[1 - sink.operand]
        if weights in self._labels.data or not isinstance(weights, int):
            return None
        kept = _kept_axes(op, sink.operand, [len(self._labels.shape(operand)) for operand in op.inputs[:2]])
        sign = 1
        while kept is not None and isinstance(result, int) and len(self._consumers.get(result, ())) == 1:
            [op] = self._consumers[result]
            if op.name in ("add", "sub", "add_any"):
                first = op.inputs[0] == result
                other = op.inputs[1] if first else op.inputs[0]
                if other == result or not isinstance(other, int):
                    return None
                if op.name == "sub" and not first:
                    sign = -sign
                if other not in self._labels.data:
                    variable = self._variable_behind(other) if self._lies_along(other, result, kept) else None
                    if variable is None:
                        return None
                    return Absorber(variable, -sign if op.name == "sub" and first else sign)
            elif op.name not in ("convert_element_type", "copy", "name"):
                return None
            # The sum with other data, such as a skip, can still be followed by a bias.
            result = op.outputs[0]
        return None

    def _centered(self, sink: axes_lib.Contraction) -> bool:
        """Returns whether the result of a contraction is averaged over the examples, as BatchNorm does in training.

        The mean then cancels a constant that is added to all examples. With zero padding it does not cancel completely,
        which the comparison of the outputs finds.
        """
        waiting, seen = list(sink.op.outputs), set()
        while waiting:
            value = waiting.pop()
            if not isinstance(value, int) or value in seen:
                continue
            seen.add(value)
            for op in self._consumers.get(value, ()):
                if op.name in ("reduce_sum", "psum"):
                    axes = self._labels.axes[value]
                    reduced = [axes[int(a)] for a in op.params["axes"]]
                    if any(map(_is_batch, reduced)):
                        return True
                elif op.name in ("convert_element_type", "copy", "name", "reshape"):
                    waiting.extend(op.outputs)
                elif op.name in ("add", "add_any", "sub"):
                    others = [i for i in op.inputs if i != value]
                    if not any(other in self._labels.data for other in others):
                        waiting.extend(op.outputs)  # A bias.
        return False

    def _lies_along(self, operand: int, result: int, kept: Sequence[int]) -> bool:
        """Returns whether an operand that is added to `result` varies along the axes `kept` and along no others."""
        shape = self._labels.shape(result)
        axes = self._labels.axes[operand]
        if len(axes) != len(shape):
            return False
        sizes = self._labels.shape(operand)
        return all(
            (axes_lib.has_labels(axis) and sizes[i] == shape[i]) or shape[i] == 1 if i in kept else axis is None
            for i, axis in enumerate(axes)
        )

    def _variable_behind(self, operand: int) -> int | None:
        """Returns the index of the variable that `operand` is a reshaped copy of; `None` if others read it, too."""
        while operand in self._made_by:
            op = self._made_by[operand]
            copies = ("reshape", "broadcast_in_dim", "convert_element_type", "copy", "squeeze")
            if op.name not in copies or len(self._consumers[operand]) > 1 or not isinstance(op.inputs[0], int):
                return None
            operand = op.inputs[0]
        inputs = self._program.inputs[: len(self._paths)]
        alone = len(self._consumers[operand]) == 1 and operand not in self._program.outputs
        return inputs.index(operand) if operand in inputs and alone else None

    def _producers(self) -> tuple[Producer, ...]:
        """Returns the products of data with weights that compute values of groups."""
        producers = []
        for op in self._program.leaves:
            result = op.outputs[0]
            if op.name not in ("dot_general", "conv_general_dilated") or result not in self._labels.data:
                continue
            ranks = [len(self._labels.shape(operand)) for operand in op.inputs[:2]]
            for operand, weights in enumerate(op.inputs[:2]):
                free = _free_axes(op, operand)
                if weights in self._labels.data or not isinstance(weights, int) or not free:
                    continue
                kept = _kept_axes(op, 1 - operand, ranks) or ()
                for axis, weight_axis in zip(kept, free, strict=True):
                    labels = self._labels.axes[weights][weight_axis]
                    groups = self._groups_of(labels, self._labels.shape(weights)[weight_axis])
                    if (groups >= 0).any():
                        variable, layer = self._weights(weights)
                        producers.append(Producer(self._with_bias(result), axis, groups, variable, weight_axis, layer))
        return tuple(producers)

    def _weights(self, number: program_lib.Operand) -> tuple[int | None, int | None]:
        """Returns the index of the variable that a value is a copy of, in any precision, and the layer.

        The layer is `None` if the value is a copy of the whole variable and not of one layer of it. Both are `None` if
        the value is not a copy.
        """
        number = self._original(number)
        squeeze = self._made_by.get(number)
        of_layer = self._made_by.get(squeeze.inputs[0]) if squeeze is not None and squeeze.name == "squeeze" else None
        layer = None
        if of_layer is not None and of_layer.name == "slice":
            number, layer = self._original(of_layer.inputs[0]), int(of_layer.params["start_indices"][0])
        inputs = self._program.inputs[: len(self._paths)]
        variable = inputs.index(number) if number in inputs else None
        if layer is not None and variable not in self._labels.stacked:
            return None, None
        return variable, layer

    def _original(self, number: program_lib.Operand) -> program_lib.Operand:
        """Returns the value of the same shape that another value is a copy of."""
        while number in self._made_by and self._made_by[number].name in ("convert_element_type", "copy", "name"):
            number = self._made_by[number].inputs[0]
        return number

    def _with_bias(self, result: int) -> int:
        """Returns the sum of a product and its bias, if nothing else reads the product; otherwise the product."""
        if len(self._consumers.get(result, ())) != 1:
            return result
        [op] = self._consumers[result]
        others = [i for i in op.inputs if i != result]
        if op.name not in ("add", "add_any") or len(others) != 1 or others[0] in self._labels.data:
            return result
        [bias], [total] = others, op.outputs
        assert isinstance(total, int)
        return total if isinstance(bias, int) and self._variable_behind(bias) is not None else result

    def _products(self, labels: axes_lib.Labels, times: int = 1) -> Iterator[Product]:
        """Yields the products of a program that runs `times` times, and of the bodies of its loops.

        Of the branches of a `cond`, the one with the most FLOPs counts. The body of a `while` counts once.
        """
        for op in labels.program.leaves:
            if labels.data.isdisjoint(out for out in op.outputs if isinstance(out, int)):
                continue
            if op.name in rules.LOOPS:
                steps = int(op.params.get("length", 1))
                inner = [list(self._products(body, times * steps)) for body in labels.bodies[id(op)]]
                counts = [sum(math.prod(product.sizes) for product in products) for products in inner]
                for i, products in enumerate(inner):
                    if op.name != "cond" or i == int(np.argmax(counts)):
                        yield from products
            elif op.name in ("dot_general", "conv_general_dilated", "ragged_dot_general"):
                yield self._product(labels, op, times)

    def _product(self, labels: axes_lib.Labels, op: Op, times: int) -> Product:
        result = op.outputs[0]
        terms: list[tuple[program_lib.Operand, int]]
        terms = [(result, i) for i in range(len(labels.shape(result)))]
        if op.name == "conv_general_dilated":
            # Per output: the taps of the kernel and the input features of one group.
            terms += [(op.inputs[1], int(i)) for i in op.params["dimension_numbers"].rhs_spec[1:]]
        else:
            summed, _ = rules.dot_dimensions(op)
            terms += [(op.inputs[0], int(i)) for i in summed[0]]
        sizes = tuple(labels.shape(value)[i] for value, i in terms)
        axes = [labels.operand_axes(value)[i] for value, i in terms]
        groups = tuple(
            self._groups_of(axis, size) if axes_lib.has_labels(axis) else None
            for axis, size in zip(axes, sizes, strict=True)
        )
        weights = [i for i in op.inputs[:2] if isinstance(i, int) and i not in labels.data]
        ours = len(weights) == 1 and labels is self._labels
        variable = self._weights(weights[0])[0] if ours else None
        return Product((times, *sizes), (None, *groups), variable)

    def graph(self) -> Graph:
        sites = tuple(self._site(activation) for activation in self._activations)
        # A variable that is returned unchanged is not read.
        own = [i for i, out in enumerate(self._program.outputs) if out not in self._program.inputs]
        read = program_lib.read_inputs(self._program, own)
        inputs = self._program.inputs[: len(self._paths)]
        shapes = tuple(self._labels.shape(number) for number in inputs)
        axes: list[tuple[SomeGroups | None, ...]] = []
        for number, shape in zip(inputs, shapes, strict=True):
            arrays = [self._groups_of(a, s) for a, s in zip(self._labels.axes[number], shape, strict=True)]
            axes.append(tuple(a if (a >= 0).any() else None for a in arrays))
        consumers = tuple(self._consumers_of_units())
        unread = tuple(path for i, path in enumerate(self._paths) if i not in read)
        return Graph(
            paths=self._paths,
            keys=self._keys,
            shapes=shapes,
            axes=tuple(axes),
            num_groups=self._num_groups,
            sites=sites,
            branches=tuple(self._branches(sites)),
            consumers=consumers,
            producers=self._producers(),
            routes=tuple(self._labels.routes),
            indices={},
            refusals=tuple(dict.fromkeys(self._refusals)),
            unread=unread,
            examples=self._examples,
            batched=any(_is_batch(axis) for out in self._program.outputs for axis in self._labels.operand_axes(out)),
            program=self._program,
            products=tuple(self._products(self._labels)),
            emptied_by=self._emptied_by(),
            sufficient=self._sufficient(sites, consumers),
            linear=tuple(path for path in self._linear() if path not in unread),
        )

    def _linear(self) -> tuple[str, ...]:
        """Returns `Graph.linear`."""
        labels, found = self._labels, []
        reads = set()
        for sink in labels.contractions:
            weights = sink.op.inputs[1 - sink.operand]
            variable, layer = self._weights(weights)
            reads.add((variable, sink.other + (layer is not None)))
        for variable, (path, number) in enumerate(zip(self._paths, self._program.inputs, strict=False)):
            for i, axis in enumerate(labels.axes[number] if len(labels.axes[number]) > 1 else ()):
                if isinstance(axis, np.ndarray) and (variable, i) not in reads:
                    own = axis[axis >= 0]
                    free = self._frozen[self._component[own]] < 0
                    if (free & (self._group_of[own] < 0)).any():
                        found.append(path)
        return tuple(dict.fromkeys(found))

    def _emptied_by(self) -> dict[int, tuple[Any, ...]]:
        """Returns `Graph.emptied_by`; equal arrays are one object."""
        known: dict[bytes, Any] = {}
        found = {}
        for number, axes in self._labels.axes.items():
            sizes = self._program.avals[number].shape
            groups = [self._groups_of(axis, int(size)) for axis, size in zip(axes, sizes, strict=True)]
            whole = tuple(known.setdefault(g.tobytes(), g) for g in groups if len(g) and (g >= 0).all())
            if whole:
                found[number] = whole
        return found


def _is_batch(axis: axes_lib.Axis) -> bool:
    return isinstance(axis, axes_lib.Fixed) and axis.kind == axes_lib.BATCH


def _kept_axes(op: Op, operand: int, ranks: Sequence[int]) -> list[int] | None:
    """Returns the axes of a contraction's result that come from the other operand; `None` if it is batched."""
    if op.name == "conv_general_dilated":
        return [op.params["dimension_numbers"].out_spec[1]]
    if op.name != "dot_general":
        return None
    contracted, batched = op.params["dimension_numbers"]
    if batched[0]:
        return None
    kept = [rank - len(gone) for rank, gone in zip(ranks, contracted, strict=True)]
    return list(range(kept[0], kept[0] + kept[1])) if operand == 0 else list(range(kept[0]))


def _free_axes(op: Op, operand: int) -> list[int]:
    """Returns the axes of the weights `operand` that are axes of the contraction's result, in that order."""
    if op.name != "dot_general":
        return [op.params["dimension_numbers"].rhs_spec[0]] if operand == 1 else []
    contracted, batched = op.params["dimension_numbers"]
    if batched[operand]:
        return []
    rank = len(op.eqn.invars[operand].aval.shape)
    return [i for i in range(rank) if i not in contracted[operand]]


def _consumers(program: Program) -> dict[int, list[Op]]:
    """Returns, by number of a value, the operations that read it."""
    consumers: dict[int, list[Op]] = {}
    for op in program.leaves:
        for operand in {i for i in op.inputs if isinstance(i, int)}:
            consumers.setdefault(operand, []).append(op)
    return consumers
