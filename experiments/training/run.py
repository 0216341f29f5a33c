# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The state of a run, shared by the loop and its hooks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.core.compile_clock import CompileClock
from experiments.core.errors import NonFiniteLossError
from experiments.core.progress import Progress
from experiments.recipe.problem import Problem
from experiments.rundir.checkpoints import Checkpoints
from experiments.rundir.records import Records
from experiments.training.batches import Feed
from experiments.training.learner import Learner
from experiments.training.steering import Steering
from experiments.training.totals import Counters, Stopwatch


@dataclasses.dataclass
class Run:
    """The state of a run.

    Attributes:
      problem: dataset, initial network and method, as configured.
      workdir: the run directory.
      checkpoints: checkpoints in the workdir.
      records: records in the workdir.
      learner: the network, its training state and its compiled step.
      feed: reads batches.
      progress: the progress bar.
      counters: totals, which include the time before an interruption.
      compiling: measures the compile time of the loop's thread.
      stopwatch: measures the time since the last tick.
      steering: adjusts the regularizer to a target size; `None` without a target.
    """

    problem: Problem
    workdir: Path
    checkpoints: Checkpoints
    records: Records
    learner: Learner
    feed: Feed
    progress: Progress
    counters: Counters
    compiling: CompileClock
    stopwatch: Stopwatch
    steering: Steering | None

    @contextlib.contextmanager
    def spending(self, part: str, doing: str) -> Iterator[None]:
        """Shows `doing` on the progress bar, and counts the time for `part`, see `totals.PARTS`."""
        with self.progress.doing(doing):
            yield
        self.tick(part)

    def tick(self, part: str) -> None:
        """Counts the time since the last tick for `part`, see `totals.PARTS`."""
        self.counters.spent(part, *self.stopwatch.take())

    def state(self, step: int) -> dict[str, Any]:
        """Returns the values of the schedules and the size of the network before the update of a step."""
        problem, learner = self.problem, self.learner
        factor = 1.0 if self.steering is None else self.steering.factor
        return {
            "epoch": step / problem.settings.steps_per_epoch,
            "learning_rate": float(problem.rate(step)),
            "strength": float(problem.method.strength(step)) * factor,
            "noise": float(problem.method.noise(step)) * min(factor, 1.0),
            "neurons": learner.graph.neurons,
            "parameters": learner.parameters,
            "width": learner.graph.widths,
        }

    def non_finite(self, step: int, what: str) -> NonFiniteLossError:
        """Returns the error for a loss or parameters that are infinite or NaN."""
        last = self.checkpoints.latest()
        kept = f"the checkpoint of step {last} is kept" if last is not None else "no checkpoint had been written yet"
        return NonFiniteLossError(
            f"{what} at step {step}; {kept} in {self.workdir}. Lower config.optimizer.learning_rate or "
            "config.method.noise, and start in another --workdir."
        )
