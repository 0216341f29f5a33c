# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Plots of runs as PNG files: one run over its steps, and several runs side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from experiments.core.errors import UsageError
from experiments.rundir.reader import Recorded, outcome

# With more sites, only the first and the last one have an entry in the legend.
_SITES = 20
# Style of the mark of a prune, by its outcome.
_PRUNES: dict[str, dict[str, Any]] = {
    "cut": {"label": "prune", "color": "dimgray"},
    "waiting": {"label": "prune delayed", "color": "dimgray", "linestyle": ":"},
    "refused": {"label": "prune refused", "color": "tab:red", "linestyle": "--"},
}


def curves(run: Recorded, path: Path) -> None:
    """Plots accuracy, units per site, and the strength of regularizer and noise over steps, with prunes marked.

    The last plot is left out if the run has neither a regularizer nor noise.

    Args:
      run: the run, finished or not.
      path: path of the PNG file.
    """
    scheduled = any(line.get("strength") or line.get("noise") for line in run.metrics)
    figure = Figure(figsize=(10, 10 if scheduled else 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(run.title)
    plots = figure.subplots(3 if scheduled else 2, 1, sharex=True)
    prunes = [(cut["step"], _PRUNES[kind]) for cut in run.cuts if (kind := outcome(cut))]
    for axes in plots:
        for step, style in prunes:
            axes.axvline(step, linewidth=0.8, zorder=1, **{**style, "label": None})
    kinds = {style["label"]: Line2D([], [], linewidth=0.8, **style) for _, style in prunes}
    _accuracy(plots[0], run.metrics, [*kinds.values()])
    _units(plots[1], run)
    if scheduled:
        _schedules(plots[2], run.metrics)
    plots[-1].set_xlabel("step")
    figure.savefig(path, dpi=110)


def _accuracy(axes: Axes, metrics: Sequence[Mapping[str, Any]], prunes: Sequence[Line2D]) -> None:
    train = _line(axes, metrics, "train_accuracy", label="training batches")
    test = _line(axes, metrics, "test_accuracy", label="test set", marker=".")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(axes, [*train, *test, *prunes])


def _units(axes: Axes, run: Recorded) -> None:
    """Plots the number of units of each site, and how many of them were active on the last batch."""
    names, sites = list(run.dense_widths), []
    for i, name in enumerate(names):
        part = i / max(len(names) - 1, 1)
        color = (part, 0.35, 1 - part)
        kept = [(step, widths[name]) for step, widths in run.history]
        # Translucent, since lines of equal widths cover each other.
        sites += axes.step(*zip(*kept, strict=True), where="post", color=color, label=name, linewidth=2, alpha=0.7)
        active = [(line["step"], line["active"][name]) for line in run.metrics if name in line.get("active", {})]
        if active:
            axes.plot(*zip(*active, strict=True), color=color, linewidth=0.7)
    axes.set_ylabel("units per site")
    axes.set_ylim(bottom=0)
    shown = sites if len(sites) <= _SITES else [sites[0], sites[-1]]
    kinds = [("in the network", 2), ("active on the last batch", 0.7)]
    lines = [Line2D([], [], color="black", linewidth=width, label=label) for label, width in kinds]
    _legend(axes, [*lines, *shown] if sites else [])


def _schedules(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    strength = _line(axes, metrics, "strength", label="strength", color="tab:red")
    axes.set_ylabel("strength of the regularizer")
    noise = axes.twinx()
    # Dashed, since both often have the same schedule.
    added = _line(noise, metrics, "noise", label="noise", color="tab:green", linestyle="--")
    noise.set_ylabel("noise")
    for each in (axes, noise):
        each.set_ylim(bottom=0)
    _legend(axes, [*strength, *added], beside=1.1)


def _line(axes: Axes, lines: Sequence[Mapping[str, Any]], name: str, **style: Any) -> list[Line2D]:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return axes.plot(*zip(*points, strict=True), **style) if points else []


def _legend(axes: Axes, lines: Sequence[Line2D], beside: float = 1.01) -> None:
    """Adds a legend at the right of the axes, where it covers no line."""
    if lines:
        axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(beside, 1), borderaxespad=0, fontsize=8)


def comparison(runs: Sequence[Recorded], path: Path) -> None:
    """Plots finished runs side by side: test accuracy and units left over steps, and what is left at the end.

    Args:
      runs: runs of one task, with summaries.
      path: path of the PNG file.
    """
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    seeds = list(dict.fromkeys(str(run.config["seed"]) for run in runs))
    figure.suptitle(f"{' and '.join(run.name for run in runs)}: {runs[0].task}, seed {', '.join(seeds)}")
    accuracy, units, bars = figure.subplots(1, 3)
    kinds = ("neurons", "weights", "FLOPs", "step time")
    lines: list[Line2D] = []
    for i, run in enumerate(runs):
        style: dict[str, Any] = {"label": run.name, "color": f"C{i}"}
        _line(accuracy, run.metrics, "test_accuracy", marker=".", **style)
        dense = max(sum(run.dense_widths.values()), 1)
        kept = [(step, sum(widths.values()) / dense) for step, widths in run.history]
        # A line that is covered by a later one is visible at its sides.
        lines += units.step(*zip(*kept, strict=True), where="post", linewidth=2 * len(runs) - 2 * i, **style)
        left = [1 - run.summary["neuron_sparsity"], 1 - run.summary["weight_sparsity"]]
        left += [run.summary["inference_flops_ratio"], run.summary["step_time_ratio"]]
        places = [k + (i + 0.5) * 0.8 / len(runs) - 0.4 for k in range(len(kinds))]
        drawn = bars.bar(places, left, width=0.8 / len(runs), **style)
        bars.bar_label(drawn, [f"{100 * part:.0f}%" for part in left], fontsize=7)
    accuracy.set(title="Test accuracy", xlabel="step")
    units.set(title="Neurons left, of the dense network", xlabel="step", ylim=(0, 1.05))
    bars.set(title="Left at the end, of the dense network")
    bars.set_xticks(range(len(kinds)), kinds)
    for axes in (accuracy, units, bars):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(runs))
    figure.savefig(path, dpi=110)


def shrinking(runs: Sequence[Recorded], path: Path) -> None:
    """Plots how the layers of a network shrink over training, beside the test accuracy.

    Args:
      runs: the run whose layers are drawn, then others for comparison, such as its dense twin. Runs that have not
        finished are drawn as far as they are.
      path: path of the picture, PNG or SVG by its suffix.
    """
    first = runs[0]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    layers, accuracy = figure.subplots(1, 2, width_ratios=(3, 2))
    steps = [step for step, _ in first.history]
    widths = [[each[name] for _, each in first.history] for name in first.dense_widths]
    shades = [("#4c78a8", "#9ecae9")[i % 2] for i in range(len(widths))]
    layers.stackplot(steps, widths, step="post", colors=shades, linewidth=0)
    layers.set(title=f"Units of the {len(widths)} layers of the network", xlabel="training step", ylabel="units")
    for i, run in enumerate(runs):
        kept = f"{run.summary['weight_sparsity']:.0%} of the weights removed" if run.summary else "unfinished"
        name = "dense" if run.summary and not run.summary["weight_sparsity"] else kept
        _line(accuracy, run.metrics, "test_accuracy", label=name, color=f"C{i}", marker=".")
    accuracy.set(title="Test accuracy", xlabel="training step")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    accuracy.legend(loc="lower right")
    for axes in (layers, accuracy):
        axes.margins(x=0)
    # Without the date, the same records give the same file.
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def layers(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plots the fraction of its units that each layer keeps, by setting, with means and standard deviations over seeds.

    Args:
      records: summaries of runs with a `setting`, of one network. Those of dense runs give the widths before pruning
        and are not drawn.
      path: path of the picture, PNG or SVG by its suffix.

    Raises:
      UsageError: if there is no dense run, or no other.
    """
    dense = next((record["widths"] for record in records if not record["weight_sparsity"]), None)
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["weight_sparsity"]:
            settings.setdefault(record["setting"], []).append(record)
    if dense is None or not settings:
        raise UsageError("--layers needs records of a dense run and of pruned runs of the same network.")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (setting, group) in enumerate(settings.items()):
        kept = [[record["widths"][name] / width for name, width in dense.items()] for record in group]
        each = list(zip(*kept, strict=True))
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in each]
        sparsity = statistics.mean(record["weight_sparsity"] for record in group)
        places = [k + 0.08 * (i - (len(settings) - 1) / 2) for k in range(len(dense))]
        label = f"{setting}: {sparsity:.0%} of the weights removed"
        axes.errorbar(places, [statistics.mean(values) for values in each], spread, marker="o", capsize=2, label=label)
    seeds = len({record["seed"] for record in records})
    axes.set(title=f"Units that each layer keeps (mean and standard deviation of {seeds} seeds)", ylim=(0, 1.05))
    axes.set_xticks(range(len(dense)), dense, rotation=45, ha="right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
