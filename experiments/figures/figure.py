# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a figure of the paper is: the runs it needs, the points they give, how it is drawn, what it claims."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from experiments.cli.launch import Outcome, Run
from experiments.figures.judging import Claim, Verdict, decide
from experiments.reporting.seeds import mean_and_std

SCALES = ("cpu", "gpu", "paper")


@dataclasses.dataclass(frozen=True)
class Case:
    """A run's place in a figure.

    Attributes:
      run: the run.
      panel: index of the panel.
      series: the line it belongs to.
      level: what is varied along the line.
      seed: of the run; points of one place with several seeds become a mean and a spread.
    """

    run: Run
    panel: int
    series: str
    level: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured point: of which panel and line, at which level and place along the line, for which seed."""

    panel: int
    series: str
    level: float
    seed: int
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Mean:
    """Points of one place, over seeds: means and standard deviations of `x` and `y`, the latter `None` of one seed."""

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
    """Axes: their title, labels and scales, and whether they show bars in the place of lines."""

    title: str
    x: str
    y: str
    log_x: bool = False
    bars: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or table of the paper.

    Attributes:
      name: such as `fig3`.
      what: it shows, in a line.
      panels: its axes.
      judge: from the means of one seed to claims with their effects, as many and in the same order from none.
      cases: from a scale and seeds to its runs.
      points: from a case and its finished run to points.
      whole: from all points of all runs to those of the figure, where these go by one another.
      made: for figures without runs, from a scale and seeds to points.
      rows: numbers that the paper prints, to stand beside the measured ones.
      table: from the records of its runs to rows like `rows`; for tables.
      timed: those of its claims that compare times, which have to be of one device.
      columns: how many axes stand beside one another.
      marked: whether a marker stands for a level, as strengths of a regularizer in the paper's figures 6 and 7.
      colored: from a line's name to what has one color.
      doubts: why a claim that does not hold at the scale of a CPU may hold at the paper's, and what was tried.
      dense: the line of dense training in panels of accuracy, drawn as a reference; by it runs have collapsed.
      proxy: what stands, at the scale of a CPU, for what the paper trains.
    """

    name: str
    what: str
    panels: tuple[Panel, ...]
    judge: Callable[[Sequence[Mean]], list[Claim]]
    cases: Callable[[str, Sequence[int]], list[Case]] = lambda scale, seeds: []
    points: Callable[[Case, Outcome], list[Point]] = lambda case, outcome: []
    whole: Callable[[Sequence[Point]], list[Point]] = list
    made: Callable[[str, Sequence[int]], list[Point]] | None = None
    rows: tuple[Mapping[str, Any], ...] = ()
    table: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]] | None = None
    timed: tuple[str, ...] = ()
    columns: int = 4
    marked: bool = False
    colored: Callable[[str], str] = lambda series: series
    doubts: str = ""
    dense: str = ""
    proxy: str = ""

    def verdicts(self, points: Sequence[Point]) -> list[Verdict]:
        """Returns what points say of the claims; of no points, only which claims there are."""
        kept, _ = self.without_collapsed(points)
        seeds = sorted({point.seed for point in points})
        of = lambda seed: self.judge(averaged([point for point in kept if point.seed == seed]))  # noqa: E731
        each = [of(seed) for seed in seeds] or [self.judge([])]
        return [decide(claims) for claims in zip(*each, strict=True)]

    def without_collapsed(self, points: Sequence[Point]) -> tuple[list[Point], int]:
        """Returns the points without those of collapsed runs, and how many these are.

        A run has collapsed if its accuracy is below half of that of dense training in the same panel.
        """
        if not self.dense:
            return list(points), 0
        dense: dict[int, list[float]] = {}
        for point in points:
            if point.series == self.dense:
                dense.setdefault(point.panel, []).append(point.y)
        kept = [p for p in points if p.panel not in dense or p.y >= statistics.mean(dense[p.panel]) / 2]
        return kept, len(points) - len(kept)


def averaged(points: Sequence[Point]) -> list[Mean]:
    """Returns the means over seeds, in the order in which places first come."""
    places: dict[tuple[int, str, float], list[Point]] = {}
    for point in points:
        places.setdefault((point.panel, point.series, point.level), []).append(point)
    means = []
    for (panel, series, level), group in places.items():
        (x, std_x), (y, std) = mean_and_std([p.x for p in group]), mean_and_std([p.y for p in group])
        means.append(Mean(panel, series, level, len({p.seed for p in group}), x, y, std, std_x))
    return means


def line(means: Sequence[Mean], panel: int, series: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns `x` and `y` of a line, by rising `x`; points of one `x` are one, at their mean."""
    heights: dict[float, list[float]] = {}
    for mean in means:
        if (mean.panel, mean.series) == (panel, series):
            heights.setdefault(mean.x, []).append(mean.y)
    xs = sorted(heights)
    return np.array(xs), np.array([statistics.mean(heights[x]) for x in xs])


def names(means: Sequence[Mean], panel: int) -> list[str]:
    """Returns the lines of a panel in the order in which they come."""
    return list(dict.fromkeys(m.series for m in means if m.panel == panel))


def draw(figure: Figure, means: Sequence[Mean], path: Path, *, scale: str = "", seeds: int = 0) -> None:
    """Draws the means with their standard deviations, and the scale and number of seeds, into a PNG."""
    columns = min(len(figure.panels), figure.columns)
    rows = -(-len(figure.panels) // columns)
    picture = Picture(figsize=(5 * columns, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(picture)
    if scale:
        picture.suptitle(f"{figure.what} (scale {scale}, {seeds} seed{'' if seeds == 1 else 's'})", fontsize=10)
    axes = np.ravel(picture.subplots(rows, columns))
    colors = list(dict.fromkeys(figure.colored(m.series) for m in means))
    for i, (panel, axis) in enumerate(zip(figure.panels, axes, strict=False)):
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.log_x:
            axis.set_xscale("log")
        for series in names(means, i):
            mine = sorted((m for m in means if (m.panel, m.series) == (i, series)), key=lambda m: m.x)
            x, y = np.array([m.x for m in mine]), np.array([m.y for m in mine])
            std = np.array([m.std or 0.0 for m in mine])
            color = f"C{colors.index(figure.colored(series)) % 10}"
            if series == figure.dense and len(mine) == 1:
                axis.axhline(y[0], color="black", linestyle=":", linewidth=1, label=series)
                continue
            if panel.bars:
                places = np.arange(len(x))
                axis.bar(places, y, yerr=std if (std > 0).any() else None, color=color, label=series)
                axis.set_xticks(places, [f"{level:g}" for level in x])
                continue
            style = "--" if "symmetric" in series and "asymmetric" not in series else "-"
            marker = "" if figure.marked or len(x) >= 30 else "o"
            axis.plot(x, y, style, marker=marker, markersize=4, color=color, label=series)
            if (std > 0).any() and len(x) < 30:
                across = np.array([m.std_x or 0.0 for m in mine])
                axis.errorbar(x, y, std, across, fmt="none", ecolor=color, elinewidth=0.8, capsize=2)
            levels = sorted({m.level for m in means if m.panel == i})
            for mean in mine if figure.marked else []:
                shape = _MARKERS[levels.index(mean.level) % len(_MARKERS)]
                axis.plot([mean.x], [mean.y], shape, markersize=6, color=color)
            if (std > 0).any() and len(x) >= 30:
                axis.fill_between(x, y - std, y + std, alpha=0.2, color=color, linewidth=0)
        if names(means, i):
            axis.legend(fontsize=7, loc="best", framealpha=0.5)
        else:
            axis.text(0.5, 0.5, "no runs at this scale", ha="center", transform=axis.transAxes)
    for axis in axes[len(figure.panels) :]:
        axis.set_visible(False)
    picture.savefig(path, dpi=100)


_MARKERS = "osD^vP*Xhd"


def training_seconds(summary: Mapping[str, Any]) -> float:
    """Returns the seconds of the loop of training: those of steps, and of waiting for data and for cuts."""
    return sum(float(summary[f"seconds_{part}"]) for part in ("steps", "data", "cuts"))


def number(summary: Mapping[str, Any], x: str, y: str) -> tuple[float, float]:
    """Returns two fields of a summary, in percent where they are parts."""

    def percent(name: str) -> float:
        value = float(summary[name])
        return 100 * value if name.endswith(("accuracy", "sparsity")) else value

    return percent(x), percent(y)
