# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The target size of a run."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np

import demp_jax
from experiments.core.errors import UsageError, require
from experiments.settings import Settings
from experiments.settings.durations import to_steps

_LOG = logging.getLogger(__name__)

# Peak strength if a config has a target but no strength; it is multiplied by a factor that depends on the target. On
# digits, and on CIFAR-10 with narrow networks, lambda of 0.001 to 0.02 removes 65% to 90% of the weights.
GUESS = 0.02
# Margin, as a fraction of the dense size, beyond which a run warns that it will miss its target.
TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Goal:
    """Target size of the network at the end of a run.

    Attributes:
      kind: name of the option in `config.method.target`.
      asked: its value.
      left: fraction of the dense network's parameters, neurons, FLOPs or step time to keep, in (0, 1).
      span: number of steps during which neurons die.
      every: steps between measurements of the size that a prune would leave.
    """

    kind: str
    asked: float
    left: float
    span: int
    every: int

    def due(self, step: int) -> bool:
        """Returns whether to measure at a step. After the span, the strength has no effect any more."""
        return step % self.every == 0 and step <= self.span

    def value(self, left: float, dense_parameters: int) -> float:
        """Returns the value of the option `kind` for a remaining fraction `left`."""
        if self.kind.endswith("sparsity"):
            return 1 - left
        return left * dense_parameters if self.kind == "parameters" else left


# For each kind, the remaining fraction that it refers to, of those of (neurons, parameters, FLOPs).
PARTS: dict[str, Callable[[float, float, float], float]] = {
    "weight_sparsity": lambda neurons, parameters, flops: parameters,
    "neuron_sparsity": lambda neurons, parameters, flops: neurons,
    "parameters": lambda neurons, parameters, flops: parameters,
    "inference_flops": lambda neurons, parameters, flops: flops,
    "step_time": lambda neurons, parameters, flops: flops,
}


def asked(settings: Settings) -> dict[str, float]:
    """Returns the options of `method.target` that are set."""
    values = {kind: getattr(settings.method.target, kind) for kind in PARTS}
    return {kind: value for kind, value in values.items() if value is not None}


def strength(settings: Settings) -> float:
    """Returns the peak strength of the regularizer: the config's, or `GUESS` if only a target is set."""
    return settings.method.strength or (GUESS if asked(settings) else 0.0)


def goal(settings: Settings, dense: demp_jax.Graph, dense_parameters: int) -> Goal | None:
    """Returns the target size, or `None` if the settings have none.

    Args:
      settings: settings of the run.
      dense: graph of the network at its initial widths.
      dense_parameters: number of its parameters.

    Raises:
      UsageError: for a size that pruning cannot reach, or inconsistent options.
    """
    wanted, method = asked(settings), settings.method
    if not wanted or method.name == "dense":  # Plain training ignores the options of DemP.
        return None
    names = ", ".join(f"config.method.target.{kind}" for kind in wanted)
    require(len(wanted) == 1, "config.method.target", names, "one option at most")
    [(kind, value)] = wanted.items()
    field = f"config.method.target.{kind}"
    require(method.name == "demp", "config.method.name", method.name, f"demp with {field}")
    if kind == "parameters":
        require(1 <= value < dense_parameters, field, value, f"between 1 and {dense_parameters - 1}")
        left = value / dense_parameters
    else:
        left = 1 - value if kind.endswith("sparsity") else value
    span, text, name = _span(settings), method.target.every, "config.method.target.every"
    every = to_steps(name, text, epoch=settings.steps_per_epoch, run=span)
    require(1 <= every <= span, name, text, f"between one step and the {span} in which neurons die")
    found = Goal(kind, value, left, span, every)
    least = _least(kind, dense, dense_parameters, settings.pruning.min_units)
    if left < least:
        most = _bound(kind, found.value(least, dense_parameters))
        raise UsageError(
            f"{field} must be {most}, the limit with config.pruning.min_units={settings.pruning.min_units} units left "
            f"in every layer; got {value}."
        )
    return found


def _span(settings: Settings) -> int:
    """Returns the number of steps during which the regularizer or the noise acts."""
    method, run = settings.method, settings.steps
    spans = [(method.strength_schedule, method.strength_span)]
    spans += [(method.noise_schedule, method.noise_span)] if method.noise > 0 else []
    return max(run if schedule == "warmup_hold" else span for schedule, span in spans)


def _bound(kind: str, bound: float) -> str:
    """Returns a bound as text, rounded so that the rounded value is reachable."""
    if kind == "parameters":
        return f"at least {math.ceil(bound)}"
    if kind.endswith("sparsity"):
        return f"at most {math.floor(1e4 * bound) / 1e4:g}"
    return f"at least {math.ceil(1e4 * bound) / 1e4:g}"


def _least(kind: str, dense: demp_jax.Graph, dense_parameters: int, min_units: int) -> float:
    removed = dense.floor(min_units)
    gone = np.append(removed, False)
    neurons = sum(int((~gone[site.groups]).sum()) for site in dense.sites)
    return PARTS[kind](
        neurons / dense.neurons,
        dense.parameters(lambda path: path.startswith("params/"), removed) / dense_parameters,
        dense.flops(removed) / dense.flops(),
    )
