# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that mask weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_collections
import optax

import demp_jax
from baselines import foreign, masking, sparsity
from experiments.core.errors import UsageError, require, require_choice
from experiments.recipe.methods.method import Builder, Method, pruning
from experiments.settings import Settings, schema

# Function of the settings, a distribution of sparsity and a schedule that returns an updater of masks.
Maker = Callable[[Settings, sparsity.Distribution, sparsity.Schedule], Any]


def masked(make: Maker, *, moves: bool = True) -> Builder:
    """Returns the builder of a masking method.

    Args:
      make: makes the updater of masks.
      moves: whether the sparsity is constant and connections may move, instead of a schedule that increases it.
    """

    def build(settings: Settings, base: optax.GradientTransformation) -> Method:
        masks = updater(settings, make, moves=moves)
        _, options = pruning(settings)
        zero = demp_jax.schedules.constant(0.0)
        # A unit without weights is constant but not necessarily dead, so constant units are pruned as well.
        options["constant"] = 0.0 if options["constant"] is None else options["constant"]
        name, run = settings.method.name, settings.steps
        tx = masks.wrap_optax(base)
        return Method(name, tx, zero, zero, lambda step: step == run, options, False, None, masks)

    return build


def updater(settings: Settings, make: Maker, *, moves: bool) -> Any:
    """Returns the updater of masks; for `moves`, see `masked`."""
    section, run = settings.masking, settings.steps
    start, end = section.start, section.end
    require(start <= end <= run, "config.masking.end", end, f"between start and the run's {run} steps")
    kind = "periodic" if moves else section.schedule
    return make(settings, _distribution(section), sparsity.Schedule(kind, start, end, section.every))


def _distribution(section: schema.Masking) -> sparsity.Distribution:
    distribute = sparsity.distribution(section.distribution, section.sparsity, exclude=section.exclude)

    def named(params: Any) -> Any:
        try:
            return distribute(params)
        except ValueError as error:
            raise UsageError(f"config.masking.exclude={section.exclude!r}: {error}") from error

    return named


def plain(kind: Callable[..., masking.Masking]) -> Maker:
    """Returns a function that makes an updater that recomputes its masks from scores."""
    return lambda settings, distribution, schedule: kind(distribution, schedule, settings.seed)


def dynamic(kind: Callable[..., masking.Masking], **more: str) -> Maker:
    """Returns a function that makes an updater that moves connections.

    Args:
      kind: class of the updater.
      **more: further arguments of `kind`, each with the name of the option in section `masking` that it is set to.
    """

    def make(settings: Settings, distribution: Any, schedule: Any) -> masking.Masking:
        section = settings.masking
        if section.drop_schedule == "cosine":
            drop = optax.cosine_decay_schedule(section.drop, max(section.end, 1))
        else:
            drop = demp_jax.schedules.constant(section.drop)
        further = {name: getattr(section, option) for name, option in more.items()}
        return kind(distribution, schedule, settings.seed, drop=drop, **further)

    return make


def jaxpruner(settings: Settings, distribution: Any, schedule: sparsity.Schedule) -> Any:
    """Returns an updater of jaxpruner, created from a jaxpruner config."""
    try:
        module = foreign.jaxpruner()
    except ImportError as error:
        raise UsageError(f"config.method.name='jaxpruner': {error}") from error
    del distribution
    section = settings.masking
    require_choice("config.masking.algorithm", section.algorithm, module.all_algorithm_names())
    theirs = ml_collections.ConfigDict(
        {
            "algorithm": section.algorithm,
            "dist_type": section.distribution,
            "sparsity": section.sparsity,
            "update_freq": schedule.every,
            "update_start_step": schedule.start,
            "update_end_step": schedule.end,
        }
    )
    if section.algorithm in ("rigl", "set"):
        theirs.drop_fraction = section.drop
    return foreign.Adapted(module.create_updater_from_config(theirs))
