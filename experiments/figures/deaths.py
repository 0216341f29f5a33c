# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""How many neurons die, by the options of training and the width of the network: figures 1, 2, 10 and 11."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.cli.launch import Outcome
from experiments.figures.figure import Case, Figure, Mean, Panel, Point, line, names
from experiments.figures.judging import Claim, Effect
from experiments.figures.scales import (
    AT_END,
    BRIEF,
    DENSE_RUN,
    OPTIMIZERS,
    RECIPES,
    REGULARIZERS,
    VARIANCES,
    WATCHED,
    grid,
)
from experiments.rundir.records import read_lines

LAMBDA = "Regularization parameter (lambda)"
_OF_NEURONS = "% of the neurons"
_MEASURED = (DENSE_RUN, WATCHED)


def measurements(outcome: Outcome) -> list[dict[str, Any]]:
    """Returns the measurements of dead units of a run, in order."""
    return read_lines(outcome.workdir / "dead.jsonl")


def _totals(measurement: dict[str, Any]) -> tuple[int, int]:
    """Returns how many units are dead, and how many there are."""
    return sum(measurement["dead"].values()), sum(measurement["width"].values())


def _end(means: Sequence[Mean], panel: int, series: str, place: int = -1) -> float:
    """Returns the last `y` of a line, or that at another place; NaN if the line has fewer than two points."""
    _, y = line(means, panel, series)
    return float(y[place]) if len(y) > 1 else math.nan


def _gap(a: float, b: float) -> float:
    """Returns a - b; NaN if both are 0, since a comparison without any death tells nothing."""
    return a - b if a or b else math.nan


# Figure 1: dead units over training, without a regularizer.

_ACTIVATIONS = {"Swish": "swish", "Leaky ReLU": "leaky_relu", "ReLU": "relu"}
_RATES = (0.05, 0.01)


def _fig1_cases(scale: str) -> list[Case]:
    criterion = {"pruning.criterion": "epsilon", "pruning.epsilon": 0.01}
    lines = {
        f"{name} - {{}}": {"model.activation": activation, **criterion} for name, activation in _ACTIVATIONS.items()
    }
    return grid("resnet18", scale, lines, BRIEF[scale], *_MEASURED, field="optimizer.learning_rate", levels=_RATES)


def _ratio_over_time(case: Case, outcome: Outcome) -> list[Point]:
    points = []
    for measurement in measurements(outcome):
        dead, width = _totals(measurement)
        points.append(case.point(measurement["step"], dead / width, level=measurement["step"]))
    return points


def _fig1(means: Sequence[Mean]) -> list[Claim]:
    claims = []
    for name in _ACTIVATIONS:
        high, low = (100 * _end(means, 0, f"{name} - {rate}") for rate in _RATES)
        effect = Effect(f"dead at rate {_RATES[0]} minus at {_RATES[1]}", _gap(high, low), unit=_OF_NEURONS)
        claims.append(Claim(f"More neurons die at the higher learning rate: {name}.", "2.1", (effect,)))
    x, y = line(means, 0, f"ReLU - {_RATES[0]}")
    early = float(np.interp(0.3 * x[-1], x, y) / y[-1]) if len(y) > 2 and y[-1] > 0.01 else math.nan
    what = f"dead after 30% of training, of those dead at the end: ReLU at {_RATES[0]}"
    effect = Effect(what, 100 * early, above=50.0, unit="%")
    return [*claims, Claim("Most dead neurons die early (half in the first 30% of training).", "2.1", (effect,))]


FIG1 = Figure(
    "fig1",
    "dead neurons over training, by activation and learning rate, ResNet-18",
    (Panel("", "Training step", "Dead neurons (%)", percent=True),),
    _fig1,
    _fig1_cases,
    _ratio_over_time,
    look=lambda series: (series.split(" - ")[0], f"learning rate {series.split(' - ')[1]}"),
    caveat="Units of Leaky ReLU and Swish count as dead if their values stay within epsilon of zero, which requires "
    "small scales. In short runs few scales become small. Longer runs were not tried.",
)

# Figure 2: dead units against the strength of the regularizer, and of noise.

_NAMES = {"Adam": "AdamW", "SGDM": "SGDM"}


def _fig2_cases(scale: str) -> list[Case]:
    left = (0.001, 0.004, 0.01) if scale == "cpu" else (0.0, 0.002, 0.004, 0.006, 0.008, 0.01)
    right = (0.001, 0.004) if scale == "cpu" else (0.0, 0.001, 0.002, 0.003, 0.004)
    regularizers = {
        f"{name}-{label}": {**OPTIMIZERS[optimizer], **changes, "method.noise": 0.0}
        for name, changes in REGULARIZERS.items()
        for optimizer, label in _NAMES.items()
    }
    noises = {f"{variance:g}": {"method.noise": variance} for variance in VARIANCES}
    common = (BRIEF[scale], AT_END)
    return [
        *grid("resnet18", scale, regularizers, *common, field="method.strength", levels=left),
        *grid("resnet18", scale, noises, *common, field="method.strength", levels=right, panel=1),
    ]


def _final_dead(case: Case, outcome: Outcome) -> list[Point]:
    assert outcome.summary is not None
    return [case.point(case.level, outcome.summary["neuron_sparsity"])]


def _fig2(means: Sequence[Mean]) -> list[Claim]:
    rising, apart = [], []
    for name in REGULARIZERS:
        ends = []
        for optimizer in _NAMES.values():
            first, last = (100 * _end(means, 0, f"{name}-{optimizer}", place) for place in (0, -1))
            what = f"dead at the largest lambda minus at the smallest: {name}-{optimizer}"
            rising.append(Effect(what, _gap(last, first), above=1.0, unit=_OF_NEURONS))
            ends.append(last)
        apart.append(abs(_gap(*ends)))
    what = "mean difference of AdamW and SGDM at the largest lambda"
    differs = Effect(what, float(np.mean(apart)), above=5.0, unit=_OF_NEURONS)
    heights = [100 * float(np.mean(y)) if len(y := line(means, 1, f"{v:g}")[1]) else math.nan for v in VARIANCES]
    what = "dead at the largest variance minus without noise"
    more = [Effect(what, _gap(heights[-1], heights[0]), above=1.0, unit=_OF_NEURONS)]
    for (low, a), (high, b) in itertools.pairwise(zip(VARIANCES, heights, strict=True)):
        # Neighboring variances may differ a little by chance.
        more.append(Effect(f"dead at variance {high:g} minus at {low:g}", _gap(b, a), above=-1.0, unit=_OF_NEURONS))
    noise = "Noise kills more neurons, and more with a larger variance (1% more at the largest, no decrease by 1%)."
    return [
        Claim("A stronger regularizer kills more neurons (1% more).", "2.2", tuple(rising)),
        Claim("The number of dead neurons differs between Adam and SGDM (by 5% on average).", "2.2", (differs,)),
        Claim(noise, "2.2", tuple(more)),
    ]


def _fig2_look(series: str) -> tuple[str, str]:
    name, _, optimizer = series.rpartition("-")
    return (name, optimizer) if name in REGULARIZERS else (f"variance {series}", "")


FIG2 = Figure(
    "fig2",
    "dead neurons against regularization and noise, ResNet-18",
    tuple(
        Panel(title, LAMBDA, "Dead neurons (%)", percent=True)
        for title in ("Regularizers and optimizers", "Noise with Lasso(gamma), AdamW")
    ),
    _fig2,
    _fig2_cases,
    _final_dead,
    look=_fig2_look,
)

# Figure 10: width, learning rate, batch size.

BY_WIDTH: dict[str, dict[str, Any]] = {
    "ADAM - 0.05": {"optimizer.learning_rate": 0.05},
    "ADAM - 0.01": {"optimizer.learning_rate": 0.01},
    "SGDM - 0.3": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.3},
    "SGDM - 0.5": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.5},
}


def _fig10_cases(scale: str) -> list[Case]:
    cpu = scale == "cpu"
    widths = (4, 8, 16, 32) if cpu else (8, 16, 24, 32, 48, 64)
    rates = (0.01, 0.05, 0.1) if cpu else (0.01, 0.025, 0.05, 0.075, 0.1)
    batches = (64, 128, 256) if cpu else (16, 32, 64, 128, 256)
    # The same number of steps at every batch size, with decays of the learning rate at the same steps.
    epochs = float((RECIPES["resnet18"][scale][1] | BRIEF[scale]).get("steps", "250ep").removesuffix("ep"))
    steps = {"steps": str(int(epochs * 50_000 / 128)), "optimizer.step_every": "30078"}
    by_batch = {"Adam - 0.05": {"optimizer.learning_rate": 0.05, **steps}}
    common = (BRIEF[scale], *_MEASURED)
    return [
        *grid("resnet18", scale, BY_WIDTH, *common, field="model.base_width", levels=widths),
        *grid("resnet18", scale, {"Adam": {}}, *common, field="optimizer.learning_rate", levels=rates, panel=1),
        *grid("resnet18", scale, by_batch, *common, field="batch_size", levels=batches, panel=2),
    ]


def _fig10_points(case: Case, outcome: Outcome) -> list[Point]:
    last = map(_totals, measurements(outcome)[-1:])
    return [case.point(case.level, 1 - dead / width if case.panel == 0 else float(dead)) for dead, width in last]


def _relative(points: Sequence[Point]) -> list[Point]:
    """Divides numbers of dead units by those at rate 0.05 and batch size 128; drops them if nobody died there."""
    base = {(p.panel, p.seed): p.y for p in points if (p.panel, p.level) in ((1, 0.05), (2, 128))}
    return [
        point if point.panel == 0 else dataclasses.replace(point, y=point.y / base[point.panel, point.seed])
        for point in points
        if point.panel == 0 or base.get((point.panel, point.seed))
    ]


def _fig10(means: Sequence[Mean]) -> list[Claim]:
    parts, counts = [], []
    for name in BY_WIDTH:
        x, y = line(means, 0, name)
        several = len(y) > 1 and y.min() < 1
        what = f"dead at the largest width minus at the smallest: {name}"
        parts.append(Effect(what, 100 * float(y[0] - y[-1]) if several else math.nan, unit=_OF_NEURONS))
        # All widths are proportional to the first layer's.
        rises = float(np.min(x[1:] * y[1:] / (x[:-1] * y[:-1]))) if several else math.nan
        counts.append(Effect(f"live at a width over live at the one before: {name}", rises, above=1.0, unit="times"))
    claims = [
        Claim("The wider the network, the larger the fraction of its neurons that dies.", "D.3", tuple(parts)),
        Claim("The number of live neurons still increases with the width.", "D.3", tuple(counts)),
    ]
    for panel, series, text, (most, least), place in (
        (1, "Adam", "A larger learning rate", ("largest learning rate", "smallest"), -1),
        (2, "Adam - 0.05", "A smaller batch", ("smallest batch", "largest"), 0),
    ):
        more, fewer = (_end(means, panel, series, at) for at in (place, -1 - place))
        effect = Effect(f"dead at the {most} minus at the {least}", more - fewer, unit="times the base")
        claims.append(Claim(f"{text} kills more neurons.", "D.1", (effect,)))
    return claims


FIG10 = Figure(
    "fig10",
    "dead neurons against width, learning rate and batch size",
    (
        Panel("", "Width of the first layer", "Live neurons (%)", log_x=True, percent=True),
        Panel("", "Learning rate", "Dead neurons relative to rate 0.05", bars=True),
        Panel("", "Batch size", "Dead neurons relative to batch size 128", bars=True),
    ),
    _fig10,
    _fig10_cases,
    _fig10_points,
    normalize=_relative,
    look=lambda series: (series.replace("ADAM", "Adam").replace(" - ", ", learning rate "), ""),
)

# Figure 11: Adam's epsilon.


def _fig11_cases(scale: str) -> list[Case]:
    rates, epsilons = (0.01, 0.05) if scale == "cpu" else (0.005, 0.01), (1e-10, 1e-8, 1e-6, 1e-4)
    lines = {f"{rate}": {"optimizer.learning_rate": rate} for rate in rates}
    return grid("resnet18", scale, lines, BRIEF[scale], *_MEASURED, field="optimizer.eps", levels=epsilons)


def _fig11_points(case: Case, outcome: Outcome) -> list[Point]:
    last = measurements(outcome)[-1:]
    return [case.point(case.level, 100 * dead / width) for dead, width in map(_totals, last)]


def _fig11(means: Sequence[Mean]) -> list[Claim]:
    series = (names(means, 0) + ["lower", "higher"])[:2]
    ends = [(_end(means, 0, name, 0), _end(means, 0, name)) for name in series]
    claims = []
    for which, (small, large) in zip(("lower", "higher"), ends, strict=True):
        effect = Effect("dead at the smallest epsilon minus at the largest", _gap(small, large), unit=_OF_NEURONS)
        text = f"The larger Adam's epsilon, the fewer neurons die ({which} learning rate)."
        claims.append(Claim(text, "E", (effect,)))
    effect = Effect("dead at the higher rate minus at the lower", _gap(ends[1][0], ends[0][0]), unit=_OF_NEURONS)
    return [*claims, Claim("The larger the learning rate, the more neurons die with a small epsilon.", "E", (effect,))]


FIG11 = Figure(
    "fig11",
    "neuron sparsity against Adam's epsilon",
    (Panel("", "Adam's epsilon", "Dead neurons (%)", log_x=True),),
    _fig11,
    _fig11_cases,
    _fig11_points,
    look=lambda series: (f"learning rate {series}", ""),
    rows=tuple(
        {
            "what": f"neuron sparsity at the smallest and the largest epsilon, the {which} learning rate",
            "value": value,
            "source": "paper, figure 11",
        }
        for which, value in (("lower", "5.07 +- 2.04% to 0%"), ("higher", "12.6 +- 1.15% to 0.47 +- 0.01%"))
    ),
)

FIGURES = (FIG1, FIG2, FIG10, FIG11)
