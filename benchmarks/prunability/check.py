# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Prunes an architecture, and measures how many of the expected units are removed, and how exact the prune is.

A third of the units is killed: their weights, biases and scales are set to zero, so that they are zero on every input.
The networks before and after the prune are compared on new inputs. Then both are trained for a few steps and compared
again. In the unpruned network, masks keep the killed units at zero.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import demp_jax
from benchmarks.prunability.cases import Case, Units, find
from benchmarks.prunability.subjects import SUBJECTS, Subject, tagged
from demp_jax.tracing import per_unit

_EXAMPLES, _STEPS, _WARM_UP, _RATE = 12, 3, 2, 1e-2
# Maximum difference relative to the largest value that counts as rounding.
EXACT = 1e-4


def measure(case: Case, seed: int = 0) -> dict[str, Any]:
    """Returns the record of an architecture. If the library raises an error, it is the record's `reason`.

    Raises:
      ValueError: if the case names units that are not in its variables.
    """
    rng = np.random.default_rng(seed)
    death = [case.inputs(rng, _EXAMPLES) for _ in range(2)]
    fresh, train = case.inputs(rng, _EXAMPLES), case.inputs(rng, _EXAMPLES)
    subject = SUBJECTS[case.framework](case, death[0])
    paths = demp_jax.tracing.leaf_paths(subject.variables)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(subject.variables)]
    axis = 0 if case.framework == "Equinox" else -1
    expected, heads, states = (find(entries, paths, shapes, axis) for entries in (case.units, case.heads, case.states))
    record: dict[str, Any] = {"name": case.name, "framework": case.framework, "package": case.package}
    record |= {"expected": sum(units.width for units in expected), "found": 0, "removable": 0, "removed": 0}
    record |= {"heads": [0, sum(u.width for u in heads)], "states": [0, sum(u.width for u in states)]}
    started = time.perf_counter()
    try:
        graph = subject.trace(death[0])
    except Exception as error:
        return record | {"reason": _sentence(error), "refusals": []}
    record["trace_seconds"] = round(time.perf_counter() - started, 2)
    said = [f"{refusal.what}: {refusal.reason}" for refusal in graph.refusals]
    said += [
        f"{path.removeprefix('params/').rpartition('/')[0] or path}: it has no activation" for path in graph.linear
    ]
    record["refusals"] = list(dict.fromkeys(said))
    record["removable"] = graph.num_groups
    with_heads = subject.trace(death[0], "heads") if heads else graph
    for name, view, units in (("heads", with_heads, heads), ("states", graph, states)):
        record[name][0] = sum(int(_grouped(view, each).sum()) for each in units)
    grouped = [_grouped(graph, each) for each in expected]
    record["found"] = sum(int(bits.sum()) for bits in grouped)
    record["missed"] = [
        paths[each.axes[0].variable] for each, bits in zip(expected, grouped, strict=True) if not bits.all()
    ]
    killed = _kill(subject, graph, expected, rng)
    record["killed"] = sum(int((bits & found).sum()) for bits, found in zip(killed.expected, grouped, strict=True))
    try:
        record |= _pruned(subject, graph, expected, killed, death, fresh, train)
    except Exception as error:
        return record | {"reason": _sentence(error)}
    if record["removed"] < record["killed"]:
        record.setdefault("reason", "dead units are kept for no recorded reason")
    return record


def _grouped(graph: demp_jax.Graph, units: Units) -> np.ndarray:
    """Returns whether each unit of an expected site is removable, `[width]` bool."""
    found = np.ones(units.width, bool)
    for axis in units.axes:
        groups = axis.groups(graph.axes[axis.variable])
        found &= np.zeros(units.width, bool) if groups is None else units.members(groups >= 0)
    return found


class _Killed(NamedTuple):
    """Killed units.

    Attributes:
      expected: for each expected site, `[width]` bool.
      groups: `[num_groups]` bool, all killed groups, including those of unexpected units.
      masks: for each trained variable, an array of its shape with zeros for the weights of killed units.
    """

    expected: list[np.ndarray]
    groups: np.ndarray
    masks: list[np.ndarray]


def _kill(subject: Subject, graph: demp_jax.Graph, expected: Sequence[Units], rng: np.random.Generator) -> _Killed:
    """Kills a random third of the expected units, and of the other units of the graph."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(subject.variables)]
    masks = [np.ones(shape, np.float32) for shape in shapes]
    chosen = []
    for units in expected:
        bits = np.zeros(units.width, bool)
        if units.width > 1:
            bits[rng.choice(units.width, max(units.width // 3, 1), replace=False)] = True
        chosen.append(bits)
        for axis in units.axes:
            axis.along(masks[axis.variable])[units.positions(bits)] = 0
    known = _groups_of(graph, expected, [np.ones(units.width, bool) for units in expected])
    besides = np.zeros(graph.num_groups, bool)
    for site in graph.sites:
        left = np.setdiff1d(site.groups[site.groups >= 0], np.flatnonzero(known))
        besides[rng.permutation(left)[: len(left) // 3]] = True
        known[left] = True
    for mask, axes in zip(masks, graph.axes, strict=True):
        for i, groups in enumerate(axes):
            if groups is not None:
                # `groups` is `[layers, positions]` for stacked layers.
                np.moveaxis(mask, i, groups.ndim - 1)[per_unit(besides, groups)] = 0
    return _Killed(chosen, besides | _groups_of(graph, expected, chosen), [masks[i] for i in subject.trained])


def _groups_of(graph: demp_jax.Graph, expected: Sequence[Units], chosen: Sequence[np.ndarray]) -> np.ndarray:
    """Returns whether each group has a chosen unit, `[num_groups]` bool."""
    found = np.zeros(graph.num_groups, bool)
    for units, bits in zip(expected, chosen, strict=True):
        for axis in units.axes:
            groups = axis.groups(graph.axes[axis.variable])
            if groups is not None:
                own = groups[units.positions(bits)]
                found[own[own >= 0]] = True
    return found


def _pruned(
    subject: Subject,
    graph: demp_jax.Graph,
    expected: Sequence[Units],
    killed: _Killed,
    death: Sequence[Any],
    fresh: Any,
    train: Any,
) -> dict[str, Any]:
    """Returns what a prune removes, and how outputs and training steps differ from those of the masked network."""
    tx = optax.chain(optax.adam(_RATE, eps=1e-3), tagged())
    params = jax.tree.unflatten(
        jax.tree.structure(subject.params),
        [leaf * mask for leaf, mask in zip(jax.tree.leaves(subject.params), killed.masks, strict=True)],
    )
    masks = jax.tree.unflatten(jax.tree.structure(params), killed.masks)
    targets = _targets(subject, train)
    masked_step = _step(subject, tx, train, targets)
    state = tx.init(params)
    for _ in range(_WARM_UP):
        params, state = masked_step(params, state, masks)
    at_most = {site.name: per_unit(killed.groups, site.groups) for site in (*graph.sites, *graph.branches)}
    smaller, smaller_state, record = subject.prune(params, death, tx, state, at_most)
    if record.refused:
        return {"reason": record.refused}
    kept = [np.asarray(leaf).astype(int) for leaf in jax.tree.leaves(smaller_state[-1])]
    removed, wrong = _removed(subject, expected, killed.expected, kept)
    found: dict[str, Any] = {"removed": removed, "wrong": wrong, "neurons": list(record.neurons)}
    if record.spared:
        found["reason"] = f"not pruned because the outputs would change: {', '.join(record.spared)}"
    elif record.needed:
        site = next(iter(record.needed))
        found["reason"] = f"{record.needed[site]} dead units of {site} kept: {record.needed_by.get(site)}"
    found["difference"] = {
        "evaluation": _differ(subject.fn, params, smaller.fn, smaller.params, subject, smaller, fresh)
    }
    if subject.train is not None:
        assert smaller.train is not None
        of_train = _differ(subject.train, params, smaller.train, smaller.params, subject, smaller, fresh)
        found["difference"]["training"] = of_train
    step = _step(smaller, tx, train, targets)
    small = smaller.params
    left = [mask.ravel()[places] for mask, places in zip(killed.masks, kept, strict=True)]
    small_masks = jax.tree.unflatten(jax.tree.structure(small), left)
    for _ in range(_STEPS):
        params, state = masked_step(params, state, masks)
        small, smaller_state = step(small, smaller_state, small_masks)
    of_params = [
        _relative(np.asarray(a).ravel()[places], b, _RATE)
        for a, b, places in zip(jax.tree.leaves(params), jax.tree.leaves(small), kept, strict=True)
    ]
    of_outputs = _differ(subject.fn, params, smaller.fn, small, subject, smaller, fresh)
    found["steps"] = float(np.max([*of_params, of_outputs]))
    return found


def _targets(subject: Subject, x: Any) -> list[np.ndarray]:
    """Returns random targets, one for each floating-point output."""
    rng = np.random.default_rng(1)
    outputs = jax.eval_shape(subject.train or subject.fn, subject.variables, x)
    return [rng.normal(size=out.shape).astype(np.float32) for out in _floats(outputs)]


def _floats(outputs: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _step(subject: Subject, tx: Any, x: Any, targets: Sequence[np.ndarray]) -> Callable[..., Any]:
    """Returns a training step `step(params, state, masks)` that multiplies the new parameters by the masks."""
    fn = subject.train or subject.fn

    def loss(params: Any) -> jax.Array:
        outputs = _floats(fn(subject.with_params(params), x))
        return sum((jnp.mean((out - target) ** 2) for out, target in zip(outputs, targets, strict=True)), jnp.zeros(()))

    @jax.jit
    def step(params: Any, state: Any, masks: Any) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.multiply, optax.apply_updates(params, updates), masks), state

    return step


def _removed(
    subject: Subject, expected: Sequence[Units], killed: Sequence[np.ndarray], kept: Sequence[np.ndarray]
) -> tuple[int, int]:
    """Returns the number of removed units that were killed, and of removed units that were not."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(subject.variables)]
    tags = dict(zip(subject.trained, kept, strict=True))
    removed = wrong = 0
    for units, bits in zip(expected, killed, strict=True):
        axis = units.axes[0]
        left = np.zeros(shapes[axis.variable], bool)
        left.ravel()[tags[axis.variable]] = True
        lines = axis.along(left)
        gone = units.members(np.logical_not(lines.reshape(len(lines), -1).any(1)))
        removed, wrong = removed + int((gone & bits).sum()), wrong + int((gone & ~bits).sum())
    return removed, wrong


def _differ(
    fn: Callable[..., Any],
    params: Any,
    other: Callable[..., Any],
    others: Any,
    subject: Subject,
    smaller: Subject,
    x: Any,
) -> float:
    """Returns the largest difference of two networks' outputs, relative to the largest output."""
    before = _floats(jax.jit(fn)(subject.with_params(params), x))
    after = _floats(jax.jit(other)(smaller.with_params(others), x))
    return float(np.max([_relative(a, b) for a, b in zip(before, after, strict=True)]))


def _relative(expected: Any, actual: Any, least: float = 1e-6) -> float:
    """Returns the largest difference over the largest expected value, at least `least`; NaN if any value is NaN."""
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    same = expected == actual  # Includes infinities.
    if same.all():
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)])
    return float(np.max(np.abs(np.where(same, 0, expected - actual))) / max(finite.max(initial=0.0), least))


def _sentence(error: Exception) -> str:
    """Returns the first line of an error without source locations, after its type unless it is a `ValueError`."""
    line = re.sub(r" at \S+:\d+( \(\S+\))?", "", str(error).strip().split("\n")[0])
    return line if isinstance(error, ValueError) else f"{type(error).__name__}: {line}"
