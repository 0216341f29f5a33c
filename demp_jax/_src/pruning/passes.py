# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Passes over a death set: the activity of the units and the outputs of a network.

Dimension names: units, those of one site.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Inexact, Num

from demp_jax._src.pruning import activity as activity_lib
from demp_jax._src.pruning.activity import Activity, Range
from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing import trace as trace_lib
from demp_jax._src.tracing.graph import Graph


@dataclasses.dataclass(frozen=True)
class Observation:
    """The activity and the outputs of a network on a death set.

    Attributes:
      sites: the activity of every site and branch of the graph, in order.
      consumers: by index of a consumer in the graph, the range of the values that it reads.
      outputs: the network's outputs, a list with one tree of NumPy arrays per batch.
      examples: the number of examples of the death set.
    """

    sites: list[Activity]
    consumers: Mapping[int, Range]
    outputs: list[Any]
    examples: int


def observe(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    graph: Graph | None = None,
    consumers: tuple[int, ...] = (),
    masked: Sequence[Inexact[np.ndarray, " _"]] | None = None,
    batch_axis: int = 0,
    exclude: Sequence[str] = (),
    criterion: str | None = None,
    extra_units: Sequence[str] | str = (),
    with_outputs: bool = True,
) -> Observation:
    """Runs `fn(variables, x)` on every batch of a death set and accumulates the activity.

    Args:
      fn: the network in evaluation mode. A further call with an equal `fn` and equal shapes compiles nothing. Matrix
        products without an explicit precision use `"highest"`, whatever `jax.default_matmul_precision` is.
      variables: its variables.
      batches: batches of inputs.
      graph: its trace for a batch of that shape; by default it is traced.
      consumers: indices of the consumers of the graph whose ranges are measured.
      masked: for each site and branch of the graph, `[width]`, the value that replaces each unit; NaN for no change.
      batch_axis: the axis of each batch along which examples lie.
      exclude: as given to `trace`.
      criterion: if given, only the magnitude and the fields that `alive` reads for this criterion are computed, and the
        others are `None`. This compiles in half the time.
      extra_units: as given to `trace`.
      with_outputs: whether to return the outputs; otherwise they are empty.

    Returns:
      The accumulated observation, on the host.

    Raises:
      ValueError: if there is no batch, or for an unknown criterion.
    """
    if criterion is not None:
        activity_lib.check_criterion(criterion, epsilon=1.0)
    sites: list[Activity] | None = None
    read: list[Range] = []
    outs = []
    examples = 0
    extra = trace_lib.checked_extra_units(extra_units) if graph is None else graph.extra_units
    wanted = _Watch(consumers, criterion, batch_axis, tuple(exclude), with_outputs=with_outputs, extra_units=extra)
    for x, (out, now, now_read) in _run_batches(fn, variables, batches, masked, wanted, graph):
        sites = now if sites is None else [a.merge(b) for a, b in zip(sites, now, strict=True)]
        read = now_read if not read else [a.merge(b) for a, b in zip(read, now_read, strict=True)]
        outs.append(out)
        examples += trace_lib.examples_of(x, batch_axis)
    if sites is None:
        raise ValueError("the death set is empty: give at least one batch of training inputs.")
    return Observation(sites, dict(zip(consumers, read, strict=True)), outs, examples)


def outputs(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    graph: Graph | None = None,
    masked: Sequence[Inexact[np.ndarray, " _"]] | None = None,
    batch_axis: int = 0,
    exclude: Sequence[str] = (),
) -> list[Any]:
    """Returns the outputs of `fn(variables, x)` on every batch, on the host.

    This compiles in half the time of `observe`. `prune` compares these outputs, so that right after a prune nothing is
    compiled for batches of the same shape.

    Args:
      fn, variables, batches, graph, masked, batch_axis, exclude: see `observe`. `batch_axis` and `exclude` are only
        used with `masked`.

    Returns:
      A list with one tree of NumPy arrays per batch.
    """
    extra = () if graph is None else graph.extra_units
    given: dict[str, Any] = {"activity": False, "extra_units": extra}
    watch = None if masked is None else _Watch((), None, batch_axis, tuple(exclude), **given)
    return [out for _, (out, _, _) in _run_batches(fn, variables, batches, masked, watch, graph)]


@dataclasses.dataclass(frozen=True)
class _Watch:
    """The values that a pass returns besides the outputs, and how the network is traced."""

    consumers: tuple[int, ...]
    criterion: str | None
    batch_axis: int
    exclude: tuple[str, ...]
    activity: bool = True
    with_outputs: bool = True
    extra_units: tuple[str, ...] = ()


class _Request(NamedTuple):
    """The key of a compiled pass in the cache."""

    fn: Callable[..., Any]
    shapes: Any
    watch: _Watch | None


# A prune needs a few passes at the widths before and after. Older passes are dropped to free memory.
_PASSES: dict[_Request, Callable[..., Any]] = {}
_MOST = 8


def clear_caches() -> None:
    """Drops the compiled passes over death sets to free their memory. Otherwise the newest eight are kept."""
    _PASSES.clear()


def _run_batches(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    masked: Sequence[Inexact[np.ndarray, " _"]] | None,
    watch: _Watch | None,
    graph: Graph | None,
) -> Iterator[tuple[Any, tuple[Any, list[Activity], list[Range]]]]:
    """Yields every batch with its outputs, the activity of the sites, and the ranges that consumers read."""
    fixed = None if masked is None else list(masked)
    shapes: Any = None
    for x in batches:
        # By default, accelerators multiply float32 with fewer bits. The outputs at two widths would then differ by more
        # than the tolerance.
        with jax.default_matmul_precision("highest"):
            if _shapes((variables, x)) != shapes:
                first, shapes = shapes is None, _shapes((variables, x))
                compiled = _compiled(_Request(fn, shapes, watch), graph if first else None, variables, x)
            found = compiled(variables, x, fixed)
        yield x, _on_host(found)


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


def _compiled(request: _Request, graph: Graph | None, variables: Any, x: Any) -> Callable[..., Any]:
    """Returns the pass, which is compiled at its first call; equal requests share one."""
    try:
        found = _PASSES.get(request)
    except TypeError:  # The network cannot be hashed, such as a module with a list attribute.
        return _compile(request, graph, variables, x)
    if found is None:
        found = _PASSES[request] = _compile(request, graph, variables, x)
        while len(_PASSES) > _MOST:
            del _PASSES[next(iter(_PASSES))]
    return found


def _compile(request: _Request, graph: Graph | None, variables: Any, x: Any) -> Callable[..., Any]:
    fn, _, watch = request
    if watch is None:
        return _jit(lambda variables, x, masked: (fn(variables, x), [], []))
    if graph is None:
        given: dict[str, Any] = {name: getattr(watch, name) for name in ("batch_axis", "exclude", "extra_units")}
        graph = trace_lib.trace(fn, variables, x, **given)
    return _jit(functools.partial(_watched, graph, watch))


def _jit(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `jax.jit(fn)` with fewer optimizations, which compiles in two thirds of the time. Passes run rarely."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 1})


def _watched(
    graph: Graph, watch: _Watch, variables: Any, x: Any, masked: list[Inexact[jax.Array, " _"]] | None
) -> tuple[Any, list[Activity], list[Range]]:
    """Runs the traced network with units masked, and reduces the values of sites and consumers."""
    sites = (*graph.sites, *graph.branches)
    read = [graph.consumers[i] for i in watch.consumers]
    wanted = [*(site.value for site in sites), *(consumer.value for consumer in read)] if watch.activity else []
    replace: dict[int, Callable[[Any], Any]] = {}
    for site, values in zip(sites, masked or (), strict=masked is not None):
        replace[site.value] = functools.partial(_put, values, site.axis, replace.get(site.value))
    results, found = program_lib.evaluate(graph.program, jax.tree.leaves((variables, x)), wanted, replace)
    out = jax.tree.unflatten(graph.program.out_tree, results) if watch.with_outputs else ()
    summaries = [
        activity_lib.summary(
            value, site.axis, site.kind, {"magnitude", *activity_lib.read_by(watch.criterion, site.kind)}
        )
        for value, site in zip(found, sites, strict=False)
    ]
    ranges = [
        activity_lib.summary(value, consumer.axis, "zero", Range._fields)
        for value, consumer in zip(found[len(sites) :], read, strict=bool(wanted))
    ]
    return out, summaries, [Range(*(getattr(seen, name) for name in Range._fields)) for seen in ranges]


def _put(
    values: Inexact[jax.Array, " units"], axis: int, first: Callable[[Any], Any] | None, x: Num[jax.Array, "*shape"]
) -> Num[jax.Array, "*shape"]:
    """Returns `x` with `values` at the units whose value is not NaN."""
    x = x if first is None else first(x)
    shape = tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim))
    values = jnp.reshape(values, shape)
    return jnp.where(jnp.isnan(values), x, values.astype(x.dtype))


def _on_host(tree: Any) -> Any:
    """Returns a tree of whole NumPy arrays, gathered from other hosts if necessary."""

    def whole(leaf: Any) -> Any:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))
