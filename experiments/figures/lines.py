# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Lines of accuracy against sparsity: the runs that they go through, and how far one is above another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.figures.figure import Case, Mean, Panel, Point, at, line, number
from experiments.figures.scales import OPTIMIZERS, case, strengths
from experiments.sweep import Outcome

DEMP = "DemP-Lasso(gamma)"
STRUCTURED = {"CroPit-S": "crop", "EarlyCroP-S": "earlycrop", "EarlySNAP": "earlysnap", "SNAP": "snap"}
# Weight sparsity in percent from which on lines are compared: the paper's axes begin at 50 to 75.
FLOOR = 50.0
# Of differences between lines that are runs of one seed.
CHANCE = (
    "with one seed 2 to 3 points may be chance: noise far too small to do anything moves a line by as much (figure "
    "`length`, a standard deviation of 5e-5)."
)


def weights(title: str) -> Panel:
    """Returns axes of accuracy against weight sparsity."""
    return Panel(title, "Weight Sparsity (%)", "Test Accuracy (%)")


def demp_cases(
    network: str, scale: str, seeds: Sequence[int], optimizer: str, panel: int, series: str, changes: Mapping[str, Any]
) -> list[Case]:
    """Returns the runs of DemP along a line: at every strength of the regularizer, for every seed."""
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
        for strength in strengths(network, optimizer, scale)
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


def shared(ranges: Sequence[np.ndarray], floor: float) -> np.ndarray:
    """Returns 20 places, evenly over the range that lines share from a floor on; none where they share none."""
    if not all(len(xs) for xs in ranges):
        return np.array([])
    low, high = max(floor, *(xs[0] for xs in ranges)), min(xs[-1] for xs in ranges)
    return np.linspace(low, high, 20) if high >= low else np.array([])


def lead(
    means: Sequence[Mean], panel: int, ours: str, theirs: Sequence[str], floor: float = FLOOR
) -> tuple[float, float, float]:
    """Returns the mean lead of a line over the best of others in the upper third of the range that they share.

    That is from where ours and one of the others, to where ours and half of the others have points.

    Returns:
      The lead in points, and from where to where it was taken; NaN where they share no range.
    """
    ranges = {name: line(means, panel, name)[0] for name in (ours, *theirs)}
    there = [name for name in theirs if len(ranges[name])]
    if not there or not len(ranges[ours]):
        return float("nan"), float("nan"), float("nan")
    low = max(ranges[ours][0], min(ranges[name][0] for name in there), floor)
    ends = sorted((ranges[name][-1] for name in there), reverse=True)
    high = min(ranges[ours][-1], ends[(len(ends) - 1) // 2])
    if high < low:
        return float("nan"), low, high
    leads = []
    for x in np.linspace(high - (high - low) / 3, high, 20):
        others = [height for name in there if np.isfinite(height := at(means, panel, name, x))]
        if 2 * len(others) >= len(there):
            leads.append(at(means, panel, ours, x) - max(others))
    return float(np.mean(leads)) if leads else float("nan"), high - (high - low) / 3, high


def mean_gap(means: Sequence[Mean], panel: int, ours: str, theirs: str, floor: float = FLOOR) -> float:
    """Returns the mean lead of a line over another, in points, over the range that they share from a floor on."""
    xs = shared([line(means, panel, name)[0] for name in (ours, theirs)], floor)
    return (
        float(np.mean([at(means, panel, ours, x) - at(means, panel, theirs, x) for x in xs])) if len(xs) else math.nan
    )


def sparser(means: Sequence[Mean], panel: int, ours: str, theirs: str) -> float:
    """Returns how much sparser a line is than another at equal levels, on average, in points; NaN where it has none."""
    ends = {(m.series, m.level): m.x for m in means if m.panel == panel}
    pairs = [(x, ends[theirs, level]) for (name, level), x in ends.items() if name == ours and (theirs, level) in ends]
    return float(np.mean([x - other for x, other in pairs])) if pairs else math.nan


def leads_over(means: Sequence[Mean], panel: int, ours: str, theirs: Sequence[str]) -> tuple[list[float], str]:
    """Returns the leads of a line over others, and in words; over one that it shares no range with it has none."""
    if not any(len(line(means, panel, name)[0]) for name in theirs):
        return [], ""
    leads = {name: mean_gap(means, panel, ours, name) for name in theirs}
    known = {name: gap for name, gap in leads.items() if math.isfinite(gap)}
    words = [f"mean lead over {', '.join(f'{name} {gap:+.1f}' for name, gap in known.items())} points"] if known else []
    for name in (*(() if known else (ours,)), *(name for name in theirs if name not in known)):
        xs, _ = line(means, panel, name)
        where = f"goes from {xs[0]:.0f}% to {xs[-1]:.0f}%" if len(xs) else "has no runs"
        words.append(f"{name} {where}")
    return list(known.values()), "; ".join(words)
