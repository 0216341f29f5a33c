# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a config leaves to the device it runs on."""

from __future__ import annotations

from typing import Any

import jax
import ml_collections

# Cut evenly by 90%, a ResNet-18 in bfloat16 took x 1.03 of its dense step on a GPU, and x 0.69 with widths rounded up
# to multiples of 8 (benchmarks/README.md, on a GPU).
_MULTIPLE, _MULTIPLE_GPU = 1, 8
# What a cut costs and how long it is prepared, in steps. A GPU tries kernels out: on an H200 a step took 11 to 42 s to
# compile, as long as 800 to 12,000 steps; what that costs steps beside it is a guess.
_COST, _COST_GPU = "50", "500"
_AHEAD, _AHEAD_GPU = 100, 3000

# Fields that are the device's own: `multiple` where it is 0, the others where they are empty.
FIELDS = ("pruning.multiple", "pruning.cut_cost", "pruning.ahead")


def settled(config: ml_collections.ConfigDict, run: int) -> ml_collections.ConfigDict:
    """Returns a config that says what it left to the device, so that a run keeps these values on another one.

    How much of a step's time the FLOPs are that a cut saves is not among them (`ahead.time_per_flops`): that is asked
    of the device a run is on.

    Convolutions as XLA has them want a step in a call on a CPU, whatever the config asks for.

    Args:
      config: the config; it is left as it is.
      run: steps of the run; a GPU prepares a cut for a tenth of it at most.

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
        # In a loop, such as that over the steps of a call, XLA computes their gradients by plain code there.
        found.steps_per_call = 1
    return found
