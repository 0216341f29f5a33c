# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a config leaves to the device it runs on."""

from __future__ import annotations

from typing import Any

import jax
import ml_collections

# Fields that are the device's own where they are empty, or 0.
FIELDS = ("pruning.multiple", "pruning.cut_cost", "pruning.ahead")

# Cut evenly by 90%, a ResNet-18 in bfloat16 took x 1.03 of its dense step on a GPU, and x 0.69 with widths rounded up
# to multiples of 8 (benchmarks/README.md, on a GPU).
_MULTIPLE, _MULTIPLE_GPU = 1, 8
# What a cut costs and how long it is prepared, in steps. A GPU tries kernels out: on an H200 a step took 11 to 42 s to
# compile, as long as 800 to 12,000 steps; what that costs steps beside it is a guess.
_COST, _COST_GPU = "50", "500"
_AHEAD, _AHEAD_GPU = 100, 3000


def settled(config: ml_collections.ConfigDict, run: int) -> ml_collections.ConfigDict:
    """Returns a config that says what it left to the device, so that a run goes on alike on another one.

    Args:
      config: the config; it is left as it is.
      run: steps of the run; a GPU prepares a cut for a tenth of it at most.
    """
    if jax.default_backend() == "gpu":
        own: tuple[Any, ...] = (_MULTIPLE_GPU, _COST_GPU, str(min(_AHEAD_GPU, run // 10)))
    else:
        own = (_MULTIPLE, _COST, str(_AHEAD))
    found = config.copy_and_resolve_references()
    for field, value in zip(FIELDS, own, strict=True):
        section, name = field.split(".")
        found[section][name] = found[section][name] or value
    return found
