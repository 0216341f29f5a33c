# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def curves(metrics: Sequence[Mapping[str, Any]], cuts: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws accuracy, neurons per site, and the strength of regularizer and noise over steps, cuts marked.

    Of every site the bold line is how many neurons are left, the thin one how many were active on the last batch.

    Args:
      metrics: lines of `metrics.jsonl`.
      cuts: lines of `cuts.jsonl`.
      path: of the PNG.
    """
    figure = Figure(figsize=(9, 10), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, live, strength = figure.subplots(3, 1, sharex=True)
    for name, label in (("train_accuracy", "train (augmented)"), ("test_accuracy", "test")):
        _line(accuracy, metrics, name, label=label)
    accuracy.set_ylabel("accuracy")
    if accuracy.get_legend_handles_labels()[0]:
        accuracy.legend()

    names = list(dict.fromkeys(name for line in metrics for name in line.get("width", {})))
    for i, name in enumerate(names):
        points = [(line["step"], line["width"][name]) for line in metrics if name in line.get("width", {})]
        color = (i / max(len(names) - 1, 1), 0.35, 1 - i / max(len(names) - 1, 1))
        shown = name if len(names) <= 20 else None
        live.step(*zip(*points, strict=True), where="post", color=color, label=shown, linewidth=1.5)
        points = [(line["step"], line["active"][name]) for line in metrics if name in line.get("active", {})]
        if points:
            live.plot(*zip(*points, strict=True), color=color, linewidth=0.5)
    live.set_ylabel("neurons per site")
    if names and len(names) <= 20:
        live.legend(fontsize=6, ncols=3)

    _line(strength, metrics, "strength", label="lambda", color="tab:red")
    strength.set_ylabel("lambda", color="tab:red")
    noise = strength.twinx()
    _line(noise, metrics, "noise", label="noise", color="tab:green", linestyle="--")
    noise.set_ylabel("noise", color="tab:green")
    strength.set_xlabel("step")
    for axes in (accuracy, live, strength):
        for cut in cuts:
            axes.axvline(cut["step"], color="grey", alpha=0.3, linewidth=0.7)
    figure.savefig(path, dpi=110)


def _line(axes: Axes, lines: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def comparison(runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws several runs side by side: accuracy over steps, neurons left over steps, and what remains at the end.

    Args:
      runs: by name, `{"metrics": lines of metrics.jsonl, "summary": of summary.json}`.
      path: of the PNG.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, neurons, bars = figure.subplots(1, 3)
    kinds = ("neurons", "weights", "FLOPs", "step time")
    for i, (name, run) in enumerate(runs.items()):
        _line(accuracy, run["metrics"], "test_accuracy", label=name, marker=".", color=f"C{i}")
        _line(neurons, run["metrics"], "neurons", label=name, color=f"C{i}")
        summary = run["summary"]
        left = [1 - summary["neuron_sparsity"], 1 - summary["weight_sparsity"]]
        left += [summary["inference_flops_ratio"], summary["step_time_ratio"]]
        places = [k + i * 0.8 / len(runs) for k in range(len(kinds))]
        bars.bar(places, left, width=0.8 / len(runs), label=name, color=f"C{i}")
    accuracy.set(xlabel="step", ylabel="test accuracy")
    most = max(run["summary"]["dense_neurons"] for run in runs.values())
    neurons.set(xlabel="step", ylabel="neurons left", ylim=(0, 1.05 * most))
    bars.set_xticks([k + 0.4 - 0.4 / len(runs) for k in range(len(kinds))], kinds)
    bars.set_ylabel("left at the end (1 = dense)")
    if accuracy.get_legend_handles_labels()[0]:
        accuracy.legend()
    figure.savefig(path, dpi=110)
