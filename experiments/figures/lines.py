# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Lines of accuracy against sparsity: the runs that they go through, and how far one is above another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.cli.launch import Outcome
from experiments.figures.figure import Case, Mean, Panel, Point, line, number
from experiments.figures.judging import Effect
from experiments.figures.scales import OPTIMIZERS, case, strengths

DEMP = "DemP-Lasso(gamma)"
STRUCTURED = {"CroPit-S": "crop", "EarlyCroP-S": "earlycrop", "EarlySNAP": "earlysnap", "SNAP": "snap"}
# Weight sparsity in percent from which on lines are compared: the paper's axes begin at 50 to 75.
FLOOR = 50.0
# At high sparsity the paper's figure 3 tells methods apart.
HIGH = 70.0
# Points of weight sparsity within which two runs are compared.
NEAR = 5.0
DENSE = "Dense"
# The paper's early methods prune within the first tenth of training. In a short run their rule, which looks at the ends
# of epochs, would come later.
EARLY = {"ranking.latest": "10%"}


def weights(title: str) -> Panel:
    """Returns axes of accuracy against weight sparsity."""
    return Panel(title, "Weight Sparsity (%)", "Test Accuracy (%)")


def demp_cases(
    network: str,
    scale: str,
    seeds: Sequence[int],
    optimizer: str,
    panel: int,
    series: str,
    changes: Mapping[str, Any],
    grid: Sequence[float] | None = None,
) -> list[Case]:
    """Returns the runs of DemP along a line: at every strength of a grid, by default the network's, for every seed."""
    return [
        case(
            network,
            scale,
            OPTIMIZERS[optimizer],
            {"method.strength": strength},
            dict(changes),
            panel=panel,
            series=series,
            level=strength,
            seed=seed,
        )
        for strength in (strengths(network, optimizer, scale) if grid is None else grid)
        for seed in seeds
    ]


def other_cases(
    network: str,
    scale: str,
    seeds: Sequence[int],
    optimizer: str,
    panel: int,
    methods: Mapping[str, str],
    field: str,
    levels: Sequence[float],
    changes: Mapping[str, Any],
) -> list[Case]:
    """Returns the runs of other methods, by line and method: at every level of a field of theirs, for every seed."""
    return [
        case(
            network,
            scale,
            OPTIMIZERS[optimizer],
            {"method.name": method, "method.strength": 0.0, "method.noise": 0.0, field: level},
            EARLY if scale == "cpu" and method.startswith("early") else {},
            dict(changes),
            panel=panel,
            series=series,
            level=level,
            seed=seed,
        )
        for series, method in methods.items()
        for level in levels
        for seed in seeds
    ]


def by_weights(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against weight sparsity."""
    assert outcome.summary is not None
    x, y = number(outcome.summary, "weight_sparsity", "test_accuracy")
    return [Point(case.panel, case.series, case.level, case.seed, x, y)]


def dense_cases(
    network: str, scale: str, seeds: Sequence[int], optimizer: str, panel: int, more: Mapping[str, Any] | None = None
) -> list[Case]:
    """Returns the runs of dense training, for every seed."""
    changes = {"method.name": "dense", "method.strength": 0.0, "method.noise": 0.0}
    return [
        case(network, scale, OPTIMIZERS[optimizer], changes, dict(more or {}), panel=panel, series=DENSE, seed=seed)
        for seed in seeds
    ]


def envelope(means: Sequence[Mean], panel: int, names: Sequence[str], x: float) -> float:
    """Returns the best accuracy that lines reach at a sparsity `x` in percent; NaN where none has runs.

    Of each line those runs count that no sparser run of it surpasses, with straight lines between them. Example: of
    runs at (50%, 70), (60%, 72) and (80%, 60) the first is surpassed by the second; at 55% the line is at 72.
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
    """Returns the mean lead of the best of some lines over the best of others, where both have runs.

    Where they share no range, but have runs within `NEAR` points of sparsity of each other, it is that of those two.

    Args:
      means: of one seed.
      panel: of the lines.
      ours, theirs: names of lines.
      floor: weight sparsity in percent from which on they are compared.

    Returns:
      The lead in points, NaN where there is none, and from where to where it was taken.
    """
    runs = [[m for m in means if m.panel == panel and m.series in names and m.x >= 0] for names in (ours, theirs)]
    if not all(runs):
        return math.nan, None
    low = max(floor, *(min(m.x for m in group) for group in runs))
    high = min(max(m.x for m in group) for group in runs)
    if high > low:
        places = np.linspace(low, high, 20)
        leads = np.array([envelope(means, panel, ours, x) - envelope(means, panel, theirs, x) for x in places])
        known = np.isfinite(leads)
        if known.any():
            return float(leads[known].mean()), (float(places[known][0]), float(places[known][-1]))
    pairs = [(a, b) for a in runs[0] for b in runs[1] if min(a.x, b.x) >= floor and abs(a.x - b.x) <= NEAR]
    if not pairs:
        return math.nan, None
    a, b = min(pairs, key=lambda pair: abs(pair[0].x - pair[1].x))
    return a.y - b.y, (min(a.x, b.x), max(a.x, b.x))


def led(
    means: Sequence[Mean],
    panel: int,
    ours: str,
    theirs: Sequence[str],
    *,
    floor: float = FLOOR,
    above: float = 0.0,
    within: float | None = None,
) -> tuple[Effect, ...]:
    """Returns the lead of a line over each of others, as effects."""
    found = []
    for name in theirs:
        value, over = lead(means, panel, [ours], [name], floor)
        found.append(Effect(f"{ours} minus {name}", value, above, within, over=over))
    return tuple(found)


def sparser(means: Sequence[Mean], panel: int, ours: str, theirs: str) -> float:
    """Returns how much sparser a line is than another at equal levels, on average, in points; NaN where it has none."""
    ends = {(m.series, m.level): m.x for m in means if m.panel == panel}
    pairs = [(x, ends[theirs, level]) for (name, level), x in ends.items() if name == ours and (theirs, level) in ends]
    # Where neither has cut anything there is nothing to compare.
    pairs = [pair for pair in pairs if any(pair)]
    return float(np.mean([x - other for x, other in pairs])) if pairs else math.nan
