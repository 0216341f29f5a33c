# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP against other methods, figures 3 and 14 to 16, and the speedup over dense training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.cli.launch import Outcome
from experiments.figures.figure import Case, Figure, Mean, Panel, Point, percent, training_seconds
from experiments.figures.judging import Claim, Effect
from experiments.figures.lines import (
    DEMP,
    DENSE,
    FLOOR,
    HIGH,
    STRUCTURED,
    Setting,
    by_optimizer,
    by_weights,
    lead_of,
    leads,
    weights,
)
from experiments.figures.scales import NEURON_SPARSITIES, OPTIMIZERS, WEIGHT_SPARSITIES, Changes

UNSTRUCTURED = {"RigL": "rigl", "SET": "set", "Mag": "magnitude", "Sal": "saliency"}
# As in the released code: uniform except for the stem, 500 of 97,656 steps apart, from 30% to 80% of the run, with a
# constant fraction of the connections replaced each time.
_MASKING = {
    "masking.distribution": "uniform",
    "masking.exclude": ("stem_conv/*",),
    "masking.start": "30%",
    "masking.end": "80%",
    "masking.every": "0.5%",
    "masking.drop_schedule": "constant",
}
# By kind of sparsity, percentages above which lines are compared, and above which the sparsity counts as high. Those of
# neurons correspond roughly to those of weights.
_FLOORS = {"weight": (FLOOR, HIGH), "neuron": (25.0, 40.0)}


def _by_both(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against neuron sparsity, on the left, and against weight sparsity, on the right."""
    [right] = by_weights(case, outcome)
    left = dataclasses.replace(right, x=percent(outcome, "neuron_sparsity"), panel=2 * case.panel)
    return [left, dataclasses.replace(right, panel=2 * case.panel + 1)]


def _structured(
    name: str,
    network: str,
    what: str,
    rows: Sequence[Mapping[str, Any]],
    changes: Changes | None = None,
    at_cpu: Changes | None = None,
    levels_at_cpu: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Returns a figure of accuracy against both sparsities, for DemP and structured methods and both optimizers.

    At the scale of a CPU `at_cpu` has further changes, and `levels_at_cpu` strengths by optimizer.
    """

    def cases(scale: str) -> list[Case]:
        found = []
        cpu = scale == "cpu"
        common = {**(changes or {}), **(at_cpu or {} if cpu else {})}
        for here in by_optimizer(network, scale):
            found += here.dense(common)
            found += here.others(STRUCTURED, "ranking.sparsity", NEURON_SPARSITIES[scale], common)
            found += here.demp({DEMP: common}, (levels_at_cpu or {}).get(here.optimizer) if cpu else None)
        return found

    def judge(means: Sequence[Mean]) -> list[Claim]:
        return [
            _compared(means, network, optimizer, 2 * i + side, kind)
            for i, optimizer in enumerate(OPTIMIZERS)
            for side, kind in ((1, "weight"), (0, "neuron"))
        ]

    axes = tuple(p for o in OPTIMIZERS for p in (Panel(o, "Neuron sparsity (%)", "Test accuracy (%)"), weights(o)))
    return Figure(name, what, axes, judge, cases, _by_both, columns=2, rows=tuple(rows), dense=DENSE)


def _compared(means: Sequence[Mean], network: str, optimizer: str, panel: int, kind: str) -> Claim:
    """Returns the paper's claim about DemP and the structured methods in a panel."""
    floor, high = _FLOORS[kind]
    at = f"at equal {kind} sparsity"
    if optimizer == "Adam":
        best = lead_of(f"{DEMP} minus the best of the others", means, panel, [DEMP], list(STRUCTURED), high)
        text = f"With Adam, DemP is more accurate than the other structured methods {at}, if it is high."
        return Claim(text, "4.1", (best,))
    if network == "resnet18":
        text = f"With SGDM, DemP is as accurate as each structured method {at} (within 1 point)."
        return Claim(text, "4.1", leads(means, panel, DEMP, list(STRUCTURED), floor, within=1.0))
    # The lead of each over DemP, over the same runs as DemP's.
    behind = tuple(lead_of(f"{name} minus {DEMP}", means, panel, [name], [DEMP], high) for name in STRUCTURED)
    return Claim(f"With SGDM, DemP is less accurate than each structured method {at}, if it is high.", "4.1, G", behind)


_MARGIN = {
    "what": "the largest lead of DemP with Adam, on CIFAR-10 and ImageNet",
    "value": "2.25 points",
    "source": "paper, 4.1",
}
_DECAY = {
    "what": "where DemP's accuracy decays with SGDM",
    "value": "about 95% weight sparsity, 80% neuron sparsity",
    "source": "paper, figure 14",
}
_WHAT = "accuracy against sparsity, structured methods"
FIG3 = _structured(
    "fig3",
    "resnet18",
    f"{_WHAT}, ResNet-18",
    [_MARGIN],
    at_cpu={"model.base_width": 16, "steps": "15ep"},
    levels_at_cpu={"Adam": (1e-3, 2e-3, 4e-3, 8e-3, 0.016)},
)
FIG14 = _structured("fig14", "vgg16", f"{_WHAT}, VGG-16", [_DECAY])
FIG15 = _structured(
    "fig15", "resnet18", f"{_WHAT}, ResNet-18 with Leaky ReLU", [_MARGIN], {"model.activation": "leaky_relu"}
)


def _fig16_cases(scale: str) -> list[Case]:
    found = []
    for here in by_optimizer("resnet18", scale):
        found += here.dense()
        found += here.others(UNSTRUCTURED, "masking.sparsity", WEIGHT_SPARSITIES[scale], _MASKING)
        found += here.demp({DEMP: {}})
    return found


def _fig16(means: Sequence[Mean]) -> list[Claim]:
    adam = "With Adam, DemP is more effective than the unstructured methods at their base configuration."
    sgdm = "With SGDM, DemP performs similarly to the unstructured methods (within 1 point)."
    return [
        Claim(adam, "G.1", leads(means, 0, DEMP, list(UNSTRUCTURED))),
        Claim(sgdm, "G.1", leads(means, 1, DEMP, list(UNSTRUCTURED), within=1.0)),
    ]


FIG16 = Figure(
    "fig16",
    "DemP against unstructured methods, ResNet-18",
    tuple(weights(o) for o in OPTIMIZERS),
    _fig16,
    _fig16_cases,
    by_weights,
    dense=DENSE,
)


_SPEEDUPS = {"ResNet-18": 2.45, "VGG-16": 3.56}
_FASTER = "{} trains faster with DemP at the highest sparsity that keeps the accuracy (within 1 point)."
# Weight sparsity below which a run does not count as one of a smaller network.
_LEAST_CUT = 0.05
_UNCUT = f"{DEMP}, under {_LEAST_CUT:.0%} cut"


def _speed_cases(scale: str) -> list[Case]:
    found = []
    for panel, network in enumerate(("resnet18", "vgg16")):
        here = Setting(network, scale, "Adam", panel)
        found += here.dense() + here.demp({DEMP: {}})
    return found


def _seconds(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against the seconds of training.

    A run that pruned next to nothing belongs to a line of its own, as its time is not that of a smaller network.
    """
    assert outcome.summary is not None
    uncut = case.series == DEMP and outcome.summary["weight_sparsity"] < _LEAST_CUT
    x, y = training_seconds(outcome.summary), percent(outcome, "test_accuracy")
    return [case.point(x, y, series=_UNCUT if uncut else case.series)]


def _speed(means: Sequence[Mean]) -> list[Claim]:
    claims = []
    for panel, (network, paper) in enumerate(_SPEEDUPS.items()):
        dense = next((m for m in means if (m.panel, m.series) == (panel, DENSE)), None)
        ours = [m for m in means if (m.panel, m.series) == (panel, DEMP)]
        value, note = math.nan, ""
        if dense is not None and ours:
            # Sparsity grows with the strength of the regularizer.
            kept = max((m for m in ours if m.y >= dense.y - 1), key=lambda m: m.level, default=None)
            note = f"the paper's is x {paper}"
            if kept is None:
                note = f"a seed has no run within 1 point of dense; {note}"
            else:
                value = dense.x / kept.x
        effect = Effect("training time, dense over DemP", value, above=1.0, unit="times")
        claims.append(Claim(_FASTER.format(network), "4.1", (effect,), note))
    return claims


SPEED = Figure(
    "speed",
    "training time of DemP and dense training",
    tuple(Panel(n, "Seconds of training", "Test accuracy (%)") for n in ("ResNet-18", "VGG-16")),
    _speed,
    _speed_cases,
    _seconds,
    dense=DENSE,
    timed=tuple(_FASTER.format(network) for network in _SPEEDUPS),
    rows=tuple(
        {"what": f"how much faster DemP trains, {network}", "value": f"x {value}", "source": "paper, 4.1"}
        for network, value in _SPEEDUPS.items()
    ),
)

FIGURES = (FIG3, FIG14, FIG15, FIG16, SPEED)
