# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP against other methods, figures 3 and 14 to 16, and against dense training, how much faster it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.cli.launch import Outcome
from experiments.figures.figure import Case, Figure, Mean, Panel, Point, number, training_seconds
from experiments.figures.judging import Claim, Effect
from experiments.figures.lines import (
    DEMP,
    DENSE,
    FLOOR,
    HIGH,
    STRUCTURED,
    by_weights,
    demp_cases,
    dense_cases,
    lead,
    led,
    other_cases,
    weights,
)
from experiments.figures.scales import NEURON_SPARSITIES, OPTIMIZERS, WEIGHT_SPARSITIES, case

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
    size_at: Mapping[str, Mapping[str, Any]] | None = None,
    wide: Mapping[str, Sequence[float]] | None = None,
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
) -> Figure:
    """Returns a figure of accuracy against both sparsities; `size_at` changes the recipe of a scale.

    `wide` has the strengths, by optimizer, of what is wider at the scale of a CPU than other figures are.
    """
    size_at = size_at or {}

    def cases(scale: str, seeds: Sequence[int]) -> list[Case]:
        found = []
        size = size_at.get(scale, {})
        for i, optimizer in enumerate(optimizers):
            levels = NEURON_SPARSITIES[scale]
            options = (network, scale, seeds, optimizer, i)
            found += dense_cases(*options, {**changes, **size})
            found += other_cases(*options, STRUCTURED, "ranking.sparsity", levels, {**changes, **size})
            grid = (wide or {}).get(optimizer) if scale == "cpu" else None
            found += demp_cases(*options, DEMP, {**changes, **size}, grid)
        return found

    def judge(means: Sequence[Mean]) -> list[Claim]:
        found = []
        for i, optimizer in enumerate(optimizers):
            for panel, kind in ((2 * i + 1, "weight"), (2 * i, "neuron")):
                where = (means, panel, DEMP, list(STRUCTURED))
                at = f"at equal {kind} sparsity"
                if optimizer == "Adam":
                    value, over = lead(
                        *where[:2], [DEMP], list(STRUCTURED), HIGH if kind == "weight" else _HIGH_NEURONS
                    )
                    claim = (
                        f"With Adam, DemP keeps more accuracy than the other structured methods {at}, if it is high."
                    )
                    found.append(
                        Claim(claim, "4.1", (Effect(f"{DEMP} minus the best of the others", value, over=over),))
                    )
                elif network == "resnet18":
                    claim = f"With SGDM, DemP is on a par with each of them {at} (to 1 point)."
                    found.append(Claim(claim, "4.1", led(*where, within=1.0, floor=_floor(kind))))
                else:
                    claim = f"With SGDM, DemP is behind each of them {at}, if it is high."
                    high = HIGH if kind == "weight" else _HIGH_NEURONS
                    behind = [
                        dataclasses.replace(e, what=f"{e.what.split(' minus ')[1]} minus {DEMP}", value=-e.value)
                        for e in led(*where, floor=high)
                    ]
                    found.append(Claim(claim, "4.1, G", tuple(behind)))
        return found

    neurons = "Neuron Sparsity (%)"
    panels = [p for o in optimizers for p in (Panel(o, neurons, "Test Accuracy (%)"), weights(o))]
    more: dict[str, Any] = {"columns": 2, "rows": tuple(rows), "doubts": doubts, "dense": DENSE}
    return Figure(name, what, tuple(panels), judge, cases, _by_both, **more)


# Neuron sparsities in percent from which on lines are compared, and which count as high: about those of the weight
# sparsities of `FLOOR` and `HIGH`.
_NEURON_FLOOR, _HIGH_NEURONS = 25.0, 40.0


def _floor(kind: str) -> float:
    return FLOOR if kind == "weight" else _NEURON_FLOOR


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
    size_at={"cpu": {"model.base_width": 16, "steps": "15ep"}},
    wide={"Adam": (1e-3, 2e-3, 4e-3, 8e-3, 0.016)},
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
        found += dense_cases(*options)
        found += other_cases(*options, UNSTRUCTURED, "masking.sparsity", WEIGHT_SPARSITIES[scale], _MASKING)
        found += demp_cases(*options, DEMP, {})
    return found


def _fig16(means: Sequence[Mean]) -> list[Claim]:
    claim = "With Adam, DemP is more effective than the unstructured methods at their base configuration."
    other = "With SGDM, DemP performs similarly to them (to 1 point)."
    return [
        Claim(claim, "G.1", led(means, 0, DEMP, list(UNSTRUCTURED))),
        Claim(other, "G.1", led(means, 1, DEMP, list(UNSTRUCTURED), within=1.0)),
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


def _speed(means: Sequence[Mean]) -> list[Claim]:
    found = []
    for panel, (network, paper) in enumerate(_SPEEDUPS.items()):
        dense = next((m for m in means if (m.panel, m.series) == (panel, "Dense")), None)
        ours = [m for m in means if (m.panel, m.series) == (panel, DEMP)]
        value, note = math.nan, ""
        if dense is not None and ours:
            # The stronger the regularizer, the sparser.
            kept = max((m for m in ours if m.y >= dense.y - 1), key=lambda m: m.level, default=None)
            note = f"the paper's is x {paper}"
            if kept is None:
                note = f"a seed has no run within 1 point of dense; {note}"
            else:
                value = dense.x / kept.x
        effect = Effect("time of dense training over that of DemP", value, above=1.0, unit="times")
        found.append(Claim(_FASTER.format(network), "4.1", (effect,), note))
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
)

FIGURES = (FIG3, FIG14, FIG15, FIG16, SPEED)
