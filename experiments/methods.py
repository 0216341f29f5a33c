# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruning methods: what each adds to the optimizer, and when and by what rule it cuts.

A new method is a module in `baselines` and a row in `METHODS`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import optax

import demp_jax
from baselines import (
    chase,
    crop,
    early,
    foreign,
    l1_norm,
    magnitude,
    masking,
    random_growth,
    random_units,
    rigl,
    saliency,
    selection,
    slimming,
    snap,
    sparsity,
    srigl,
    structured,
)
from baselines.subject import Score
from experiments.durations import to_steps
from experiments.errors import UsageError, require, require_choice
from experiments.optimizers import require_nonnegative, require_positive

PENALISED: dict[str, Callable[[Any], Any]] = {"scales": demp_jax.norm_scales, "all": demp_jax.everything}


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Cuts of units that score least.

    Attributes:
      score: of the units.
      due: the neuron sparsity to cut to at a step, given the state of the optimizer; `None` for no cut.
      options: of `baselines.structured.prune`, but for the sparsity.
      batches, batch_size: how many examples are scored.
      floors: from the dense network how many units every site keeps; `None` where the options say so.
    """

    score: Score
    due: Callable[[int, Any], float | None]
    options: dict[str, Any]
    batches: int
    batch_size: int
    floors: Callable[[demp_jax.Graph], Mapping[str, int]] | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A method, ready for a run.

    Attributes:
      name: its name in configs.
      tx: the optimizer chain.
      strength, noise: what the schedules give at a step, for the records; 0 for methods without.
      cuts: whether the network is cut at a step (before the update of that step), the end of the run included.
      options: of `demp_jax.cut`.
      needs_live: whether the optimizer takes the mask of live weights.
      ranking: cuts by scores; `None` for none.
      updater: what holds weights at zero; `None` for nothing.
    """

    name: str
    tx: optax.GradientTransformation
    strength: optax.Schedule
    noise: optax.Schedule
    cuts: Callable[[int], bool]
    options: dict[str, Any]
    needs_live: bool
    ranking: Ranking | None = None
    updater: masking.Updater | None = None


def _never(step: int) -> bool:
    del step
    return False


def _dense(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    _demp(config, base, epoch=epoch, run=run)  # Its fields are held to the same rules, though dense uses none.
    zero = demp_jax.constant(0.0)
    return Method("dense", base, zero, zero, _never, {}, False)


def _demp(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    section = config.method
    strength = _schedule("strength", section, epoch=epoch, run=run)
    noise = _schedule("noise", section, epoch=epoch, run=run)
    require_choice("config.method.regularizer", section.regularizer, ("lasso", "l2"))
    require_choice("config.method.penalised", section.penalised, PENALISED)
    require_choice("config.method.noise_amplitude", section.noise_amplitude, ("variance", "std"))
    has_noise = section.noise > 0
    tx = demp_jax.demp(
        base,
        strength=strength,
        noise=noise if has_noise else 0.0,
        key=config.seed,
        kind=section.regularizer,
        where=PENALISED[section.penalised],
        decoupled=section.decoupled,
        amplitude=section.noise_amplitude,
        asymmetric=section.noise_asymmetric,
    )
    cuts, options = _pruning(config, epoch=epoch, run=run)
    return Method("demp", tx, strength, noise, cuts, options, has_noise and section.noise_asymmetric)


def _schedule(name: str, section: Any, *, epoch: float, run: int) -> optax.Schedule:
    peak, kind = section[name], section[f"{name}_schedule"]
    field = f"config.method.{name}"
    require_nonnegative(field, peak)
    require_choice(f"{field}_schedule", kind, demp_jax.SCHEDULES)
    span = to_steps(f"{field}_span", section[f"{name}_span"], epoch=epoch, run=run)
    require(1 <= span <= run, f"{field}_span", section[f"{name}_span"], f"between 1 step and the run's {run} steps")
    make: Any = demp_jax.SCHEDULES[kind]
    return make(peak, span)


def _pruning(config: Any, *, epoch: float, run: int) -> tuple[Callable[[int], bool], dict[str, Any]]:
    """Returns when to cut and the options of a cut."""
    section = config.pruning
    every = to_steps("config.pruning.every", section.every, epoch=epoch, run=run)
    require(every >= 1, "config.pruning.every", section.every, "at least one step (tau >= 1)")
    start = to_steps("config.pruning.start", section.start, epoch=epoch, run=run)
    require(start <= run, "config.pruning.start", section.start, f"at most the run's {run} steps")
    require_choice("config.pruning.criterion", section.criterion, demp_jax.CRITERIA)
    require_positive("config.pruning.epsilon", section.epsilon)
    require(section.min_units >= 1, "config.pruning.min_units", section.min_units, "at least 1")
    for name in ("constant", "tolerance"):
        if section[name] is not None:
            require_nonnegative(f"config.pruning.{name}", section[name])
    options = {
        "criterion": section.criterion,
        "epsilon": section.epsilon,
        "constant": section.constant,
        "tolerance": section.tolerance,
        "min_units": section.min_units,
        "exclude": tuple(section.exclude),
    }
    dynamic = section.dynamic

    def cuts(step: int) -> bool:
        return step == run or (dynamic and 0 < step < run and step >= start and step % every == 0)

    return cuts, options


def ranked(score: Score, released: Score | None = None, *, watches: bool = False) -> Callable[..., Method]:
    """Returns the builder of a method that cuts by scores once; `watches`: when EarlyCroP's rule says so."""

    def make(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
        section = config.ranking
        require_choice("config.ranking.definition", section.definition, ("demp", "released"))
        chosen = score if section.definition == "demp" else released
        if chosen is None:
            raise UsageError(
                f"config.ranking.definition must be 'demp' with config.method.name={config.method.name!r}; got "
                f"{section.definition!r}."
            )
        require_choice("config.ranking.early_rule", section.early_rule, early.RULES)
        target = section.sparsity
        require(0 <= target < 1, "config.ranking.sparsity", target, "in [0, 1)")
        tx, latest = base, run + 1
        if watches:
            tx = early.watch_distance(base, epoch=epoch, sparsity=target, rule=section.early_rule)
        field = "latest" if watches else "when"
        if not watches or section.latest:
            latest = to_steps(f"config.ranking.{field}", section[field], epoch=epoch, run=run)
            require(latest <= run, f"config.ranking.{field}", section[field], f"at most the run's {run} steps")

        def due(step: int, opt_state: Any) -> float | None:
            if not watches:
                return target if step == latest else None
            # The state is asked at the ends of epochs alone: it would make every step wait.
            near = any(math.floor((step + d) / epoch) > math.floor((step + d - 1) / epoch) for d in (-1, 0, 1))
            if step == 0 or step > latest or not (near or step == latest):
                return None
            fired = early.fired_at(opt_state)
            return target if fired == step or (step == latest and fired < 0) else None

        return _structured(config, base, tx, chosen, due, epoch=epoch, run=run)

    return make


def _structured(
    config: Any,
    base: optax.GradientTransformation,
    tx: optax.GradientTransformation,
    score: Score,
    due: Callable[[int, Any], float | None],
    *,
    epoch: float,
    run: int,
) -> Method:
    section = config.ranking
    require_choice("config.ranking.rule", section.rule, selection.RULES)
    require_choice("config.ranking.feedback", section.feedback, structured.FEEDBACK)
    for name in ("stages", "batches", "batch_size"):
        require(section[name] >= 1, f"config.ranking.{name}", section[name], "at least 1")
    _, options = _pruning(config, epoch=epoch, run=run)
    ranking = Ranking(
        score=score,
        due=due,
        options={
            "steps": section.stages,
            "feedback": section.feedback,
            "rule": section.rule,
            "min_units": config.pruning.min_units,
            "unranked": tuple(section.exclude),
        },
        batches=section.batches,
        batch_size=section.batch_size,
    )
    zero = demp_jax.constant(0.0)
    # Dead units are cut at the end alone.
    return Method(config.method.name, tx, zero, zero, lambda step: step == run, options, False, ranking)


def _chase(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """Channels leave every so often until `ranking.until`; connections beyond the target until `masking.end`."""
    section = config.ranking
    target, beta = section.sparsity, section.floor
    require(0 <= target < 1, "config.ranking.sparsity", target, "in [0, 1)")
    require(0 <= beta <= 1, "config.ranking.floor", beta, "in [0, 1]")
    every = to_steps("config.ranking.every", section.every, epoch=epoch, run=run)
    until = to_steps("config.ranking.until", section.until, epoch=epoch, run=run)
    require(every >= 1, "config.ranking.every", section.every, "at least one step")
    require(1 <= until <= run, "config.ranking.until", section.until, f"between 1 step and the run's {run} steps")
    wanted = chase.channels(target, end=until)

    def due(step: int, opt_state: Any) -> float | None:
        del opt_state
        return wanted(step) if 0 < step <= until and (step % every == 0 or step == until) else None

    def make(section: Any, distribution: Any, schedule: Any, seed: int, end: int) -> masking.Masking:
        extra = optax.cosine_decay_schedule(0.05, max(end, 1), 0.1)
        # Half of the connections at first, a two-hundredth at the end.
        last = optax.cosine_decay_schedule(0.5, max(run - end, 1), 0.01)
        whole = dataclasses.replace(schedule, end=run)
        return chase.Chase(distribution, whole, seed, drop=lambda t: last(t - end), extra=extra, switch=end)

    updater = _updater(config, make, moves=True, epoch=epoch, run=run)
    plain = _structured(config, base, updater.wrap_optax(base), chase.score, due, epoch=epoch, run=run)
    assert plain.ranking is not None
    options = {**plain.ranking.options, "steps": 1, "rule": "exact"}
    floors = functools.partial(chase.floors, sparsity=target, beta=beta)
    ranking = dataclasses.replace(plain.ranking, options=options, floors=floors)
    return dataclasses.replace(plain, ranking=ranking, updater=updater)


def _slimming(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """L1 on the scales until the cut, nothing after it."""
    plain = ranked(slimming.score)(config, base, epoch=epoch, run=run)
    until = to_steps("config.ranking.when", config.ranking.when, epoch=epoch, run=run)
    require_nonnegative("config.method.strength", config.method.strength)
    require(until >= 1, "config.ranking.when", config.ranking.when, "at least one step with slimming, as in '50%'")
    strength = optax.piecewise_constant_schedule(config.method.strength, {until: 0.0})
    return dataclasses.replace(plain, tx=demp_jax.demp(base, strength=strength), strength=strength)


def masked(make: Callable[..., masking.Masking], *, moves: bool = True) -> Callable[..., Method]:
    """Returns the builder of a method that masks; `moves`: connections, at a sparsity that stays."""

    def build(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
        updater = _updater(config, make, moves=moves, epoch=epoch, run=run)
        _, options = _pruning(config, epoch=epoch, run=run)
        zero = demp_jax.constant(0.0)
        # A unit without weights is constant, not dead.
        options["constant"] = 0.0 if options["constant"] is None else options["constant"]
        tx = updater.wrap_optax(base)
        name = config.method.name
        return Method(name, tx, zero, zero, lambda step: step == run, options, False, None, updater)

    return build


def _updater(
    config: Any, make: Callable[..., masking.Masking], *, moves: bool, epoch: float, run: int
) -> masking.Masking:
    section = config.masking
    target = section.sparsity
    require(0 <= target < 1, "config.masking.sparsity", target, "in [0, 1)")
    require_choice("config.masking.distribution", section.distribution, sparsity.DISTRIBUTIONS)
    distribution = sparsity.distribution(section.distribution, target, exclude=tuple(section.exclude))
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


def _plain(kind: Callable[..., masking.Masking]) -> Callable[..., masking.Masking]:
    return lambda section, distribution, schedule, seed, end: kind(distribution, schedule, seed)


def _dynamic(kind: Callable[..., masking.Masking], **more: str) -> Callable[..., masking.Masking]:
    """Returns how a method that moves connections is made; `more`: its further arguments, by field of the config."""

    def make(section: Any, distribution: Any, schedule: Any, seed: int, end: int) -> masking.Masking:
        require(0 <= section.drop <= 1, "config.masking.drop", section.drop, "in [0, 1]")
        require_choice("config.masking.drop_schedule", section.drop_schedule, ("cosine", "constant"))
        require(0 <= section.ablation <= 1, "config.masking.ablation", section.ablation, "in [0, 1]")
        cosine = section.drop_schedule == "cosine"
        drop = optax.cosine_decay_schedule(section.drop, max(end, 1)) if cosine else demp_jax.constant(section.drop)
        further = {name: section[field] for name, field in more.items()}
        return kind(distribution, schedule, seed, drop=drop, **further)

    return make


def _demp_rigl(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """DemP's cuts and RigL's masks: the regulariser and the noise act on what RigL left open."""
    plain = _demp(config, base, epoch=epoch, run=run)
    updater = _updater(config, _dynamic(rigl.RigL), moves=True, epoch=epoch, run=run)
    return dataclasses.replace(plain, name="demp_rigl", tx=updater.wrap_optax(plain.tx), updater=updater)


def _jaxpruner(section: Any, distribution: Any, schedule: sparsity.Schedule, seed: int, end: int) -> Any:
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


_srigl = _dynamic(srigl.SRigL, ablation="ablation", never_ablated="never_ablated")
METHODS: dict[str, Callable[..., Method]] = {
    "dense": _dense,
    "demp": _demp,
    "snap": ranked(snap.score, snap.released),
    "crop": ranked(crop.score, crop.released),
    "earlysnap": ranked(snap.score, snap.released, watches=True),
    "earlycrop": ranked(crop.score, crop.released, watches=True),
    "random": ranked(random_units.score),
    "l1": ranked(l1_norm.score),
    "slimming": _slimming,
    "magnitude": masked(_plain(magnitude.Magnitude), moves=False),
    "saliency": masked(_plain(saliency.Saliency), moves=False),
    "static": masked(_plain(masking.StaticSparse)),
    "set": masked(_dynamic(random_growth.SET)),
    "rigl": masked(_dynamic(rigl.RigL)),
    "srigl": masked(_srigl),
    "chase": _chase,
    "demp_rigl": _demp_rigl,
    "jaxpruner": masked(_jaxpruner),
}


def build(config: Any, base: optax.GradientTransformation, *, epoch: float, run: int) -> Method:
    """Returns the method of a config.

    Args:
      config: the whole config.
      base: the base optimizer.
      epoch: steps per epoch.
      run: steps of the run.

    Raises:
      UsageError: for a bad field.
    """
    require_choice("config.method.name", config.method.name, METHODS)
    try:
        return METHODS[config.method.name](config, base, epoch=epoch, run=run)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"config.method: {error}") from error
