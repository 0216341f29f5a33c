# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""When a claim holds.

Runs are paired by their seed, which determines the initial weights and the order of the data, so that two methods are
compared from the same start. Each seed gives one value of an *effect*, such as the accuracy of one method minus that of
another. A claim is about the mean of the effect over seeds. With n seeds, mean m and standard deviation s, its bounds
at level a = 0.1 are::

    low, high = m - t s / sqrt(n), m + t s / sqrt(n),   t = quantile of Student's t, n - 1 degrees of freedom, at 1 - a

* "above b" holds if low > b, and does not hold if high < b;
* "within b", an equivalence, holds if low > -b and high < b (two one-sided tests), and does not hold if low > b or
  high < -b;
* otherwise the claim is undecided, as is every claim with fewer than three seeds.

If the mean is exactly b, "holds" and "does not hold" are each wrong in at most one case out of ten. A claim with
several effects holds if each of them does. It does not hold if one of them does not at level a / (number of effects).

Example: leads of +1.2, +0.8 and +1.5 points have m = 1.17 and s = 0.35. With t = 1.89 the bounds are 0.78 and 1.55,
and "above 0" holds. For leads of +3, -1 and +1 the bounds are -1.2 and 3.2, and "above 0" is undecided.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import special

LEVEL = 0.1
MIN_SEEDS = 3
HOLDS, FAILS, UNDECIDED, UNTESTED = "holds", "does not hold", "undecided", "not tested"


@dataclasses.dataclass(frozen=True)
class Effect:
    """A quantity that a claim is about, measured with one seed.

    Attributes:
      what: name of the quantity, which identifies it across seeds.
      value: its value; NaN if it was not measured.
      above: the claim requires the value to be above this.
      within: the claim requires the absolute value to be below this; replaces `above`.
      unit: unit of the value, such as `points`.
      over: the range over which it was measured, such as weight sparsities, if there is one.
    """

    what: str
    value: float
    above: float = 0.0
    within: float | None = None
    unit: str = "points"
    over: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, in our words, with the effects of one seed.

    Attributes:
      text: the claim.
      section: section of the paper.
      effects: the quantities that it is about.
      note: a remark.
    """

    text: str
    section: str
    effects: tuple[Effect, ...]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Decision:
    """An effect over seeds.

    Attributes:
      what, unit, above, within: as in `Effect`.
      values: values of the seeds in which it was measured.
      mean: mean of the values; `None` without values.
      low: lower one-sided bound of the mean; `None` for a single value.
      high: upper one-sided bound.
      over: the union of the seeds' ranges.
      outcome: `holds`, `does not hold`, `undecided` or `not tested`.
    """

    what: str
    unit: str
    above: float
    within: float | None
    values: tuple[float, ...]
    mean: float | None
    low: float | None
    high: float | None
    over: tuple[float, float] | None
    outcome: str

    @property
    def range(self) -> str:
        """The range of the comparison in words, if there is one."""
        return f"{self.over[0]:.0f} to {self.over[1]:.0f}%" if self.over is not None else ""

    @property
    def measured(self) -> str:
        """The mean with its unit."""
        if self.mean is None:
            return "no runs"
        return f"{self.mean:+.3g}{'' if self.unit.startswith('%') else ' '}{self.unit}"

    @property
    def bounds(self) -> str:
        """The bounds of the mean, if there are several seeds."""
        return f"[{self.low:+.3g}, {self.high:+.3g}]" if self.low is not None else ""

    @property
    def required(self) -> str:
        """The values for which the claim holds."""
        return f"above {self.above:g}" if self.within is None else f"within {self.within:g}"

    def __str__(self) -> str:
        where = f"{self.what} ({self.range})" if self.range else self.what
        return f"{where}: {' '.join(filter(None, [self.measured, self.bounds]))}, required: {self.required}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a claim over all seeds.

    Attributes:
      claim: the claim, in our words.
      section: section of the paper.
      outcome: `holds`, `does not hold`, `undecided` or `not tested`.
      decisions: the decisions on its effects.
      note: a remark.
    """

    claim: str
    section: str
    outcome: str
    decisions: tuple[Decision, ...] = ()
    note: str = ""

    @property
    def why(self) -> str:
        """The effects and the note in words."""
        known = [str(decision) for decision in self.decisions if decision.mean is not None]
        unknown = [decision.what for decision in self.decisions if decision.mean is None]
        left = [f"no runs for: {', '.join(unknown)}"] if unknown and known else []
        text = "; ".join([*known, *left, *filter(None, [self.note])])
        return text or "no runs at this scale"

    @classmethod
    def load(cls, fields: dict[str, Any]) -> Verdict:
        """Returns a verdict from its fields, as `dataclasses.asdict` and JSON give them."""
        decisions = []
        for each in fields["decisions"]:
            over = None if each["over"] is None else tuple(each["over"])
            decisions.append(Decision(**{**each, "values": tuple(each["values"]), "over": over}))
        known = {name: fields[name] for name in ("claim", "section", "outcome", "note")}
        return cls(**known, decisions=tuple(decisions))


def bounds(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Returns the one-sided bounds of the mean of at least two values, each with an error of at most `level`."""
    mean, count = statistics.mean(values), len(values)
    half = float(special.stdtrit(count - 1, 1 - level)) * statistics.stdev(values) / math.sqrt(count)
    return mean - half, mean + half


def outcome(values: Sequence[float], above: float, within: float | None, level: float = LEVEL) -> str:
    """Returns the outcome of an effect, given one value for each seed."""
    if not values:
        return UNTESTED
    if len(values) < MIN_SEEDS:
        return UNDECIDED
    low, high = bounds(values, level)
    if within is not None:
        holds, fails = low > -within and high < within, low > within or high < -within
    else:
        holds, fails = low > above, high < above
    return HOLDS if holds else FAILS if fails else UNDECIDED


def decide(claims: Sequence[Claim]) -> Verdict:
    """Returns the verdict on a claim, given the same claim with the effects of each seed."""
    first = claims[0]
    names = list(dict.fromkeys(effect.what for claim in claims for effect in claim.effects))
    decisions, fails = [], False
    for name in names:
        effects = [effect for claim in claims for effect in claim.effects if effect.what == name]
        known = [effect for effect in effects if math.isfinite(effect.value)]
        values = [effect.value for effect in known]
        one = effects[0]
        ranges = [effect.over for effect in known if effect.over is not None]
        low, high = bounds(values) if len(values) > 1 else (None, None)
        decisions.append(
            Decision(
                what=name,
                unit=one.unit,
                above=one.above,
                within=one.within,
                values=tuple(values),
                mean=statistics.mean(values) if values else None,
                low=low,
                high=high,
                over=(min(a for a, _ in ranges), max(b for _, b in ranges)) if ranges else None,
                outcome=outcome(values, one.above, one.within),
            )
        )
        # Of many effects, one is likely to be beyond its bound by chance: the level is divided by their number.
        fails |= outcome(values, one.above, one.within, LEVEL / len(names)) == FAILS
    found = {decision.outcome for decision in decisions}
    notes = "; ".join(dict.fromkeys(claim.note for claim in claims if claim.note))
    if found == {UNTESTED} or not found:
        result = UNTESTED
    elif found == {HOLDS}:
        result = HOLDS
    else:
        result = FAILS if fails else UNDECIDED
    return Verdict(first.text, first.section, result, tuple(decisions), notes)
