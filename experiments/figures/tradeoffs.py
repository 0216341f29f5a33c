# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP against other methods, figures 3 and 14 to 16, and against dense training, how much faster it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.figures.figure import Case, Figure, Mean, Panel, Point, Verdict, number, training_seconds, verdict
from experiments.figures.lines import (
    CHANCE,
    DEMP,
    STRUCTURED,
    by_weights,
    demp_cases,
    lead,
    leads_over,
    other_cases,
    weights,
)
from experiments.figures.scales import NEURON_SPARSITIES, OPTIMIZERS, WEIGHT_SPARSITIES, case
from experiments.sweep import Outcome

UNSTRUCTURED = {"RigL": "rigl", "SET": "set", "Mag": "magnitude", "Sal": "saliency"}
# As the released code runs them: uniform but for the stem, 500 of 97,656 steps apart, from 30% to 80% of the run, with
# the same part of the connections moved each time.
_MASKING = {
    "masking.distribution": "uniform",
    "masking.exclude": ("stem_conv/*",),
    "masking.start": "30%",
    "masking.end": "80%",
    "masking.every": "0.5%",
    "masking.drop_schedule": "constant",
}


def _by_both(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against neuron sparsity on the left, against weight sparsity on the right."""
    [right] = by_weights(case, outcome)
    assert outcome.summary is not None
    x, y = number(outcome.summary, "neuron_sparsity", "test_accuracy")
    return [
        dataclasses.replace(right, x=x, y=y, panel=2 * case.panel),
        dataclasses.replace(right, panel=2 * case.panel + 1),
    ]


def _structured(
    name: str,
    network: str,
    what: str,
    changes: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    doubts: str = "",
) -> Figure:
    def cases(scale: str, seeds: Sequence[int]) -> list[Case]:
        found = []
        for i, optimizer in enumerate(OPTIMIZERS):
            levels = NEURON_SPARSITIES[scale]
            options = (network, scale, seeds, optimizer, i)
            found += other_cases(*options, STRUCTURED, "ranking.sparsity", levels, changes)
            found += demp_cases(*options, DEMP, changes)
        return found

    def judge(means: Sequence[Mean]) -> list[Verdict]:
        found = []
        for i, optimizer in enumerate(OPTIMIZERS):
            ahead, low, high = lead(means, 2 * i + 1, DEMP, list(STRUCTURED))
            why = f"mean lead over the best of the others from {low:.0f}% to {high:.0f}% weight sparsity: {ahead:+.1f}"
            if optimizer == "Adam":
                claim = "With Adam, DemP keeps more accuracy than the other structured methods at high sparsity."
                found.append(verdict(claim, "4.1", ahead, f"{why} points"))
            elif network == "resnet18":
                gaps, why = leads_over(means, 3, DEMP, list(STRUCTURED))
                claim = "With SGDM, DemP is on a par with each of them (to 1 point)."
                found.append(verdict(claim, "4.1", 1 - max(map(abs, gaps), default=math.nan), why))
            else:
                leads = {name: lead(means, 2 * i + 1, DEMP, [name])[0] for name in STRUCTURED}
                leads = {name: gap for name, gap in leads.items() if math.isfinite(gap)}
                why = ", ".join(f"{name} {gap:+.1f}" for name, gap in leads.items())
                claim = "With SGDM, DemP is behind each of them at high sparsity."
                why = f"mean lead in the upper third of the range shared with {why} points" if leads else ""
                found.append(verdict(claim, "4.1, G", -max(leads.values(), default=math.nan), why))
        return found

    neurons = "Neuron Sparsity (%)"
    panels = [p for o in OPTIMIZERS for p in (Panel(o, neurons, "Test Accuracy (%)"), weights(o))]
    return Figure(name, what, tuple(panels), judge, cases, _by_both, columns=2, rows=tuple(rows), doubts=doubts)


_MARGIN = {
    "what": "the largest lead of DemP with Adam, on CIFAR-10 and ImageNet",
    "value": "2.25 points",
    "source": "paper, 4.1",
}
FIG3 = _structured(
    "fig3",
    "resnet18",
    "accuracy against sparsity, structured methods, ResNet-18",
    {},
    [_MARGIN],
    f"{CHANCE} With SGDM, DemP's line has no run between 56% and 82% weight sparsity; where it has one, it is closer "
    "to the others (figure `length`), in training twice as long no more so. With Adam, units that are merely constant "
    "stay here; where `pruning.constant` folds them away, DemP is above the structured methods in runs as short "
    "(results/methods_cifar.jsonl).",
)
FIG14 = _structured(
    "fig14",
    "vgg16",
    "accuracy against sparsity, structured methods, VGG-16",
    {},
    [
        {
            "what": "where DemP's accuracy decays with SGDM",
            "value": "about 95% weight sparsity, 80% neuron sparsity",
            "source": "paper, figure 14",
        }
    ],
)
FIG15 = _structured(
    "fig15",
    "resnet18",
    "accuracy against sparsity, structured methods, ResNet-18 with Leaky ReLU",
    {"model.activation": "leaky_relu"},
    [_MARGIN],
)


def _fig16_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    found = []
    for i, optimizer in enumerate(OPTIMIZERS):
        options = ("resnet18", scale, seeds, optimizer, i)
        found += other_cases(*options, UNSTRUCTURED, "masking.sparsity", WEIGHT_SPARSITIES[scale], _MASKING)
        found += demp_cases(*options, DEMP, {})
    return found


def _fig16(means: Sequence[Mean]) -> list[Verdict]:
    gaps, why = leads_over(means, 0, DEMP, list(UNSTRUCTURED))
    claim = "With Adam, DemP is more effective than the unstructured methods at their base configuration."
    found = [verdict(claim, "G.1", min(gaps, default=math.nan), why)]
    gaps, why = leads_over(means, 1, DEMP, list(UNSTRUCTURED))
    claim = "With SGDM, DemP performs similarly to them (to 1 point)."
    return [*found, verdict(claim, "G.1", 1 - max(map(abs, gaps), default=math.nan), why)]


FIG16 = Figure(
    "fig16",
    "DemP against unstructured methods, ResNet-18",
    tuple(weights(o) for o in OPTIMIZERS),
    _fig16,
    _fig16_cases,
    by_weights,
)


def _speed_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    found = []
    for panel, network in enumerate(("resnet18", "vgg16")):
        for seed in seeds:
            dense = {"method.name": "dense", "method.strength": 0.0, "method.noise": 0.0}
            found.append(case(network, scale, dense, panel=panel, series="Dense", seed=seed))
        found += demp_cases(network, scale, seeds, "Adam", panel, DEMP, {})
    return found


def _seconds(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against the seconds of training.

    A run that cut next to nothing has a line of its own: whatever time it took, it was not for a smaller network.
    """
    assert outcome.summary is not None
    whole = case.series == DEMP and outcome.summary["weight_sparsity"] < _LEAST_CUT
    series = _UNCUT if whole else case.series
    accuracy = 100 * outcome.summary["test_accuracy"]
    return [Point(case.panel, series, case.level, case.seed, training_seconds(outcome.summary), accuracy)]


# Part of the weights from which on a run counts as one of a smaller network.
_LEAST_CUT = 0.05
_UNCUT = f"{DEMP}, under {_LEAST_CUT:.0%} cut"
_SPEEDUPS = {"ResNet-18": 2.45, "VGG-16": 3.56}
_FASTER = "{} trains faster with DemP at the highest sparsity that keeps the accuracy (to 1 point)."


def _speed(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for panel, (network, paper) in enumerate(_SPEEDUPS.items()):
        dense = next((m for m in means if (m.panel, m.series) == (panel, "Dense")), None)
        ours = [m for m in means if (m.panel, m.series) == (panel, DEMP)]
        claim = _FASTER.format(network)
        if dense is None or not ours:
            found.append(verdict(claim, "4.1", math.nan, ""))
            continue
        # The stronger the regularizer, the sparser.
        kept = max((m for m in ours if m.y >= dense.y - 1), key=lambda m: m.level, default=None)
        why, margin = f"{network}: no run within 1 point of dense", -1.0
        if kept is not None:
            why = f"{network}: x {dense.x / kept.x:.2f} at lambda {kept.level:g}, {kept.y - dense.y:+.1f} points"
            margin = dense.x / kept.x - 1
        found.append(verdict(claim, "4.1", margin, f"{why}; the paper's is x {paper}"))
    return found


SPEED = Figure(
    "speed",
    "time of training, DemP and dense",
    tuple(Panel(n, "Seconds of training", "Test Accuracy (%)") for n in ("ResNet-18", "VGG-16")),
    _speed,
    _speed_cases,
    _seconds,
    timed=tuple(_FASTER.format(network) for network in _SPEEDUPS),
    rows=tuple(
        {"what": f"how much faster DemP trains, {network}", "value": f"x {value}", "source": "paper, 4.1"}
        for network, value in _SPEEDUPS.items()
    ),
    doubts="networks an eighth as wide take hardly less time on a CPU when they are smaller, and in a run of minutes "
    "waiting for smaller steps to be compiled takes more; half as wide they train up to 1.4 times as fast "
    "(benchmarks/README.md, suite train).",
)

FIGURES = (FIG3, FIG14, FIG15, FIG16, SPEED)
