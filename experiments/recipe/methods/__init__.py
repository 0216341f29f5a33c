# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruning methods: what each adds to the optimizer, and when and by what rule it cuts.

A new method is a module in `baselines` and a row in `METHODS`.
"""

from __future__ import annotations

from typing import Any

import optax

from baselines import (
    crop,
    l1_norm,
    magnitude,
    masking,
    random_growth,
    random_units,
    rigl,
    saliency,
    snap,
    srigl,
)
from experiments.core import named
from experiments.core.errors import UsageError
from experiments.recipe.methods.both import chased, demp_rigl
from experiments.recipe.methods.demp import PENALISED, demp, dense
from experiments.recipe.methods.masked import dynamic, jaxpruner, masked, plain
from experiments.recipe.methods.method import Builder, Method, Ranking
from experiments.recipe.methods.ranked import ranked, slimmed

__all__ = ["METHODS", "PENALISED", "Method", "Ranking", "build", "masked", "ranked"]

_srigl = dynamic(srigl.SRigL, ablation="ablation", never_ablated="never_ablated")
METHODS: dict[str, Builder] = {
    "dense": dense,
    "demp": demp,
    "snap": ranked(snap.score, snap.released),
    "crop": ranked(crop.score, crop.released),
    "earlysnap": ranked(snap.score, snap.released, watches=True),
    "earlycrop": ranked(crop.score, crop.released, watches=True),
    "random": ranked(random_units.score),
    "l1": ranked(l1_norm.score, rule="layerwise"),
    "slimming": slimmed,
    "magnitude": masked(plain(magnitude.Magnitude), moves=False),
    "saliency": masked(plain(saliency.Saliency), moves=False),
    "static": masked(plain(masking.StaticSparse)),
    "set": masked(dynamic(random_growth.SET)),
    "rigl": masked(dynamic(rigl.RigL)),
    "srigl": masked(_srigl),
    "chase": chased,
    "demp_rigl": demp_rigl,
    "jaxpruner": masked(jaxpruner),
}


def build(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """Returns the method of a config.

    Args:
      config: the whole config, which leaves nothing to the device (`device_defaults.settled`).
      base: the base optimizer.
      epoch: steps per epoch.
      run: steps of the run.

    Raises:
      UsageError: for a bad field.
    """
    builder = named.find("config.method.name", config.method.name, METHODS)
    try:
        return builder(config, base, epoch=epoch, run=run)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"config.method: {error}") from error
