# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""How the strength of the regularizer gets a run to the size that it is to end at."""

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
        part = PARTS[self.goal.kind](*(now / dense for now, dense in zip(mine, self._dense, strict=True)))
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
