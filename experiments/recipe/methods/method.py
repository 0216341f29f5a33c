# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The interface of pruning methods, and the pruning of dead units that most methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax

import demp_jax
from baselines import masking
from baselines.subject import Score
from experiments.core.errors import require
from experiments.settings import Settings


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Pruning of the units with the lowest scores.

    Attributes:
      score: score of the units.
      due: function of a step and the optimizer state that returns the neuron sparsity to prune to, or `None` not to
        prune.
      possible: whether a prune may be due at a step, for some optimizer state.
      when: description of when units are pruned, for the dry run.
      options: options of `baselines.structured.prune`, without the sparsity.
      batches: number of batches for scoring.
      batch_size: number of examples per batch for scoring.
      restarts: whether the optimizer and its schedules are initialized again after a prune.
      floors: function of the dense network's graph that returns the minimum number of units of each site; `None` to use
        `min_units` of `options`.
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
    """A pruning method.

    Attributes:
      name: name in configs.
      tx: the optimizer.
      strength: schedule of the regularizer's strength, for the records; 0 for methods without it.
      noise: schedule of the noise, for the records; 0 for methods without it.
      prunes: whether dead units are pruned before the update of a step; step `settings.steps` is the end of the run.
      options: options of `demp_jax.prune`.
      needs_live: whether the update of `tx` takes the mask of the weights of alive units.
      ranking: pruning by scores; `None` for none.
      updater: updater of masks of weights; `None` for none.
      needs_groups: whether the update of `tx` takes the groups of the weights.
      of_graph: function of the dense network's graph and parameters that returns `tx`; `None` if it does not depend on
        them. `tx` is then the same without what depends on them.
      peaks: peak strength and noise, if the state of `tx` holds them, so that runs with other peaks share compiled
        programs; otherwise `None`.
    """

    name: str
    tx: optax.GradientTransformation
    strength: optax.Schedule
    noise: optax.Schedule
    prunes: Callable[[int], bool]
    options: dict[str, Any]
    needs_live: bool
    ranking: Ranking | None = None
    updater: masking.Updater | None = None
    needs_groups: bool = False
    peaks: tuple[float, float] | None = None
    of_graph: Callable[[demp_jax.Graph, Any], optax.GradientTransformation] | None = None

    def steered(self, opt_state: Any, factor: float = 1.0) -> Any:
        """Returns a state of `tx` with the strength multiplied by a factor, and the noise by `min(factor, 1)`."""
        if self.peaks is None:
            return opt_state
        strength, noise = self.peaks
        return demp_jax.set_strength_factor(opt_state, factor * strength, noise=min(factor, 1.0) * noise)


# Function of the settings and the base optimizer that returns a method.
Builder = Callable[[Settings, optax.GradientTransformation], Method]


def pruning(settings: Settings) -> tuple[Callable[[int], bool], dict[str, Any]]:
    """Returns a function that tells whether dead units are pruned at a step, and the options of `demp_jax.prune`."""
    section, run = settings.pruning, settings.steps
    require(section.start <= run, "config.pruning.start", section.start, f"at most the run's {run} steps")
    names = (
        "criterion",
        "epsilon",
        "modes",
        "constant",
        "tolerance",
        "min_units",
        "multiple",
        "exclude",
        "extra_units",
    )

    def prunes(step: int) -> bool:
        due = section.dynamic and 0 < step < run and step >= section.start and step % section.every == 0
        return step == run or due

    return prunes, {name: getattr(section, name) for name in names}
