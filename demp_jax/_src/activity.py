# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Who is alive: what the activations of a network did on a set of examples, and the criteria that judge it.

Dimension letters: B examples, S space (any number of axes), N units of one activation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from demp_jax._src import program as program_lib
from demp_jax._src import tracing

CRITERIA = ("auto", "zero", "epsilon", "negative", "sum")
_FIELDS = ("maximum", "minimum", "magnitude", "positive", "nonzero")
# What a criterion reads of an activity.
_READS = {
    "zero": ("nonzero",),
    "epsilon": ("maximum", "minimum"),
    "negative": ("maximum",),
    "sum": ("positive",),
}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=_FIELDS,
    meta_fields=["kind"],
)
@dataclasses.dataclass(frozen=True)
class Activity:
    """What the N units of one activation did on the examples seen so far; `None` where that was not wanted.

    Attributes:
      maximum: `[N]`, largest value over examples and space.
      minimum: `[N]`, smallest value.
      magnitude: `[N]`, sum of absolute values in float32.
      positive: `[N]` bool, whether the sum over the examples and space of any one batch was positive.
      nonzero: `[N]` bool, whether any value was other than zero; NaN is.
      kind: how the activation saturates: `"zero"`, `"soft"` or `"negative"`; `"branch"` for other values.
    """

    maximum: Any
    minimum: Any
    magnitude: Any
    positive: Any
    nonzero: Any
    kind: str

    def merge(self, other: Activity) -> Activity:
        """Returns the activity on both sets of examples.

        Raises:
          ValueError: when other fields are known of one than of the other.
        """
        known = [{name for name in _FIELDS if getattr(each, name) is not None} for each in (self, other)]
        if known[0] != known[1]:
            raise ValueError(
                f"activities of one criterion can be merged; one has {', '.join(sorted(known[0]))}, the other "
                f"{', '.join(sorted(known[1]))}. Make both with the same criterion."
            )

        def both(name: str, combine: Callable[[Any, Any], Any]) -> Any:
            one, two = getattr(self, name), getattr(other, name)
            return None if one is None else combine(one, two)

        return Activity(
            maximum=both("maximum", np.maximum),
            minimum=both("minimum", np.minimum),
            magnitude=both("magnitude", np.add),
            positive=both("positive", np.logical_or),
            nonzero=both("nonzero", np.logical_or),
            kind=self.kind,
        )


class Range(NamedTuple):
    """The values of N units read at one place, on the examples seen so far.

    Attributes:
      maximum: `[N]`, largest value over examples and space.
      minimum: `[N]`, smallest value.
    """

    maximum: Any
    minimum: Any

    def merge(self, other: Range) -> Range:
        """Returns the range on both sets of examples."""
        return Range(np.maximum(self.maximum, other.maximum), np.minimum(self.minimum, other.minimum))


def summarise(value: jax.Array, axis: int = -1, kind: str = "zero", *, criterion: str | None = None) -> Activity:
    """Returns the activity of `value`, `[B, S, N]` with the units along `axis`, reduced over all other axes.

    Under `jax.jit` with sharded examples the reductions run over all devices.

    Args:
      value: the values of an activation on a batch.
      axis: where its units lie.
      kind: how it saturates, see `Activity`.
      criterion: of the activity only what `alive` reads by this criterion, the rest `None`; by default all of it.

    Raises:
      ValueError: for an unknown criterion.
    """
    return _summary(value, axis, kind, _read_by(criterion, kind))


def _read_by(criterion: str | None, kind: str) -> tuple[str, ...]:
    """Returns which fields of the activity of an activation of a kind a criterion reads; all of them with `None`."""
    if criterion is None:
        return _FIELDS
    check_criterion(criterion, epsilon=1.0)
    return _READS[_resolved(criterion, kind)]


def _summary(value: jax.Array, axis: int, kind: str, fields: Collection[str]) -> Activity:
    """Returns those fields of an activity."""
    axes = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
    reductions: dict[str, Callable[[], jax.Array]] = {
        "maximum": lambda: jnp.max(value, axes),
        "minimum": lambda: jnp.min(value, axes),
        "magnitude": lambda: jnp.sum(jnp.abs(value), axes, dtype=jnp.float32),
        "positive": lambda: jnp.sum(value, axes, dtype=jnp.float32) > 0,
        # One pass over the values, where the largest and the smallest would be two.
        "nonzero": lambda: jnp.any(value != 0, axes),
    }
    # What is not read is not even traced, which takes as long as compiling some of it.
    return Activity(**{name: reductions[name]() if name in fields else None for name in _FIELDS}, kind=kind)


def alive(activity: Activity, criterion: str = "auto", *, epsilon: float = 0.01) -> Any:
    """Returns which units are alive.

    The criteria, by what makes a unit dead:

    * `"zero"`: zero on every example (paper, section 2, definition);
    * `"epsilon"`: `|a| < epsilon` on every example (footnote 1);
    * `"negative"`: never positive (appendix F.7, Leaky ReLU);
    * `"sum"`: the sum over the examples and space of a batch is <= 0, in every batch (the released code);
    * `"auto"`: the first for an activation that is exactly zero on one side, the second for one with a soft tail, the
      third for one that is negative there.

    Args:
      activity: the activity of N units.
      criterion: one of `CRITERIA`.
      epsilon: threshold of `"epsilon"`, > 0, in units of the activation.

    Returns:
      `[N]` bool.

    Raises:
      ValueError: for an unknown criterion, an epsilon that is not positive, or an activity that lacks what is read.
    """
    check_criterion(criterion, epsilon)
    criterion = _resolved(criterion, activity.kind)
    missing = [name for name in _READS[criterion] if getattr(activity, name) is None]
    if missing:
        raise ValueError(
            f"criterion={criterion!r} reads {' and '.join(missing)}, which the activity lacks: it was made for another "
            "criterion. Give this one, or None for all, to observe, with_activity or summarise."
        )
    if criterion == "zero":
        return activity.nonzero
    if criterion == "epsilon":
        return (activity.maximum >= epsilon) | (activity.minimum <= -epsilon)
    if criterion == "negative":
        return activity.maximum > 0
    return activity.positive


def _resolved(criterion: str, kind: str) -> str:
    """Returns the criterion by which an activation of a kind is judged."""
    by_kind = {"zero": "zero", "soft": "epsilon", "negative": "negative", "branch": "zero"}
    return by_kind[kind] if criterion == "auto" else criterion


def check_criterion(criterion: str, epsilon: float) -> None:
    """Raises `ValueError` for an unknown criterion or a threshold that is not positive."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}; got {criterion=}.")
    if not (epsilon > 0 and np.isfinite(epsilon)):
        raise ValueError(f"epsilon must be a positive number; got {epsilon=}.")


def with_activity(
    fn: Callable[..., Any], *, batch_axis: int = 0, criterion: str | None = None
) -> Callable[..., tuple[Any, dict[str, Activity]]]:
    """Returns `fn` with the activity of its neurons beside its result.

    The result can be called under `jax.jit` and differentiated; what is not used of the activity costs nothing there
    but the time to trace it.

    Example:
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.array([[1.0, -1.0]]), "out": jnp.ones((2, 1))}
      >>> logits, activity = with_activity(network)(params, jnp.array([[1.0], [2.0]]))
      >>> alive(activity["hidden"]).tolist()
      [True, False]

    Args:
      fn: a function `fn(variables, x, *args)`, in training or evaluation mode.
      batch_axis: the axis of `x` along which examples lie.
      criterion: of the activity only what `alive` reads by this criterion, the rest `None`; by default all of it.

    Returns:
      A function with the same arguments that returns `(fn(...), {name of the site: activity})`.

    Raises:
      ValueError: for an unknown criterion.
    """
    if criterion is not None:
        check_criterion(criterion, epsilon=1.0)

    def wrapped(variables: Any, x: Any, *args: Any) -> tuple[Any, dict[str, Activity]]:
        analysis = tracing.analyse(fn, variables, x, *args, batch_axis=batch_axis)
        unreadable = analysis.program.unreadable
        found = [a for a in analysis.activations if a.axis is not None and a.value not in unreadable]
        out, values = _run(analysis, (variables, x, *args), [a.value for a in found])
        pairs = zip(found, values, strict=True)
        return out, {a.name: summarise(value, a.axis or 0, a.kind, criterion=criterion) for a, value in pairs}

    return wrapped


def _run(analysis: tracing.Analysis, args: tuple[Any, ...], wanted: list[int]) -> tuple[Any, list[Any]]:
    results, values = program_lib.evaluate(analysis.program, jax.tree.leaves(args), wanted)
    return jax.tree.unflatten(analysis.program.out_tree, results), values


# A network has a few programs at the widths it has and at those it is to have; older ones hold memory for nothing.
@functools.lru_cache(maxsize=6)
def _observer(shapes: Any, fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Returns the compiled pass over a batch, for variables of the given shapes."""
    del shapes
    return jax.jit(functools.partial(_observe, fn, **options))


def _observe(
    fn: Callable[..., Any],
    variables: Any,
    x: Any,
    held: list[Any] | None,
    *,
    uses: tuple[int, ...],
    watch: bool,
    batch_axis: int,
    exclude: tuple[str, ...],
    criterion: str | None,
) -> tuple[Any, list[Activity], list[Range]]:
    if held is None and not watch:
        return fn(variables, x), [], []
    graph = tracing.trace(fn, variables, x, batch_axis=batch_axis, exclude=exclude)
    sites = [*graph.sites, *graph.branches]
    ends = [graph.uses[i] for i in uses]
    wanted = [site.value for site in sites] + [use.value for use in ends]
    replace: dict[int, Callable[[Any], Any]] = {}
    for site, value in zip(sites, held or (), strict=held is not None):
        replace[site.value] = functools.partial(_put, value, site.axis, replace.get(site.value))

    leaves = jax.tree.leaves((variables, x))
    results, values = program_lib.evaluate(graph.program, leaves, wanted if watch else [], replace)
    out = jax.tree.unflatten(graph.program.out_tree, results)
    summaries = [
        _summary(value, site.axis, site.kind, {"magnitude", *_read_by(criterion, site.kind)})
        for value, site in zip(values, sites, strict=False)
    ]
    read = [_summary(v, use.axis, "zero", Range._fields) for v, use in zip(values[len(sites) :], ends, strict=True)]
    return out, summaries, [Range(seen.maximum, seen.minimum) for seen in read]


@dataclasses.dataclass(frozen=True)
class Observation:
    """What a network did on a death set.

    Attributes:
      sites: the activity of every site and branch of the graph, in order.
      uses: the range of the values read at the uses that were asked for, by their index in the graph.
      outputs: the network's outputs, a list with one tree of NumPy arrays per batch.
      examples: how many examples were seen.
    """

    sites: list[Activity]
    uses: Mapping[int, Range]
    outputs: list[Any]
    examples: int


def observe(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    uses: tuple[int, ...] = (),
    held: Sequence[np.ndarray] | None = None,
    batch_axis: int = 0,
    exclude: Sequence[str] = (),
    criterion: str | None = None,
) -> Observation:
    """Runs `fn(variables, x)` on every batch of a death set and accumulates the activity.

    Args:
      fn: the network in evaluation mode; called again with the same `fn` and shapes, nothing is compiled. Its products
        are taken at the precision `"highest"` where it names none itself, whatever `jax.default_matmul_precision` is.
      variables: its variables.
      batches: batches of inputs.
      uses: indices of the uses of the graph whose values are wanted, too.
      held: per site and branch of the graph, `[width]`: the value each unit is held at, NaN where it keeps its own.
      batch_axis: the axis of each batch along which examples lie.
      exclude: as given to `trace`.
      criterion: of the activity only the magnitude and what `alive` reads by this criterion, the rest `None`, which
        compiles in half the time.

    Returns:
      The accumulated observation, on the host.

    Raises:
      ValueError: when there is no batch, or for an unknown criterion.
    """
    if criterion is not None:
        check_criterion(criterion, epsilon=1.0)
    sites: list[Activity] | None = None
    read: list[Range] = []
    outputs = []
    examples = 0
    options = {"batch_axis": batch_axis, "exclude": tuple(exclude), "criterion": criterion}
    options |= {"uses": uses, "watch": True}
    for x, (out, now, now_read) in _passes(fn, variables, batches, held, options):
        sites = now if sites is None else [a.merge(b) for a, b in zip(sites, now, strict=True)]
        read = now_read if not read else [a.merge(b) for a, b in zip(read, now_read, strict=True)]
        outputs.append(out)
        examples += tracing.examples_of(x, batch_axis)
    if sites is None:
        raise ValueError("the death set is empty: give at least one batch of training inputs.")
    return Observation(sites, dict(zip(uses, read, strict=True)), outputs, examples)


def outputs(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    held: Sequence[np.ndarray] | None = None,
    batch_axis: int = 0,
    exclude: Sequence[str] = (),
) -> list[Any]:
    """Returns the outputs of `fn(variables, x)` on every batch, on the host, as `observe` does beside the activity.

    Without that it compiles in half the time. The pass is the one by which `cut` proves itself: right after a cut, for
    batches of the death set's shape, nothing is compiled.

    Args:
      fn, variables, batches, held, batch_axis, exclude: see `observe`; the last two matter where units are held alone.

    Returns:
      A list with one tree of NumPy arrays per batch.
    """
    options: dict[str, Any] = {"batch_axis": batch_axis, "exclude": tuple(exclude) if held is not None else ()}
    options |= {"uses": (), "watch": False, "criterion": None}
    return [out for _, (out, _, _) in _passes(fn, variables, batches, held, options)]


def _passes(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    held: Sequence[np.ndarray] | None,
    options: dict[str, Any],
) -> Iterator[tuple[Any, tuple[Any, list[Activity], list[Range]]]]:
    """Yields every batch with what `_observe` makes of it, on the host."""
    fixed = None if held is None else list(held)
    leaves, structure = jax.tree.flatten(variables)
    shapes = (structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
    observer = _observer(shapes, fn, **options)
    for x in batches:
        # Products of float32 in fewer bits, an accelerator's default, differ from one width to another by more than the
        # order of sums does: a cut could not be proved.
        with jax.default_matmul_precision("highest"):
            found = observer(variables, x, fixed)
        yield x, _on_host(found)


def _put(value: Any, axis: int, first: Callable[[Any], Any] | None, x: jax.Array) -> jax.Array:
    """Returns `x` with `value` at the units where that is a number."""
    x = x if first is None else first(x)
    shape = tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim))
    value = jnp.reshape(value, shape)
    return jnp.where(jnp.isnan(value), x, value.astype(x.dtype))


def _on_host(tree: Any) -> Any:
    """Returns a tree of arrays as NumPy arrays, whole, also where a part of them lies on other hosts."""

    def whole(leaf: Any) -> Any:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))


def clear_caches() -> None:
    """Drops the compiled passes over death sets, so that their memory is freed; the newest few are kept otherwise."""
    _observer.cache_clear()
