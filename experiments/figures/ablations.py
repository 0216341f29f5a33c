# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Parts of DemP taken away or made otherwise, figures 4 to 7 and 13, and how long it has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.figures.figure import Case, Figure, Mean
from experiments.figures.judging import Claim, Effect
from experiments.figures.lines import (
    DEMP,
    DENSE,
    STRUCTURED,
    by_weights,
    demp_cases,
    dense_cases,
    lead,
    led,
    other_cases,
    sparser,
    weights,
)
from experiments.figures.scales import AT_ONCE, OPTIMIZERS, case, strengths

NOISES = (0.0, 5e-5, 1e-4, 5e-4, 1e-3)
_AS_DEVIATION = "standard deviation 5e-05"


def _ablation(
    name: str,
    what: str,
    variants: Mapping[str, Mapping[str, Any]],
    judge: Any,
    at_paper: Mapping[str, Mapping[str, Any]] | None = None,
    grids: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    **more: Any,
) -> Figure:
    """Returns the figure of lines of DemP, by name with changes, beside dense training.

    At the paper's scale some are changed further; at that of a CPU some have strengths of their own, by optimizer.
    """

    def cases(scale: str, seeds: Sequence[int]) -> list[Case]:
        further = at_paper or {} if scale == "paper" else {}
        found = []
        for i, optimizer in enumerate(OPTIMIZERS):
            found += dense_cases("resnet18", scale, seeds, optimizer, i)
            for series, changes in variants.items():
                grid = (grids or {}).get(series, {}).get(optimizer) if scale == "cpu" else None
                changed = {**changes, **further.get(series, {})}
                found += demp_cases("resnet18", scale, seeds, optimizer, i, series, changed, grid)
        return found

    panels = tuple(weights(o) for o in OPTIMIZERS)
    return Figure(name, what, panels, judge, cases, by_weights, dense=DENSE, **more)


# A line of one schedule is as good as another to half a point.
_SLACK = 0.5


def _fig4(means: Sequence[Mean]) -> list[Claim]:
    others = [name for name in _SCHEDULES if name != "One Cycle"]
    return [
        Claim(
            f"With {optimizer}, a one-cycle schedule is a good default (none is above it by {_SLACK} points).",
            "4.2, F.4",
            led(means, panel, "One Cycle", others, above=-_SLACK),
        )
        for panel, optimizer in enumerate(OPTIMIZERS)
    ]


# The paper does not say how long its warmup is: here it is that of the one cycle.
_SCHEDULES: dict[str, dict[str, Any]] = {
    "Constant": {"method.strength_schedule": "constant", "method.strength_span": "100%"},
    "Cosine Decay": {"method.strength_schedule": "cosine_decay"},
    "One Cycle": {},
    "Warmup": {"method.strength_schedule": "warmup_hold", "method.strength_span": "15%"},
}


FIG4 = _ablation(
    "fig4",
    "schedules of the regularizer",
    _SCHEDULES,
    _fig4,
    # 30% of the one cycle's 85,000 steps.
    at_paper={"Warmup": {"method.strength_span": "25500"}},
)


def _fig5(means: Sequence[Mean]) -> list[Claim]:
    """The claims: of scales and weights with Adam, of both penalties with Adam, of all with SGDM."""
    value, over = lead(means, 0, ["L2(gamma)", "Lasso(gamma)"], ["L2", "Lasso"])
    best = Effect("the better of L2(gamma) and Lasso(gamma) minus that of L2 and Lasso", value, over=over)
    return [
        Claim("Regularizing the scales alone is better than all weights, with Adam.", "4.2, F.1", (best,)),
        Claim(
            "With Adam, L2 on the scales is slightly above the Lasso on them.",
            "4.2, F.1",
            led(means, 0, "L2(gamma)", ["Lasso(gamma)"]),
        ),
        Claim(
            "Regularizing the scales alone, by the Lasso, gives the best balance with SGDM.",
            "4.2, F.1",
            led(means, 1, "Lasso(gamma)", ["L2", "L2(gamma)", "Lasso"]),
        ),
    ]


FIG5 = _ablation(
    "fig5",
    "regularizers",
    {
        "L2": {"method.regularizer": "l2", "method.penalised": "all"},
        "L2(gamma)": {"method.regularizer": "l2"},
        "Lasso": {"method.penalised": "all"},
        "Lasso(gamma)": {},
    },
    _fig5,
    grids={
        # A penalty that acts on all weights, or that fades as a scale gets small, needs other strengths.
        "L2": {"Adam": (0.01, 0.03, 0.1, 0.3), "SGDM": (0.01, 0.02, 0.04, 0.08)},
        "L2(gamma)": {"Adam": (0.005, 0.01, 0.02, 0.04), "SGDM": (0.02, 0.05, 0.1, 0.2)},
        "Lasso": {"Adam": (5e-4, 1e-3, 2e-3, 4e-3), "SGDM": (2e-4, 5e-4, 1e-3, 2e-3)},
    },
)


def _fig6_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    found = [
        each
        for variance in NOISES
        for each in demp_cases("resnet18", scale, seeds, "SGDM", 0, f"{variance:g}", {"method.noise": variance})
    ]
    found += dense_cases("resnet18", scale, seeds, "SGDM", 0)
    if scale == "cpu":
        # The released code takes 5e-5 as the standard deviation.
        found += demp_cases("resnet18", scale, seeds, "SGDM", 0, _AS_DEVIATION, {"method.noise": 2.5e-9})
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


def _fig6(means: Sequence[Mean]) -> list[Claim]:
    others = [f"{variance:g}" for variance in NOISES if variance != 5e-5]
    more = Effect("weight sparsity at equal lambda, noise minus none", sparser(means, 1, "5e-05", "0"), above=1.0)
    value, over = lead(means, 1, ["5e-05"], ["0"], 0.0)
    apart = Effect("accuracy at equal sparsity, noise minus none", value, above=-1.0, over=over)
    return [
        Claim("A little noise (variance 5e-5) gives the best balance.", "4.2, F.6", led(means, 0, "5e-05", others)),
        Claim(
            "On a ResNet-50 noise adds much sparsity without affecting accuracy (more than 1 point, to 1 point).",
            "F.6",
            (more, apart),
        ),
    ]


FIG6 = Figure(
    "fig6",
    "variance of the noise, with the regularizer",
    (weights("ResNet-18, SGDM"), weights("ResNet-50")),
    _fig6,
    _fig6_cases,
    by_weights,
    marked=True,
    dense=DENSE,
)


def _fig7(means: Sequence[Mean]) -> list[Claim]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        value, over = lead(means, panel, ["True"], ["False"])
        effect = Effect("accuracy at equal weight sparsity, on minus off", value, above=-1.0, over=over)
        claim = f"With {optimizer}, cutting while training, instead of at the end, costs no accuracy (to 1 point)."
        found.append(Claim(claim, "F.2", (effect,)))
        more = sparser(means, panel, "True", "False")
        what = "weight sparsity at equal lambda, on minus off"
        if optimizer == "SGDM":
            found.append(Claim("With SGDM, it prunes more.", "F.2", (Effect(what, more),)))
        else:
            claim = "With Adam, it prunes as much (to 2 points)."
            found.append(Claim(claim, "F.2", (Effect(what, more, within=2.0),)))
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
    # Beside them the regularizer, of which the paper has figure 3.
    for panel, optimizer in enumerate(OPTIMIZERS):
        found += dense_cases("resnet18", scale, seeds, optimizer, panel)
        found += demp_cases("resnet18", scale, seeds, optimizer, panel, DEMP, AT_ONCE)
    return found


def _fig13(means: Sequence[Mean]) -> list[Claim]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        value, over = lead(means, panel, ["asymmetric"], ["symmetric"], 5.0)
        effect = Effect("noise on live weights alone minus noise on all", value, within=1.5, over=over)
        claim = f"With {optimizer}, it makes no difference whether dead neurons get noise, too (to 1.5 points)."
        found.append(Claim(claim, "F.6", (effect,)))
        most = max((m.x for m in means if m.panel == panel and m.series == "asymmetric"), default=math.nan)
        claim = f"With {optimizer}, noise alone, without a regularizer, prunes (more than 5% of the weights)."
        found.append(Claim(claim, "F.6", (Effect("weights cut at the best variance", most, above=5.0, unit="%"),)))
        value, over = lead(means, panel, [DEMP], ["asymmetric"], 5.0)
        effect = Effect("the regularizer minus noise", value, over=over)
        found.append(Claim(f"With {optimizer}, its trade-off is worse than that of a regularizer.", "F.6", (effect,)))
    return found


FIG13 = Figure(
    "fig13",
    "noise without a regularizer, asymmetric and symmetric",
    tuple(weights(o) for o in OPTIMIZERS),
    _fig13,
    _fig13_cases,
    by_weights,
    dense=DENSE,
)


# Not of the paper: does DemP gain on the early methods with the length of training? The paper's own is 250 epochs.
_LENGTHS = {"cpu": (12, 30, 60), "gpu": (20, 60, 120), "paper": (250, 500)}
# By length of a CPU's runs, strengths that are to leave about a fifth and a tenth of the weights. In 12 epochs 0.004
# left 37%.
_LENGTH_STRENGTHS = {12: (1e-2, 2.5e-2), 30: (5e-3, 1.2e-2), 60: (3e-3, 7e-3)}
_EARLY = {name: method for name, method in STRUCTURED.items() if method.startswith("early")}


def _length_cases(scale: str, seeds: Sequence[int]) -> list[Case]:
    found = []
    for panel, epochs in enumerate(_LENGTHS[scale]):
        changes: dict[str, Any] = {"steps": f"{epochs}ep"}
        if scale == "paper":
            # The recipe's steps of the learning rate and the regularizer's span, in proportion.
            span = str(340 * epochs)
            changes |= {
                "optimizer.step_every": f"{77 * epochs // 250}ep",
                "method.strength_span": span,
                "method.noise_span": span,
            }
        grid = _LENGTH_STRENGTHS[epochs] if scale == "cpu" else strengths("resnet18", "Adam", scale)[-2:]
        found += dense_cases("resnet18", scale, seeds, "Adam", panel, changes)
        found += demp_cases("resnet18", scale, seeds, "Adam", panel, DEMP, changes, grid)
        found += other_cases("resnet18", scale, seeds, "Adam", panel, _EARLY, "ranking.sparsity", (0.5, 0.62), changes)
    return found


def _length(means: Sequence[Mean]) -> list[Claim]:
    panels = sorted({m.panel for m in means}) or [0, 1]
    leads = {panel: lead(means, panel, [DEMP], list(_EARLY)) for panel in panels}
    # With runs of one length alone nothing is told of length.
    short = leads[panels[0]]
    long = leads[panels[-1]] if len(panels) > 1 else (math.nan, None)
    gain = Effect("lead of DemP over the better early method, the longest minus the shortest", long[0] - short[0])
    behind = Effect("lead of DemP over the better early method in the longest", long[0], over=long[1])
    return [
        Claim("The longer the training, the better DemP stands beside the early methods, with Adam.", _BEYOND, (gain,)),
        Claim("In the longest training DemP is above them.", _BEYOND, (behind,)),
    ]


_BEYOND = "beyond the paper"
LENGTH = Figure(
    "length",
    "not in the paper: DemP and the early methods in training of several lengths, ResNet-18, Adam",
    tuple(weights(name) for name in ("short", "longer", "longest")),
    _length,
    _length_cases,
    by_weights,
    dense=DENSE,
    columns=3,
)


# Not of the paper: units whose value is constant, and not zero, are folded into what reads them.
_FOLDS = {"as in the paper": {}, "constants folded": {"pruning.constant": 0.1, "pruning.tolerance": 100.0}}


def _folding(means: Sequence[Mean]) -> list[Claim]:
    found = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        value, over = lead(means, panel, ["constants folded"], ["as in the paper"])
        effect = Effect("folded minus not, at equal weight sparsity", value, above=0.0, over=over)
        found.append(Claim(f"With {optimizer}, folding constants gives a better balance.", _BEYOND, (effect,)))
        more = sparser(means, panel, "constants folded", "as in the paper")
        effect = Effect("weight sparsity at equal lambda, folded minus not", more, above=1.0)
        found.append(Claim(f"With {optimizer}, it prunes more (1 point).", _BEYOND, (effect,)))
    return found


FOLDING = _ablation(
    "folding",
    "not in the paper: constant units folded into what reads them, and left, ResNet-18",
    _FOLDS,
    _folding,
)
FIGURES = (FIG4, FIG5, FIG6, FIG7, FIG13, LENGTH, FOLDING)
