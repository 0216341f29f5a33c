# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""One cut from end to end: measure who is alive, plan, slice, prove that the network still computes the same."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from demp_jax._src import activity as activity_lib
from demp_jax._src import planning, surgery, tracing
from demp_jax._src.graph import Graph

# Removing units that are exactly zero changes the order of float32 sums, and nothing else.
ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class CutRecord:
    """What one cut did.

    Attributes:
      removed: by site, how many units left.
      protected: by site, how many units were dead but kept, so that the site is not emptied.
      needed: by site, how many units were dead but kept, because something else reads their value.
      folded: how many units left with a constant that was folded into what reads it.
      neurons, parameters, flops: before and after; FLOPs of a forward pass for one example.
      examples: size of the death set.
      difference: largest absolute difference of the outputs before and after, on the death set.
      scale: largest absolute output before the cut.
      refused: why the cut was not applied, else `None`.
      reset: leaves of the optimizer state that mirror no parameter and were initialised anew.
      seconds: by stage, `measure`, `slice` and `prove`; what compiles is in the stage that first runs it.
    """

    removed: dict[str, int]
    protected: dict[str, int]
    needed: dict[str, int]
    folded: int
    neurons: tuple[int, int]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    examples: int
    difference: float
    scale: float
    refused: str | None
    reset: list[str]
    seconds: dict[str, float]

    def __str__(self) -> str:
        gone = f"{sum(self.removed.values())} units cut" if not self.refused else f"refused: {self.refused}"
        return (
            f"{gone}, neurons {self.neurons[0]} -> {self.neurons[1]}, parameters {self.parameters[0]} -> "
            f"{self.parameters[1]}, FLOPs x {self.flops[1] / max(self.flops[0], 1):.3f}, "
            f"outputs differ by {self.difference:.2g}"
        )


@dataclasses.dataclass(frozen=True)
class Cut:
    """The result of a cut.

    Attributes:
      fn: the network as it is to be called with the smaller variables.
      variables: the smaller variables.
      opt_state: the smaller state of the optimizer.
      plan: what slices any other tree that mirrors the variables; `None` when nothing left.
      record: what was done.
    """

    fn: Callable[..., Any]
    variables: Any
    opt_state: Any
    plan: surgery.Plan | None
    record: CutRecord


def cut(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    opt_state: Any = None,
    tx: optax.GradientTransformation | None = None,
    params: Callable[[Any], Any] | None = None,
    criterion: str = "auto",
    epsilon: float = 0.01,
    constant: float | None = None,
    tolerance: float | None = None,
    min_units: int = 1,
    exclude: Sequence[str] = (),
    batch_axis: int = 0,
) -> Cut:
    """Removes dead units from a network and from the state of its optimizer.

    Example:
      >>> import jax.numpy as jnp
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
      >>> result = cut(network, params, [jnp.array([[1.0], [2.0]])])  # The second unit is dead.
      >>> result.variables["hidden"].shape, result.record.removed, result.record.difference
      ((1, 2), {'hidden': 1}, 0.0)

    Args:
      fn: the network in evaluation mode, `fn(variables, x)`. If it has a method `resized(variables)`, that gives the
        network for smaller variables; a function whose shapes follow from its arguments needs none.
      variables: its variables.
      batches: the death set, as batches of inputs of one shape; the paper takes 512 training examples, 2048 for
        ImageNet.
      opt_state: the state of an optimizer over `params(variables)`.
      tx: that optimizer; state that mirrors no parameter is then initialised anew where it has to be.
      params: picks the trained part of the variables, as in `lambda v: v["params"]`; all of them by default.
      criterion, epsilon: who is alive, see `alive`.
      constant: past the paper, off by default: units whose value varies by at most this much wherever it is read
        leave, too, and their constant is folded into what reads it (a bias, a running mean, a skip).
      tolerance: largest difference of the outputs before and after, relative to the largest output (at least 1),
        beyond which the cut is refused. By default `ROUNDING` where all removed units were exactly zero, 0.01 with
        `constant`, and without limit for criteria that remove units that are not zero.
      min_units: every site keeps at least this many units, the most active ones.
      exclude: patterns of names of sites none of whose units may leave.
      batch_axis: the axis of a batch along which examples lie.

    Returns:
      The smaller network, or the same one when nothing is dead or the cut was refused.

    Raises:
      ValueError: when the network has no prunable neuron, or for an unknown criterion.
    """
    activity_lib.check_criterion(criterion, epsilon)
    if min_units < 1:
        raise ValueError(f"min_units must be at least 1; got {min_units=}.")
    if constant is not None and not (constant >= 0 and math.isfinite(constant)):
        raise ValueError(f"constant must be a finite number >= 0, or None; got {constant=}.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be a number >= 0, or None; got {tolerance=}.")
    started = time.perf_counter()
    batches = list(batches)
    if not batches:
        raise ValueError("the death set is empty: give at least one batch of training inputs.")
    graph = tracing.trace(fn, variables, batches[0], batch_axis=batch_axis, exclude=exclude)
    graph.require_prunable()
    uses = planning.needed_uses(graph, constant)
    watched: dict[str, Any] = {"batch_axis": batch_axis, "exclude": exclude}
    observation = activity_lib.observe(fn, variables, batches, uses=uses, **watched)
    options: dict[str, Any] = {"criterion": criterion, "epsilon": epsilon, "min_units": min_units}
    decision = planning.decide(graph, observation, constant=constant, **options)
    measured = time.perf_counter()

    count = _counter(graph, variables, params)
    if not decision.removed.any():
        record = _record(graph, decision, count, observation, {"measure": measured - started})
        return Cut(fn, variables, opt_state, None, record)

    # Programs for widths that are about to go hold memory.
    activity_lib.clear_caches()
    limit = tolerance if tolerance is not None else _default_tolerance(graph, criterion, constant)
    plan, smaller, resized, difference, times = _apply(graph, decision, fn, variables, batches, observation, watched)
    scale = _largest(observation.outputs)
    if difference > limit * max(scale, 1.0) and decision.folds and not plan.folds_exactly:
        # Zero padding makes some folds inexact: leave those units in and try once more.
        decision = planning.decide(graph, _without_padded_folds(graph, observation), constant=constant, **options)
        plan, smaller, resized, difference, more = _apply(graph, decision, fn, variables, batches, observation, watched)
        times = {stage: times[stage] + more[stage] for stage in times}
    seconds = {"measure": measured - started, **times}
    if not difference <= limit * max(scale, 1.0):
        refused = (
            f"the outputs differ by {difference:.3g}, more than the tolerance {limit:.3g} times the largest output "
            f"{max(scale, 1.0):.3g}; nothing was cut"
        )
        record = _record(graph, decision, count, observation, seconds, difference=difference, refused=refused)
        return Cut(fn, variables, opt_state, None, record)

    reset: list[str] = []
    if opt_state is not None:
        trained = smaller if params is None else params(smaller)
        opt_state, reset = surgery.slice_state(plan, opt_state, trained, tx)
    record = _record(graph, decision, count, observation, seconds, difference=difference, reset=reset)
    return Cut(resized, smaller, opt_state, plan, record)


def _apply(
    graph: Graph,
    decision: planning.Decision,
    fn: Callable[..., Any],
    variables: Any,
    batches: Sequence[Any],
    observation: activity_lib.Observation,
    watched: dict[str, Any],
) -> tuple[surgery.Plan, Any, Callable[..., Any], float, dict[str, float]]:
    """Slices the variables and measures what that does to the outputs."""
    started = time.perf_counter()
    plan = surgery.make_plan(graph, decision)
    smaller = plan.slice_variables(variables)
    resized = fn.resized(smaller) if hasattr(fn, "resized") else fn
    sliced = time.perf_counter()
    after = activity_lib.observe(resized, smaller, batches, **watched)
    pairs = zip(jax.tree.leaves(observation.outputs), jax.tree.leaves(after.outputs), strict=True)
    difference = max((_largest(_float(a) - _float(b)) for a, b in pairs), default=0.0)
    proven = time.perf_counter()
    return plan, smaller, resized, difference, {"slice": sliced - started, "prove": proven - sliced}


def _without_padded_folds(graph: Graph, observation: activity_lib.Observation) -> activity_lib.Observation:
    """Returns the observation as if units read by a padded convolution were not constant."""
    uses = {}
    for i, seen in observation.uses.items():
        op = graph.uses[i].sink.op
        padded = op.name == "conv_general_dilated" and any(tuple(p) != (0, 0) for p in op.params["padding"])
        varies = padded & ((seen.maximum != 0) | (seen.minimum != 0))
        maximum = np.where(varies, np.inf, seen.maximum)
        uses[i] = dataclasses.replace(seen, maximum=maximum)
    return dataclasses.replace(observation, uses=uses)


def _default_tolerance(graph: Graph, criterion: str, constant: float | None) -> float:
    exact = criterion == "zero" or (criterion == "auto" and all(site.kind == "zero" for site in graph.sites))
    if not exact:
        return float("inf")
    return ROUNDING if constant is None else 1e-2


def _float(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def _largest(tree: Any) -> float:
    return max((float(np.max(np.abs(_float(leaf)), initial=0.0)) for leaf in jax.tree.leaves(tree)), default=0.0)


def _counter(graph: Graph, variables: Any, params: Callable[[Any], Any] | None) -> Callable[[np.ndarray | None], int]:
    """Returns a function that counts the trained parameters left by a cut."""
    structure: Any = jax.tree.structure(variables)
    numbered = jax.tree.unflatten(structure, range(structure.num_leaves))
    trained = {graph.paths[i] for i in jax.tree.leaves(numbered if params is None else params(numbered))}
    return lambda removed: graph.parameters(trained.__contains__, removed)


def _record(
    graph: Graph,
    decision: planning.Decision,
    count: Callable[[np.ndarray | None], int],
    observation: activity_lib.Observation,
    seconds: dict[str, float],
    *,
    difference: float = 0.0,
    refused: str | None = None,
    reset: Sequence[str] = (),
) -> CutRecord:
    removed = np.zeros_like(decision.removed) if refused else decision.removed
    gone = {s.name: int(np.append(removed, False)[s.classes].sum()) for s in (*graph.sites, *graph.branches)}
    neurons = sum(gone[site.name] for site in graph.sites)
    folded = {int(c) for fold in decision.folds for c in graph.uses[fold.use].classes[fold.constants != 0]}
    return CutRecord(
        removed={name: units for name, units in gone.items() if units},
        protected=decision.protected,
        needed=decision.needed,
        folded=0 if refused else len(folded),
        neurons=(graph.neurons, graph.neurons - neurons),
        parameters=(count(None), count(removed)),
        flops=(graph.flops(), graph.flops(removed)),
        examples=observation.examples,
        difference=difference,
        scale=_largest(observation.outputs),
        refused=refused,
        reset=list(reset),
        seconds={stage: round(value, 4) for stage, value in seconds.items()},
    )
