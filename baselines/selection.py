# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Which units leave, by their scores; and how much leaves at each stage of iterative pruning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

RULES = ("exact", "percentile", "topk", "layerwise")


def select(
    scores: Mapping[str, np.ndarray],
    fraction: float,
    *,
    rule: str = "exact",
    min_units: int | Mapping[str, int] = 1,
) -> dict[str, np.ndarray]:
    """Returns which units leave: a fraction of all, those that score least.

    Over all sites together, but for the last:

    * `"percentile"`: those below the percentile of the scores, interpolated (the DemP paper's code);
    * `"topk"`: all but the `k = int(n (1 - fraction))` that score most, at least one (the released SNAP and CroP);
    * `"exact"`: `round(n * fraction)`, and where a site is at its floor those that score least elsewhere (Chase);
    * `"layerwise"`: the same within each site, for scores that cannot be compared between layers.

    By the first two, units with equal scores at the border stay.

    Args:
      scores: by site, `[width]`; NaN for units that are not ranked and stay, minus infinity for those that have left.
      fraction: how much of the ranked units leaves, in [0, 1).
      rule: one of `RULES`.
      min_units: how many units every site keeps at least, those that score most, or how many by site; 0 to let a
        site be emptied.

    Returns:
      By site, `[width]` bool: True for what leaves or has left.

    Raises:
      ValueError: for an unknown rule or a fraction out of its range.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule=}.")
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1); got {fraction=}.")
    floors = {name: min_units if isinstance(min_units, int) else min_units[name] for name in scores}
    if rule == "exact":
        return _exact(scores, fraction, floors)
    if rule == "layerwise":
        return {name: _exact({name: s}, fraction, floors)[name] for name, s in scores.items()}
    ranked = np.concatenate([np.empty(0), *(s[np.isfinite(s)] for s in scores.values())])
    if not len(ranked):
        border = -np.inf
    elif rule == "percentile":
        border = np.percentile(ranked, 100 * fraction)
    else:
        keep = min(max(int(len(ranked) * (1 - fraction)), 1), len(ranked))
        border = np.sort(ranked)[-keep]
    leave = {}
    for name, s in scores.items():
        with np.errstate(invalid="ignore"):
            gone = (s < border) | (s == -np.inf)
        short = min(floors[name], len(s)) - int((~gone).sum())
        if short > 0:
            best = np.argsort(-np.where(gone, s, -np.inf), kind="stable")[:short]
            gone[best] = False
        leave[name] = gone
    return leave


def _exact(scores: Mapping[str, np.ndarray], fraction: float, floors: Mapping[str, int]) -> dict[str, np.ndarray]:
    leave = {name: s == -np.inf for name, s in scores.items()}
    units = [(s[i], name, i) for name, s in scores.items() for i in np.flatnonzero(np.isfinite(s))]
    missing = round(len(units) * fraction)
    spare = {name: len(s) - int(leave[name].sum()) - floors[name] for name, s in scores.items()}
    for _, name, i in sorted(units, key=lambda unit: unit[0]):
        if missing and spare[name] > 0:
            leave[name][i] = True
            spare[name] -= 1
            missing -= 1
    return leave


def stages(sparsity: float, steps: int = 5) -> list[float]:
    """Returns the neuron sparsity after each stage of iterative pruning: half at once, then ever smaller steps.

    After stage i it is::

        k_i = rho - (rho - 1/2) / 2^i, i = 0 ... steps, and then rho

    With one step, or where half is too much already, all leaves at once (as in the DemP paper's code; the released
    CroP would first remove half).

    Args:
      sparsity: rho, the fraction of neurons that leaves in the end, in [0, 1).
      steps: how many.
    """
    if steps == 1 or sparsity <= 0.5:
        return [sparsity]
    return [sparsity - (sparsity - 0.5) * 0.5**i for i in range(steps + 1)] + [sparsity]


def fraction_of_rest(target: float, reached: float) -> float:
    """Returns which part of the units that are left has to leave to get from one sparsity to a higher one."""
    return max((target - reached) / (1 - reached + 1e-8), 0.0)
