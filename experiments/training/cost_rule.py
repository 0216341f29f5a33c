# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""When a prune pays for itself.

After a prune the smaller step has to be compiled. A prune is delayed until the time lost by waiting equals that cost
(the ski-rental rule), so that waiting never loses more time than pruning does. The rule counts in steps and FLOPs, not
in seconds: one config and seed prunes at the same steps on every machine of a kind.

Example: a prune costs 50 steps and there is a chance every 100. Dead units with half of the FLOPs make a step about
0.7 * 0.5 = 35% faster, which saves 35 steps until the next chance. At the first chance the prune waits, as 35 < 50. At
the second the wait has cost 35 steps already and would cost 70 by the next chance: it is made.
"""

from __future__ import annotations

import jax

# Which part of a step's time is saved by saving all of its FLOPs: 0.4 to 1.0 on a CPU, 0.04 to 0.36 on a GPU at
# multiples of 8 (benchmarks/README.md, suite `step`).
_TIME_PER_FLOPS, _TIME_PER_FLOPS_GPU = 0.7, 0.2


def least_gain(cost: float, waited: float, every: int, remaining: int) -> float:
    """Returns which part of the FLOPs a prune has to save, in [0, 1), to be worth its cost.

    Args:
      cost: of a prune, in steps at present widths.
      waited: steps that waiting has cost since the last prune.
      every: steps until the next chance, see `period`.
      remaining: steps until the end of the run, which has to repay the cost.
    """
    if cost <= 0:
        return 0.0
    time = max((cost - waited) / every, cost / max(remaining, 1))
    return min(max(time / time_per_flops(), 0.0), 1 - 1e-9)


def time_per_flops() -> float:
    """Returns about which part of a step's time is saved by saving all of its FLOPs, on this backend."""
    return _TIME_PER_FLOPS_GPU if jax.default_backend() == "gpu" else _TIME_PER_FLOPS


def period(every: int, ahead: int) -> int:
    """Returns how many steps lie between chances to prune: `every`, or as many as pass while a prune is prepared."""
    return max(1, -(-ahead // every)) * every
