# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a method is to a run, and the prunes of dead units that most methods have in common."""

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
    """Prunes of the units that score least.

    Attributes:
      score: of the units.
      due: from a step and the optimizer's state to the neuron sparsity to prune to; `None` for no prune.
      possible: whether a prune can be due at a step, whatever that state.
      when: that in words.
      options: of `baselines.structured.prune`, but for the sparsity.
      batches, batch_size: how many examples are scored.
      restarts: whether the optimizer, its schedules included, is initialized again after a prune.
      floors: from the dense network to the units that every site keeps; `None` where the options say so.
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
      prunes: whether dead units are pruned at a step (before its update), the end of the run included.
      options: of `demp_jax.prune`.
      needs_live: whether the optimizer takes the mask of live weights.
      ranking: prunes by scores; `None` for none.
      updater: what masks weights; `None` for nothing.
      needs_groups: whether it takes the groups of the weights.
      peaks: largest strength of the regularizer and amount of the noise, where `tx` keeps them in its state: runs that
        differ in them alone then share compiled programs. `None` where it does not.
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

    def steered(self, opt_state: Any, factor: float = 1.0) -> Any:
        """Returns a state of `tx` with the strength multiplied by a factor, and the noise by `min(factor, 1)`."""
        if self.peaks is None:
            return opt_state
        strength, noise = self.peaks
        return demp_jax.set_strength_factor(opt_state, factor * strength, noise=min(factor, 1.0) * noise)


# From the settings and the base optimizer to a method.
Builder = Callable[[Settings, optax.GradientTransformation], Method]


def pruning(settings: Settings) -> tuple[Callable[[int], bool], dict[str, Any]]:
    """Returns whether dead units are pruned at a step, and the options of a prune."""
    section, run = settings.pruning, settings.steps
    require(section.start <= run, "config.pruning.start", section.start, f"at most the run's {run} steps")
    names = ("criterion", "epsilon", "modes", "constant", "tolerance", "min_units", "multiple", "exclude", "heads")

    def prunes(step: int) -> bool:
        due = section.dynamic and 0 < step < run and step >= section.start and step % section.every == 0
        return step == run or due

    return prunes, {name: getattr(section, name) for name in names}
