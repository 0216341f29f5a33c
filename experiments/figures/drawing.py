# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Draws a figure: a panel for each of its axes, and one legend below them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D

from experiments.figures.figure import Figure, Mean, Panel, names

_STYLES = ("-", "--", ":", "-.")
_MARKERS = "osD^v<>pP*XhdH8"
# Lines with at least this many points get a band in place of markers and error bars.
_MANY = 30
# Levels of a logarithmic axis up to which each has a tick.
_FEW = 6
_DENSE: dict[str, Any] = {"color": "black", "linestyle": ":"}


def draw(figure: Figure, means: Sequence[Mean], *, scale: str, seeds: int) -> Picture:
    """Draws means and their standard deviations, with the scale and the number of seeds in the title.

    Panels without runs are left out, unless there are no runs at all.
    """
    held = {mean.panel for mean in means}
    panels = [(i, panel) for i, panel in enumerate(figure.panels) if not held or i in held]
    columns = min(len(panels), figure.columns)
    rows = -(-len(panels) // columns)
    picture = Picture(figsize=(5 * columns, 3.8 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(picture)
    title = f"{figure.what[0].upper()}{figure.what[1:]} (scale {scale}, {seeds} seed{'' if seeds == 1 else 's'})"
    if any(mean.std for mean in means):
        title += "; error bars: std over seeds"
    picture.suptitle(textwrap.fill(title, 66 * columns), fontsize=10)
    looks, handles = _looks(figure, means)
    axes = np.ravel(picture.subplots(rows, columns))
    for (i, panel), axis in zip(panels, axes, strict=False):
        _draw_panel(axis, panel, [mean for mean in means if mean.panel == i], looks, figure, _markers(figure, means))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    if handles:
        widest = max(len(str(handle.get_label())) for handle in handles)
        ncols = max(72 * columns // (widest + 9), 1)
        picture.legend(handles=handles, loc="outside lower center", ncols=ncols, fontsize=8)
    return picture


def _looks(figure: Figure, means: Sequence[Mean]) -> tuple[dict[str, dict[str, Any]], list[Line2D]]:
    """Returns the color and line style of each line, and the handles of the legend.

    Lines that share the first part of `figure.look` have the same color, those that share the second the same style.
    """
    series = list(dict.fromkeys(mean.series for mean in means))
    parts = {name: figure.look(name) for name in series if name != figure.dense}
    colors = list(dict.fromkeys(color for color, _ in parts.values()))
    styles = list(dict.fromkeys(style for _, style in parts.values() if style))
    looks: dict[str, dict[str, Any]] = {}
    labels: dict[str, dict[str, Any]] = {}
    style_labels: dict[str, dict[str, Any]] = {}
    for name, (color, style) in parts.items():
        # There are ten colors; further lines repeat them in another style.
        number = colors.index(color)
        line = _STYLES[((styles.index(style) if style else 0) + number // 10) % len(_STYLES)]
        looks[name] = {"color": f"C{number % 10}", "linestyle": line}
        labels[color] = looks[name] if style in ("", color) else looks[name] | {"linestyle": "-"}
        if style not in ("", color):
            style_labels[style] = {"color": "gray", "linestyle": line}
    if figure.dense in series:
        looks[figure.dense] = style_labels[figure.dense] = _DENSE
    if figure.marked:
        for level, marker in _markers(figure, means).items():
            style_labels[f"lambda {level:g}"] = {"color": "gray", "linestyle": "", "marker": marker}
    return looks, [Line2D([], [], **look, label=label) for label, look in (labels | style_labels).items()]


def _markers(figure: Figure, means: Sequence[Mean]) -> dict[float, str]:
    levels = sorted({mean.level for mean in means if mean.series != figure.dense})
    return {level: _MARKERS[i % len(_MARKERS)] for i, level in enumerate(levels)}


def _draw_panel(
    axis: Axes,
    panel: Panel,
    means: Sequence[Mean],
    looks: dict[str, dict[str, Any]],
    figure: Figure,
    markers: dict[float, str],
) -> None:
    axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
    if not means:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "no runs at this scale", ha="center", transform=axis.transAxes)
        return
    if panel.percent:
        axis.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.5g}")
    if panel.log_x:
        axis.set_xscale("log")
        if len(levels := sorted({mean.x for mean in means})) <= _FEW:
            axis.set_xticks(levels, [f"{level:g}" for level in levels])
            axis.minorticks_off()
    for series in names(means, means[0].panel):
        mine = sorted((mean for mean in means if mean.series == series), key=lambda mean: mean.x)
        x, y = np.array([mean.x for mean in mine]), np.array([mean.y for mean in mine])
        std, std_x = np.array([[mean.std or 0.0, mean.std_x or 0.0] for mean in mine]).T
        look = looks[series]
        color = look["color"]
        if series == figure.dense:
            axis.axhline(y[0], **look)
            axis.axhspan(y[0] - std[0], y[0] + std[0], color=color, alpha=0.1, linewidth=0)
            if x[0] > 0:  # Where x is not a sparsity, such as a time.
                axis.plot(x, y, "o", color=color)
        elif panel.bars:
            places = np.arange(len(x))
            axis.bar(places, y, yerr=std if std.any() else None, color=color, capsize=2)
            axis.set_xticks(places, [f"{level:g}" for level in x])
        elif len(x) >= _MANY:
            axis.plot(x, y, **look)
            axis.fill_between(x, y - std, y + std, alpha=0.2, color=color, linewidth=0)
        else:
            axis.plot(x, y, **look, marker="" if figure.marked else "o", markersize=4)
            if std.any() or std_x.any():
                axis.errorbar(x, y, std, std_x, fmt="none", ecolor=color, elinewidth=0.8, capsize=2)
            for mean in mine if figure.marked else []:
                axis.plot([mean.x], [mean.y], markers[mean.level], markersize=6, color=color)
