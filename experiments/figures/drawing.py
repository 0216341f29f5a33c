# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Draws a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from experiments.figures.figure import Figure, Mean, names


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
