# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Who dies, when and why: figures 1, 2, 8, 10, 11, 12 and 17."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.cli.launch import Outcome
from experiments.figures.figure import Case, Figure, Mean, Panel, Point, line, names
from experiments.figures.judging import Claim, Effect
from experiments.figures.scales import BRIEF, OPTIMIZERS, RECIPES, VIT_PROXY, WATCHED, case, vit_kinds
from experiments.rundir.records import read_lines

_DENSE: dict[str, Any] = {"method.name": "dense", "method.strength": 0.0, "method.noise": 0.0}
_AFTER: dict[str, Any] = {"pruning.dynamic": False}


def _brief(scale: str) -> dict[str, Any]:
    return BRIEF if scale == "cpu" else {}


def _dead_lines(outcome: Outcome) -> list[dict[str, Any]]:
    return read_lines(outcome.workdir / "dead.jsonl")


def _end(means: Sequence[Mean], panel: int, series: str, place: int = -1) -> float:
    """Returns the last height of a line, or another; NaN of one with less than two points, which has no two ends."""
    _, y = line(means, panel, series)
    return float(y[place]) if len(y) > 1 else math.nan


def _gap(a: float, b: float) -> float:
    """Returns a - b; NaN where both are 0, as then nothing is told."""
    return a - b if a or b else math.nan


def _ratio_over_time(case: Case, outcome: Outcome) -> list[Point]:
    points = []
    for look in _dead_lines(outcome):
        ratio = sum(look["dead"].values()) / sum(look["width"].values())
        points.append(Point(case.panel, case.series, look["step"], case.seed, look["step"], ratio))
    return points


# Figure 1: deaths over training, without a regularizer.

_ACTIVATIONS = {"Swish": "swish", "Leaky ReLU": "leaky_relu", "ReLU": "relu"}
_RATES = (0.05, 0.01)


def _fig1_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    criterion = {"pruning.criterion": "epsilon", "pruning.epsilon": 0.01}
    return [
        case(
            "resnet18",
            scale,
            _brief(scale),
            _DENSE,
            WATCHED,
            criterion,
            {"model.activation": activation, "optimizer.learning_rate": rate},
            series=f"{name} - {rate}",
            level=rate,
            seed=seed,
        )
        for name, activation in _ACTIVATIONS.items()
        for rate in _RATES
        for seed in seeds
    ]


def _fig1(means: Sequence[Mean]) -> list[Claim]:
    found = []
    for name in _ACTIVATIONS:
        high, low = (100 * _end(means, 0, f"{name} - {rate}") for rate in _RATES)
        claim = f"Neurons die during training, more at a high learning rate: {name}."
        what = f"dead at rate {_RATES[0]} minus at {_RATES[1]}"
        found.append(Claim(claim, "2.1", (Effect(what, _gap(high, low), unit="% of the neurons"),)))
    x, y = line(means, 0, f"ReLU - {_RATES[0]}")
    early = float(np.interp(0.3 * x[-1], x, y) / y[-1]) if len(y) > 2 and y[-1] > 0.01 else math.nan
    claim = "Most of them die early in training (half within 30% of it)."
    effect = Effect(f"of the finally dead, dead after 30%: ReLU at {_RATES[0]}", 100 * early, above=50.0, unit="%")
    return [*found, Claim(claim, "2.1", (effect,))]


FIG1 = Figure(
    "fig1",
    "accumulation of dead neurons, ResNet-18, activations and learning rates",
    (Panel("", "Training Step", "Dead Neurons Ratio"),),
    _fig1,
    _fig1_cases,
    _ratio_over_time,
    doubts="Units of Leaky ReLU and Swish that are not zero count as dead where they stay within epsilon of it, which "
    "takes scales that have come down; at the short scales few have. Not tried longer here.",
)

# Figure 2: dead ratio against the strength of the regularizer, and of noise.

REGULARIZERS: dict[str, dict[str, Any]] = {
    "L2": {"method.regularizer": "l2", "method.penalised": "all"},
    "L2(gamma)": {"method.regularizer": "l2"},
    "Lasso": {"method.penalised": "all"},
    "Lasso(gamma)": {},
}
_VARIANCES = (0.0, 5e-5, 1e-4, 5e-4, 1e-3)
_NAMES = {"Adam": "AdamW", "SGDM": "SGDM"}


def _final_dead(case: Case, outcome: Outcome) -> list[Point]:
    assert outcome.summary is not None
    return [Point(case.panel, case.series, case.level, case.seed, case.level, outcome.summary["neuron_sparsity"])]


def _fig2_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    left = (0.001, 0.004, 0.01) if scale == "cpu" else (0.0, 0.002, 0.004, 0.006, 0.008, 0.01)
    right = (0.001, 0.004) if scale == "cpu" else (0.0, 0.001, 0.002, 0.003, 0.004)
    found = [
        case(
            "resnet18",
            scale,
            _brief(scale),
            OPTIMIZERS[optimizer],
            _AFTER,
            changes,
            # The regularizer by itself, at every scale.
            {"method.strength": strength, "method.noise": 0.0},
            series=f"{name}-{_NAMES[optimizer]}",
            level=strength,
            seed=seed,
        )
        for name, changes in REGULARIZERS.items()
        for optimizer in OPTIMIZERS
        for strength in left
        for seed in seeds
    ]
    found += [
        case(
            "resnet18",
            scale,
            _brief(scale),
            _AFTER,
            {"method.strength": strength, "method.noise": variance},
            panel=1,
            series=f"{variance:g}",
            level=strength,
            seed=seed,
        )
        for variance in _VARIANCES
        for strength in right
        for seed in seeds
    ]
    return found


def _fig2(means: Sequence[Mean]) -> list[Claim]:
    unit = "% of the neurons"
    ends = {
        name: {o: [100 * _end(means, 0, f"{name}-{o}", place) for place in (0, -1)] for o in _NAMES.values()}
        for name in REGULARIZERS
    }
    rising = [
        Effect(f"dead at the largest lambda minus at the smallest: {name}-{o}", _gap(last, first), above=1.0, unit=unit)
        for name, by_optimizer in ends.items()
        for o, (first, last) in by_optimizer.items()
    ]
    apart = [abs(_gap(by_optimizer["AdamW"][1], by_optimizer["SGDM"][1])) for by_optimizer in ends.values()]
    differs = Effect("AdamW and SGDM at the largest lambda, apart on average", float(np.mean(apart)), 5.0, unit=unit)
    heights = [100 * float(np.mean(y)) if len(y := line(means, 1, f"{v:g}")[1]) else math.nan for v in _VARIANCES]
    # Between neighbours a little may be chance.
    steps = [Effect("dead at the largest variance minus without", _gap(heights[-1], heights[0]), 1.0, unit=unit)]
    for (low, a), (high, b) in itertools.pairwise(zip(_VARIANCES, heights, strict=True)):
        steps.append(Effect(f"dead at variance {high:g} minus at {low:g}", _gap(b, a), -1.0, unit=unit))
    return [
        Claim("A stronger regularizer kills more neurons (1% more).", "2.2", tuple(rising)),
        Claim("How many die differs between Adam and SGDM (by 5% on average).", "2.2", (differs,)),
        Claim(
            "Noise on live weights kills more neurons, the more the larger (1% more at the end, no fall by 1%).",
            "2.2",
            tuple(steps),
        ),
    ]


_LAMBDA = "Regularization Parameter (lambda)"
FIG2 = Figure(
    "fig2",
    "dead neurons against regularization and noise, ResNet-18",
    (
        Panel("Regularizer-Optimizer", _LAMBDA, "Dead Neurons Ratio"),
        Panel("Noise Variance", _LAMBDA, "Dead Neurons Ratio"),
    ),
    _fig2,
    _fig2_cases,
    _final_dead,
)

# Figure 8: do the dead stay dead?


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Returns |X and Y| / min(|X|, |Y|) of two sets of units, `[units]` booleans; NaN if one is empty.

    Sokar et al., 2023, The Dormant Neuron Phenomenon in Deep Reinforcement Learning.
    """
    smaller = min(one.sum(), other.sum())
    return float((one & other).sum() / smaller) if smaller else float("nan")


def _dead_units(look: Mapping[str, Any]) -> np.ndarray:
    """Returns who was dead at a look, `[units of all sites]`, with some that are none, to fill up bytes."""
    return np.concatenate(
        [np.unpackbits(np.frombuffer(bytes.fromhex(units), np.uint8)) for units in look["bits"].values()]
    ).astype(bool)


def _fig8_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    strengths = (1e-3, 4e-3, 8e-3) if scale == "cpu" else (1e-5, 5e-5, 1e-4, 1e-3)
    return [
        case(
            "resnet18",
            scale,
            _brief(scale),
            OPTIMIZERS[optimizer],
            _AFTER,
            WATCHED,
            {"method.strength": strength},
            panel=panel,
            series=f"{strength:g}",
            level=strength,
            seed=seed,
        )
        for panel, optimizer in enumerate(OPTIMIZERS)
        for strength in strengths
        for seed in seeds
    ]


# Neurons of which a part tells something.
_FEWEST = 10


def _overlaps(case: Case, outcome: Outcome) -> list[Point]:
    """Returns how far those who are dead now are those who were before, and, in panels of their own, who stays dead.

    The former is the overlap ratio of the dead of a look with all who were dead at an earlier one; the latter the part
    of all who were dead at any look that is dead at the last one, a point a run, at its strength.
    """
    points: list[Point] = []
    looks = _dead_lines(outcome)
    dead = [_dead_units(look) for look in looks]
    if len({len(units) for units in dead}) > 1:
        raise ValueError("overlap: the looks are of networks of other widths; look before anything is cut.")
    if not dead:
        return points
    ever = dead[0].copy()
    for look, now in zip(looks[1:], dead[1:], strict=True):
        value = overlap(now, ever)
        if min(now.sum(), ever.sum()) >= _FEWEST:
            points.append(Point(case.panel, case.series, look["step"], case.seed, look["step"], value))
        ever |= now
    if ever.sum() >= _FEWEST:
        stay = float((ever & dead[-1]).sum() / ever.sum())
        points.append(Point(2, list(OPTIMIZERS)[case.panel], case.level, case.seed, case.level, stay))
    return points


def _fig8(means: Sequence[Mean]) -> list[Claim]:
    found = []
    for optimizer, least, words in (("Adam", 90.0, "over 90%"), ("SGDM", 50.0, "the majority")):
        stay = [100 * m.y for m in means if (m.panel, m.series) == (2, optimizer)]
        claim = f"With {optimizer}, of the neurons that are dead at some time {words} are dead at the end."
        effect = Effect(
            "of those ever dead, dead at the end, at the lambda with the least",
            min(stay, default=math.nan),
            least,
            unit="%",
        )
        found.append(Claim(claim, "C", (effect,)))
    return found


FIG8 = Figure(
    "fig8",
    "overlap of the dead during training with those dead before, and who stays dead",
    (
        *(Panel(o, "Training Step", "Dead Neurons: overlap ratio") for o in OPTIMIZERS),
        Panel("Dead at the end, of those ever dead", "Regularization Parameter (lambda)", "Part", log_x=True),
    ),
    _fig8,
    _fig8_cases,
    _overlaps,
    rows=tuple(
        {"what": f"part of the dying neurons that are dead at the end, {name}", "value": value, "source": "paper, C"}
        for name, value in (("Adam", "over 99%"), ("SGDM", "about 75%"))
    ),
)

# Figure 10: width, learning rate, batch size.


_FIG10: dict[str, dict[str, Any]] = {
    "ADAM - 0.05": {"optimizer.learning_rate": 0.05},
    "ADAM - 0.01": {"optimizer.learning_rate": 0.01},
    "SGDM - 0.3": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.3},
    "SGDM - 0.5": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.5},
}


def _fig10_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    widths = (4, 8, 16, 32) if scale == "cpu" else (8, 16, 24, 32, 48, 64)
    found = [
        case(
            "resnet18",
            scale,
            _brief(scale),
            _DENSE,
            WATCHED,
            changes,
            {"model.base_width": w},
            series=name,
            level=w,
            seed=seed,
        )
        for name, changes in _FIG10.items()
        for w in widths
        for seed in seeds
    ]
    rates = (0.01, 0.05, 0.1) if scale == "cpu" else (0.01, 0.025, 0.05, 0.075, 0.1)
    found += [
        case(
            "resnet18",
            scale,
            _brief(scale),
            _DENSE,
            WATCHED,
            {"optimizer.learning_rate": r},
            panel=1,
            series="Adam",
            level=r,
            seed=seed,
        )
        for r in rates
        for seed in seeds
    ]
    batches = (64, 128, 256) if scale == "cpu" else (16, 32, 64, 128, 256)
    steps = _steps(scale)
    found += [
        case(
            "resnet18",
            scale,
            _brief(scale),
            _DENSE,
            WATCHED,
            # The rate falls at the same steps for every batch size.
            {"optimizer.learning_rate": 0.05, "batch_size": b, "steps": str(steps), "optimizer.step_every": "30078"},
            panel=2,
            series="Adam - 0.05",
            level=b,
            seed=seed,
        )
        for b in batches
        for seed in seeds
    ]
    return found


def _steps(scale: str) -> int:
    """Returns the steps of the recipe, which stay the same for other batch sizes."""
    text = str({**RECIPES["resnet18"][scale][1], **_brief(scale)}.get("steps", "250ep"))
    return int(float(text.removesuffix("ep")) * 50_000 / 128)


def _fig10_points(case: Case, outcome: Outcome) -> list[Point]:
    looks = _dead_lines(outcome)
    if not looks:
        return []
    dead, width = sum(looks[-1]["dead"].values()), sum(looks[-1]["width"].values())
    y = 1 - dead / width if case.panel == 0 else float(dead)
    return [Point(case.panel, case.series, case.level, case.seed, case.level, y)]


def _relative(points: Sequence[Point]) -> list[Point]:
    """Returns points whose numbers of dead are those relative to rate 0.05 and batch 128, where any died there."""
    base = {(p.panel, p.seed): p.y for p in points if (p.panel, p.level) in ((1, 0.05), (2, 128))}
    found = []
    for point in points:
        if point.panel == 0:
            found.append(point)
        elif base.get((point.panel, point.seed)):
            found.append(dataclasses.replace(point, y=point.y / base[point.panel, point.seed]))
    return found


def _fig10(means: Sequence[Mean]) -> list[Claim]:
    parts, counts = [], []
    for name in _FIG10:
        x, y = line(means, 0, name)
        several = len(y) > 1 and y.min() < 1
        what = f"dead at the largest width minus at the smallest: {name}"
        parts.append(Effect(what, 100 * float(y[0] - y[-1]) if several else math.nan, unit="% of the neurons"))
        # All layers' widths go with the first's.
        rises = float(np.min(x[1:] * y[1:] / (x[:-1] * y[:-1]))) if several else math.nan
        counts.append(Effect(f"live at a width over live at the one before: {name}", rises, above=1.0, unit="times"))
    found = [
        Claim("The wider the network, the larger the part of its neurons that dies.", "D.3", tuple(parts)),
        Claim("Yet the number of live neurons rises with the width.", "D.3", tuple(counts)),
    ]
    for panel, series, what, sign in ((1, "Adam", "learning rate", 1), (2, "Adam - 0.05", "batch", -1)):
        _, y = line(means, panel, series)
        claim = f"A {'larger learning rate' if sign > 0 else 'smaller batch'} kills more neurons."
        value = sign * float(y[-1] - y[0]) if len(y) > 1 else math.nan
        least, most = ("smallest", "largest") if sign > 0 else ("largest", "smallest")
        effect = Effect(f"dead at the {most} {what} minus at the {least}", value, unit="times those at the base")
        found.append(Claim(claim, "D.1", (effect,)))
    return found


FIG10 = Figure(
    "fig10",
    "dead neurons against width, learning rate and batch size",
    (
        Panel("", "First Layer Width", "Live Neurons Ratio"),
        Panel("", "Learning Rate", "Dead Neurons, to those at 0.05", bars=True),
        Panel("", "Batch Size", "Dead Neurons, to those at 128", bars=True),
    ),
    _fig10,
    _fig10_cases,
    _fig10_points,
    whole=_relative,
)

# Figure 11: Adam's epsilon.


def _fig11_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    epsilons = (1e-10, 1e-8, 1e-6, 1e-4)
    rates = (0.005, 0.01) if scale != "cpu" else (0.01, 0.05)
    return [
        case(
            "resnet18",
            scale,
            _brief(scale),
            _DENSE,
            WATCHED,
            {"optimizer.eps": epsilon, "optimizer.learning_rate": rate},
            series=f"{rate}",
            level=epsilon,
            seed=seed,
        )
        for rate in rates
        for epsilon in epsilons
        for seed in seeds
    ]


def _fig11_points(case: Case, outcome: Outcome) -> list[Point]:
    looks = _dead_lines(outcome)
    if not looks:
        return []
    sparsity = 100 * sum(looks[-1]["dead"].values()) / sum(looks[-1]["width"].values())
    return [Point(case.panel, case.series, case.level, case.seed, case.level, sparsity)]


def _fig11(means: Sequence[Mean]) -> list[Claim]:
    unit = "% of the neurons"
    series = (names(means, 0) + ["lower", "higher"])[:2]
    ends = [(_end(means, 0, name, 0), _end(means, 0, name)) for name in series]
    found = [
        Claim(
            f"The larger Adam's epsilon, the fewer neurons die (the {which} learning rate).",
            "E",
            (Effect("dead at the smallest epsilon minus at the largest", _gap(small, large), unit=unit),),
        )
        for which, (small, large) in zip(("lower", "higher"), ends, strict=True)
    ]
    effect = Effect("dead at the higher rate minus at the lower", _gap(ends[1][0], ends[0][0]), unit=unit)
    return [
        *found,
        Claim("The larger the learning rate, the more neurons die by a small epsilon.", "E", (effect,)),
    ]


FIG11 = Figure(
    "fig11",
    "neuron sparsity against Adam's epsilon",
    (Panel("Learning Rate", "Adam (epsilon)", "Neuron Sparsity (%)", log_x=True),),
    _fig11,
    _fig11_cases,
    _fig11_points,
    rows=(
        {
            "what": "neuron sparsity at the smallest and the largest epsilon, the lower learning rate",
            "value": "5.07 +- 2.04% to 0%",
            "source": "paper, figure 11",
        },
        {
            "what": "neuron sparsity at the smallest and the largest epsilon, the higher learning rate",
            "value": "12.6 +- 1.15% to 0.47 +- 0.01%",
            "source": "paper, figure 11",
        },
    ),
)

# Figure 12: 512 examples, or all.


def _fig12_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    strength = {"cpu": 5e-3, "gpu": 5e-3, "paper": 1e-3}[scale]
    return [
        case(
            "resnet18",
            scale,
            _brief(scale),
            OPTIMIZERS[optimizer],
            _AFTER,
            {"watch.every": "10%", "watch.whole": True, "method.strength": strength},
            panel=panel,
            series="512 examples",
            level=strength,
            seed=seed,
        )
        for panel, optimizer in enumerate(OPTIMIZERS)
        for seed in seeds
    ]


def _fig12_points(case: Case, outcome: Outcome) -> list[Point]:
    points = []
    for look in _dead_lines(outcome):
        for series, dead in (("512 examples", look["dead"]), ("Entire dataset", look["whole"]["dead"])):
            total = float(sum(dead.values()))
            points.append(Point(case.panel, series, look["step"], case.seed, look["step"], total))
    return points


def _fig12(means: Sequence[Mean]) -> list[Claim]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        (_, some), (_, whole) = (line(means, panel, name) for name in ("512 examples", "Entire dataset"))
        end, apart = math.nan, math.nan
        if len(some) and whole[-1] >= _FEWEST:
            end = 100 * float(some[-1] - whole[-1]) / float(whole[-1])
            apart = 100 * float(np.max(np.abs(some - whole))) / float(whole[-1])
        unit = "% of those dead at the end"
        claim = f"With {optimizer}, 512 examples tell at the end who is dead (to 2%)."
        found.append(Claim(claim, "F.3", (Effect("by 512 examples minus by all", end, within=2.0, unit=unit),)))
        claim = f"With {optimizer}, they do throughout (to 5%)."
        found.append(Claim(claim, "F.3", (Effect("at most apart", apart, within=5.0, unit=unit),)))
    return found


FIG12 = Figure(
    "fig12",
    "dead neurons by 512 examples and by the whole training set",
    tuple(Panel(o, "Training Step", "Dead Neurons") for o in OPTIMIZERS),
    _fig12,
    _fig12_cases,
    _fig12_points,
)

# Figure 17: live neurons of a ViT by layer.


def _fig17_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    return [
        case("vit", scale, *changes, series=name, seed=seed)
        for name, changes in vit_kinds(scale).items()
        for seed in seeds
    ]


def _fig17_points(case: Case, outcome: Outcome) -> list[Point]:
    points = []
    for look in _dead_lines(outcome):
        sites = list(look["width"])
        for panel, site in enumerate((sites[0], sites[len(sites) // 2 - 1], sites[-1])):
            live = float(look["width"][site] - look["dead"][site])
            points.append(Point(panel, case.series, look["step"], case.seed, look["step"], live))
    return points


def _fig17(means: Sequence[Mean]) -> list[Claim]:
    first, middle, last = (line(means, panel, "Dense")[1] for panel in range(3))
    nothing = min(map(len, (first, middle, last))) < 3
    # A block in which nobody dies tells nothing of who stays dead.
    left, back, stayed = ([math.nan] * 2 for _ in range(3))
    if not nothing:
        left = [100 * float(1 - y[-1] / y[0]) for y in (first, middle)]
        back = [100 * float((last[-1] - last.min()) / last[0])] * 2
        stayed = [
            100 * float((y[-1] - y.min()) / y[0]) if y.min() <= y[0] - _FEWEST else math.nan for y in (first, middle)
        ]
    unit = "% of the block"
    died = [
        Effect(f"dead at the end, {name} block", v, above=85.0, unit=unit)
        for name, v in zip(_BLOCKS, left, strict=True)
    ]
    again = [Effect("come back by the end, last block", back[0], above=10.0, unit=unit)]
    stay = [
        Effect(f"come back by the end, {name} block", v, within=5.0, unit=unit)
        for name, v in zip(_BLOCKS, stayed, strict=True)
    ]
    return [
        Claim(
            "Even in dense training 90% of the neurons of a ViT's MLPs die (85% of the first and the middle block).",
            "G.2",
            tuple(died),
        ),
        Claim("Those of the last block die and come back (a tenth of them).", "G.2", tuple(again)),
        Claim("Of the other blocks, who dies stays dead (all but a twentieth).", "G.2", tuple(stay)),
    ]


_BLOCKS = ("first", "middle")


FIG17 = Figure(
    "fig17",
    "live neurons of a ViT's layers over training",
    tuple(Panel(f"Layer {name}", "Training Steps", "Live Neurons") for name in ("first", "middle", "last")),
    _fig17,
    _fig17_cases,
    _fig17_points,
    proxy=VIT_PROXY,
    columns=3,
)


FIGURES = (FIG1, FIG2, FIG8, FIG10, FIG11, FIG12, FIG17)
