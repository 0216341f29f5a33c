# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Selection of the units to remove by their scores, and the stages of iterative pruning."""

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
    """Returns the units to remove: the fraction with the smallest scores.

    The rules, of which all but the last compare the units of all sites:

    * `"percentile"`: units below the interpolated percentile of the scores (the code of the DemP paper);
    * `"topk"`: all but the `k = int(n (1 - fraction))` units with the largest scores, k >= 1 (released SNAP and CroP);
    * `"exact"`: `round(n * fraction)` units; if a site is at its minimum, units of other sites instead (Chase);
    * `"layerwise"`: like `"exact"` within each site, for scores that cannot be compared between layers.

    The first two keep units whose scores equal the threshold.

    Args:
      scores: by site, `[width]`; NaN for unranked units, which are kept, and minus infinity for removed units.
      fraction: the fraction of the ranked units to remove, in [0, 1).
      rule: one of `RULES`.
      min_units: the minimum number of units of every site, >= 0, or such a number by site. The units with the largest
        scores are kept. With 0, a site can be emptied.

    Returns:
      By site, `[width]` bool: whether a unit is removed, now or before.

    Raises:
      ValueError: for an unknown rule, or a fraction out of its range.
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
    """Returns the neuron sparsity after each stage of iterative pruning: `steps + 2` increasing values.

    They start at 1/2, and the distance to rho halves with each stage::

        k_i = rho - (rho - 1/2) / 2^i, i = 0 ... steps, and then rho

    With one step, or if rho is at most 1/2, rho is the only stage, as in the code of the DemP paper. The released code
    of CroP would remove one half first.

    Args:
      sparsity: rho, the fraction of neurons to remove in total, in [0, 1).
      steps: the number of steps, >= 1.
    """
    if steps == 1 or sparsity <= 0.5:
        return [sparsity]
    return [sparsity - (sparsity - 0.5) * 0.5**i for i in range(steps + 1)] + [sparsity]


def fraction_of_rest(target: float, reached: float) -> float:
    """Returns the fraction of the remaining units to remove: `(target - reached) / (1 - reached)`, at least 0."""
    return max((target - reached) / (1 - reached + 1e-8), 0.0)
