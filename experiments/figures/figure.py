# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a figure of the paper is: the runs it needs, the points they give, how it is drawn, what it claims."""

from __future__ import annotations

import dataclasses
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
    """Points of one place, over seeds: means of `x` and `y`, and the standard deviation of `y` (0 for one seed)."""

    panel: int
    series: str
    level: float
    seeds: int
    x: float
    y: float
    std: float


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes: their title, labels and scales."""

    title: str
    x: str
    y: str
    log_x: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim holds in these runs: `holds`, `does not hold` or `not tested`, and the numbers why."""

    claim: str
    section: str
    outcome: str
    why: str


def verdict(claim: str, section: str, good: bool, why: str, tested: bool = True) -> Verdict:
    """Returns a verdict; where nothing was `tested`, whether it would be `good` is of no account."""
    if not tested and re.search(r"\bnan\b", why):
        why = "there are no runs at this scale that tell"
    return Verdict(claim, section, ("holds" if good else "does not hold") if tested else "not tested", why)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure or table of the paper.

    Attributes:
      name: such as `fig3`.
      what: it shows, in a line.
      panels: its axes.
      cases: from a scale and seeds to its runs.
      points: from a case and its finished run to points.
      judge: from means to verdicts.
      judge_at_size: the same where only the paper's size can tell; `judge` is then for other scales.
      made: for figures without runs, from a scale and seeds to points.
      rows: lines of the paper, quoted beside the measured ones; for tables.
    """

    name: str
    what: str
    panels: tuple[Panel, ...]
    judge: Callable[[Sequence[Mean]], list[Verdict]]
    cases: Callable[[str, Sequence[int]], list[Case]] = lambda scale, seeds: []
    points: Callable[[Case, Outcome], list[Point]] = lambda case, outcome: []
    judge_at_size: Callable[[Sequence[Mean]], list[Verdict]] | None = None
    made: Callable[[str, Sequence[int]], list[Point]] | None = None
    rows: tuple[Mapping[str, Any], ...] = ()


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
            statistics.stdev([p.y for p in group]) if len(group) > 1 else 0.0,
        )
        for (panel, series, level), group in places.items()
    ]


def line(means: Sequence[Mean], panel: int, series: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns `x` and `y` of a line, by rising `x`."""
    found = sorted((m.x, m.y) for m in means if (m.panel, m.series) == (panel, series))
    return np.array([x for x, _ in found]), np.array([y for _, y in found])


def names(means: Sequence[Mean], panel: int) -> list[str]:
    """Returns the lines of a panel in the order in which they come."""
    return list(dict.fromkeys(m.series for m in means if m.panel == panel))


def at(means: Sequence[Mean], panel: int, series: str, x: float) -> float:
    """Returns the height of a line at `x`, between its points; NaN beyond them."""
    xs, ys = line(means, panel, series)
    return float(np.interp(x, xs, ys, left=np.nan, right=np.nan)) if len(xs) else float("nan")


def draw(figure: Figure, means: Sequence[Mean], path: Path) -> None:
    """Draws the means, with their spread, into a PNG."""
    columns = min(len(figure.panels), 4)
    rows = -(-len(figure.panels) // columns)
    picture = Picture(figsize=(5 * columns, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(picture)
    axes = np.ravel(picture.subplots(rows, columns))
    every = list(dict.fromkeys(m.series for m in means))
    for i, (panel, axis) in enumerate(zip(figure.panels, axes, strict=False)):
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.log_x:
            axis.set_xscale("log")
        for series in names(means, i):
            mine = sorted((m for m in means if (m.panel, m.series) == (i, series)), key=lambda m: m.x)
            x, y, std = (np.array([getattr(m, field) for m in mine]) for field in ("x", "y", "std"))
            style = "--" if "symmetric" in series and "asymmetric" not in series else "-"
            number = every.index(series)
            marker = "o" if len(x) < 30 else ""
            [drawn] = axis.plot(x, y, style, marker=marker, markersize=4, color=f"C{number % 10}", label=series)
            if (std > 0).any():
                axis.fill_between(x, y - std, y + std, alpha=0.2, color=drawn.get_color(), linewidth=0)
        if names(means, i):
            axis.legend(fontsize=7, loc="best", framealpha=0.5)
        else:
            axis.text(0.5, 0.5, "no runs at this scale", ha="center", transform=axis.transAxes)
    for axis in axes[len(figure.panels) :]:
        axis.set_visible(False)
    picture.savefig(path, dpi=100)


def number(summary: Mapping[str, Any], x: str, y: str) -> tuple[float, float]:
    """Returns two fields of a summary, in percent where they are parts."""

    def percent(name: str) -> float:
        value = float(summary[name])
        return 100 * value if name.endswith(("accuracy", "sparsity")) else value

    return percent(x), percent(y)
