# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The size that a run is to end at."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import demp_jax
from experiments.core.durations import to_steps
from experiments.core.errors import UsageError, require

_LOG = logging.getLogger(__name__)

# Where the config has no strength it is this one, with a first factor by how much is to leave: on digits, and on
# CIFAR-10 with narrow networks, lambda of 0.001 to 0.02 takes 65% to 90% of the weights.
GUESS = 0.02
TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a run is to end at.

    Attributes:
      kind: the field of `config.method.target`.
      asked: its value.
      left: the part of the dense network's parameters, neurons, FLOPs or step time that is to be left, in (0, 1).
      span: steps in which neurons die.
      every: steps between looks at what a cut would leave.
    """

    kind: str
    asked: float
    left: float
    span: int
    every: int

    def due(self, step: int) -> bool:
        """Returns whether to look at a step; after the span nothing can be done any more."""
        return step % self.every == 0 and step <= self.span

    def value(self, left: float, dense_parameters: int) -> float:
        """Returns what of the kind it is when a part is left."""
        if self.kind.endswith("sparsity"):
            return 1 - left
        return left * dense_parameters if self.kind == "parameters" else left


# Which part of the dense network each kind goes by, from (neurons, parameters, FLOPs) left.
PARTS: dict[str, Callable[[float, float, float], float]] = {
    "weight_sparsity": lambda neurons, parameters, flops: parameters,
    "neuron_sparsity": lambda neurons, parameters, flops: neurons,
    "parameters": lambda neurons, parameters, flops: parameters,
    "inference_flops": lambda neurons, parameters, flops: flops,
    "step_time": lambda neurons, parameters, flops: flops,
}


def asked(config: Any) -> dict[str, float]:
    """Returns the fields of `config.method.target` that are set."""
    return {kind: config.method.target[kind] for kind in PARTS if config.method.target[kind] is not None}


def goal(config: Any, dense: demp_jax.Graph, dense_parameters: int, *, epoch: float, run: int) -> Goal | None:
    """Returns what a config asks for, if it asks for a size.

    Args:
      config: the whole config.
      dense: the removable units of the network at its initial widths.
      dense_parameters: its number of parameters.
      epoch, run: steps per epoch and of the run.

    Raises:
      UsageError: for a bad field, or a size that no cut can reach.
    """
    wanted = asked(config)
    if not wanted or config.method.name == "dense":  # Which uses none of DemP's fields.
        return None
    names = ", ".join(f"config.method.target.{kind}" for kind in wanted)
    require(len(wanted) == 1, "config.method.target", names, "one field at most")
    [(kind, value)] = wanted.items()
    field = f"config.method.target.{kind}"
    require(config.method.name == "demp", "config.method.name", config.method.name, f"demp with {field}")
    if kind == "parameters":
        require(1 <= value < dense_parameters, field, value, f"between 1 and {dense_parameters - 1}")
        left = value / dense_parameters
    else:
        require(0 < value < 1, field, value, "in (0, 1)")
        left = 1 - value if kind.endswith("sparsity") else value
    span = _span(config.method, epoch, run)
    every = to_steps("config.method.target.every", config.method.target.every, epoch=epoch, run=span)
    allowed = f"between one step and the {span} in which neurons die"
    require(1 <= every <= span, "config.method.target.every", config.method.target.every, allowed)
    found = Goal(kind, value, left, span, every)
    least = _least(kind, dense, dense_parameters, config.pruning.min_units)
    if left < least:
        most = _bound(kind, found.value(least, dense_parameters))
        raise UsageError(
            f"{field} must be {most}, which is what is left when every layer keeps "
            f"config.pruning.min_units={config.pruning.min_units} units and what cannot be pruned stays; got {value}."
        )
    return found


def _span(section: Any, epoch: float, run: int) -> int:
    """Returns for how many steps the regularizer or the noise is at work."""
    found = 0
    for name in ("strength", "noise"):
        ends = to_steps(f"config.method.{name}_span", section[f"{name}_span"], epoch=epoch, run=run)
        if name == "strength" or section.noise > 0:
            found = max(found, run if section[f"{name}_schedule"] == "warmup_hold" else ends)
    return found


def _bound(kind: str, bound: float) -> str:
    """Returns a bound as text, rounded so that it can be asked for."""
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
