# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that hold weights at zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_collections
import optax

import demp_jax
from baselines import foreign, masking, sparsity
from experiments.core.durations import to_steps
from experiments.core.errors import UsageError, require, require_choice
from experiments.recipe.methods.method import Builder, Method, pruning

# From the config's section, a distribution, a schedule, a seed and the step `masking.end` to an updater.
Maker = Callable[[Any, sparsity.Distribution, sparsity.Schedule, int, int], Any]


def masked(make: Maker, *, moves: bool = True) -> Builder:
    """Returns the builder of a method that masks; `moves`: connections, at a sparsity that stays."""

    def build(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
        masks = updater(config, make, moves=moves, epoch=epoch, run=run)
        _, options = pruning(config, epoch=epoch, run=run)
        zero = demp_jax.schedules.constant(0.0)
        # A unit without weights is constant, not dead.
        options["constant"] = 0.0 if options["constant"] is None else options["constant"]
        tx = masks.wrap_optax(base)
        name = config.method.name
        return Method(name, tx, zero, zero, lambda step: step == run, options, False, None, masks)

    return build


def updater(config: Any, make: Maker, *, moves: bool, epoch: float, run: int) -> Any:
    """Returns what holds weights at zero, by a config; `moves` as for `masked`."""
    section = config.masking
    target = section.sparsity
    require(0 <= target < 1, "config.masking.sparsity", target, "in [0, 1)")
    require_choice("config.masking.distribution", section.distribution, sparsity.DISTRIBUTIONS)
    distribution = _distribution(section, target)
    start = to_steps("config.masking.start", section.start, epoch=epoch, run=run)
    end = to_steps("config.masking.end", section.end, epoch=epoch, run=run)
    every = to_steps("config.masking.every", section.every, epoch=epoch, run=run)
    require(start <= end <= run, "config.masking.end", section.end, f"between start and the run's {run} steps")
    require(every >= 1, "config.masking.every", section.every, "at least one step")
    kind = "periodic"
    if not moves:
        kind = section.schedule
        require_choice("config.masking.schedule", kind, ("polynomial", "one_shot"))
    return make(section, distribution, sparsity.Schedule(kind, start, end, every), config.seed, end)


def _distribution(section: Any, target: float) -> sparsity.Distribution:
    distribute = sparsity.distribution(section.distribution, target, exclude=tuple(section.exclude))

    def named(params: Any) -> Any:
        try:
            return distribute(params)
        except ValueError as error:
            raise UsageError(f"config.masking.exclude={tuple(section.exclude)!r}: {error}") from error

    return named


def plain(kind: Callable[..., masking.Masking]) -> Maker:
    """Returns how a method that recomputes its masks from scores is made."""
    return lambda section, distribution, schedule, seed, end: kind(distribution, schedule, seed)


def dynamic(kind: Callable[..., masking.Masking], **more: str) -> Maker:
    """Returns how a method that moves connections is made; `more`: its further arguments, by field of the config."""

    def make(section: Any, distribution: Any, schedule: Any, seed: int, end: int) -> masking.Masking:
        require(0 <= section.drop <= 1, "config.masking.drop", section.drop, "in [0, 1]")
        require_choice("config.masking.drop_schedule", section.drop_schedule, ("cosine", "constant"))
        require(0 <= section.ablation <= 1, "config.masking.ablation", section.ablation, "in [0, 1]")
        cosine = section.drop_schedule == "cosine"
        drop = (
            optax.cosine_decay_schedule(section.drop, max(end, 1))
            if cosine
            else demp_jax.schedules.constant(section.drop)
        )
        further = {name: section[field] for name, field in more.items()}
        return kind(distribution, schedule, seed, drop=drop, **further)

    return make


def jaxpruner(section: Any, distribution: Any, schedule: sparsity.Schedule, seed: int, end: int) -> Any:
    """Returns an updater of jaxpruner, made by its own function from a config."""
    try:
        module = foreign.jaxpruner()
    except ImportError as error:
        raise UsageError(f"config.method.name='jaxpruner': {error}") from error
    del distribution, seed, end
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
