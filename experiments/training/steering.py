# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Adjusts the strength of the regularizer so that a run ends at its target size."""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Mapping
from typing import Any

import demp_jax
from experiments.recipe.goal import PARTS, TOLERANCE, Goal
from experiments.training.cost_rule import time_per_flops

_LOG = logging.getLogger(__name__)

# Fraction of the FLOPs that the first prune and later ones have to save for a useful measurement of the time they save.
_FIRST, _FURTHER = 0.1, 0.2


class Steering:
    """Steers a run to its target size."""

    def __init__(self, goal: Goal, dense: demp_jax.Graph, dense_parameters: int, *, guesses: bool):
        """Initializes the controller.

        Args:
          goal: the target size.
          dense: the removable units of the network at its initial widths.
          dense_parameters: its number of parameters.
          guesses: whether the config sets no strength, so that it is `goal.GUESS`.
        """
        self.goal = goal
        self._dense = (dense.neurons, dense_parameters, dense.flops())
        # The logged seconds per step, by FLOPs of the network.
        self._seconds: dict[int, list[float]] = {}
        self._warned = False
        first = min((-math.log(goal.left) / 3) ** 3, 1.0) if guesses else 1.0
        self._controller = demp_jax.targets.TargetController(goal.left, goal.span, first)

    def as_json(self) -> dict[str, Any]:
        """Returns the state for the checkpoint metadata."""
        controller = dataclasses.asdict(self._controller)
        return {"controller": controller, "seconds": list(self._seconds.items()), "warned": self._warned}

    def load(self, fields: Mapping[str, Any]) -> None:
        """Restores the state from `as_json`."""
        self._controller = demp_jax.targets.TargetController(**fields["controller"])
        self._seconds = {int(flops): list(times) for flops, times in fields["seconds"]}
        self._warned = fields["warned"]

    def summary(self, parameters: int, graph: demp_jax.Graph, step_time_ratio: float | None) -> dict[str, Any]:
        """Returns the requested and the reached size; for a step-time target, the latter is the final measurement."""
        left = self._part(graph.neurons, parameters, graph.flops())
        reached = step_time_ratio if self.by_time else self.goal.value(left, self._dense[1])
        return {"kind": self.goal.kind, "asked": self.goal.asked, "reached": reached}

    @property
    def factor(self) -> float:
        """The factor on the strength."""
        return self._controller.factor

    @property
    def by_time(self) -> bool:
        """Whether the target is a step time."""
        return self.goal.kind == "step_time"

    def timed(self, flops: int, seconds: float) -> None:
        """Adds a measured step time of a network with so many FLOPs."""
        self._seconds.setdefault(flops, []).append(seconds)

    def look(self, step: int, forecast: demp_jax.Preview) -> float:
        """Updates the factor.

        Args:
          step: number of updates so far.
          forecast: the preview of a prune of all dead units.

        Returns:
          The size that the prune would leave, as a fraction of the dense size.
        """
        left = self._part(forecast.neurons[1], forecast.parameters[1], forecast.flops[1])
        self._controller.update(step, left)
        self._warn(step, left)
        return left

    def _part(self, neurons: int, parameters: int, flops: int) -> float:
        """Returns the size of a smaller network, in the measure of the target, as a fraction of the dense size."""
        mine = (neurons, parameters, flops)
        part = PARTS[self.goal.kind](*(now / dense for now, dense in zip(mine, self._dense, strict=True)))
        return 1 - self._time_per_flops() * (1 - part) if self.by_time else part

    def gain_to_time(self) -> float:
        """Returns the fraction of FLOPs that justifies a prune for measuring the time it saves; 1 if none does."""
        if not self.by_time:
            return 1.0
        return _FURTHER if self._timed_cuts() else _FIRST

    def _timed_cuts(self) -> list[int]:
        return [flops for flops in self._seconds if flops <= (1 - _FIRST) * self._dense[2]]

    def _time_per_flops(self) -> float:
        """Returns the relative reduction of the step time per relative reduction of FLOPs, as measured if possible."""
        dense, cut = self._dense[2], self._timed_cuts()
        if dense not in self._seconds or not cut:
            return time_per_flops()
        # The median ignores the one-time costs in the first log lines of a compiled step.
        before, after = (statistics.median(self._seconds[flops]) for flops in (dense, cut[-1]))
        saved = (1 - after / before) / (1 - cut[-1] / dense)
        return min(max(saved, 0.05), 1.0)

    def _warn(self, step: int, left: float) -> None:
        """Warns once, as early as possible, that the target will be missed, and by how much."""
        expected = self._controller.outlook()
        too_little = left < self.goal.left - TOLERANCE
        # A small delay can still be made up, because the controller increases the strength.
        too_much = expected is not None and expected > self.goal.left + 3 * TOLERANCE
        if self._warned or not (too_little or too_much):
            return
        self._warned = True
        shown = self.goal.value(min(left, 1.0) if too_little or expected is None else expected, self._dense[1])
        remedy = (
            "more units died than were to be removed, even with the regularizer off: lower config.method.noise or "
            "config.optimizer.learning_rate"
            if too_little
            else "allow a longer run, or more noise (config.method.noise)"
        )
        asked = f"config.method.target.{self.goal.kind}={self.goal.asked}"
        _LOG.warning("step %d: %s will be missed, at about %.3g; %s", step, asked, shown, remedy)
