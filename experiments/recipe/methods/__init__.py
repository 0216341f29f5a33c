# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruning methods: how each extends the optimizer, and when and what it prunes.

To add a method, add a module to `baselines` and a row to `METHODS`.
"""

from __future__ import annotations

import inspect

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
from experiments.core.errors import UsageError, require
from experiments.recipe.methods.both import chased, demp_rigl
from experiments.recipe.methods.demp import PENALIZED, demp, dense
from experiments.recipe.methods.masked import dynamic, jaxpruner, masked, plain
from experiments.recipe.methods.method import Builder, Method, Ranking
from experiments.recipe.methods.ranked import ranked, slimmed
from experiments.settings import Settings

__all__ = ["METHODS", "PENALIZED", "Method", "Ranking", "build", "masked", "ranked"]

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


def build(settings: Settings, base: optax.GradientTransformation) -> Method:
    """Returns the method of the settings, which wraps a base optimizer.

    Raises:
      UsageError: for an unknown name, or inconsistent options.
    """
    name = settings.method.name
    builder = named.find("config.method.name", name, METHODS)
    allowed = "a row such as ranked(score), a function of the settings and the base optimizer that returns a Method"
    try:
        inspect.signature(builder).bind(settings, base)
    except TypeError as error:  # Such as a score in the place of its row.
        raise UsageError(f"config.method.name must be {allowed}; got {name!r}.") from error
    try:
        method = builder(settings, base)
        require(isinstance(method, Method), "config.method.name", name, allowed)
        return method
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"config.method: {error}") from error
