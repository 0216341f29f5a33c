# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Whether units that are measured dead are dead, and stay dead: figures 8, 12 and 17."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.cli.launch import Outcome
from experiments.figures.deaths import LAMBDA, measurements
from experiments.figures.figure import Case, Figure, Mean, Panel, Point, line
from experiments.figures.judging import Claim, Effect
from experiments.figures.lines import by_optimizer
from experiments.figures.scales import AT_END, BRIEF, OPTIMIZERS, VIT_PROXY, WATCHED, grid, vit_kinds

# Ratios of fewer units than this are not reported.
_FEWEST = 10

# Figure 8: do dead units stay dead?


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Returns |X and Y| / min(|X|, |Y|) of two sets of units, `[units]` booleans; NaN if one is empty.

    Sokar et al., 2023, The Dormant Neuron Phenomenon in Deep Reinforcement Learning.
    """
    smaller = min(one.sum(), other.sum())
    return float((one & other).sum() / smaller) if smaller else math.nan


def _dead_units(measurement: Mapping[str, Any]) -> np.ndarray:
    """Returns which units were dead, `[units of all sites]`; each site is padded to full bytes."""
    sites = [np.frombuffer(bytes.fromhex(units), np.uint8) for units in measurement["bits"].values()]
    return np.concatenate([np.unpackbits(units) for units in sites]).astype(bool)


def _fig8_cases(scale: str) -> list[Case]:
    options: dict[str, Any] = {"field": "method.strength"}
    options["levels"] = (1e-3, 4e-3, 8e-3) if scale == "cpu" else (1e-5, 5e-5, 1e-4, 1e-3)
    settings = by_optimizer("resnet18", scale)
    return [case for here in settings for case in here.grid({"{:g}": {}}, BRIEF[scale], AT_END, WATCHED, **options)]


def _overlaps(case: Case, outcome: Outcome) -> list[Point]:
    """Returns the overlap ratios of a run over time, and how many of its dead units stay dead.

    A point over time is the overlap of the units that are dead with all that were dead at an earlier measurement. The
    last panel has one point for each run: of the units that were dead at any measurement, the part that is dead at the
    last one.
    """
    points: list[Point] = []
    found = measurements(outcome)
    dead = [_dead_units(measurement) for measurement in found]
    if len({len(units) for units in dead}) > 1:
        raise ValueError("overlap: the measured networks differ in width; measure a run that prunes at its end.")
    if not dead:
        return points
    ever = dead[0].copy()
    for measurement, now in zip(found[1:], dead[1:], strict=True):
        value = overlap(now, ever)
        if min(now.sum(), ever.sum()) >= _FEWEST:
            points.append(case.point(measurement["step"], value, level=measurement["step"]))
        ever |= now
    if ever.sum() >= _FEWEST:
        stay = float((ever & dead[-1]).sum() / ever.sum())
        points.append(case.point(case.level, stay, panel=2, series=list(OPTIMIZERS)[case.panel]))
    return points


def _fig8(means: Sequence[Mean]) -> list[Claim]:
    claims = []
    for optimizer, least, words in (("Adam", 90.0, "over 90%"), ("SGDM", 50.0, "most")):
        stay = min((100 * m.y for m in means if (m.panel, m.series) == (2, optimizer)), default=math.nan)
        effect = Effect("dead at the end, of those ever dead, at the lambda with the fewest", stay, least, unit="%")
        text = f"With {optimizer}, {words} of the neurons that are ever dead are dead at the end."
        claims.append(Claim(text, "C", (effect,)))
    return claims


FIG8 = Figure(
    "fig8",
    "overlap of dead neurons with those dead before, and how many stay dead",
    (
        *(Panel(o, "Training step", "Overlap with those dead before (%)", percent=True) for o in OPTIMIZERS),
        Panel("At the end", LAMBDA, "Dead of those ever dead (%)", log_x=True, percent=True),
    ),
    _fig8,
    _fig8_cases,
    _overlaps,
    look=lambda series: (series if series in OPTIMIZERS else f"lambda {series}", ""),
    rows=tuple(
        {"what": f"part of the dying neurons that are dead at the end, {name}", "value": value, "source": "paper, C"}
        for name, value in (("Adam", "over 99%"), ("SGDM", "about 75%"))
    ),
)

# Figure 12: dead units by 512 examples and by all.


def _fig12_cases(scale: str) -> list[Case]:
    common = (BRIEF[scale], AT_END, {"watch.every": "10%", "watch.whole": True})
    options: dict[str, Any] = {"field": "method.strength", "levels": (1e-3 if scale == "paper" else 5e-3,)}
    settings = by_optimizer("resnet18", scale)
    return [case for here in settings for case in here.grid({"512 examples": {}}, *common, **options)]


def _fig12_points(case: Case, outcome: Outcome) -> list[Point]:
    points = []
    for each in measurements(outcome):
        for series, dead in (("512 examples", each["dead"]), ("Entire dataset", each["whole"]["dead"])):
            points.append(case.point(each["step"], float(sum(dead.values())), series=series, level=each["step"]))
    return points


def _fig12(means: Sequence[Mean]) -> list[Claim]:
    claims = []
    unit = "% of those dead at the end"
    for panel, optimizer in enumerate(OPTIMIZERS):
        (_, some), (_, whole) = (line(means, panel, name) for name in ("512 examples", "Entire dataset"))
        end, apart = math.nan, math.nan
        if len(some) and whole[-1] >= _FEWEST:
            end = 100 * float(some[-1] - whole[-1]) / float(whole[-1])
            apart = 100 * float(np.max(np.abs(some - whole))) / float(whole[-1])
        at_end = Effect("dead by 512 examples minus by all", end, within=2.0, unit=unit)
        throughout = Effect("largest difference", apart, within=5.0, unit=unit)
        claims += [
            Claim(
                f"With {optimizer}, 512 examples suffice to find the dead neurons at the end (within 2%).",
                "F.3",
                (at_end,),
            ),
            Claim(f"With {optimizer}, 512 examples suffice throughout training (within 5%).", "F.3", (throughout,)),
        ]
    return claims


FIG12 = Figure(
    "fig12",
    "dead neurons measured with 512 examples and with the whole training set",
    tuple(Panel(o, "Training step", "Dead neurons") for o in OPTIMIZERS),
    _fig12,
    _fig12_cases,
    _fig12_points,
    look=lambda series: (series, series),
)

# Figure 17: alive units of a ViT by layer.


def _fig17_points(case: Case, outcome: Outcome) -> list[Point]:
    points = []
    for each in measurements(outcome):
        sites = list(each["width"])
        for panel, site in enumerate((sites[0], sites[len(sites) // 2 - 1], sites[-1])):
            live = float(each["width"][site] - each["dead"][site])
            points.append(case.point(each["step"], live, panel=panel, level=each["step"]))
    return points


def _fig17(means: Sequence[Mean]) -> list[Claim]:
    blocks = [line(means, panel, "Dense")[1] for panel in range(3)]
    dead, revived = [math.nan] * 3, [math.nan] * 3
    if min(map(len, blocks)) >= 3:
        dead = [100 * float(1 - y[-1] / y[0]) for y in blocks]
        revived = [100 * float((y[-1] - y.min()) / y[0]) for y in blocks]
        # A block without dead units does not show whether they stay dead.
        revived[:2] = [v if y.min() <= y[0] - _FEWEST else math.nan for v, y in zip(revived[:2], blocks, strict=False)]
    unit, names = "% of the block", ("first", "middle")
    died = [Effect(f"dead at the end, {n} block", v, above=85.0, unit=unit) for n, v in zip(names, dead, strict=False)]
    stay = [
        Effect(f"revived by the end, {name} block", v, within=5.0, unit=unit)
        for name, v in zip(names, revived, strict=False)
    ]
    again = Effect("revived by the end, last block", revived[2], above=10.0, unit=unit)
    text = "Even in dense training 90% of the neurons of a ViT's MLPs die (85% of the first and the middle block)."
    return [
        Claim(text, "G.2", tuple(died)),
        Claim("In the last block of a ViT neurons die and revive (a tenth of them).", "G.2", (again,)),
        Claim("In the other blocks of a ViT dead neurons stay dead (all but a twentieth).", "G.2", tuple(stay)),
    ]


FIG17 = Figure(
    "fig17",
    "live neurons of a ViT's layers over training",
    tuple(Panel(f"{name.title()} block", "Training step", "Live neurons") for name in ("first", "middle", "last")),
    _fig17,
    lambda scale: grid("vit", scale, vit_kinds(scale)),
    _fig17_points,
    proxy=VIT_PROXY,
    columns=3,
)

FIGURES = (FIG8, FIG12, FIG17)
