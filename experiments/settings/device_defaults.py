# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Defaults of config options that depend on the device."""

from __future__ import annotations

from typing import Any

import jax
import ml_collections

# Pruned evenly by 90%, a ResNet-18 in bfloat16 took 1.03 times its dense step time on a GPU, and 0.69 times with widths
# rounded up to multiples of 8 (benchmarks/README.md, on a GPU).
_MULTIPLE, _MULTIPLE_GPU = 1, 8
# Cost of a prune and length of its preparation, in steps. Compiling for a GPU includes autotuning: on an H200, a step
# compiled in 11 to 42 s, the time of 800 to 12,000 steps. How much this slows down concurrent steps is a guess.
_COST, _COST_GPU = "50", "500"
_AHEAD, _AHEAD_GPU = 100, 3000

# Options that depend on the device: `multiple` if it is 0, the others if they are empty.
FIELDS = ("pruning.multiple", "pruning.cut_cost", "pruning.ahead")


def settled(config: ml_collections.ConfigDict, run: int) -> ml_collections.ConfigDict:
    """Returns a config with the device-dependent options set, so that a run keeps them when it resumes elsewhere.

    On a CPU without `fast_convolutions`, `steps_per_call` becomes 1. `cost_rule.time_per_flops` is not an option,
    because it always has to be that of the current device.

    Args:
      config: the config; it is not modified.
      run: length of the run in steps. On a GPU, a prune is prepared for at most a tenth of it.
    """
    on_gpu = jax.default_backend() == "gpu"
    ahead = min(_AHEAD_GPU, run // 10) if on_gpu else _AHEAD
    own: dict[str, Any] = {
        "multiple": _MULTIPLE_GPU if on_gpu else _MULTIPLE,
        "cut_cost": _COST_GPU if on_gpu else _COST,
        "ahead": str(ahead),
    }
    found = config.copy_and_resolve_references()
    for field in FIELDS:
        name = field.removeprefix("pruning.")
        found.pruning[name] = found.pruning[name] or own[name]
    if not found.fast_convolutions and jax.default_backend() == "cpu":
        # A call of several steps is a loop, and XLA compiles gradients of convolutions in loops to slow code on a CPU.
        found.steps_per_call = 1
    return found
