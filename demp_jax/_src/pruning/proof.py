# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The proof of a prune: the smaller network has the same outputs.

A plan is applied to the variables of the network and of its copies, and the outputs on the death set are compared in
every mode. If they change by more than the tolerance, bisection finds a large set of sites that can be pruned without
changing them. Example: of sites a, b, c and d, only c changes the outputs. [a b c d] fails, [a b] passes, [c d] fails,
[c] fails, [d] passes, and [a b d] passes and is used.

If the criterion removes units that are not exactly zero, the outputs change by design. The smaller network is then also
compared with the masked network, in which the removed units are replaced by zero or by their constant, and which must
have the same outputs up to rounding.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demp_jax._src.pruning import passes, planning, slicing
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.tracing.graph import Graph, per_unit

# The tolerance for units that are exactly zero: removing them only changes the order of float32 sums.
ROUNDING = 1e-4
# The tolerance for units that are folded although their values vary slightly.
_FOLDING = 1e-2


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network that is pruned: its functions in each mode, its variables, and the variables of its copies.

    Attributes:
      fns: by mode, `"evaluation"` and maybe `"training"`, `fn(variables, x)`.
      follows: whether training mode is derived from the network, and not given as a function.
      calls: by name, further calls. They are traced and measured, but their outputs are not compared.
      variables: by name, `"evaluation"` for the network itself and the names of its copies.
      owned: by name of a copy, the indices of the variables that it has, in the order of the copy. Its other variables
        are those of the network.
    """

    fns: Mapping[str, Callable[..., Any]]
    follows: bool
    calls: Mapping[str, Callable[..., Any]]
    variables: Mapping[str, Any]
    owned: Mapping[str, Sequence[int]]

    @property
    def runs(self) -> list[tuple[str, str, str]]:
        """Every run whose outputs are compared: its name, its mode, and the name of its variables."""
        modes = [(mode, mode, "evaluation") for mode in self.fns]
        return [*modes, *((name, "evaluation", name) for name in self.variables if name != "evaluation")]

    def sliced(self, plan: slicing.Plan, x: Any) -> Subject:
        """Returns the smaller network and its smaller copies; `x` is a batch."""
        variables = {name: plan.slice_variables(tree, name) for name, tree in self.variables.items()}
        structure: Any = jax.tree.structure(variables["evaluation"])
        for name, places in self.owned.items():
            leaves, own = jax.tree.leaves(variables["evaluation"]), jax.tree.leaves(variables[name])
            variables[name] = jax.tree.unflatten(
                structure, [own[i] if i in places else leaf for i, leaf in enumerate(leaves)]
            )
        fn = self.fns["evaluation"]
        resized = fn.resized(variables["evaluation"]) if hasattr(fn, "resized") else fn
        fns = {"evaluation": resized}
        if "training" in self.fns:
            own_training = training_of(resized, variables["evaluation"], x) if self.follows else None
            fns["training"] = own_training or _resized(self.fns["training"], variables["evaluation"])
        calls = {name: _resized(call, variables["evaluation"]) for name, call in self.calls.items()}
        return Subject(fns, self.follows, calls, variables, self.owned)


def training_of(fn: Callable[..., Any], variables: Any, x: Any) -> Callable[..., Any] | None:
    """Returns a network in training mode, from its method `training`; `None` without one or if modes do not differ."""
    return fn.training(variables, x) if hasattr(fn, "training") else None


def _resized(fn: Callable[..., Any], variables: Any) -> Callable[..., Any]:
    return fn.resized(variables) if hasattr(fn, "resized") else fn


class WidthError(ValueError):
    """The network cannot run at smaller widths.

    Attributes:
      cause: the error of the network, as text.
      remedy: what to do.
    """

    def __init__(self, widths: str, cause: str, remedy: str):
        super().__init__(f"the network cannot run at smaller widths ({widths}): {cause}. {remedy}")
        self.cause, self.remedy = cause, remedy


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The result of applying a plan.

    Attributes:
      plan, subject: the plan, and the smaller network.
      differences: by run, the largest absolute difference of the outputs before and after.
      deviation: the largest difference of the outputs from those of the masked network.
      complaint: a message if the outputs differ by more than the tolerance; otherwise `None`.
      error: set if the smaller network cannot run.
    """

    plan: slicing.Plan
    subject: Subject
    differences: dict[str, float]
    deviation: float
    complaint: str | None
    error: WidthError | None = None


class Proof:
    """Applies plans to a network, and compares its outputs."""

    def __init__(
        self,
        subject: Subject,
        evidence: Sequence[planning.Evidence],
        batches: Sequence[Any],
        options: PruneOptions,
        *,
        exact: bool,
    ):
        """Initializes the proof.

        Args:
          subject: the network before the prune.
          evidence: the observations of its runs, in the order of `subject.runs`, and of its further calls.
          batches: the death set.
          options: the options of the prune.
          exact: whether removed units are exactly zero, so that the outputs only change by rounding.
        """
        self._subject, self._evidence, self._batches, self._options = subject, evidence, batches, options
        self._exact = exact
        graph = evidence[0].graph
        self._rounding = rounding(graph, options.constant)
        self._limit = options.tolerance if options.tolerance is not None else self._rounding if exact else math.inf
        self.seconds = {"slice": 0.0, "prove": 0.0}

    def __call__(self, plan: slicing.Plan) -> Attempt:
        """Returns the result of applying a plan."""
        try:
            return self._compared(plan)
        except WidthError as error:
            return Attempt(plan, self._subject, {}, 0.0, str(error), error)

    def _compared(self, plan: slicing.Plan) -> Attempt:
        """Slices and runs the network and its copies, and compares the outputs with those before."""
        started = time.perf_counter()
        smaller = self._subject.sliced(plan, self._batches[0])
        sliced = time.perf_counter()
        differences, deviation, complaint = {}, 0.0, None
        for evidence, (name, mode, whose) in zip(self._evidence, self._subject.runs, strict=False):
            before = evidence.observation.outputs
            after = self._outputs(smaller.fns[mode], smaller.variables[whose], plan)
            scale = max(largest(before), 1.0)
            differences[name] = difference(before, after)
            complaint = complaint or _complaint(name, differences[name], self._limit, scale, "")
            if not self._exact and plan.folds_exactly:
                masked = passes.outputs(
                    self._subject.fns[mode],
                    self._subject.variables[whose],
                    self._batches,
                    graph=evidence.graph,
                    masked=planning.masked_values(evidence, plan),
                    batch_axis=self._options.batch_axis,
                )
                off = difference(masked, after)
                deviation = max(deviation, off)
                what = " from those of the masked network"
                complaint = complaint or _complaint(name, off, self._rounding, scale, what)
            else:
                deviation = max(deviation, differences[name])
        for call in smaller.calls.values():
            self._check_widths(call, smaller.variables["evaluation"], plan)
        self.seconds["slice"] += sliced - started
        self.seconds["prove"] += time.perf_counter() - sliced
        return Attempt(plan, smaller, differences, deviation, complaint)

    def _outputs(self, fn: Callable[..., Any], variables: Any, plan: slicing.Plan) -> list[Any]:
        try:
            return passes.outputs(fn, variables, self._batches)
        except Exception:
            self._check_widths(fn, variables, plan)
            raise

    def _check_widths(self, fn: Callable[..., Any], variables: Any, plan: slicing.Plan) -> None:
        """Raises `WidthError` if a network cannot run with the smaller variables."""
        try:
            jax.eval_shape(lambda *args: fn(*args), variables, self._batches[0])
        except Exception as error:
            sites = self._evidence[0].graph.sites
            removed = [(s.name, s.width, int(per_unit(plan.removed, s.groups).sum())) for s in sites]
            widths = ", ".join(f"{name} {width} -> {width - n}" for name, width, n in removed if n)
            what = (str(error).strip().splitlines() or [""])[0]
            # Only modules can have a method `refit`.
            refit = "give the module a method `refit()`, " if hasattr(fn, "resized") else ""
            cause = f"{type(error).__name__}: {what.rstrip('.')}"
            remedy = f"Let it read widths from its arrays, {refit}or keep the site by exclude=[...]."
            raise WidthError(widths, cause, remedy) from error


def largest_good(names: Sequence[str], attempt: Callable[[Sequence[str]], Attempt]) -> tuple[list[str], Attempt | None]:
    """Returns sites that can be pruned together, found by bisection, and the attempt that prunes them."""
    if len(names) == 1:
        return [], None  # The caller has tried it, and it failed.
    halves = []
    for part in (list(names[: len(names) // 2]), list(names[len(names) // 2 :])):
        tried = attempt(part)
        halves.append((part, tried) if tried.complaint is None else largest_good(part, attempt))
    good = [name for part, _ in halves for name in part]
    if all(tried is not None for _, tried in halves):
        both = attempt(good)
        if both.complaint is None:
            return good, both
    return max(halves, key=lambda half: len(half[0]))


def rounding(graph: Graph, constant: float | None) -> float:
    """Returns the tolerance for rounding, relative to the largest output, given the narrowest floats of the network."""
    dtypes = [aval.dtype for aval in graph.program.avals if jnp.issubdtype(aval.dtype, jnp.inexact)]
    epsilon = max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)
    # 8 units in the last place. For float32, `ROUNDING` is larger.
    allowed = max(ROUNDING, 8 * epsilon)
    return allowed if constant is None else max(allowed, _FOLDING)


def _complaint(name: str, found: float, limit: float, scale: float, what: str) -> str | None:
    if found <= limit * scale:
        return None
    where = {"evaluation": "", "training": " in training mode"}.get(name, f" of {name}")
    if math.isnan(found):
        return f"the outputs{where} are NaN at other positions than before"
    return (
        f"the outputs{where} differ by {found:.3g}{what}, more than the tolerance {limit:.3g} times the largest "
        f"output {scale:.3g}"
    )


def difference(before: Sequence[Any], after: Sequence[Any]) -> float:
    """Returns the largest absolute difference of two lists of outputs; NaN where only one of two values is NaN.

    NaN equals NaN, and infinities of the same sign are equal.
    """
    worst = [0.0]
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        a, b = _wide(one), _wide(other)
        with np.errstate(invalid="ignore"):
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            worst.append(float(np.max(np.where(same, 0.0, np.abs(a - b)), initial=0.0)))
    return float(np.max(worst))


def largest(outputs: Sequence[Any]) -> float:
    """Returns the largest finite absolute output."""
    leaves = [np.abs(_wide(leaf)) for leaf in jax.tree.leaves(outputs)]
    return max((float(np.max(leaf, initial=0.0, where=np.isfinite(leaf))) for leaf in leaves), default=0.0)


def _wide(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.astype(np.complex128 if np.iscomplexobj(leaf) else np.float64)
