# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Tables 1 to 3: ResNet-50 and ViT-B/16 on ImageNet, with the rows of the paper for comparison."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.cli.launch import Outcome
from experiments.figures import paper_rows
from experiments.figures.figure import Case, Figure, Mean, Panel, Point, percent, training_seconds
from experiments.figures.judging import Claim, Effect
from experiments.figures.lines import DENSE, NEAR, Setting
from experiments.figures.scales import VIT_PROXY, grid, vit_kinds


def table(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows of means over seeds, by method and setting; the time is that of the training loop."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["series"], run["level"]), []).append(run)
    dense = [training_seconds(run) for run in runs if run["series"] == DENSE]
    rows = []
    for (series, level), group in groups.items():
        accuracies = [100 * run["test_accuracy"] for run in group]
        row: dict[str, Any] = {
            "method": f"{series} at {level:g}" if level else series,
            "source": f"measured, {len(group)} seed{'s' if len(group) > 1 else ''}",
            "accuracy": statistics.mean(accuracies),
            "std": statistics.stdev(accuracies) if len(group) > 1 else None,
            "time": statistics.mean(map(training_seconds, group)) / statistics.mean(dense) if dense else None,
        }
        for column, (field, factor) in _MEANS.items():
            values = [run[field] for run in group]
            row[column] = None if None in values else factor * statistics.mean(values)
        rows.append(row)
    return rows


# By column, the field of the records and its factor. Old records lack the FLOPs of a GPU.
_MEANS = {
    "neuron": ("neuron_sparsity", 100),
    "weight": ("weight_sparsity", 100),
    "train_flops": ("train_flops_ratio", 1),
    "flops": ("inference_flops_ratio", 1),
    "gpu_flops": ("gpu_flops_ratio", 1),
}
# Settings for about 80% and 90% weight sparsity. All are in the released scripts, except for 0.55 and for a strength of
# 2e-3 with Adam.
_GLOBAL = {"SNAP": "snap", "CroPit-S": "crop"}
_EARLY = {"EarlySNAP": "earlysnap", "EarlyCroP-S": "earlycrop"}
# As JaxPruner prunes a ResNet-50 (Lee et al., 2023): steps 10,000 to 25,000 of 31,200, 1,000 apart.
_JAXPRUNER: dict[str, Any] = {
    "masking.distribution": "uniform",
    "masking.exclude": ("stem_conv/*",),
    "masking.start": "32%",
    "masking.end": "80%",
    "masking.every": "3.2%",
}
_GRADUAL = {"Mag": "magnitude", "Sal": "saliency"}
_CHASE = {"ranking.sparsity": 0.4}
_DYNAMIC = {"SET": "set", "RigL (ERK)": "rigl", "SRigL": "srigl"}
# Strengths at the scale of a CPU, by regularizer.
_AT_CPU = {"l2": (0.01, 0.02, 0.04), "lasso": (2e-3, 4e-3, 8e-3)}


def _cases(
    optimizer: str, ours: str, kind: str, levels: Sequence[float], unstructured: bool
) -> Callable[[str], list[Case]]:
    def cases(scale: str) -> list[Case]:
        here = Setting("resnet50", scale, optimizer)
        found = here.dense() + here.others(_GLOBAL, "ranking.sparsity", (0.4, 0.55))
        found += here.others(_EARLY, "ranking.sparsity", (0.45, 0.6))
        found += here.demp({ours: {"method.regularizer": kind}}, _AT_CPU[kind] if scale == "cpu" else levels)
        if unstructured:
            for methods, changes in ((_GRADUAL, _JAXPRUNER), (_DYNAMIC, {}), ({"Chase": "chase"}, _CHASE)):
                found += here.others(methods, "masking.sparsity", (0.8, 0.9), changes)
        return found

    return cases


def _points(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against sparsities, FLOPs and times, with one panel for each."""
    summary = outcome.summary
    assert summary is not None
    columns = (
        percent(outcome, "weight_sparsity"),
        percent(outcome, "neuron_sparsity"),
        summary["train_flops_ratio"],
        summary["inference_flops_ratio"],
        training_seconds(summary),
        summary["step_time_ratio"],
    )
    accuracy = percent(outcome, "test_accuracy")
    return [case.point(float(x), accuracy, panel=panel) for panel, x in enumerate(columns)]


def _timed(points: Sequence[Point]) -> list[Point]:
    """Divides times of training by the dense runs'; drops them if there are none."""
    dense = [point.x for point in points if (point.panel, point.series) == (4, DENSE)]
    return [
        dataclasses.replace(point, x=point.x / statistics.mean(dense)) if point.panel == 4 else point
        for point in points
        if point.panel != 4 or dense
    ]


_AXES = tuple(
    Panel("", x, "Test accuracy (%)")
    for x in (
        "Weight sparsity (%)",
        "Neuron sparsity (%)",
        "Training FLOPs (x dense)",
        "Inference FLOPs (x dense)",
        "Training time (x dense)",
        "Time per step at the end (x dense)",
    )
)

_LOSE = "At 80% weight sparsity SNAP and CroPit-S lose most of the accuracy."
_FASTER = "DemP trains faster than the methods that keep more than half of the dense network's accuracy."
_HARDLY = "Unstructured methods hardly make a step faster (by less than 5%)."


def _nearest(means: Sequence[Mean], series: str, sparsity: float, panel: int | None = None) -> float:
    """Returns the accuracy of a method's run nearest to a weight sparsity, as the paper compares runs.

    It is NaN if no run is within `NEAR` points. With `panel`, that run's `x` in the panel is returned instead.
    """
    runs = [m for m in means if (m.panel, m.series) == (0, series)]
    run = min(runs, key=lambda m: abs(m.x - sparsity), default=None)
    if run is None or abs(run.x - sparsity) > NEAR:
        return math.nan
    if panel is None:
        return run.y
    return next((m.x for m in means if (m.panel, m.series, m.level) == (panel, series, run.level)), math.nan)


def _at_size(
    ours: str, lead: str, number: int, printed: tuple[float, float], times: str, unstructured: bool
) -> Callable[[Sequence[Mean]], list[Claim]]:
    """Returns the judge of table 1 or 2, with the paper's leads (`printed`) and training times (`times`)."""

    def judge(means: Sequence[Mean]) -> list[Claim]:
        others = [*_GLOBAL, *_EARLY]
        dense = _nearest(means, DENSE, 0.0)
        leads, faster = [], []
        for sparsity in (80.0, 90.0):
            heights = {name: _nearest(means, name, sparsity) for name in (ours, *others)}
            best = float(np.max([heights[name] for name in others]))
            leads.append(Effect(f"{ours} minus the best of the others at {sparsity:.0f}%", heights[ours] - best))
            times_of = {name: _nearest(means, name, sparsity, panel=4) for name in heights}
            least = min((times_of[name] for name in others if heights[name] > dense / 2), default=math.nan)
            what = f"training time of the fastest of them minus that of {ours} at {sparsity:.0f}%"
            faster.append(Effect(what, least - times_of[ours], unit="times dense"))
        low = [
            Effect(f"half of dense minus {name} at 80%", dense / 2 - _nearest(means, name, 80.0)) for name in _GLOBAL
        ]
        section = f"4.1, table {number}"
        claims = [
            Claim(lead, "4.1", tuple(leads), f"the paper's are {printed[0]:+.2f}, {printed[1]:+.2f}"),
            Claim(_LOSE, section, tuple(low)),
            Claim(_FASTER, section, tuple(faster), f"the paper's: {times}"),
        ]
        if unstructured:
            steps = tuple(
                Effect(f"time of a step, {name}", _nearest(means, name, 90.0, panel=5), above=0.95, unit="times dense")
                for name in (*_GRADUAL, "SET", "RigL (ERK)")
            )
            claims.append(Claim(_HARDLY, section, steps))
        return claims

    return judge


def _vit(means: Sequence[Mean]) -> list[Claim]:
    lines = {m.series: m for m in means if m.panel == 1}
    neurons, accuracy = ({name: getattr(m, axis) for name, m in lines.items()} for axis in "xy")
    demp, relu, unit = "DemP", "DemP + ReLU", "% of the neurons"
    gone = Effect("neurons pruned", neurons.get(demp, math.nan), above=85.0, unit=unit)
    loss = accuracy.get(relu, math.nan) - accuracy.get(DENSE, math.nan)
    kept = Effect(f"{relu} minus dense", loss, above=-2.0)
    cut = Effect(f"neurons pruned, {relu}", neurons.get(relu, math.nan), above=38.0, unit=unit)
    first = "90% of the neurons of a ViT's MLPs can be pruned without a regularizer (85% at least)."
    second = "With ReLU the accuracy drops by less than 2 points, and 43% of the neurons are pruned (38% at least)."
    return [
        Claim(first, "4.3", (gone,), "the paper's are 90.6%" if means else ""),
        Claim(second, "4.3", (kept, cut), "the paper's are 1.13 points and 43.7%" if means else ""),
    ]


_COMMON: dict[str, Any] = {"columns": 3, "normalize": _timed, "dense": DENSE, "table": table}
_BOTTLENECK = "a bottleneck ResNet of (2, 2, 2, 2) blocks and width 8 on CIFAR-10 in place of ResNet-50 on ImageNet"
TABLE1 = Figure(
    "table1",
    "ResNet-50 on ImageNet with Adam: methods at about 80% and 90% weight sparsity",
    _AXES,
    _at_size(
        "DemP-L2",
        "With Adam, DemP is more accurate than the other structured methods at 80% and 90% weight sparsity.",
        1,
        (2.85, 2.14),
        "at 80% x 0.81 to x 0.94, at 90% x 0.61 to x 0.75",
        unstructured=False,
    ),
    _cases("Adam", "DemP-L2", "l2", (1e-3, 2e-3), unstructured=False),
    _points,
    proxy=_BOTTLENECK,
    timed=(_FASTER,),
    rows=paper_rows.TABLE1,
    **_COMMON,
)
TABLE2 = Figure(
    "table2",
    "ResNet-50 on ImageNet with SGDM: all methods at about 80% and 90% weight sparsity",
    _AXES,
    _at_size(
        "DemP-Lasso(gamma)",
        "With SGDM, DemP is slightly more accurate than the structured baselines at 80% and 90% weight sparsity.",
        2,
        (0.76, 0.72),
        "at 80% x 0.88 to x 0.86, which is slower than EarlyCroP-S, at 90% x 0.69 to x 0.78",
        unstructured=True,
    ),
    _cases("SGDM", "DemP-Lasso(gamma)", "lasso", (3e-4, 4e-4), unstructured=True),
    _points,
    proxy=_BOTTLENECK,
    timed=(_FASTER, _HARDLY),
    rows=(*paper_rows.TABLE2, *paper_rows.QUOTED),
    **_COMMON,
)
TABLE3 = Figure(
    "table3",
    "ViT-B/16 on ImageNet: DemP, DemP with ReLU, dense",
    _AXES,
    _vit,
    # These are the runs of figure 17.
    lambda scale: grid("vit", scale, vit_kinds(scale)),
    _points,
    proxy=VIT_PROXY,
    rows=paper_rows.TABLE3,
    **_COMMON,
)

FIGURES = (TABLE1, TABLE2, TABLE3)
