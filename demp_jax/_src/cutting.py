# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""One cut from end to end: measure who is alive, plan, slice, prove that the network still computes the same."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demp_jax._src import activity as activity_lib
from demp_jax._src import mirror, optimizer_state, planning, surgery, tracing
from demp_jax._src.graph import Graph, Site

# Removing units that are exactly zero changes the order of float32 sums, and nothing else.
ROUNDING = 1e-4
# What folding constants that vary a little may change.
_FOLDING = 1e-2


@dataclasses.dataclass(frozen=True)
class CutRecord:
    """What one cut did.

    Attributes:
      removed: by site, how many units left.
      protected: by site, how many units were dead but kept, so that the site is not emptied or has a round width.
      needed: by site, how many units were dead but kept, because something else reads their value.
      folded: how many units left with a constant that was folded into what reads it.
      neurons, parameters, flops: before and after; FLOPs of a forward pass for one example.
      examples: size of the death set.
      difference: largest absolute difference of the outputs before and after, on the death set; before means with
        the units held at zero, where they were chosen by `leave`.
      deviation: largest absolute difference of the outputs after the cut from those of the network in which the units
        that leave are held at zero, or at their constant: the cut's own error, whatever the criterion. Measured where
        the criterion removes units that are not zero; elsewhere it is `difference`.
      scale: largest finite absolute output before the cut.
      spared: sites that were left whole, because a cut of them would have changed the outputs.
      refused: why nothing was cut, else `None`.
      waiting: how many units were dead but kept, because a cut of them would have saved too little.
      saves: which part of the FLOPs goes with what leaves, or would go with what waits.
      reset: leaves of the optimizer state that could not be sliced and were initialised anew, with all of the state of
        their transformation.
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
    deviation: float
    scale: float
    spared: list[str]
    refused: str | None
    waiting: int
    saves: float
    reset: list[str]
    seconds: dict[str, float]

    def __str__(self) -> str:
        gone = f"{sum(self.removed.values())} units cut" if not self.refused else f"refused: {self.refused}"
        if self.waiting:
            gone = f"{self.waiting} units wait for a cut that saves more"
        spared = f" ({', '.join(self.spared)} spared)" if self.spared and not self.refused else ""
        return (
            f"{gone}{spared}, neurons {self.neurons[0]} -> {self.neurons[1]}, parameters {self.parameters[0]} -> "
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

    @property
    def removed(self) -> dict[str, np.ndarray]:
        """By name of a site or branch, `[width]` bool: which of its units left; those that lost none are not named."""
        return {} if self.plan is None else _units(self.plan.graph, self.plan.decision.removed)


def _units(graph: Graph, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the units of some classes, by name of a site or branch; those that have none are left out."""
    chosen = np.append(classes, False)
    units = {site.name: chosen[site.classes] for site in (*graph.sites, *graph.branches)}
    return {name: bits for name, bits in units.items() if bits.any()}


def cut(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    opt_state: Any = None,
    tx: Any = None,
    params: mirror.Params = None,
    criterion: str = "auto",
    epsilon: float = 0.01,
    leave: Mapping[str, np.ndarray] | None = None,
    like: Mapping[str, np.ndarray] | None = None,
    constant: float | None = None,
    tolerance: float | None = None,
    min_units: int = 1,
    multiple: int = 1,
    least_gain: float = 0.0,
    exclude: Sequence[str] | str = (),
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
      batches: the death set, a list of batches of one shape, each an array or a tree of arrays; the paper takes 512
        training examples, 2048 for ImageNet.
      opt_state: the state of an optimizer over `params(variables)`. For several optimizers a dict or list of states.
      tx: that optimizer, or a dict or list of optimizers. State that cannot be sliced is then initialized again, and
        constants are folded into copies of parameters in the state, such as the `z` of schedule-free optimizers.
        Without `tx` a copy cannot be told from a moment, and no constants are folded into the state.
      params: picks the trained part of the variables, as in `lambda v: v["params"]`; all of them by default. For
        several optimizers a dict or list of functions, or one function that returns a dict or list.
      criterion, epsilon: who is alive, see `alive`.
      leave: by name of a site, `[width]` bool: cut these units, whatever they do, instead of those that a criterion
        calls dead. What is left computes what the network computes with those units held at zero. Units that can only
        leave together leave where all of them are named; a unit that must stay, stays.
      like: by name of a site or branch, `[width]` bool, such as `Cut.removed` of a trial some steps before: no more
        units leave of each than are named here, these before others (but for channels of a branch that nothing reads
        any more), and none of those that are not named. Where as many are still dead the widths are those of the
        trial, for which a step may have been compiled meanwhile.
      constant: past the paper, off by default: units whose value varies by at most this much wherever it is read
        leave, too, and their constant is folded into what reads it (a bias, a running mean, a skip).
      tolerance: largest difference of the outputs before and after, relative to the largest output (at least 1),
        beyond which a cut is refused. By default `ROUNDING`, or 8 units in the last place of the narrowest floats the
        network computes in if that is more (0.06 for bfloat16), where all removed units were exactly zero, 0.01 with
        `constant`, and without limit for criteria that remove units that are not zero; then the outputs are held to
        `ROUNDING` against those of the network with the units that leave held at zero.
      min_units: every site keeps at least this many units, the most active ones.
      multiple: every site keeps a multiple of this many units, the most active ones, or all that it has: a width of 32
        can be faster than one of 29. What stays can be cut later.
      least_gain: nothing is cut unless it takes at least this part of the FLOPs away, in [0, 1): a smaller network has
        to be compiled anew, which a unit or two do not repay. What stays can be cut later.
      exclude: a pattern or patterns of names of sites none of whose units may leave.
      batch_axis: the axis of a batch along which examples lie.

    Returns:
      The smaller network, or the same one when nothing is dead or the cut was refused. Where only some sites would
      change the outputs beyond the tolerance, the others are cut.

    A unit that is dead, but whose value is a constant other than zero where it is read (as after a ReLU, a BatchNorm),
    leaves with that constant folded into what reads it; whatever could still be trained of the constant goes with it.

    Raises:
      ValueError: when the network has no prunable neuron, cannot run at smaller widths, or for a bad option. A network
        that is cut again and again can come to have none, where only the last group of every GroupNorm is left:
        `trace(...).prunable` tells.
    """
    activity_lib.check_criterion(criterion, epsilon)
    if min_units < 1:
        raise ValueError(f"min_units must be at least 1; got {min_units=}.")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1; got {multiple=}.")
    if not 0 <= least_gain < 1:
        raise ValueError(f"least_gain must be in [0, 1); got {least_gain=}.")
    if constant is not None and not (constant >= 0 and math.isfinite(constant)):
        raise ValueError(f"constant must be a finite number >= 0, or None; got {constant=}.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be a number >= 0, or None; got {tolerance=}.")
    if hasattr(batches, "shape"):
        raise ValueError(f"batches must be a list of batches; got one array of shape {batches.shape}: give [batch].")
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    started = time.perf_counter()
    batches = list(batches)
    if not batches:
        raise ValueError("the death set is empty: give at least one batch of training inputs.")
    graph = tracing.trace(fn, variables, batches[0], batch_axis=batch_axis, exclude=exclude)
    graph.require_prunable()
    uses = planning.needed_uses(graph, constant)
    watched: dict[str, Any] = {"batch_axis": batch_axis, "exclude": exclude}
    chosen = None if leave is None else _chosen(graph, leave)
    if like is not None:
        _check_bits("like", like, (*graph.sites, *graph.branches))
    held = None if chosen is None else [_held(site.classes, chosen) for site in (*graph.sites, *graph.branches)]
    judged = _judged(graph, criterion)
    observation = activity_lib.observe(fn, variables, batches, uses=uses, held=held, criterion=judged, **watched)
    options: dict[str, Any] = {
        "criterion": criterion,
        "epsilon": epsilon,
        "min_units": min_units,
        "multiple": multiple,
        "chosen": chosen,
        "like": None if like is None else {name: np.asarray(bits, bool) for name, bits in like.items()},
    }
    decision = planning.decide(graph, observation, constant=constant, **options)
    measured = time.perf_counter()

    count = _counter(graph, variables, params)
    if not decision.removed.any() or graph.flops(decision.removed) > (1 - least_gain) * graph.flops():
        record = _record(graph, decision, count, observation, {"measure": measured - started}, waits=True)
        return Cut(fn, variables, opt_state, None, record)

    exact = chosen is not None or _exact(graph, criterion)
    limit = tolerance if tolerance is not None else _rounding(graph, constant) if exact else math.inf
    trial = _Trial(graph, fn, variables, batches, observation, watched, limit, exact, constant)
    attempt = trial(decision)
    spared: list[str] = []
    if not attempt.passed and decision.folds and not attempt.plan.folds_exactly:
        # Zero padding makes some folds inexact: leave those units in and try once more.
        observation = _without_padded_folds(graph, observation)
        attempt = trial(planning.decide(graph, observation, constant=constant, **options))
    if not attempt.passed:

        def only(names: Sequence[str]) -> _Attempt:
            some = np.zeros(graph.classes + 1, bool)
            for site in (*graph.sites, *graph.branches):
                some[site.classes] |= site.name in names
            return trial(planning.decide(graph, observation, constant=constant, only=some[:-1], **options))

        cuts = [s.name for s in (*graph.sites, *graph.branches) if np.append(decision.removed, False)[s.classes].any()]
        good, best = _largest_good(cuts, only)
        spared = [name for name in cuts if name not in good]
        if best is not None and best.plan.decision.removed.any():
            attempt = best
    seconds = {"measure": measured - started, **trial.seconds}
    numbers: dict[str, Any] = {"difference": attempt.difference, "deviation": attempt.deviation, "spared": spared}
    if not attempt.passed:
        record = _record(graph, decision, count, observation, seconds, refused=trial.complaint(attempt), **numbers)
        return Cut(fn, variables, opt_state, None, record)

    reset: list[str] = []
    if opt_state is not None:
        trained = mirror.picked(params, attempt.variables)
        opt_state, reset, _ = optimizer_state.slice_state(attempt.plan, opt_state, variables, params, trained, tx)
    record = _record(graph, attempt.plan.decision, count, observation, seconds, reset=reset, **numbers)
    plan = dataclasses.replace(attempt.plan, trained=mirror.trained_leaves(params, variables))
    return Cut(attempt.fn, attempt.variables, opt_state, plan, record)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a cut would do.

    Attributes:
      neurons, parameters, flops: before and after; FLOPs of a forward pass for one example.
      removed: which units would leave, as `Cut.removed`.
    """

    neurons: tuple[int, int]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    removed: dict[str, np.ndarray]


def forecast(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    graph: Graph | None = None,
    params: mirror.Params = None,
    criterion: str = "auto",
    epsilon: float = 0.01,
    constant: float | None = None,
    min_units: int = 1,
    exclude: Sequence[str] | str = (),
    batch_axis: int = 0,
) -> Forecast:
    """Returns what a cut of all that is dead would leave, and cuts nothing.

    It takes one evaluation of the death set. A cut is also proved, and leaves out what would change the outputs.

    Args:
      fn, variables, batches, params, criterion, epsilon, constant, min_units, exclude, batch_axis: see `cut`.
      graph: the trace of the network, where it is at hand; traced anew by default.

    Raises:
      ValueError: when there is no batch, or for a bad option.
    """
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    batches = list(batches)
    if not batches:
        raise ValueError("the death set is empty: give at least one batch of training inputs.")
    graph = graph or tracing.trace(fn, variables, batches[0], batch_axis=batch_axis, exclude=exclude)
    uses = planning.needed_uses(graph, constant)
    # The pass that `cut` has compiled.
    watched: dict[str, Any] = {"batch_axis": batch_axis, "exclude": exclude, "criterion": _judged(graph, criterion)}
    observation = activity_lib.observe(fn, variables, batches, uses=uses, **watched)
    options: dict[str, Any] = {"criterion": criterion, "epsilon": epsilon, "constant": constant, "min_units": min_units}
    removed = planning.decide(graph, observation, **options).removed
    count = _counter(graph, variables, params)
    gone = sum(int(np.append(removed, False)[site.classes].sum()) for site in graph.sites)
    return Forecast(
        (graph.neurons, graph.neurons - gone),
        (count(None), count(removed)),
        (graph.flops(), graph.flops(removed)),
        _units(graph, removed),
    )


def _check_bits(what: str, bits_of: Mapping[str, np.ndarray], sites: Sequence[Site]) -> None:
    widths = {site.name: site.width for site in sites}
    for name, bits in bits_of.items():
        if name not in widths:
            raise ValueError(f"{what}: no site is named {name!r}. The sites are: {', '.join(widths)}.")
        if np.shape(bits) != (widths[name],):
            raise ValueError(f"{what}[{name!r}] must be {widths[name]} bools; got the shape {np.shape(bits)}.")


def _chosen(graph: Graph, leave: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns `[classes]`: which classes have units that are all named in `leave`."""
    _check_bits("leave", leave, graph.sites)
    stay = [~np.asarray(leave.get(site.name, np.zeros(site.width)), bool) for site in graph.sites]
    return planning.dead_classes(graph, stay)


def _held(classes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.where(np.append(chosen, False)[classes], 0.0, np.nan).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """What a decision comes to."""

    plan: surgery.Plan
    variables: Any
    fn: Callable[..., Any]
    difference: float
    deviation: float
    passed: bool


class _Trial:
    """Slices the variables by a decision and measures what that does to the outputs."""

    def __init__(
        self,
        graph: Graph,
        fn: Callable[..., Any],
        variables: Any,
        batches: Sequence[Any],
        observation: activity_lib.Observation,
        watched: dict[str, Any],
        limit: float,
        exact: bool,
        constant: float | None,
    ):
        self._graph, self._fn, self._variables, self._batches = graph, fn, variables, batches
        self._observation, self._watched = observation, watched
        self._scale = max(_scale(observation.outputs), 1.0)
        self._limit, self._exact = limit, exact
        self._rounding = _rounding(graph, constant)
        self.seconds = {"slice": 0.0, "prove": 0.0}

    def __call__(self, decision: planning.Decision) -> _Attempt:
        started = time.perf_counter()
        plan = surgery.make_plan(self._graph, decision)
        smaller = plan.slice_variables(self._variables)
        resized = self._fn.resized(smaller) if hasattr(self._fn, "resized") else self._fn
        sliced = time.perf_counter()
        after = self._outputs(resized, smaller, decision)
        difference = deviation = _difference(self._observation.outputs, after)
        passed = difference <= self._limit * self._scale
        if not self._exact and plan.folds_exactly:
            values = planning.masked_values(self._graph, self._observation, decision)
            masked = activity_lib.outputs(self._fn, self._variables, self._batches, held=values, **self._watched)
            deviation = _difference(masked, after)
            passed = passed and deviation <= self._rounding * self._scale
        self.seconds["slice"] += sliced - started
        self.seconds["prove"] += time.perf_counter() - sliced
        return _Attempt(plan, smaller, resized, difference, deviation, passed)

    def _outputs(self, fn: Callable[..., Any], variables: Any, decision: planning.Decision) -> list[Any]:
        try:
            return activity_lib.outputs(fn, variables, self._batches, **self._watched)
        except Exception as error:
            try:
                jax.eval_shape(fn, variables, self._batches[0])
            except Exception:
                gone = np.append(decision.removed, False)
                cuts = [(s.name, s.width, int(gone[s.classes].sum())) for s in self._graph.sites]
                widths = ", ".join(f"{name} {width} -> {width - n}" for name, width, n in cuts if n)
                what = (str(error).strip().splitlines() or [""])[0]
                raise ValueError(
                    f"the network cannot run at smaller widths ({widths}): {type(error).__name__}: {what} Let it read "
                    "widths from its arrays, give the module a method `refit()`, or keep the site by exclude=[...]."
                ) from error
            raise

    def complaint(self, attempt: _Attempt) -> str:
        """Returns why an attempt does not pass."""
        inexact = attempt.difference <= self._limit * self._scale
        what, difference, limit = (
            (" from those of the network with dead units held at zero", attempt.deviation, self._rounding)
            if inexact
            else ("", attempt.difference, self._limit)
        )
        return (
            f"the outputs differ by {difference:.3g}{what}, more than the tolerance {limit:.3g} times the largest "
            f"output {self._scale:.3g}; nothing was cut"
        )


def _largest_good(
    names: Sequence[str], attempt: Callable[[Sequence[str]], _Attempt]
) -> tuple[list[str], _Attempt | None]:
    """Returns as many sites as can be cut together, found by halving, and the attempt that does it."""
    if len(names) == 1:
        return [], None  # Its attempt failed as a part of a larger one that is known to fail.
    halves = []
    for part in (list(names[: len(names) // 2]), list(names[len(names) // 2 :])):
        tried = attempt(part)
        halves.append((part, tried) if tried.passed else _largest_good(part, attempt))
    good = [name for part, _ in halves for name in part]
    if all(tried is not None for _, tried in halves):
        both = attempt(good)
        if both.passed:
            return good, both
    return max(halves, key=lambda half: len(half[0]))


def _without_padded_folds(graph: Graph, observation: activity_lib.Observation) -> activity_lib.Observation:
    """Returns the observation as if units read by a padded convolution were not constant."""
    uses = {}
    for i, seen in observation.uses.items():
        varies = graph.uses[i].padded & ((seen.maximum != 0) | (seen.minimum != 0))
        maximum = np.where(varies, np.inf, seen.maximum)
        uses[i] = seen._replace(maximum=maximum)
    return dataclasses.replace(observation, uses=uses)


def _exact(graph: Graph, criterion: str) -> bool:
    """Returns whether all that a criterion calls dead is exactly zero."""
    return criterion == "zero" or (criterion == "auto" and all(site.kind == "zero" for site in graph.sites))


def _judged(graph: Graph, criterion: str) -> str | None:
    """Returns the criterion that is all that activity is wanted for; `None` where the middle of what leaves is, too."""
    return criterion if _exact(graph, criterion) else None


def _rounding(graph: Graph, constant: float | None) -> float:
    """Returns how much of the largest output may change by the order of sums, in the network's narrowest floats."""
    dtypes = [aval.dtype for aval in graph.program.avals if jnp.issubdtype(aval.dtype, jnp.floating)]
    epsilon = max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)
    # A few units in the last place: what float32 is allowed is far more than that already.
    rounding = max(ROUNDING, 8 * epsilon)
    return rounding if constant is None else max(rounding, _FOLDING)


def _difference(before: list[Any], after: list[Any]) -> float:
    """Returns the largest absolute difference of two lists of outputs; NaN if any of them is NaN."""
    worst = [0.0]
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        with np.errstate(invalid="ignore"):
            # What is infinite on both sides, such as a masked logit, is equal.
            worst.append(float(np.max(np.where(a == b, 0.0, np.abs(a - b)), initial=0.0)))
    return float(np.max(worst))


def _scale(outputs: list[Any]) -> float:
    leaves = [np.abs(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(outputs)]
    return max((float(np.max(leaf, initial=0.0, where=np.isfinite(leaf))) for leaf in leaves), default=0.0)


def _counter(graph: Graph, variables: Any, params: mirror.Params) -> Callable[[np.ndarray | None], int]:
    """Returns a function that counts the trained parameters left by a cut."""
    leaves = mirror.trained_leaves(params, variables)
    trained = {graph.paths[leaf.variable] for leaf in leaves if leaf.variable is not None}
    return lambda removed: graph.parameters(trained.__contains__, removed)


def _record(
    graph: Graph,
    decision: planning.Decision,
    count: Callable[[np.ndarray | None], int],
    observation: activity_lib.Observation,
    seconds: dict[str, float],
    *,
    difference: float = 0.0,
    deviation: float = 0.0,
    spared: Sequence[str] = (),
    refused: str | None = None,
    waits: bool = False,
    reset: Sequence[str] = (),
) -> CutRecord:
    removed = np.zeros_like(decision.removed) if refused or waits else decision.removed
    gone = {s.name: int(np.append(removed, False)[s.classes].sum()) for s in (*graph.sites, *graph.branches)}
    neurons = sum(gone[site.name] for site in graph.sites)
    folded = {int(c) for fold in decision.folds for c in graph.uses[fold.use].classes[fold.constants != 0]}
    return CutRecord(
        removed={name: units for name, units in gone.items() if units},
        protected=decision.protected,
        needed=decision.needed,
        folded=0 if refused or waits else len(folded),
        neurons=(graph.neurons, graph.neurons - neurons),
        parameters=(count(None), count(removed)),
        flops=(graph.flops(), graph.flops(removed)),
        examples=observation.examples,
        difference=difference,
        deviation=deviation,
        scale=_scale(observation.outputs),
        spared=list(spared),
        refused=refused,
        waiting=int(decision.removed.sum()) if waits else 0,
        saves=round(1 - graph.flops(decision.removed) / max(graph.flops(), 1), 6),
        reset=list(reset),
        seconds={stage: round(value, 4) for stage, value in seconds.items()},
    )
