# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a figure of the paper is: the runs it needs, the points they give, how it is drawn, what it claims."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from experiments.sweep import Outcome, Run

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
class Verdict:
    """What these runs say of a claim.

    Attributes:
      claim: in our words.
      section: of the paper.
      outcome: `holds`, `does not hold`, `undecided` where the seeds do not agree, or `not tested`.
      why: the numbers.
      margin: by how much the rule that decides is met, in the unit of what it compares; negative where it is not.
      spread: standard deviation of the margin over seeds; `None` of one seed.
    """

    claim: str
    section: str
    outcome: str
    why: str
    margin: float | None = None
    spread: float | None = None


def verdict(claim: str, section: str, margin: float, why: str) -> Verdict:
    """Returns a verdict: a claim holds where its margin is above 0; a margin of NaN tells nothing."""
    if not math.isfinite(margin):
        if re.search(r"\bnan\b", why) or not why:
            why = "there are no runs at this scale that tell"
        return Verdict(claim, section, "not tested", why)
    return Verdict(claim, section, "holds" if margin > 0 else "does not hold", why, round(float(margin), 6))


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or table of the paper.

    Attributes:
      name: such as `fig3`.
      what: it shows, in a line.
      panels: its axes.
      judge: from means to verdicts, as many and in the same order from none.
      cases: from a scale and seeds to its runs.
      points: from a case and its finished run to points.
      whole: from all points of all runs to those of the figure, where these go by one another.
      judge_at_size: the same where only the paper's size can tell; `judge` is then for other scales.
      made: for figures without runs, from a scale and seeds to points.
      rows: numbers that the paper prints, to stand beside the measured ones.
      table: from the records of its runs to rows like `rows`; for tables.
      timed: those of its claims that compare times, which have to be of one device.
      columns: how many axes stand beside one another.
      marked: whether a marker stands for a level, as strengths of a regularizer in the paper's figures 6 and 7.
      colored: from a line's name to what has one color.
      doubts: why a claim that does not hold at the scale of a CPU may hold at the paper's, and what was tried.
    """

    name: str
    what: str
    panels: tuple[Panel, ...]
    judge: Callable[[Sequence[Mean]], list[Verdict]]
    cases: Callable[[str, Sequence[int]], list[Case]] = lambda scale, seeds: []
    points: Callable[[Case, Outcome], list[Point]] = lambda case, outcome: []
    whole: Callable[[Sequence[Point]], list[Point]] = list
    judge_at_size: Callable[[Sequence[Mean]], list[Verdict]] | None = None
    made: Callable[[str, Sequence[int]], list[Point]] | None = None
    rows: tuple[Mapping[str, Any], ...] = ()
    table: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]] | None = None
    timed: tuple[str, ...] = ()
    columns: int = 4
    marked: bool = False
    colored: Callable[[str], str] = lambda series: series
    doubts: str = ""

    def verdicts(self, points: Sequence[Point], scale: str) -> list[Verdict]:
        """Returns what points say of the claims, with the spread over seeds; of no points, only which claims there are.

        A claim is undecided where its margin is within its standard error over seeds.
        """
        judge = self.judge if scale != "paper" or self.judge_at_size is None else self.judge_at_size
        found = judge(averaged(points))
        seeds = sorted({point.seed for point in points})
        if len(seeds) < 2:
            return found
        each = [judge(averaged([point for point in points if point.seed == seed])) for seed in seeds]
        return [_spread(one, [verdicts[i].margin for verdicts in each]) for i, one in enumerate(found)]


def _spread(found: Verdict, margins: Sequence[float | None]) -> Verdict:
    known = [margin for margin in margins if margin is not None]
    if found.margin is None or len(known) < 2:
        return found
    spread = statistics.stdev(known)
    outcome = "undecided" if abs(found.margin) < spread / math.sqrt(len(known)) else found.outcome
    return dataclasses.replace(found, outcome=outcome, spread=round(spread, 6))


def averaged(points: Sequence[Point]) -> list[Mean]:
    """Returns the means over seeds, in the order in which places first come."""
    places: dict[tuple[int, str, float], list[Point]] = {}
    for point in points:
        places.setdefault((point.panel, point.series, point.level), []).append(point)
    return [
        Mean(
            panel,
            series,
            level,
            len({p.seed for p in group}),
            statistics.mean(p.x for p in group),
            statistics.mean(p.y for p in group),
            statistics.stdev([p.y for p in group]) if len(group) > 1 else None,
            statistics.stdev([p.x for p in group]) if len(group) > 1 else None,
        )
        for (panel, series, level), group in places.items()
    ]


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


def at(means: Sequence[Mean], panel: int, series: str, x: float) -> float:
    """Returns the height of a line at `x`, between its points; NaN beyond them."""
    xs, ys = line(means, panel, series)
    return float(np.interp(x, xs, ys, left=np.nan, right=np.nan)) if len(xs) else float("nan")


def draw(figure: Figure, means: Sequence[Mean], path: Path) -> None:
    """Draws the means, with their spread, into a PNG."""
    columns = min(len(figure.panels), figure.columns)
    rows = -(-len(figure.panels) // columns)
    picture = Picture(figsize=(5 * columns, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(picture)
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
            if panel.bars:
                places = np.arange(len(x))
                axis.bar(places, y, yerr=std if (std > 0).any() else None, color=color, label=series)
                axis.set_xticks(places, [f"{level:g}" for level in x])
                continue
            style = "--" if "symmetric" in series and "asymmetric" not in series else "-"
            marker = "" if figure.marked or len(x) >= 30 else "o"
            axis.plot(x, y, style, marker=marker, markersize=4, color=color, label=series)
            levels = sorted({m.level for m in means if m.panel == i})
            for mean in mine if figure.marked else []:
                shape = _MARKERS[levels.index(mean.level) % len(_MARKERS)]
                axis.plot([mean.x], [mean.y], shape, markersize=6, color=color)
            if (std > 0).any():
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
