# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a figure of the paper consists of: runs, the points that they give, axes, and claims about the points."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.cli.launch import Outcome, Run
from experiments.figures.judging import Claim, Verdict, decide
from experiments.reporting.seeds import mean_and_std

SCALES = ("cpu", "gpu", "paper")


@dataclasses.dataclass(frozen=True)
class Case:
    """A run and its place in a figure.

    Attributes:
      run: the run.
      panel: index of the panel.
      series: name of the line.
      level: the value that varies along the line.
      seed: seed of the run. Points that differ only in their seed are averaged.
    """

    run: Run
    panel: int
    series: str
    level: float
    seed: int = 0

    def with_seed(self, seed: int) -> Case:
        """Returns the same case with a run of another seed."""
        run = Run.of(self.run.config, dict(self.run.changes), {"seed": seed})
        return dataclasses.replace(self, run=run, seed=seed)

    def point(self, x: float, y: float, **place: Any) -> Point:
        """Returns a point at the place of this case, except for the fields in `place`."""
        return dataclasses.replace(Point(self.panel, self.series, self.level, self.seed, x, y), **place)


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured point `(x, y)` of a run: its panel, its line, its level on the line, and its seed."""

    panel: int
    series: str
    level: float
    seed: int
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean over seeds of points of one level; the standard deviations are `None` for a single seed."""

    panel: int
    series: str
    level: float
    seeds: int
    x: float
    y: float
    std: float | None
    std_x: float | None


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes.

    Attributes:
      title: title above the axes.
      x, y: labels of the axes.
      log_x: whether the x-axis is logarithmic.
      bars: whether to draw bars instead of lines.
      percent: whether `y` is a fraction to draw in percent.
    """

    title: str
    x: str
    y: str
    log_x: bool = False
    bars: bool = False
    percent: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or table of the paper.

    Attributes:
      name: such as `fig3`.
      what: description in one line.
      panels: the axes.
      judge: returns the claims with their effects, given the means of one seed. Without means it returns the same
        claims in the same order, with effects of NaN.
      one_seed: returns the cases of one seed, given a scale.
      points: returns the points of a case, given its finished run.
      normalize: returns the points of the figure, given those of all runs, where they are relative to one another.
      simulate: returns the points of a figure without runs, given a scale and seeds.
      rows: numbers that the paper prints, shown beside the measured ones.
      table: returns rows like `rows`, given the records of the runs; for tables.
      timed: the claims that compare times, which are only tested with runs from a single device.
      columns: number of panels per row.
      marked: whether to draw a marker for each level, as in the paper's figures 6 and 7.
      look: returns two parts of a line's label, given its name. Lines that share the first part have the same color,
        lines that share the second, if not empty, the same style.
      caveat: why a claim that fails at the scale of a CPU may hold at the paper's, and what was tried.
      dense: the line of dense training in panels of accuracy. It is drawn as a reference, and defines collapsed runs.
      proxy: the network and dataset that replace the paper's at the scale of a CPU.
    """

    name: str
    what: str
    panels: tuple[Panel, ...]
    judge: Callable[[Sequence[Mean]], list[Claim]]
    one_seed: Callable[[str], list[Case]] = lambda scale: []
    points: Callable[[Case, Outcome], list[Point]] = lambda case, outcome: []
    normalize: Callable[[Sequence[Point]], list[Point]] = list
    simulate: Callable[[str, Sequence[int]], list[Point]] = lambda scale, seeds: []
    rows: tuple[Mapping[str, Any], ...] = ()
    table: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]] | None = None
    timed: tuple[str, ...] = ()
    columns: int = 4
    marked: bool = False
    look: Callable[[str], tuple[str, str]] = lambda series: (series, "")
    caveat: str = ""
    dense: str = ""
    proxy: str = ""

    def cases(self, scale: str, seeds: Sequence[int]) -> list[Case]:
        """Returns the cases of all seeds."""
        return [case.with_seed(seed) for case in self.one_seed(scale) for seed in seeds]

    def verdicts(self, points: Sequence[Point]) -> list[Verdict]:
        """Returns the verdicts on the claims; without points, all are `not tested`."""
        kept, _ = self.without_collapsed(points)
        seeds = sorted({point.seed for point in points})
        each = [self.judge(averaged([point for point in kept if point.seed == seed])) for seed in seeds]
        return [decide(claims) for claims in zip(*(each or [self.judge([])]), strict=True)]

    def without_collapsed(self, points: Sequence[Point]) -> tuple[list[Point], int]:
        """Returns the points without those of collapsed runs, and how many were dropped.

        A run has collapsed if its accuracy is below half of the mean of dense training in the same panel.
        """
        dense: dict[int, list[float]] = {}
        for point in points:
            if self.dense and point.series == self.dense:
                dense.setdefault(point.panel, []).append(point.y)
        kept = [p for p in points if p.panel not in dense or p.y >= statistics.mean(dense[p.panel]) / 2]
        return kept, len(points) - len(kept)


def averaged(points: Sequence[Point]) -> list[Mean]:
    """Returns the means over seeds, in order of first appearance."""
    places: dict[tuple[int, str, float], list[Point]] = {}
    for point in points:
        places.setdefault((point.panel, point.series, point.level), []).append(point)
    means = []
    for place, group in places.items():
        (x, std_x), (y, std) = mean_and_std([p.x for p in group]), mean_and_std([p.y for p in group])
        means.append(Mean(*place, len({p.seed for p in group}), x, y, std, std_x))
    return means


def line(means: Sequence[Mean], panel: int, series: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns `x` and `y` of a line, sorted by `x`; points with the same `x` are averaged."""
    heights: dict[float, list[float]] = {}
    for mean in means:
        if (mean.panel, mean.series) == (panel, series):
            heights.setdefault(mean.x, []).append(mean.y)
    xs = sorted(heights)
    return np.array(xs), np.array([statistics.mean(heights[x]) for x in xs])


def names(means: Sequence[Mean], panel: int) -> list[str]:
    """Returns the names of the lines of a panel, in order of first appearance."""
    return list(dict.fromkeys(m.series for m in means if m.panel == panel))


def training_seconds(summary: Mapping[str, Any]) -> float:
    """Returns the seconds of the training loop: steps, waiting for data, and pruning."""
    return sum(float(summary[f"seconds_{part}"]) for part in ("steps", "data", "cuts"))


def percent(outcome: Outcome, name: str) -> float:
    """Returns a field of a run's summary that is a fraction, in percent."""
    assert outcome.summary is not None
    return 100 * float(outcome.summary[name])
