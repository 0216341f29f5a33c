# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Accuracy against sparsity: figures 3 to 7, 13 to 16, and how much faster training is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.figures.figure import Case, Figure, Mean, Panel, Point, Verdict, at, line, number, verdict
from experiments.figures.scales import AT_ONCE, NEURON_SPARSITIES, OPTIMIZERS, WEIGHT_SPARSITIES, case, strengths
from experiments.sweep import Outcome

DEMP = "DemP-Lasso(gamma)"
STRUCTURED = {"CroPit-S": "crop", "EarlyCroP-S": "earlycrop", "EarlySNAP": "earlysnap", "SNAP": "snap"}
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
# Weight sparsity in percent from which on lines are compared: the paper's axes begin at 50 to 75.
FLOOR = 50.0
NOISES = (0.0, 5e-5, 1e-4, 5e-4, 1e-3)
_TOO_SHORT = (
    "at the short scales the regulariser is at work for a few hundred steps, in which few scales come to zero unless "
    "it is strong enough to cost accuracy. `python -m experiments.reproduce length` tries training twice as long."
)


def _weights(title: str) -> Panel:
    return Panel(title, "Weight Sparsity (%)", "Test Accuracy (%)")


def _demp(
    network: str, scale: str, seeds: Sequence[int], optimizer: str, panel: int, series: str, changes: Mapping[str, Any]
) -> list[Case]:
    return [
        case(
            network,
            scale,
            OPTIMIZERS[optimizer],
            {"method.strength": strength},
            dict(changes),
            panel=panel,
            series=series,
            level=strength,
            seed=seed,
        )
        for strength in strengths(network, optimizer, scale)
        for seed in seeds
    ]


def _others(
    network: str,
    scale: str,
    seeds: Sequence[int],
    optimizer: str,
    panel: int,
    methods: Mapping[str, str],
    field: str,
    levels: Sequence[float],
    changes: Mapping[str, Any],
) -> list[Case]:
    return [
        case(
            network,
            scale,
            OPTIMIZERS[optimizer],
            {"method.name": method, "method.strength": 0.0, "method.noise": 0.0, field: level},
            dict(changes),
            panel=panel,
            series=series,
            level=level,
            seed=seed,
        )
        for series, method in methods.items()
        for level in levels
        for seed in seeds
    ]


def by_weights(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against weight sparsity."""
    assert outcome.summary is not None
    x, y = number(outcome.summary, "weight_sparsity", "test_accuracy")
    return [Point(case.panel, case.series, case.level, case.seed, x, y)]


def _by_both(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against neuron sparsity on the left, against weight sparsity on the right."""
    [right] = by_weights(case, outcome)
    assert outcome.summary is not None
    x, y = number(outcome.summary, "neuron_sparsity", "test_accuracy")
    return [
        dataclasses.replace(right, x=x, y=y, panel=2 * case.panel),
        dataclasses.replace(right, panel=2 * case.panel + 1),
    ]


def _shared(ranges: Sequence[np.ndarray], floor: float) -> np.ndarray:
    """Returns 20 places, evenly over the range that lines share from a floor on; none where they share none."""
    if not all(len(xs) for xs in ranges):
        return np.array([])
    low, high = max(floor, *(xs[0] for xs in ranges)), min(xs[-1] for xs in ranges)
    return np.linspace(low, high, 20) if high >= low else np.array([])


def lead(
    means: Sequence[Mean], panel: int, ours: str, theirs: Sequence[str], floor: float = FLOOR
) -> tuple[float, float, float]:
    """Returns the mean lead of a line over the best of others in the upper third of the range that they share.

    That is from where ours and one of the others, to where ours and half of the others have points.

    Returns:
      The lead in points, and from where to where it was taken; NaN where they share no range.
    """
    ranges = {name: line(means, panel, name)[0] for name in (ours, *theirs)}
    there = [name for name in theirs if len(ranges[name])]
    if not there or not len(ranges[ours]):
        return float("nan"), float("nan"), float("nan")
    low = max(ranges[ours][0], min(ranges[name][0] for name in there), floor)
    ends = sorted((ranges[name][-1] for name in there), reverse=True)
    high = min(ranges[ours][-1], ends[(len(ends) - 1) // 2])
    if high < low:
        return float("nan"), low, high
    leads = []
    for x in np.linspace(high - (high - low) / 3, high, 20):
        others = [height for name in there if np.isfinite(height := at(means, panel, name, x))]
        if 2 * len(others) >= len(there):
            leads.append(at(means, panel, ours, x) - max(others))
    return float(np.mean(leads)) if leads else float("nan"), high - (high - low) / 3, high


def mean_gap(means: Sequence[Mean], panel: int, ours: str, theirs: str, floor: float = FLOOR) -> float:
    """Returns the mean lead of a line over another, in points, over the range that they share from a floor on."""
    xs = _shared([line(means, panel, name)[0] for name in (ours, theirs)], floor)
    return (
        float(np.mean([at(means, panel, ours, x) - at(means, panel, theirs, x) for x in xs])) if len(xs) else math.nan
    )


def _gaps(means: Sequence[Mean], panel: int, ours: str, theirs: Sequence[str]) -> tuple[list[float], str]:
    """Returns the leads of a line over others, and in words; over one that it shares no range with it has none."""
    leads = {name: mean_gap(means, panel, ours, name) for name in theirs}
    known = {name: gap for name, gap in leads.items() if math.isfinite(gap)}
    words = [f"mean lead over {', '.join(f'{name} {gap:+.1f}' for name, gap in known.items())} points"] if known else []
    for name in (*(() if known else (ours,)), *(name for name in theirs if name not in known)):
        xs, _ = line(means, panel, name)
        where = f"goes from {xs[0]:.0f}% to {xs[-1]:.0f}%" if len(xs) else "has no runs"
        words.append(f"{name} {where}")
    return list(known.values()), "; ".join(words) if any(len(line(means, panel, name)[0]) for name in theirs) else ""


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
            found += _others(*options, STRUCTURED, "ranking.sparsity", levels, changes)
            found += _demp(*options, DEMP, changes)
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
                gaps, why = _gaps(means, 3, DEMP, list(STRUCTURED))
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
    panels = [p for o in OPTIMIZERS for p in (Panel(o, neurons, "Test Accuracy (%)"), _weights(o))]
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
    _TOO_SHORT,
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


def _ablation(name: str, what: str, variants: Mapping[str, Mapping[str, Any]], judge: Any, **more: Any) -> Figure:
    def cases(scale: str, seeds: Sequence[int]) -> list[Case]:
        return [
            each
            for i, optimizer in enumerate(OPTIMIZERS)
            for series, changes in variants.items()
            for each in _demp("resnet18", scale, seeds, optimizer, i, series, changes)
        ]

    return Figure(name, what, tuple(_weights(o) for o in OPTIMIZERS), judge, cases, by_weights, **more)


def _best(means: Sequence[Mean], panel: int, claim: str, section: str, ours: str, theirs: Sequence[str]) -> Verdict:
    """Returns the verdict that no other line is above ours where they are compared."""
    gaps, why = _gaps(means, panel, ours, theirs)
    return verdict(claim, section, min(gaps, default=math.nan), f"{ours}: {why}" if why else "")


# A line of one schedule is as good as another to half a point.
_SLACK = 0.5


def _fig4(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        gaps, why = _gaps(means, panel, "One Cycle", [name for name in _SCHEDULES if name != "One Cycle"])
        claim = f"With {optimizer}, a one-cycle schedule is a good default (none is above it by {_SLACK} points)."
        margin = min(gaps, default=math.nan) + _SLACK
        found.append(verdict(claim, "4.2, F.4", margin, f"One Cycle: {why}" if why else ""))
    return found


# The paper does not say how long its warmup is: here it is that of the one cycle.
_SCHEDULES: dict[str, dict[str, Any]] = {
    "Constant": {"method.strength_schedule": "constant", "method.strength_span": "100%"},
    "Cosine Decay": {"method.strength_schedule": "cosine_decay"},
    "One Cycle": {},
    "Warmup": {"method.strength_schedule": "warmup_hold", "method.strength_span": "15%"},
}


def _fig4_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    # 30% of the one cycle's span, which is 85,000 steps of the paper's recipe.
    schedules = _SCHEDULES if scale != "paper" else _SCHEDULES | {"Warmup": {**_SCHEDULES["Warmup"], **_WARMUP}}
    return [
        each
        for i, optimizer in enumerate(OPTIMIZERS)
        for series, changes in schedules.items()
        for each in _demp("resnet18", scale, seeds, optimizer, i, series, changes)
    ]


_WARMUP: dict[str, Any] = {"method.strength_span": "25500"}
FIG4 = Figure(
    "fig4",
    "schedules of the regulariser",
    tuple(_weights(o) for o in OPTIMIZERS),
    _fig4,
    _fig4_cases,
    by_weights,
)


def _fig5(means: Sequence[Mean]) -> list[Verdict]:
    """The claims: of scales and weights with Adam, of both penalties with Adam, of all with SGDM."""
    claim = "Regularising the scales alone is better than all weights, with Adam."
    groups = [[line(means, 0, name + end)[0] for name in ("L2", "Lasso")] for end in ("(gamma)", "")]
    ends = [max((xs[-1] for xs in group if len(xs)), default=-math.inf) for group in groups]
    gaps = []
    # By the better of each pair, where it has one.
    for x in np.linspace(FLOOR, min(ends), 20) if min(ends) >= FLOOR else []:
        best = [
            [y for name in ("L2", "Lasso") if np.isfinite(y := at(means, 0, name + end, x))] for end in ("(gamma)", "")
        ]
        if all(best):
            gaps.append(max(best[0]) - max(best[1]))
    mean = float(np.mean(gaps)) if gaps else math.nan
    why = f"mean lead of the better of L2(gamma), Lasso(gamma) over that of L2, Lasso {mean:+.1f} points"
    alone = verdict(claim, "4.2, F.1", mean, why)
    claim = "With Adam, L2 on the scales is slightly above the Lasso on them."
    return [
        alone,
        _best(means, 0, claim, "4.2, F.1", "L2(gamma)", ["Lasso(gamma)"]),
        _best(
            means,
            1,
            "Regularising the scales alone, by the Lasso, gives the best balance with SGDM.",
            "4.2, F.1",
            "Lasso(gamma)",
            ["L2", "L2(gamma)", "Lasso"],
        ),
    ]


FIG5 = _ablation(
    "fig5",
    "regularisers",
    {
        "L2": {"method.regularizer": "l2", "method.penalised": "all"},
        "L2(gamma)": {"method.regularizer": "l2"},
        "Lasso": {"method.penalised": "all"},
        "Lasso(gamma)": {},
    },
    _fig5,
    doubts=_TOO_SHORT,
)


def _fig6_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    found = [
        each
        for variance in NOISES
        for each in _demp("resnet18", scale, seeds, "SGDM", 0, f"{variance:g}", {"method.noise": variance})
    ]
    if scale == "cpu":
        return found  # A few steps of a ResNet-50 on a few images would show nothing.
    return found + [
        case(
            "resnet50",
            scale,
            {"method.strength": strength, "method.noise": variance},
            panel=1,
            series=f"{variance:g}",
            level=strength,
            seed=seed,
        )
        for variance in NOISES[:2]
        for strength in (1e-4, 5e-4, 1e-3)
        for seed in seeds
    ]


def _fig6(means: Sequence[Mean]) -> list[Verdict]:
    gaps, why = _gaps(means, 0, "5e-05", [f"{variance:g}" for variance in NOISES if variance != 5e-5])
    claim = "A little noise (variance 5e-5) gives the best balance."
    found = [verdict(claim, "4.2, F.6", min(gaps, default=math.nan), f"SGDM: 5e-05: {why}" if why else "")]
    sparser = {(m.series, m.level): m.x for m in means if m.panel == 1}
    more = [
        sparser["5e-05", level] - x
        for (series, level), x in sparser.items()
        if series == "0" and ("5e-05", level) in sparser
    ]
    mean = float(np.mean(more)) if more else math.nan
    apart = mean_gap(means, 1, "5e-05", "0", 0.0)
    claim = "On a ResNet-50 noise adds much sparsity without affecting accuracy (more than 1 point, to 1 point)."
    why = f"{mean:+.1f} points of weight sparsity at equal lambda, {apart:+.1f} of accuracy at equal sparsity"
    return [*found, verdict(claim, "F.6", float(np.min([mean - 1, apart + 1])), why)]


FIG6 = Figure(
    "fig6",
    "variance of the noise, with the regulariser",
    (_weights("ResNet-18, SGDM"), _weights("ResNet-50")),
    _fig6,
    _fig6_cases,
    by_weights,
    marked=True,
    doubts=_TOO_SHORT,
)


def _fig7(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        apart = mean_gap(means, panel, "True", "False")
        claim = f"With {optimizer}, cutting while training, instead of at the end, costs no accuracy (to 1 point)."
        why = f"mean difference at equal weight sparsity {apart:+.2f} points"
        found.append(verdict(claim, "F.2", apart + 1, why))
        ends = {(m.series, m.level): m.x for m in means if m.panel == panel}
        more = [
            ends["True", level] - ends["False", level]
            for series, level in ends
            if series == "True" and ("False", level) in ends
        ]
        mean = float(np.mean(more)) if more else math.nan
        why = f"mean difference of the weight sparsity at equal lambda {mean:+.1f} points"
        if optimizer == "SGDM":
            found.append(verdict("With SGDM, it prunes more.", "F.2", mean, why))
        else:
            found.append(verdict("With Adam, it prunes as much (to 2 points).", "F.2", 2 - abs(mean), why))
    return found


FIG7 = _ablation(
    "fig7",
    "dynamic pruning on and off",
    {"True": AT_ONCE, "False": {"pruning.dynamic": False}},
    _fig7,
    marked=True,
)


def _fig13_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    variances = (1e-5, 5e-5, 2e-4, 1e-3) if scale != "paper" else (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3)
    found = [
        case(
            "resnet18",
            scale,
            OPTIMIZERS[optimizer],
            # Who is dead must be gone before noise on the dead could revive it.
            {"method.strength": 0.0, "method.noise": variance, "method.noise_asymmetric": asymmetric, **AT_ONCE},
            panel=panel,
            series="asymmetric" if asymmetric else "symmetric",
            level=variance,
            seed=seed,
        )
        for panel, optimizer in enumerate(OPTIMIZERS)
        for asymmetric in (True, False)
        for variance in variances
        for seed in seeds
    ]
    # Beside them the regulariser, of which the paper has figure 3.
    for panel, optimizer in enumerate(OPTIMIZERS):
        found += _demp("resnet18", scale, seeds, optimizer, panel, DEMP, AT_ONCE)
    return found


def _fig13(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        apart = mean_gap(means, panel, "asymmetric", "symmetric", 0.0)
        claim = f"With {optimizer}, it makes no difference whether dead neurons get noise, too (to 1.5 points)."
        why = f"mean difference at equal weight sparsity {apart:+.1f} points"
        found.append(verdict(claim, "F.6", 1.5 - abs(apart), why))
        noisy = [m.x for m in means if m.panel == panel and m.series == "asymmetric"]
        most = max(noisy, default=math.nan)
        claim = f"With {optimizer}, noise alone, without a regulariser, prunes (more than 5% of the weights)."
        found.append(verdict(claim, "F.6", most - 5, f"up to {most:.1f}% of the weights"))
        apart = mean_gap(means, panel, "asymmetric", DEMP, 5.0)
        claim = f"With {optimizer}, its trade-off is worse than that of a regulariser."
        why = f"mean difference at equal weight sparsity {apart:+.1f} points"
        found.append(verdict(claim, "F.6", -apart, why))
    return found


FIG13 = Figure(
    "fig13",
    "noise without a regulariser, asymmetric and symmetric",
    tuple(_weights(o) for o in OPTIMIZERS),
    _fig13,
    _fig13_cases,
    by_weights,
)


def _fig16_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    found = []
    for i, optimizer in enumerate(OPTIMIZERS):
        options = ("resnet18", scale, seeds, optimizer, i)
        found += _others(*options, UNSTRUCTURED, "masking.sparsity", WEIGHT_SPARSITIES[scale], _MASKING)
        found += _demp(*options, DEMP, {})
    return found


def _fig16(means: Sequence[Mean]) -> list[Verdict]:
    gaps, why = _gaps(means, 0, DEMP, list(UNSTRUCTURED))
    claim = "With Adam, DemP is more effective than the unstructured methods at their base configuration."
    found = [verdict(claim, "G.1", min(gaps, default=math.nan), why)]
    gaps, why = _gaps(means, 1, DEMP, list(UNSTRUCTURED))
    claim = "With SGDM, DemP performs similarly to them (to 1 point)."
    return [*found, verdict(claim, "G.1", 1 - max(map(abs, gaps), default=math.nan), why)]


FIG16 = Figure(
    "fig16",
    "DemP against unstructured methods, ResNet-18",
    tuple(_weights(o) for o in OPTIMIZERS),
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
        found += _demp(network, scale, seeds, "Adam", panel, "DemP", {})
    return found


def _seconds(case: Case, outcome: Outcome) -> list[Point]:
    """Returns accuracy against the seconds of training: those of steps, of waiting for data and for cuts."""
    assert outcome.summary is not None
    seconds = sum(outcome.summary[f"seconds_{part}"] for part in ("steps", "data", "cuts"))
    return [Point(case.panel, case.series, case.level, case.seed, seconds, 100 * outcome.summary["test_accuracy"])]


_SPEEDUPS = {"ResNet-18": 2.45, "VGG-16": 3.56}
_FASTER = "{} trains faster with DemP at the highest sparsity that keeps the accuracy (to 1 point)."


def _speed(means: Sequence[Mean]) -> list[Verdict]:
    found = []
    for panel, (network, paper) in enumerate(_SPEEDUPS.items()):
        dense = next((m for m in means if (m.panel, m.series) == (panel, "Dense")), None)
        ours = [m for m in means if (m.panel, m.series) == (panel, "DemP")]
        claim = _FASTER.format(network)
        if dense is None or not ours:
            found.append(verdict(claim, "4.1", math.nan, ""))
            continue
        # The stronger the regulariser, the sparser.
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
    doubts="a narrow ResNet-18 on a CPU takes hardly less time when it is smaller (benchmarks/README.md), and in a run "
    "of two minutes a sixth of the time is waiting for smaller steps to be compiled; other work ran beside these runs.",
)

# Not of the paper: whether its statements fare better in training that is twice as long. The paper's own is far longer
# than what the other scales can afford.
_LONGER: dict[str, dict[str, Any]] = {
    "cpu": {"steps": "6ep"},
    "gpu": {"steps": "40ep"},
    "paper": {
        "steps": "500ep",
        "optimizer.step_every": "154ep",
        "method.strength_span": "170000",
        "method.noise_span": "170000",
    },
}
# The paper's variance, and the variance where its 5e-5 is a standard deviation, as in the released code.
_AS_VARIANCE, _AS_DEVIATION = "DemP, noise of variance 5e-5", "DemP, noise of deviation 5e-5"


def _length_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    upper = strengths("resnet18", "SGDM", scale)[-2:]
    # Between the upper two of a CPU's, where the other methods are: else they would be compared with a chord.
    more = (8e-3,) if scale == "cpu" else ()
    variants: dict[str, tuple[Sequence[float], dict[str, Any]]] = {
        DEMP: ((*strengths("resnet18", "SGDM", scale)[-3:], *more), {"method.noise": 0.0}),
        _AS_VARIANCE: (upper, {"method.noise": 5e-5}),
        _AS_DEVIATION: (upper, {"method.noise": 2.5e-9}),
        "L2": (upper[-1:], {"method.regularizer": "l2", "method.penalised": "all", "method.noise": 0.0}),
        "L2(gamma)": (upper[-1:], {"method.regularizer": "l2", "method.noise": 0.0}),
    }
    found = []
    lengths: tuple[dict[str, Any], ...] = ({}, _LONGER[scale])
    for panel, length in enumerate(lengths):
        for series, (levels, changes) in variants.items():
            found += [
                case(
                    "resnet18",
                    scale,
                    OPTIMIZERS["SGDM"],
                    {"method.strength": level},
                    changes,
                    length,
                    panel=panel,
                    series=series,
                    level=level,
                    seed=seed,
                )
                for level in levels
                for seed in seeds
            ]
        found += _others("resnet18", scale, seeds, "SGDM", panel, STRUCTURED, "ranking.sparsity", (0.4,), length)
    return found


def _length(means: Sequence[Mean]) -> list[Verdict]:
    def leads(ours: str, theirs: Sequence[str]) -> list[float]:
        """The least lead over others, in either panel."""
        return [min(_gaps(means, panel, ours, theirs)[0], default=math.nan) for panel in (0, 1)]

    def dead(series: str) -> list[float]:
        return [max((m.x for m in means if (m.panel, m.series) == (p, series)), default=math.nan) for p in (0, 1)]

    def risen(claim: str, what: str, pair: Sequence[float], unit: str) -> Verdict:
        short, long = pair
        why = f"{what} {short:+.1f} {unit} in the shorter runs, {long:+.1f} in the longer"
        return verdict(claim, _BEYOND, long - short, why)

    deviation = leads(_AS_DEVIATION, [DEMP])
    why = "mean lead over no noise " + ", ".join(f"{gap:+.1f}" for gap in deviation) + " points"
    return [
        risen(
            "The longer the training, the better DemP stands beside the structured methods, with SGDM.",
            "mean lead over the best of them",
            leads(DEMP, list(STRUCTURED)),
            "points",
        ),
        risen(
            "The longer the training, the less noise costs.",
            "mean lead over no noise",
            leads(_AS_VARIANCE, [DEMP]),
            "points",
        ),
        verdict(
            "Where the paper's 5e-5 is the noise's standard deviation, noise costs nothing (to 1 point).",
            _BEYOND,
            float(np.min(deviation)) + 1,
            why,
        ),
        risen("The longer the training, the more L2 prunes with SGDM.", "weights cut", dead("L2"), "%"),
        risen("The longer the training, the more L2(gamma) prunes with SGDM.", "weights cut", dead("L2(gamma)"), "%"),
    ]


_BEYOND = "beyond the paper"
LENGTH = Figure(
    "length",
    "not in the paper: its statements on SGDM in short training and in twice as long, ResNet-18",
    (_weights("shorter"), _weights("longer")),
    _length,
    _length_cases,
    by_weights,
)
FIGURES = (FIG3, FIG4, FIG5, FIG6, FIG7, FIG13, FIG14, FIG15, FIG16, SPEED, LENGTH)
