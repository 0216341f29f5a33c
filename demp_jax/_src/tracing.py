# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""From a function to its graph: labels are gathered into classes, and classes into sites, uses and refusals."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex_core

from demp_jax._src import activations as activations_lib
from demp_jax._src import axes as axes_lib
from demp_jax._src import program as program_lib
from demp_jax._src import rules
from demp_jax._src import zeros as zeros_lib
from demp_jax._src.graph import Absorber, Graph, Maker, Product, Refusal, Site, Use
from demp_jax._src.paths import leaf_paths
from demp_jax._src.program import Op, Program


class Analysis(NamedTuple):
    """A traced function with its labelled axes and its activations, before classes are formed."""

    program: Program
    labels: axes_lib.Labels
    activations: list[activations_lib.Activation]
    owners: dict[int, str]
    paths: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]


def analyse(fn: Callable[..., Any], variables: Any, x: Any, *args: Any, batch_axis: int = 0) -> Analysis:
    """Traces `fn(variables, x, *args)` and finds its activations."""
    program = program_lib.trace(fn, variables, x, *args)
    paths = leaf_paths(variables)
    keys = tuple(path for path, _ in jax.tree_util.tree_leaves_with_path(variables))
    labels = rules.label(program, len(paths), len(jax.tree.leaves(x)), batch_axis)
    return Analysis(program, labels, *activations_lib.find(program, labels, paths), paths, keys)


def trace(
    fn: Callable[..., Any], variables: Any, x: Any, *args: Any, batch_axis: int = 0, exclude: Sequence[str] | str = ()
) -> Graph:
    """Finds the neurons of `fn(variables, x, *args)`.

    Args:
      fn: the network in evaluation mode (BatchNorm with running statistics, no dropout), from JAX code of any kind.
      variables: a tree of arrays or `jax.ShapeDtypeStruct`: parameters, statistics, indices of `select`.
      x: a batch of inputs, an array or a tree of arrays, or their shapes and dtypes; at least two examples.
      *args: further arguments, handed on.
      batch_axis: the axis of each array of `x` along which examples lie.
      exclude: a pattern or patterns (as in `fnmatch`) of names of sites none of whose units may be removed.

    Returns:
      The graph of removable units.

    Raises:
      ValueError: when a pattern of `exclude` matches no site.
    """
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    analysis = analyse(fn, variables, x, *args, batch_axis=batch_axis)
    graph = _Assembly(analysis, exclude, examples_of(x, batch_axis)).graph()
    leaves = jax.tree.leaves(variables)
    for route in graph.routes:
        index = leaves[graph.variable(route.index)]
        if isinstance(index, np.ndarray | jax.Array) and not isinstance(index, jax.core.Tracer):
            graph.indices[graph.variable(route.index)] = np.asarray(index)
    return graph


def examples_of(x: Any, batch_axis: int) -> int:
    """Returns how many examples a batch holds.

    Raises:
      ValueError: when it holds no array with that axis.
    """
    sizes = [leaf.shape[batch_axis] for leaf in jax.tree.leaves(x) if len(leaf.shape) > batch_axis]
    if not sizes:
        raise ValueError(f"a batch must hold an array with an axis of examples (batch_axis={batch_axis}); got {x!r}.")
    return int(sizes[0])


class _Assembly:
    """Forms classes from labels."""

    def __init__(self, analysis: Analysis, exclude: Sequence[str], examples: int):
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
        self._exclude(exclude)
        component, frozen = labels.components()
        self._class_of = self._number(component, frozen)
        self._report_frozen(component, frozen)
        units = {a.value: a.axis for a in self._activations if a.axis is not None}
        self._zero = zeros_lib.zeros(self._program, labels, component, units)
        self._consumers = _consumers(self._program)
        self._made_by = {op.outputs[0]: op for op in self._program.leaves}

    def _exclude(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            matched = [a for a in self._activations if fnmatch.fnmatch(a.name, pattern)]
            if not matched:
                names = ", ".join(a.name for a in self._activations)
                raise ValueError(f"exclude: no site is named {pattern!r}. The sites are: {names}.")
            for activation in matched:
                self._labels.freeze(self._axis(activation), f"it is excluded by {pattern!r}")

    def _axis(self, activation: activations_lib.Activation) -> axes_lib.Axis:
        assert activation.axis is not None
        return self._labels.axes[activation.value][activation.axis]

    def _number(self, component: np.ndarray, frozen: np.ndarray) -> np.ndarray:
        """Returns the class of every label, -1 for labels that stay; classes are numbered in order of their sites."""
        ends = [self._axis(a) for a in self._activations if a.problem is None]
        ends += [self._labels.axes[route.value][-1] for route in self._labels.routes]
        held = [axis[axis >= 0] for axis in ends if isinstance(axis, np.ndarray)]
        found = component[np.concatenate([np.empty(0, np.int64), *held])]
        order = found[np.sort(np.unique(found, return_index=True)[1])]
        order = order[frozen[order] < 0]
        numbers = np.full(len(frozen), -1)
        numbers[order] = np.arange(len(order))
        self._classes = len(order)
        return numbers[component] if len(component) else np.empty(0, np.int64)

    def _report_frozen(self, component: np.ndarray, frozen: np.ndarray) -> None:
        for activation in self._activations:
            axis = self._axis(activation)
            if not isinstance(axis, np.ndarray):
                continue
            for index in np.unique(np.where(axis >= 0, frozen[component[np.maximum(axis, 0)]], -1 - axis)):
                if index >= 0:
                    reason = self._labels.reasons[int(index)]
                    refusal = Refusal(activation.name, reason.text, reason.source or activation.source)
                    self._refusals.append(refusal)

    def _classes_of(self, axis: axes_lib.Axis, size: int) -> np.ndarray:
        if not isinstance(axis, np.ndarray) or not self._classes:
            return np.full(size, -1)
        return np.where(axis >= 0, self._class_of[np.maximum(axis, 0)], -1)

    def _site(self, activation: activations_lib.Activation) -> Site:
        axis = activation.axis
        assert axis is not None
        width = int(self._program.avals[activation.value].shape[axis])
        classes = self._classes_of(self._axis(activation), width)
        return Site(
            name=activation.name,
            kind=activation.kind,
            width=width,
            classes=classes,
            value=activation.value,
            root=activation.root,
            alone=activation.alone,
            axis=axis,
            source=activation.source,
        )

    def _branches(self, sites: Sequence[Site]) -> list[Site]:
        """Returns the operands of routes, as far as their classes hold no activation."""
        ours = np.concatenate([np.empty(0, np.int64), *(site.classes for site in sites)])
        branches = []
        taken = {site.name for site in sites}
        for route in self._labels.routes:
            axes = self._labels.axes[route.value]
            width = int(self._program.avals[route.value].shape[-1])
            classes = self._classes_of(axes[-1], width)
            classes = np.where(np.isin(classes, ours), -1, classes)
            if (classes >= 0).any():
                name = self._owners[route.value]
                while name in taken:
                    name += "+"
                taken.add(name)
                value, axis = route.value, len(axes) - 1
                branches.append(Site(name, "branch", width, classes, value, value, True, axis, route.op.source))
        return branches

    def _uses(self) -> list[Use]:
        uses = []
        sinks: list[tuple[int, int, axes_lib.Contraction | axes_lib.Route]] = []
        sinks += [(c.value, c.axis, c) for c in self._labels.contractions]
        sinks += [(r.value, len(self._labels.axes[r.value]) - 1, r) for r in self._labels.routes]
        for value, axis, sink in sinks:
            classes = self._classes_of(self._labels.axes[value][axis], int(self._program.avals[value].shape[axis]))
            if (classes >= 0).any():
                absorber = self._absorber(sink) if isinstance(sink, axes_lib.Contraction) else None
                zero = self._zero[value][axis] if value in self._zero else None
                negligible = np.zeros(len(classes), bool) if zero is None else zero
                variable, weight_axis = self._read_with(sink) if isinstance(sink, axes_lib.Contraction) else (None, 0)
                uses.append(Use(value, axis, classes, negligible, sink, absorber, variable, weight_axis))
        return uses

    def _read_with(self, sink: axes_lib.Contraction) -> tuple[int | None, int]:
        """Returns the variable that holds the weights of a contraction, and their axis that is summed over."""
        op = sink.op
        weights = op.inputs[1 - sink.operand]
        variable = self._copied(weights) if isinstance(weights, int) else None
        if op.name != "dot_general":
            return variable, int(op.params["dimension_numbers"].rhs_spec[1])
        contracted, _ = op.params["dimension_numbers"]
        along = list(contracted[sink.operand])
        if sink.axis not in along:
            return None, 0  # A product of data with data, batched over the axis.
        return variable, int(contracted[1 - sink.operand][along.index(sink.axis)])

    def _absorber(self, sink: axes_lib.Contraction) -> Absorber | None:
        """Finds the bias that is added to a contraction's result, or the running mean subtracted from it.

        It must lie along the axes that the weights of the contraction have in the result, and nothing else may read it.
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
            # What is added to other data passes on to where they go together.
            result = op.outputs[0]
        return None

    def _lies_along(self, operand: int, result: int, kept: Sequence[int]) -> bool:
        """Returns whether an operand that is added to `result` varies along the axes `kept`, all of them, alone."""
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
        """Returns the index of the one variable that `operand` is a reshaped copy of, if it is read nowhere else."""
        while operand in self._made_by:
            op = self._made_by[operand]
            copies = ("reshape", "broadcast_in_dim", "convert_element_type", "copy", "squeeze")
            if op.name not in copies or len(self._consumers[operand]) > 1 or not isinstance(op.inputs[0], int):
                return None
            operand = op.inputs[0]
        inputs = self._program.inputs[: len(self._paths)]
        alone = len(self._consumers[operand]) == 1 and operand not in self._program.outputs
        return inputs.index(operand) if operand in inputs and alone else None

    def _makers(self) -> tuple[Maker, ...]:
        makers = []
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
                    classes = self._classes_of(labels, self._labels.shape(weights)[weight_axis])
                    if (classes >= 0).any():
                        variable = self._copied(weights)
                        makers.append(Maker(self._with_bias(result), axis, classes, variable, weight_axis))
        return tuple(makers)

    def _copied(self, number: int) -> int | None:
        """Returns the index of the variable that a value is a copy of, of the same shape, in any precision."""
        while number in self._made_by and self._made_by[number].name in ("convert_element_type", "copy", "name"):
            source = self._made_by[number].inputs[0]
            if not isinstance(source, int):
                return None
            number = source
        inputs = self._program.inputs[: len(self._paths)]
        return inputs.index(number) if number in inputs else None

    def _with_bias(self, result: int) -> int:
        """Returns the sum of a product and its bias, where a bias is all that reads it; else the product."""
        if len(self._consumers.get(result, ())) != 1:
            return result
        [op] = self._consumers[result]
        others = [i for i in op.inputs if i != result]
        if op.name not in ("add", "add_any") or len(others) != 1 or others[0] in self._labels.data:
            return result
        [bias], [total] = others, op.outputs
        assert isinstance(total, int)
        return total if isinstance(bias, int) and self._variable_behind(bias) is not None else result

    def _products(self) -> tuple[Product, ...]:
        products = []
        for op in self._program.leaves:
            result = op.outputs[0]
            if result not in self._labels.data:
                continue
            if op.name in rules.LOOPS:
                # Their widths do not change.
                products.append(Product((_inner_products(op.eqn),), (None,), None))
                continue
            if op.name not in ("dot_general", "conv_general_dilated"):
                continue
            terms: list[tuple[program_lib.Operand, int]]
            terms = [(result, i) for i in range(len(self._labels.shape(result)))]
            if op.name == "dot_general":
                terms += [(op.inputs[0], int(i)) for i in op.params["dimension_numbers"][0][0]]
            else:
                # Per output: the taps of the kernel and the input features of one group.
                terms += [(op.inputs[1], int(i)) for i in op.params["dimension_numbers"].rhs_spec[1:]]
            sizes = tuple(self._labels.shape(value)[i] for value, i in terms)
            axes = [self._labels.operand_axes(value)[i] for value, i in terms]
            classes = tuple(
                self._classes_of(axis, size) if axes_lib.has_labels(axis) else None
                for axis, size in zip(axes, sizes, strict=True)
            )
            weights = [i for i in op.inputs[:2] if isinstance(i, int) and i not in self._labels.data]
            variable = self._copied(weights[0]) if len(weights) == 1 else None
            products.append(Product(sizes, classes, variable))
        return tuple(products)

    def graph(self) -> Graph:
        sites = tuple(self._site(activation) for activation in self._activations)
        inputs = self._program.inputs[: len(self._paths)]
        shapes = tuple(self._labels.shape(number) for number in inputs)
        axes = []
        for number, shape in zip(inputs, shapes, strict=True):
            arrays = [self._classes_of(a, s) for a, s in zip(self._labels.axes[number], shape, strict=True)]
            axes.append(tuple(a if (a >= 0).any() else None for a in arrays))
        return Graph(
            paths=self._paths,
            keys=self._keys,
            shapes=shapes,
            axes=tuple(axes),
            classes=self._classes,
            sites=sites,
            branches=tuple(self._branches(sites)),
            uses=tuple(self._uses()),
            makers=self._makers(),
            routes=tuple(self._labels.routes),
            indices={},
            refusals=tuple(dict.fromkeys(self._refusals)),
            examples=self._examples,
            program=self._program,
            products=self._products(),
        )


def _kept_axes(op: Op, operand: int, ranks: Sequence[int]) -> list[int] | None:
    """Returns the axes of a contraction's result that come from the other operand; `None` when that is batched."""
    if op.name != "dot_general":
        return [op.params["dimension_numbers"].out_spec[1]]
    contracted, batched = op.params["dimension_numbers"]
    if batched[0]:
        return None
    kept = [rank - len(gone) for rank, gone in zip(ranks, contracted, strict=True)]
    return list(range(kept[0], kept[0] + kept[1])) if operand == 0 else list(range(kept[0]))


def _free_axes(op: Op, operand: int) -> list[int]:
    """Returns the axes of the weights `operand` that a contraction hands on to its result, in that order."""
    if op.name != "dot_general":
        return [op.params["dimension_numbers"].rhs_spec[0]] if operand == 1 else []
    contracted, batched = op.params["dimension_numbers"]
    if batched[operand]:
        return []
    rank = len(op.eqn.invars[operand].aval.shape)
    return [i for i in range(rank) if i not in contracted[operand]]


def _consumers(program: Program) -> dict[int, list[Op]]:
    consumers: dict[int, list[Op]] = {}
    for op in program.leaves:
        for operand in {i for i in op.inputs if isinstance(i, int)}:
            consumers.setdefault(operand, []).append(op)
    return consumers


def _inner_products(eqn: Any) -> int:
    """Returns how many multiplications the products inside a loop take: a scan counts its length, a `while` once."""
    if eqn.primitive.name == "cond":
        return max(_multiplications(branch.jaxpr) for branch in eqn.params["branches"])
    if eqn.primitive.name == "while":
        return _multiplications(eqn.params["body_jaxpr"].jaxpr)
    return int(eqn.params["length"]) * _multiplications(eqn.params["jaxpr"].jaxpr)


def _multiplications(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in rules.LOOPS:
            total += _inner_products(eqn)
        elif eqn.primitive.name == "dot_general":
            contracted, _ = eqn.params["dimension_numbers"]
            summed = [eqn.invars[0].aval.shape[i] for i in contracted[0]]
            total += int(np.prod([*eqn.outvars[0].aval.shape, *summed], dtype=np.int64))
        elif eqn.primitive.name == "conv_general_dilated":
            taps = [eqn.invars[1].aval.shape[i] for i in eqn.params["dimension_numbers"].rhs_spec[1:]]
            total += int(np.prod([*eqn.outvars[0].aval.shape, *taps], dtype=np.int64))
        else:
            for inner in jex_core.jaxprs_in_params(eqn.params):
                total += _multiplications(inner)
    return total
