# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP with a part removed or replaced, figures 4 to 7 and 13, and with longer training or folded constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.figures.figure import Case, Figure, Mean
from experiments.figures.judging import Claim, Effect
from experiments.figures.lines import (
    DEMP,
    DENSE,
    STRUCTURED,
    Setting,
    by_optimizer,
    by_weights,
    lead_of,
    leads,
    sparser,
    weights,
)
from experiments.figures.scales import AT_END, AT_ONCE, OPTIMIZERS, REGULARIZERS, STRENGTHS, VARIANCES, Changes, grid


def _ablation(
    name: str,
    what: str,
    variants: Mapping[str, Changes],
    judge: Callable[[Sequence[Mean]], list[Claim]],
    at_paper: Mapping[str, Changes] | None = None,
    at_cpu: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    **more: Any,
) -> Figure:
    """Returns a figure of variants of DemP and dense training for ResNet-18, with one panel per optimizer.

    `variants` has the config options of each line. `at_paper` has further options of a line at the paper's scale.
    `at_cpu` has its strengths by optimizer at the scale of a CPU, instead of the network's.
    """

    def cases(scale: str) -> list[Case]:
        found = []
        for here in by_optimizer("resnet18", scale):
            found += here.dense()
            for series, changes in variants.items():
                levels = (at_cpu or {}).get(series, {}).get(here.optimizer) if scale == "cpu" else None
                further = (at_paper or {}).get(series, {}) if scale == "paper" else {}
                found += here.demp({series: {**changes, **further}}, levels)
        return found

    panels = tuple(weights(optimizer) for optimizer in OPTIMIZERS)
    return Figure(name, what, panels, judge, cases, by_weights, dense=DENSE, **more)


# Schedules count as equally good if their accuracies differ by less, in points.
_SLACK = 0.5


def _fig4(means: Sequence[Mean]) -> list[Claim]:
    others = [name for name in _SCHEDULES if name != "One Cycle"]
    text = f"a one-cycle schedule is a good default (no other is more accurate by {_SLACK} points)"
    return [
        Claim(f"With {optimizer}, {text}.", "4.2, F.4", leads(means, panel, "One Cycle", others, above=-_SLACK))
        for panel, optimizer in enumerate(OPTIMIZERS)
    ]


# The paper does not give the length of its warmup; this is the one cycle's.
_SCHEDULES: dict[str, Changes] = {
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
    what = "the better of L2(gamma) and Lasso(gamma) minus that of L2 and Lasso"
    best = lead_of(what, means, 0, ["L2(gamma)", "Lasso(gamma)"], ["L2", "Lasso"])
    penalties = leads(means, 0, "L2(gamma)", ["Lasso(gamma)"])
    sgdm = leads(means, 1, "Lasso(gamma)", ["L2", "L2(gamma)", "Lasso"])
    section = "4.2, F.1"
    return [
        Claim("With Adam, regularizing only the scales is better than regularizing all weights.", section, (best,)),
        Claim("With Adam, L2 on the scales is slightly better than Lasso on the scales.", section, penalties),
        Claim("With SGDM, Lasso on the scales gives the best trade-off.", section, sgdm),
    ]


FIG5 = _ablation(
    "fig5",
    "regularizers",
    REGULARIZERS,
    _fig5,
    at_cpu={
        # A penalty on all weights, or one whose gradient vanishes with the scale, needs other strengths.
        "L2": {"Adam": (0.01, 0.03, 0.1, 0.3), "SGDM": (0.01, 0.02, 0.04, 0.08)},
        "L2(gamma)": {"Adam": (0.005, 0.01, 0.02, 0.04), "SGDM": (0.02, 0.05, 0.1, 0.2)},
        "Lasso": {"Adam": (5e-4, 1e-3, 2e-3, 4e-3), "SGDM": (2e-4, 5e-4, 1e-3, 2e-3)},
    },
)


def _fig6_cases(scale: str) -> list[Case]:
    lines = {f"{variance:g}": {"method.noise": variance} for variance in VARIANCES}
    here = Setting("resnet18", scale, "SGDM")
    found = here.demp(lines) + here.dense()
    if scale == "cpu":
        # The released code uses 5e-5 as the standard deviation. A few steps of a ResNet-50 would show nothing.
        return found + here.demp({"standard deviation 5e-05": {"method.noise": 2.5e-9}})
    two = {name: lines[name] for name in ("0", "5e-05")}
    return found + grid("resnet50", scale, two, field="method.strength", levels=(1e-4, 5e-4, 1e-3), panel=1)


def _fig6(means: Sequence[Mean]) -> list[Claim]:
    others = [f"{variance:g}" for variance in VARIANCES if variance != 5e-5]
    more = Effect("weight sparsity at equal lambda, noise minus none", sparser(means, 1, "5e-05", "0"), above=1.0)
    apart = lead_of("accuracy at equal sparsity, noise minus none", means, 1, ["5e-05"], ["0"], 0.0, above=-1.0)
    text = "On a ResNet-50 noise adds sparsity (more than 1 point) and costs no accuracy (less than 1 point)."
    return [
        Claim("A little noise (variance 5e-5) gives the best trade-off.", "4.2, F.6", leads(means, 0, "5e-05", others)),
        Claim(text, "F.6", (more, apart)),
    ]


FIG6 = Figure(
    "fig6",
    "variance of the noise, with the regularizer",
    (weights("ResNet-18, SGDM"), weights("ResNet-50")),
    _fig6,
    _fig6_cases,
    by_weights,
    marked=True,
    look=lambda series: (series if " " in series else f"variance {series}", ""),
    dense=DENSE,
)


def _fig7(means: Sequence[Mean]) -> list[Claim]:
    claims = []
    bounds: dict[str, tuple[str, dict[str, Any]]] = {
        "Adam": ("as much (within 2 points)", {"within": 2.0}),
        "SGDM": ("more", {"above": 0.0}),
    }
    for panel, (optimizer, (words, bound)) in enumerate(bounds.items()):
        what = "accuracy at equal weight sparsity, on minus off"
        effect = lead_of(what, means, panel, ["True"], ["False"], above=-1.0)
        text = f"With {optimizer}, pruning during training, not at the end, costs no accuracy (less than 1 point)."
        claims.append(Claim(text, "F.2", (effect,)))
        effect = Effect(
            "weight sparsity at equal lambda, on minus off", sparser(means, panel, "True", "False"), **bound
        )
        claims.append(Claim(f"With {optimizer}, dynamic pruning prunes {words}.", "F.2", (effect,)))
    return claims


FIG7 = _ablation(
    "fig7",
    "dynamic pruning on and off",
    {"True": AT_ONCE, "False": AT_END},
    _fig7,
    marked=True,
    look=lambda series: ("pruned during training" if series == "True" else "pruned at the end", ""),
)


def _fig13_cases(scale: str) -> list[Case]:
    variances = (1e-5, 5e-5, 2e-4, 1e-3) if scale != "paper" else (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3)
    # Dead units are pruned at once, before noise on them can revive them.
    lines = {
        name: {"method.strength": 0.0, "method.noise_asymmetric": name == "asymmetric", **AT_ONCE}
        for name in ("asymmetric", "symmetric")
    }
    found = []
    for here in by_optimizer("resnet18", scale):
        found += here.grid(lines, field="method.noise", levels=variances)
    # The regularizer, for comparison; the paper has it in figure 3.
    for here in by_optimizer("resnet18", scale):
        found += here.dense() + here.demp({DEMP: AT_ONCE})
    return found


def _fig13(means: Sequence[Mean]) -> list[Claim]:
    claims = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        what = "noise on live weights minus noise on all"
        apart = lead_of(what, means, panel, ["asymmetric"], ["symmetric"], 5.0, within=1.5)
        most = max((m.x for m in means if (m.panel, m.series) == (panel, "asymmetric")), default=math.nan)
        prunes = Effect("weights pruned at the best variance", most, above=5.0, unit="%")
        worse = lead_of("the regularizer minus noise", means, panel, [DEMP], ["asymmetric"], 5.0)
        for text, effect in (
            ("noise on dead neurons makes no difference (within 1.5 points)", apart),
            ("noise alone, without a regularizer, prunes (more than 5% of the weights)", prunes),
            ("noise has a worse trade-off than a regularizer", worse),
        ):
            claims.append(Claim(f"With {optimizer}, {text}.", "F.6", (effect,)))
    return claims


FIG13 = Figure(
    "fig13",
    "noise without a regularizer, asymmetric and symmetric",
    tuple(weights(optimizer) for optimizer in OPTIMIZERS),
    _fig13,
    _fig13_cases,
    by_weights,
    dense=DENSE,
)

# The figures below are not in the paper.

_BEYOND = "beyond the paper"

# Does DemP gain on the early methods with longer training? The paper trains for 250 epochs.
_TRAINING = ("short", "longer", "longest")
_LENGTHS = {"cpu": (12, 30, 60), "gpu": (20, 60, 120), "paper": (250, 500)}
# Strengths by number of epochs at the scale of a CPU, chosen to leave about a fifth and a tenth of the weights. In 12
# epochs a strength of 0.004 left 37%.
_LENGTH_STRENGTHS = {12: (1e-2, 2.5e-2), 30: (5e-3, 1.2e-2), 60: (3e-3, 7e-3)}
_EARLY = {name: method for name, method in STRUCTURED.items() if method.startswith("early")}


def _length_cases(scale: str) -> list[Case]:
    found = []
    for panel, epochs in enumerate(_LENGTHS[scale]):
        changes: dict[str, Any] = {"steps": f"{epochs}ep"}
        if scale == "paper":
            # The learning rate's decays and the regularizer's span grow with the number of epochs.
            span = {f"method.{name}_span": str(340 * epochs) for name in ("strength", "noise")}
            changes |= {"optimizer.step_every": f"{77 * epochs // 250}ep", **span}
        levels = _LENGTH_STRENGTHS[epochs] if scale == "cpu" else STRENGTHS["resnet18"]["Adam"][scale][-2:]
        here = Setting("resnet18", scale, "Adam", panel)
        found += here.dense(changes) + here.demp({DEMP: changes}, levels)
        found += here.others(_EARLY, "ranking.sparsity", (0.5, 0.62), changes)
    return found


def _length(means: Sequence[Mean]) -> list[Claim]:
    panels = sorted({m.panel for m in means}) or [0]
    what = "DemP minus the better early method"
    leads = [lead_of(f"{what}, {_TRAINING[i]} training", means, i, [DEMP], list(_EARLY)) for i in range(len(_TRAINING))]
    claims = [
        Claim(f"In the {name} training DemP is more accurate than the early methods.", _BEYOND, (lead,))
        for name, lead in zip(_TRAINING, leads, strict=True)
    ]
    # A single length cannot test this claim.
    value = leads[panels[-1]].value - leads[panels[0]].value if len(panels) > 1 else math.nan
    gain = Effect(f"{what}, the {_TRAINING[panels[-1]]} minus the {_TRAINING[panels[0]]} training", value)
    return [Claim("With Adam, DemP gains on the early methods with longer training.", _BEYOND, (gain,)), *claims]


LENGTH = Figure(
    "length",
    "not in the paper: DemP and the early methods in training of several lengths, ResNet-18, Adam",
    tuple(weights(name) for name in _TRAINING),
    _length,
    _length_cases,
    by_weights,
    dense=DENSE,
    columns=3,
)

# Units whose value is constant, and not zero, are folded into their consumers.
_PLAIN, _FOLDED = "as in the paper", "constants folded"


def _folding(means: Sequence[Mean]) -> list[Claim]:
    claims = []
    for panel, optimizer in enumerate(OPTIMIZERS):
        effect = lead_of("folded minus not, at equal weight sparsity", means, panel, [_FOLDED], [_PLAIN])
        claims.append(Claim(f"With {optimizer}, folding constants gives a better trade-off.", _BEYOND, (effect,)))
        more = sparser(means, panel, _FOLDED, _PLAIN)
        effect = Effect("weight sparsity at equal lambda, folded minus not", more, above=1.0)
        claims.append(Claim(f"With {optimizer}, folding constants prunes more (1 point).", _BEYOND, (effect,)))
    return claims


FOLDING = _ablation(
    "folding",
    "not in the paper: folding of constant units into their consumers, ResNet-18",
    {_PLAIN: {}, _FOLDED: {"pruning.constant": 0.1, "pruning.tolerance": 100.0}},
    _folding,
)

FIGURES = (FIG4, FIG5, FIG6, FIG7, FIG13, LENGTH, FOLDING)
