# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""When a prune pays for itself.

After a prune, the smaller step has to be compiled. A prune is delayed until the time lost by waiting equals that cost
(the ski-rental rule). Costs are counted in steps and FLOPs, not in seconds, so that runs with the same config and seed
prune at the same steps on every machine with the same kind of backend.

Example: a prune costs 50 steps, and there is a chance to prune every 100 steps. Removing dead units with half of the
FLOPs makes a step about 0.7 * 0.5 = 35% faster and saves 35 steps until the next chance. At the first chance the prune
is delayed, because 35 < 50. At the second one, the delay has cost 35 steps and would have cost 70 by the third, so the
prune is made.
"""

from __future__ import annotations

import jax

# Relative reduction of the step time per relative reduction of the FLOPs. Measured: 0.4 to 1.0 on a CPU, 0.04 to 0.36
# on a GPU with multiples of 8 (benchmarks/README.md, suite `step`).
_TIME_PER_FLOPS, _TIME_PER_FLOPS_GPU = 0.7, 0.2


def least_gain(cost: float, waited: float, every: int, remaining: int) -> float:
    """Returns the fraction of the FLOPs, in [0, 1), that a prune has to save to pay off.

    Args:
      cost: cost of a prune, in steps at the current widths.
      waited: number of steps lost by delays since the last prune.
      every: number of steps until the next chance to prune, see `period`.
      remaining: number of steps until the end of the run, in which the cost must be recovered.
    """
    if cost <= 0:
        return 0.0
    time = max((cost - waited) / every, cost / max(remaining, 1))
    return min(max(time / time_per_flops(), 0.0), 1 - 1e-9)


def time_per_flops() -> float:
    """Returns the approximate relative reduction of the step time per relative reduction of the FLOPs."""
    return _TIME_PER_FLOPS_GPU if jax.default_backend() == "gpu" else _TIME_PER_FLOPS


def period(every: int, ahead: int) -> int:
    """Returns the steps between chances to prune: the smallest positive multiple of `every` that is >= `ahead`."""
    return max(1, -(-ahead // every)) * every
