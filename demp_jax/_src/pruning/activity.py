# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The activity of units on a set of examples, and the criteria that decide which units are alive.

Death is a property of a unit over a whole set: it is dead if a condition holds for its value on every example and at
every position in space. An activity therefore only holds statistics per unit, such as the largest value. Activities of
several batches are merged by the same reductions, and a criterion compares the merged statistics.

Dimension names: units, those of one activation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Num

from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing import trace as tracing
from demp_jax._src.types import AnyArray, UnitValues

CRITERIA = ("auto", "zero", "epsilon", "negative", "sum")
_FIELDS = ("maximum", "minimum", "magnitude", "positive", "nonzero")
# The fields of an activity that each criterion reads.
_READS = {
    "zero": ("nonzero",),
    "epsilon": ("maximum", "minimum"),
    "negative": ("maximum",),
    "sum": ("positive",),
}


@no_type_check
@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=_FIELDS,
    meta_fields=["kind"],
)
@dataclasses.dataclass(frozen=True)
class Activity:
    """Statistics of the units of one activation over a set of examples. Fields that were not requested are `None`.

    Attributes:
      maximum: `[units]`, largest value over examples and space.
      minimum: `[units]`, smallest value.
      magnitude: `[units]`, sum of absolute values, in float32.
      positive: `[units]` bool, whether the sum over examples and space was positive in any batch.
      nonzero: `[units]` bool, whether any value was nonzero. NaN counts as nonzero.
      kind: how the activation saturates, `"zero"`, `"soft"` or `"negative"`; `"branch"` for a branch.
    """

    maximum: UnitValues | None
    minimum: UnitValues | None
    magnitude: Float32[AnyArray, " units"] | None
    positive: Bool[AnyArray, " units"] | None
    nonzero: Bool[AnyArray, " units"] | None
    kind: str

    def merge(self, other: Activity) -> Activity:
        """Returns the activity on the union of both sets of examples.

        Raises:
          ValueError: if the two do not have the same fields.
        """
        known = [{name for name in _FIELDS if getattr(each, name) is not None} for each in (self, other)]
        if known[0] != known[1]:
            raise ValueError(
                f"merged activities must have the same fields; got {', '.join(sorted(known[0]))} and "
                f"{', '.join(sorted(known[1]))}. Compute both with the same criterion."
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
    """The range of the values that a consumer reads, over a set of examples.

    Complex values have separate ranges of their real and imaginary parts.

    Attributes:
      maximum: `[units]`, largest value over examples and space.
      minimum: `[units]`, smallest value.
    """

    maximum: UnitValues
    minimum: UnitValues

    def merge(self, other: Range) -> Range:
        """Returns the range on the union of both sets of examples."""
        return Range(
            _by_part(np.maximum, self.maximum, other.maximum), _by_part(np.minimum, self.minimum, other.minimum)
        )


def _by_part(combine: Callable[..., Any], *values: Any) -> Any:
    """Returns `combine(*values)`. Real and imaginary parts of complex values are combined separately."""
    if not any(jnp.iscomplexobj(value) for value in values):
        return combine(*values)
    return combine(*(value.real for value in values)) + 1j * combine(*(value.imag for value in values))


def summarize(
    value: Num[jax.Array, "..."], axis: int = -1, kind: str = "zero", *, criterion: str | None = None
) -> Activity:
    """Returns the activity of `value`, with the units along `axis`, reduced over all other axes.

    Under `jax.jit` with sharded examples, the reductions run over all devices.

    Example:
      >>> activity = summarize(jnp.array([[0.0, -0.5], [0.0, 2.0]]))
      >>> activity.maximum.tolist(), activity.nonzero.tolist()
      ([0.0, 2.0], [False, True])

    Args:
      value: the values of an activation on a batch, `[..., units]` if `axis` is -1.
      axis: the axis of the units.
      kind: how the activation saturates, see `Activity`.
      criterion: if given, only the fields that `alive` reads for this criterion are computed; the others are `None`.

    Raises:
      ValueError: for an unknown criterion.
    """
    return summary(value, axis, kind, read_by(criterion, kind))


def read_by(criterion: str | None, kind: str) -> tuple[str, ...]:
    """Returns the fields that a criterion reads for an activation of this kind; all fields for `None`."""
    if criterion is None:
        return _FIELDS
    check_criterion(criterion, epsilon=1.0)
    return _READS[_resolved(criterion, kind)]


def summary(value: Num[jax.Array, "..."], axis: int, kind: str, fields: Collection[str]) -> Activity:
    """Returns the activity of `value`, with only the given fields."""
    axes = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
    reductions: dict[str, Callable[[], jax.Array]] = {
        "maximum": lambda: _by_part(lambda part: jnp.max(part, axes), value),
        "minimum": lambda: _by_part(lambda part: jnp.min(part, axes), value),
        "magnitude": lambda: jnp.sum(jnp.abs(value), axes, dtype=jnp.float32),
        "positive": lambda: jnp.sum(value, axes, dtype=jnp.float32) > 0,
        # This is one pass over the values. Maximum and minimum would need two.
        "nonzero": lambda: jnp.any(value != 0, axes),
    }
    # Other fields are not traced, because tracing takes as long as compiling some of them.
    return Activity(**{name: reductions[name]() if name in fields else None for name in _FIELDS}, kind=kind)


def alive(activity: Activity, criterion: str = "auto", *, epsilon: float = 0.01) -> Bool[AnyArray, " units"]:
    """Returns which units are alive.

    Let a(x, s) be the value of a unit for the example x at the position s in space. The unit is dead by the criterion

    * `"zero"` if `a(x, s) = 0` for all x and s (paper, section 2, definition);
    * `"epsilon"` if `|a(x, s)| < epsilon` for all x and s (footnote 1);
    * `"negative"` if `a(x, s) <= 0` for all x and s (appendix F.7, Leaky ReLU);
    * `"sum"` if the sum of a(x, s) over x and s is <= 0 in every batch (the released code);
    * `"auto"` by `"zero"`, `"epsilon"` or `"negative"` for an activation of the kind `"zero"`, `"soft"` or
      `"negative"`.

    Example:
      >>> activity = summarize(jnp.array([[0.0, 0.004, 1.0], [0.0, 0.0, 3.0]]))  # Two examples, three units.
      >>> alive(activity, "zero").tolist(), alive(activity, "epsilon", epsilon=0.01).tolist()
      ([False, True, True], [False, False, True])

    Args:
      activity: the activity of the units of one site.
      criterion: one of `CRITERIA`.
      epsilon: threshold of `"epsilon"`, > 0, in units of the activation.

    Returns:
      `[units]` bool.

    Raises:
      ValueError: for an unknown criterion, an epsilon that is not positive, or an activity without the fields that the
        criterion reads.
    """
    check_criterion(criterion, epsilon)
    criterion = _resolved(criterion, activity.kind)
    read = {name: getattr(activity, name) for name in _READS[criterion]}
    missing = [name for name, values in read.items() if values is None]
    if missing:
        raise ValueError(
            f"criterion={criterion!r} reads {' and '.join(missing)}, which the activity lacks: it was made for another "
            "criterion. Give this one, or None for all fields, to observe, with_activity or summarize."
        )
    if criterion == "zero":
        return read["nonzero"]
    if criterion == "epsilon":
        return (read["maximum"] >= epsilon) | (read["minimum"] <= -epsilon)
    if criterion == "negative":
        return read["maximum"] > 0
    return read["positive"]


def _resolved(criterion: str, kind: str) -> str:
    """Returns the criterion for an activation of this kind: `"auto"` depends on the kind."""
    by_kind = {"zero": "zero", "soft": "epsilon", "negative": "negative", "branch": "zero"}
    return by_kind[kind] if criterion == "auto" else criterion


def check_criterion(criterion: str, epsilon: float) -> None:
    """Raises `ValueError` for an unknown criterion or a threshold that is not positive."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}; got {criterion=}.")
    if not (epsilon > 0 and np.isfinite(epsilon)):
        raise ValueError(f"epsilon must be a positive number; got {epsilon=}.")


def with_activity(
    fn: Callable[..., Any], *, batch_axis: int = 0, criterion: str | None = None, extra_units: Sequence[str] | str = ()
) -> Callable[..., tuple[Any, dict[str, Activity]]]:
    """Returns a function that returns the result of `fn` and the activity of its neurons.

    The function can be jitted and differentiated. The compiler removes fields of the activity that are not used.

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
      criterion: if given, only the fields that `alive` reads for this criterion are computed; the others are `None`.
      extra_units: further units, see `trace`.

    Returns:
      A function with the same arguments that returns `(fn(...), {name of the site: activity})`. Sites strictly inside
      a function with its own derivative rule (custom_jvp or custom_vjp) cannot be measured and are absent.

    Raises:
      ValueError: for an unknown criterion or unknown `extra_units`.
    """
    if criterion is not None:
        check_criterion(criterion, epsilon=1.0)
    extra_units = tracing.checked_extra_units(extra_units)

    def wrapped(variables: Any, x: Any, *args: Any) -> tuple[Any, dict[str, Activity]]:
        analysis = tracing.analyze(fn, variables, x, *args, batch_axis=batch_axis, extra_units=extra_units)
        unreadable = analysis.program.unreadable
        found = [a for a in analysis.activations if a.axis is not None and a.value not in unreadable]
        out, values = _run(analysis, (variables, x, *args), [a.value for a in found])
        pairs = zip(found, values, strict=True)
        return out, {a.name: summarize(value, a.axis or 0, a.kind, criterion=criterion) for a, value in pairs}

    return wrapped


def _run(analysis: tracing.Analysis, args: tuple[Any, ...], wanted: list[int]) -> tuple[Any, list[Any]]:
    results, values = program_lib.evaluate(analysis.program, jax.tree.leaves(args), wanted)
    return jax.tree.unflatten(analysis.program.out_tree, results), values
