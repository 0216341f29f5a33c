# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Lines of accuracy against sparsity: their runs, and the lead of one line over another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.cli.launch import Outcome
from experiments.figures.figure import Case, Mean, Panel, Point, line, percent
from experiments.figures.judging import Effect
from experiments.figures.scales import DENSE_RUN, NO_DEMP, OPTIMIZERS, STRENGTHS, Changes, grid

DEMP, DENSE = "DemP-Lasso(gamma)", "Dense"
STRUCTURED = {"CroPit-S": "crop", "EarlyCroP-S": "earlycrop", "EarlySNAP": "earlysnap", "SNAP": "snap"}
# Lines are compared above this weight sparsity in percent: the paper's axes begin at 50 to 75.
FLOOR = 50.0
# In the paper's figure 3 the methods only differ at high sparsity.
HIGH = 70.0
# Two runs are compared if their weight sparsities differ by at most this, in points.
NEAR = 5.0
# The paper's early methods prune within the first tenth of training. Their rule measures once per epoch, which is too
# rare in a short run.
EARLY = {"ranking.latest": "10%"}


def weights(title: str) -> Panel:
    """Returns axes of accuracy against weight sparsity."""
    return Panel(title, "Weight sparsity (%)", "Test accuracy (%)")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A network at a scale with an optimizer, and the panel of its lines. Its methods return the runs of lines."""

    network: str
    scale: str
    optimizer: str
    panel: int = 0

    def grid(self, lines: Mapping[str, Changes], *changes: Changes, **options: Any) -> list[Case]:
        """Returns the cases of `scales.grid` in this setting."""
        changes = (OPTIMIZERS[self.optimizer], *changes)
        return grid(self.network, self.scale, lines, *changes, **options, panel=self.panel)

    def dense(self, *changes: Changes) -> list[Case]:
        """Returns dense training."""
        return self.grid({DENSE: DENSE_RUN}, *changes)

    def demp(self, lines: Mapping[str, Changes], levels: Sequence[float] | None = None) -> list[Case]:
        """Returns DemP at every strength in `levels`, by default the network's."""
        levels = levels or STRENGTHS[self.network][self.optimizer][self.scale]
        return self.grid(lines, field="method.strength", levels=levels)

    def others(self, methods: Mapping[str, str], field: str, levels: Sequence[float], *changes: Changes) -> list[Case]:
        """Returns other methods, given by line, with a field of theirs at every level."""
        early = EARLY if self.scale == "cpu" else {}
        lines = {
            name: {"method.name": method, **NO_DEMP, **(early if method.startswith("early") else {})}
            for name, method in methods.items()
        }
        return self.grid(lines, *changes, field=field, levels=levels)


def by_optimizer(network: str, scale: str) -> list[Setting]:
    """Returns a setting for each optimizer, with a panel each."""
    return [Setting(network, scale, optimizer, panel) for panel, optimizer in enumerate(OPTIMIZERS)]


def by_weights(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against weight sparsity."""
    return [case.point(percent(outcome, "weight_sparsity"), percent(outcome, "test_accuracy"))]


def envelope(means: Sequence[Mean], panel: int, names: Sequence[str], x: float) -> float:
    """Returns the best accuracy of several lines at sparsity `x` in percent; NaN where none has runs.

    A run is skipped if a sparser run of its line is more accurate; the others are connected by straight lines.
    Example: of runs at (50%, 70), (60%, 72) and (80%, 60) the first is skipped, and the envelope at 55% is 72.
    """
    heights = []
    for name in names:
        xs, ys = line(means, panel, name)
        if not len(xs) or not xs[0] <= x <= xs[-1]:
            continue
        best = np.maximum.accumulate(ys[::-1])[::-1]
        kept = ys >= best
        heights.append(float(np.interp(x, xs[kept], ys[kept])))
    return max(heights, default=math.nan)


def lead(
    means: Sequence[Mean], panel: int, ours: Sequence[str], theirs: Sequence[str], floor: float = FLOOR
) -> tuple[float, tuple[float, float] | None]:
    """Returns the mean difference of two envelopes over the range of sparsities where both have runs.

    Without a common range, the closest two runs within `NEAR` points of sparsity are compared instead.

    Args:
      means: the means of one seed.
      panel: index of the panel.
      ours: names of lines.
      theirs: names of the lines that are subtracted.
      floor: lowest sparsity in percent that is compared.

    Returns:
      The lead in points, NaN if it is undefined, and the range over which it was taken.
    """
    runs = [[m for m in means if m.panel == panel and m.series in names and m.x >= 0] for names in (ours, theirs)]
    if not all(runs):
        return math.nan, None
    low = max(floor, *(min(m.x for m in group) for group in runs))
    high = min(max(m.x for m in group) for group in runs)
    if high > low:
        places = np.linspace(low, high, 20)
        gaps = np.array([envelope(means, panel, ours, x) - envelope(means, panel, theirs, x) for x in places])
        known = np.isfinite(gaps)
        if known.any():
            return float(gaps[known].mean()), (float(places[known][0]), float(places[known][-1]))
    pairs = [(a, b) for a in runs[0] for b in runs[1] if min(a.x, b.x) >= floor and abs(a.x - b.x) <= NEAR]
    if not pairs:
        return math.nan, None
    a, b = min(pairs, key=lambda pair: abs(pair[0].x - pair[1].x))
    return a.y - b.y, (min(a.x, b.x), max(a.x, b.x))


def lead_of(
    what: str,
    means: Sequence[Mean],
    panel: int,
    ours: Sequence[str],
    theirs: Sequence[str],
    floor: float = FLOOR,
    **bound: Any,
) -> Effect:
    """Returns the lead as an effect, whose bound is `above` or `within`."""
    value, over = lead(means, panel, ours, theirs, floor)
    return Effect(what, value, over=over, **bound)


def leads(
    means: Sequence[Mean], panel: int, ours: str, theirs: Sequence[str], floor: float = FLOOR, **bound: Any
) -> tuple[Effect, ...]:
    """Returns the leads of a line over each of several others."""
    return tuple(lead_of(f"{ours} minus {name}", means, panel, [ours], [name], floor, **bound) for name in theirs)


def sparser(means: Sequence[Mean], panel: int, ours: str, theirs: str) -> float:
    """Returns the mean difference in sparsity of two lines at equal levels, in points; NaN if it is undefined."""
    ends = {(m.series, m.level): m.x for m in means if m.panel == panel}
    pairs = [(x, ends[theirs, level]) for (name, level), x in ends.items() if name == ours and (theirs, level) in ends]
    # A level at which neither line has pruned anything compares nothing.
    pairs = [pair for pair in pairs if any(pair)]
    return float(np.mean([x - other for x, other in pairs])) if pairs else math.nan
