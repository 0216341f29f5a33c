# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The size that a run is to end at, and how the strength of the regularizer gets it there."""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import demp_jax
from experiments.ahead import time_per_flops
from experiments.durations import to_steps
from experiments.errors import UsageError, require

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
_PARTS: dict[str, Callable[[float, float, float], float]] = {
    "weight_sparsity": lambda neurons, parameters, flops: parameters,
    "neuron_sparsity": lambda neurons, parameters, flops: neurons,
    "parameters": lambda neurons, parameters, flops: parameters,
    "inference_flops": lambda neurons, parameters, flops: flops,
    "step_time": lambda neurons, parameters, flops: flops,
}


def asked(config: Any) -> dict[str, float]:
    """Returns the fields of `config.method.target` that are set."""
    return {kind: config.method.target[kind] for kind in _PARTS if config.method.target[kind] is not None}


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
    return _PARTS[kind](
        neurons / dense.neurons,
        dense.parameters(lambda path: path.startswith("params/"), removed) / dense_parameters,
        dense.flops(removed) / dense.flops(),
    )


# How much of the FLOPs a first cut and others have to save to tell something of the time.
_FIRST, _FURTHER = 0.1, 0.2


class Steering:
    """Steers one run to its goal."""

    def __init__(self, goal: Goal, dense: demp_jax.Graph, dense_parameters: int, *, guesses: bool):
        """Begins.

        Args:
          goal: of the run.
          dense: the removable units of the network at its initial widths.
          dense_parameters: its number of parameters.
          guesses: whether the strength is `GUESS` and not the user's.
        """
        self.goal = goal
        self._dense = (dense.neurons, dense_parameters, dense.flops())
        # By FLOPs of the network, seconds of its step, as the log has them.
        self._seconds: dict[int, list[float]] = {}
        self._warned = False
        first = min((-math.log(goal.left) / 3) ** 3, 1.0) if guesses else 1.0
        self._controller = demp_jax.targets.TargetController(goal.left, goal.span, first)

    def as_json(self) -> dict[str, Any]:
        """Returns where it stands, as it is kept in a checkpoint."""
        controller = dataclasses.asdict(self._controller)
        return {"controller": controller, "seconds": list(self._seconds.items()), "warned": self._warned}

    def load(self, fields: Mapping[str, Any]) -> None:
        """Goes on from what `as_json` gave."""
        self._controller = demp_jax.targets.TargetController(**fields["controller"])
        self._seconds = {int(flops): list(times) for flops, times in fields["seconds"]}
        self._warned = fields["warned"]

    def summary(self, parameters: int, graph: demp_jax.Graph, step_time_ratio: float | None) -> dict[str, Any]:
        """Returns what was asked for and what a network came to; of a step time, what was measured at the end."""
        left = self._part(graph.neurons, parameters, graph.flops())
        reached = step_time_ratio if self.by_time else self.goal.value(left, self._dense[1])
        return {"kind": self.goal.kind, "asked": self.goal.asked, "reached": reached}

    @property
    def factor(self) -> float:
        """What the strength is multiplied by."""
        return self._controller.factor

    @property
    def by_time(self) -> bool:
        """Whether it wants to know how long steps take."""
        return self.goal.kind == "step_time"

    def timed(self, flops: int, seconds: float) -> None:
        """Takes the time of a step at so many FLOPs."""
        self._seconds.setdefault(flops, []).append(seconds)

    def look(self, step: int, forecast: demp_jax.Preview) -> float:
        """Sets the factor from a step on by what a cut would leave then; returns the part that it would leave."""
        left = self._part(forecast.neurons[1], forecast.parameters[1], forecast.flops[1])
        self._controller.update(step, left)
        self._warn(step, left)
        return left

    def _part(self, neurons: int, parameters: int, flops: int) -> float:
        """Returns which part of the dense network's size, of the kind of the goal, a smaller network has."""
        mine = (neurons, parameters, flops)
        part = _PARTS[self.goal.kind](*(now / dense for now, dense in zip(mine, self._dense, strict=True)))
        return 1 - self._time_per_flops() * (1 - part) if self.by_time else part

    def gain_to_time(self) -> float:
        """Returns which part of the FLOPs a cut has to save to be made for what timing it tells; 1 if for none."""
        if not self.by_time:
            return 1.0
        return _FURTHER if self._timed_cuts() else _FIRST

    def _timed_cuts(self) -> list[int]:
        return [flops for flops in self._seconds if flops <= (1 - _FIRST) * self._dense[2]]

    def _time_per_flops(self) -> float:
        """Returns which part of a step's time goes with a part of the FLOPs: as measured in this run, once it was."""
        dense, cut = self._dense[2], self._timed_cuts()
        if dense not in self._seconds or not cut:
            return time_per_flops()
        # The first lines of a program hold what it did once.
        before, after = (statistics.median(self._seconds[flops]) for flops in (dense, cut[-1]))
        saved = (1 - after / before) / (1 - cut[-1] / dense)
        return min(max(saved, 0.05), 1.0)

    def _warn(self, step: int, left: float) -> None:
        """Says once, as early as it shows, that the goal will be missed, and what can be reached."""
        expected = self._controller.outlook()
        too_little = left < self.goal.left - TOLERANCE
        # It goes on pressing harder: a little is made up for yet.
        too_much = expected is not None and expected > self.goal.left + 3 * TOLERANCE
        if self._warned or not (too_little or too_much):
            return
        self._warned = True
        shown = self.goal.value(min(left, 1.0) if too_little or expected is None else expected, self._dense[1])
        remedy = (
            "more has died than that without the regularizer doing more: lower config.method.noise or the learning rate"
            if too_little
            else "allow a longer run, or more noise (config.method.noise)"
        )
        asked = f"config.method.target.{self.goal.kind}={self.goal.asked}"
        _LOG.warning("step %d: %s will be missed, at about %.3g; %s", step, asked, shown, remedy)
