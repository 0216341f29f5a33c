# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Who dies, when and why: figures 1, 2, 8, 10, 11, 12 and 17."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.figures.figure import Case, Figure, Mean, Panel, Point, Verdict, line, names, verdict
from experiments.figures.scales import OPTIMIZERS, RECIPES, case
from experiments.records import read_lines
from experiments.sweep import Outcome

_DENSE: dict[str, Any] = {"method.name": "dense", "method.strength": 0.0, "method.noise": 0.0}
_WATCHED: dict[str, Any] = {"watch.every": "5%"}
_AFTER: dict[str, Any] = {"pruning.dynamic": False}


def _dead_lines(outcome: Outcome) -> list[dict[str, Any]]:
    return read_lines(outcome.workdir / "dead.jsonl")


def _ratio_over_time(case: Case, outcome: Outcome) -> list[Point]:
    points = []
    for look in _dead_lines(outcome):
        ratio = sum(look["dead"].values()) / sum(look["width"].values())
        points.append(Point(case.panel, case.series, look["step"], case.seed, look["step"], ratio))
    return points


# Figure 1: deaths over training, without a regulariser.

_ACTIVATIONS = {"Swish": "swish", "Leaky ReLU": "leaky_relu", "ReLU": "relu"}
_RATES = (0.05, 0.01)


def _fig1_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    criterion = {"pruning.criterion": "epsilon", "pruning.epsilon": 0.01}
    return [
        case(
            "resnet18",
            scale,
            _DENSE,
            _WATCHED,
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


def _fig1(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for name in _ACTIVATIONS:
        (_, high), (_, low) = (line(means, 0, f"{name} - {rate}") for rate in _RATES)
        tested = len(high) > 0 and len(low) > 0
        a, b = (high[-1], low[-1]) if tested else (np.nan, np.nan)
        claim = "Neurons die during training, more at a high learning rate."
        found.append(
            verdict(claim, "2.1", a > b, f"{name}: {a:.1%} dead at {_RATES[0]}, {b:.1%} at {_RATES[1]}", tested)
        )
    x, y = line(means, 0, f"ReLU - {_RATES[0]}")
    tested = len(y) > 2 and y[-1] > 0.01
    early = float(np.interp(0.3 * x[-1], x, y) / y[-1]) if tested else float("nan")
    claim = "Most of them die early in training."
    found.append(
        verdict(claim, "2.1", early > 0.5, f"ReLU, {_RATES[0]}: {early:.0%} of the final dead after 30%", tested)
    )
    return found


FIG1 = Figure(
    "fig1",
    "accumulation of dead neurons, ResNet-18, activations and learning rates",
    (Panel("", "Training Step", "Dead Neurons Ratio"),),
    _fig1,
    _fig1_cases,
    _ratio_over_time,
)

# Figure 2: dead ratio against the strength of the regulariser, and of noise.

REGULARIZERS: dict[str, dict[str, Any]] = {
    "L2": {"method.regularizer": "l2", "method.penalised": "all"},
    "L2(gamma)": {"method.regularizer": "l2"},
    "Lasso": {"method.penalised": "all"},
    "Lasso(gamma)": {},
}
_VARIANCES = (0.0, 5e-5, 1e-4, 5e-4, 1e-3)


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
            OPTIMIZERS[optimizer],
            _AFTER,
            changes,
            {"method.strength": strength},
            series=f"{name}-{'AdamW' if optimizer == 'Adam' else optimizer}",
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


def _fig2(means: Sequence[Mean]) -> list[Verdict]:
    rising = {}
    for series in names(means, 0):
        _, y = line(means, 0, series)
        rising[series] = (y[0], y[-1])
    grows = [b > a + 0.01 for a, b in rising.values()]
    why = "; ".join(f"{name} {a:.0%} to {b:.0%}" for name, (a, b) in rising.items())
    found = [verdict("A stronger regulariser kills more neurons.", "2.2", all(grows), why, bool(grows))]
    heights = {series: float(np.mean(line(means, 1, series)[1])) for series in names(means, 1)}
    why = ", ".join(f"variance {name}: {height:.0%}" for name, height in heights.items())
    ordered = list(heights.values())
    # Between neighbours a little may be chance.
    good = len(ordered) > 1 and ordered[-1] > ordered[0] + 0.01
    good = good and all(b > a - 0.01 for a, b in itertools.pairwise(ordered))
    found.append(
        verdict("Noise on live weights kills more neurons, the more the larger.", "2.2", good, why, bool(ordered))
    )
    return found


_LAMBDA = "Regularization Parameter (lambda)"
FIG2 = Figure(
    "fig2",
    "dead neurons against regularisation and noise, ResNet-18",
    (
        Panel("Regularizer-Optimizer", _LAMBDA, "Dead Neurons Ratio"),
        Panel("Noise Variance", _LAMBDA, "Dead Neurons Ratio"),
    ),
    _fig2,
    _fig2_cases,
    _final_dead,
)

# Figure 8: do the dead stay dead?


def overlap(one: Mapping[str, str], other: Mapping[str, str]) -> float:
    """Returns |X and Y| / min(|X|, |Y|) of two sets of dead units, packed in hexadecimal by site; NaN if one is empty.

    Sokar et al., 2023, The Dormant Neuron Phenomenon in Deep Reinforcement Learning.
    """
    if [len(units) for units in one.values()] != [len(other[name]) for name in one]:
        raise ValueError("overlap: the sets are of networks of other widths; look before anything is cut.")
    x, y = (np.concatenate([_bits(sets[name]) for name in one]) for sets in (one, other))
    smaller = min(x.sum(), y.sum())
    return float((x & y).sum() / smaller) if smaller else float("nan")


def _bits(packed: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8)).astype(bool)


def _fig8_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    strengths = (1e-3, 4e-3, 1e-2) if scale == "cpu" else (1e-5, 5e-5, 1e-4, 1e-3)
    return [
        case(
            "resnet18",
            scale,
            OPTIMIZERS[optimizer],
            _AFTER,
            _WATCHED,
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


def _overlaps(case: Case, outcome: Outcome) -> list[Point]:
    looks = [look for look in _dead_lines(outcome) if sum(look["dead"].values())]
    if not looks:
        return []
    last = looks[-1]["bits"]
    points = [(look["step"], overlap(look["bits"], last)) for look in looks[:-1]]
    return [Point(case.panel, case.series, step, case.seed, step, value) for step, value in points]


def _fig8(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for panel, (optimizer, least, words) in enumerate((("Adam", 0.9, "over 90%"), ("SGDM", 0.5, "the majority"))):
        heights = {name: float(np.mean(line(means, panel, name)[1])) for name in names(means, panel)}
        claim = f"With {optimizer}, of the neurons that are dead at some time {words} are dead at the end."
        each = ", ".join(f"{height:.1%} at lambda {name}" for name, height in heights.items())
        good = bool(heights) and min(heights.values()) > least
        found.append(
            verdict(claim, "C", good, f"overlap ratio with the final set, mean over training: {each}", bool(heights))
        )
    return found


FIG8 = Figure(
    "fig8",
    "overlap of the dead during training with the dead at the end",
    tuple(Panel(o, "Training Step", "Dead Neurons: overlap ratio") for o in OPTIMIZERS),
    _fig8,
    _fig8_cases,
    _overlaps,
)

# Figure 10: width, learning rate, batch size.


def _fig10_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    widths = (4, 8, 12, 16) if scale == "cpu" else (8, 16, 24, 32, 48, 64)
    optimizers: dict[str, dict[str, Any]] = {
        "ADAM - 0.05": {"optimizer.learning_rate": 0.05},
        "ADAM - 0.01": {"optimizer.learning_rate": 0.01},
        "SGDM - 0.3": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.3},
        "SGDM - 0.5": {"optimizer.name": "sgdm", "optimizer.learning_rate": 0.5},
    }
    found = [
        case("resnet18", scale, _DENSE, _WATCHED, changes, {"model.base_width": w}, series=name, level=w, seed=seed)
        for name, changes in optimizers.items()
        for w in widths
        for seed in seeds
    ]
    rates = (0.01, 0.05, 0.1) if scale == "cpu" else (0.01, 0.025, 0.05, 0.075, 0.1)
    found += [
        case(
            "resnet18",
            scale,
            _DENSE,
            _WATCHED,
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
            _DENSE,
            _WATCHED,
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
    text = str(RECIPES["resnet18"][scale][1].get("steps", "250ep"))
    return int(float(text.removesuffix("ep")) * 50_000 / 128)


def _fig10_points(case: Case, outcome: Outcome) -> list[Point]:
    looks = _dead_lines(outcome)
    if not looks:
        return []
    dead, width = sum(looks[-1]["dead"].values()), sum(looks[-1]["width"].values())
    y = 1 - dead / width if case.panel == 0 else float(dead)
    return [Point(case.panel, case.series, case.level, case.seed, case.level, y)]


def _fig10(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    ends = {name: line(means, 0, name)[1][[0, -1]] for name in names(means, 0)}
    why = "; ".join(f"{name}: live {a:.0%} narrow, {b:.0%} wide" for name, (a, b) in ends.items())
    claim = "The wider the network, the larger the part of its neurons that dies, with either optimizer."
    found.append(verdict(claim, "D.3", all(a > b for a, b in ends.values()), why, bool(ends)))
    for panel, series, what, sign in ((1, "Adam", "learning rate", 1), (2, "Adam - 0.05", "batch", -1)):
        _, y = line(means, panel, series)
        claim = f"A {'larger learning rate' if sign > 0 else 'smaller batch'} kills more neurons."
        tested = len(y) > 1
        why = f"dead by rising {what}: {', '.join(f'{v:.0f}' for v in y)}"
        found.append(verdict(claim, "D.1", tested and sign * (y[-1] - y[0]) > 0, why, tested))
    return found


FIG10 = Figure(
    "fig10",
    "dead neurons against width, learning rate and batch size",
    (
        Panel("", "First Layer Width", "Live Neurons Ratio"),
        Panel("", "Learning Rate", "Dead Neurons"),
        Panel("", "Batch Size", "Dead Neurons"),
    ),
    _fig10,
    _fig10_cases,
    _fig10_points,
)

# Figure 11: Adam's epsilon.


def _fig11_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    epsilons = (1e-10, 1e-8, 1e-6, 1e-4)
    rates = (0.005, 0.01) if scale != "cpu" else (0.01, 0.05)
    return [
        case(
            "resnet18",
            scale,
            _DENSE,
            _WATCHED,
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


def _fig11(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for series in names(means, 0):
        _, y = line(means, 0, series)
        claim = "The larger Adam's epsilon, the fewer neurons die."
        why = f"learning rate {series}: {y[0]:.1f}% dead at the smallest epsilon, {y[-1]:.1f}% at the largest"
        # Where nobody dies nothing can be told.
        found.append(verdict(claim, "E", y[-1] < y[0], why, len(y) > 1 and max(y) > 0))
    return found


FIG11 = Figure(
    "fig11",
    "neuron sparsity against Adam's epsilon",
    (Panel("Learning Rate", "Adam (epsilon)", "Neuron Sparsity (%)", log_x=True),),
    _fig11,
    _fig11_cases,
    _fig11_points,
)

# Figure 12: 512 examples, or all.


def _fig12_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    strength = {"cpu": 5e-3, "gpu": 5e-3, "paper": 1e-3}[scale]
    return [
        case(
            "resnet18",
            scale,
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


def _fig12(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        (_, some), (_, whole) = (line(means, panel, name) for name in ("512 examples", "Entire dataset"))
        tested = len(some) > 0
        apart = float(np.max(np.abs(some - whole))) if tested else float("nan")
        end = float(some[-1] - whole[-1]) if tested else float("nan")
        claim = "Whether a neuron is dead can be told by 512 examples."
        of = float(whole[-1]) if tested else 0.0
        why = f"{optimizer}: {end:+.0f} neurons at the end, of {of:.0f} dead; at most {apart:.0f} apart"
        found.append(verdict(claim, "F.3", tested and abs(end) <= max(0.02 * of, 1), why, tested))
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
    kinds: dict[str, dict[str, Any]] = {
        "DemP": {"method.strength": 0.0},
        "DemP + ReLU": {"method.strength": 0.0, "model.activation": "relu"},
        "Dense": _DENSE,
    }
    return [
        case("vit", scale, changes, _WATCHED, series=name, seed=seed)
        for name, changes in kinds.items()
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


_FIG17 = "Even in dense training 90% of the neurons of a ViT's MLPs die; those of the last layer come back."


def _fig17(means: Sequence[Mean]) -> list[Verdict]:
    return [verdict(_FIG17, "G.2", False, _lives(means), tested=False)]


def _fig17_at_size(means: Sequence[Mean]) -> list[Verdict]:
    ends = [line(means, panel, "Dense")[1] for panel in range(3)]
    tested = all(len(y) > 2 for y in ends)
    good = tested and ends[0][-1] < 0.2 * ends[0][0] and ends[2][-1] > 1.1 * ends[2].min()
    return [verdict(_FIG17, "G.2", good, _lives(means), tested)]


def _lives(means: Sequence[Mean]) -> str:
    ends = {panel: line(means, panel, "Dense")[1] for panel in range(3)}
    where = ("first", "middle", "last")
    return "; ".join(
        f"{where[p]} layer: {y[0]:.0f} live at first, {y[-1]:.0f} at last" for p, y in ends.items() if len(y)
    )


FIG17 = Figure(
    "fig17",
    "live neurons of a ViT's layers over training",
    tuple(Panel(f"Layer {name}", "Training Steps", "Live Neurons") for name in ("first", "middle", "last")),
    _fig17,
    _fig17_cases,
    _fig17_points,
    _fig17_at_size,
)


FIGURES = (FIG1, FIG2, FIG8, FIG10, FIG11, FIG12, FIG17)
