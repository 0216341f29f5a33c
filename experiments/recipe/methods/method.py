# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a method is to a run, and the cuts of dead units that most have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax

import demp_jax
from baselines import masking
from baselines.subject import Score
from demp_jax.activity import MODES
from experiments.core.durations import to_steps
from experiments.core.errors import require, require_choice
from experiments.recipe.optimizers import require_nonnegative, require_positive


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Cuts of units that score least.

    Attributes:
      score: of the units.
      due: the neuron sparsity to cut to at a step, given the state of the optimizer; `None` for no cut.
      possible: whether it can be due at a step, whatever that state.
      when: that in words.
      options: of `baselines.structured.prune`, but for the sparsity.
      batches, batch_size: how many examples are scored.
      restarts: whether the optimizer, its schedules included, starts anew after a cut.
      floors: from the dense network how many units every site keeps; `None` where the options say so.
    """

    score: Score
    due: Callable[[int, Any], float | None]
    possible: Callable[[int], bool]
    when: str
    options: dict[str, Any]
    batches: int
    batch_size: int
    restarts: bool = False
    floors: Callable[[demp_jax.Graph], Mapping[str, int]] | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A method, ready for a run.

    Attributes:
      name: its name in configs.
      tx: the optimizer chain.
      strength, noise: what the schedules give at a step, for the records; 0 for methods without.
      cuts: whether the network is cut at a step (before the update of that step), the end of the run included.
      options: of `demp_jax.prune`.
      needs_live: whether the optimizer takes the mask of live weights.
      ranking: cuts by scores; `None` for none.
      updater: what holds weights at zero; `None` for nothing.
      peaks: largest strength of the regularizer and amount of the noise where `tx` leaves them to its state, so that
        runs that differ in them alone share their compiled programs; `None` where it does not.
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
    peaks: tuple[float, float] | None = None

    def steered(self, opt_state: Any, factor: float = 1.0) -> Any:
        """Returns a state of `tx` with the strength multiplied by a factor, and the noise by one of at most 1."""
        if self.peaks is None:
            return opt_state
        strength, noise = self.peaks
        return demp_jax.set_strength_factor(opt_state, factor * strength, noise=min(factor, 1.0) * noise)


# From a config, the base optimizer, steps per epoch and steps of the run.
Builder = Callable[..., Method]


def pruning(config: Any, *, epoch: float, run: int) -> tuple[Callable[[int], bool], dict[str, Any]]:
    """Returns when to cut and the options of a cut, by a config that `device_defaults.settled` gave."""
    section = config.pruning
    every = to_steps("config.pruning.every", section.every, epoch=epoch, run=run)
    require(every >= 1, "config.pruning.every", section.every, "at least one step (tau >= 1)")
    start = to_steps("config.pruning.start", section.start, epoch=epoch, run=run)
    require(start <= run, "config.pruning.start", section.start, f"at most the run's {run} steps")
    require_choice("config.pruning.criterion", section.criterion, demp_jax.activity.CRITERIA)
    require_choice("config.pruning.modes", section.modes, MODES)
    require_positive("config.pruning.epsilon", section.epsilon)
    require(section.min_units >= 1, "config.pruning.min_units", section.min_units, "at least 1")
    for name in ("constant", "tolerance"):
        if section[name] is not None:
            require_nonnegative(f"config.pruning.{name}", section[name])
    options = {
        "criterion": section.criterion,
        "epsilon": section.epsilon,
        "modes": section.modes,
        "constant": section.constant,
        "tolerance": section.tolerance,
        "min_units": section.min_units,
        "multiple": section.multiple,
        "exclude": tuple(section.exclude),
    }
    dynamic = section.dynamic

    def cuts(step: int) -> bool:
        return step == run or (dynamic and 0 < step < run and step >= start and step % every == 0)

    return cuts, options
