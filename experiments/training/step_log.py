# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Metrics and times of the steps that were run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import jax
import numpy as np

from experiments.training.run import Run
from experiments.training.step import StepMetrics


class StepLog:
    """Collects the metrics of steps and writes a line of metrics now and then.

    Steps are dispatched before those before them have ended. Metrics are therefore kept on the devices until a line is
    due, and a line leaves out the newest call, so that the devices always have work.

    Attributes:
      seconds: of a step, as last timed; infinite before.
    """

    def __init__(self, run: Run, disturbed: Callable[[], bool]):
        """Begins to time; `disturbed` says whether another thread slows the steps at present."""
        self._run, self._disturbed = run, disturbed
        # From which step on how many were run in a call, and their metrics.
        self._pending: list[tuple[int, int, StepMetrics]] = []
        self.seconds = math.inf
        # Until a step has been timed, each is a call of its own, which takes longer.
        self._first_line = run.problem.settings.steps_per_call > 1
        self.restart()

    def restart(self, now: tuple[float, float] | None = None) -> None:
        """Begins to time steps: prunes, evaluations and compiling are no part of a step's time."""
        self._started = now or (time.perf_counter(), self._run.compiling.seconds)
        self._was_disturbed = self._disturbed()

    def before(self) -> None:
        """Is told that steps are about to be dispatched."""
        if not self._pending:
            self.restart()

    def took(self, step: int, count: int, metrics: StepMetrics) -> None:
        """Is told that `count` steps from `step` on were dispatched."""
        self._pending.append((step, count, metrics))
        if len(self._pending) > 1 and step % self._run.problem.settings.log_every == 0:
            # Of the steps before, while those just dispatched keep the device busy.
            self.flush(step, newest=False)

    def flush(self, step: int, *, newest: bool = True) -> None:
        """Waits for the steps before a step, checks their losses, and writes a line of metrics.

        Args:
          step: where they ended.
          newest: whether the last call is one of them; else it is left for the next line.

        Raises:
          NonFiniteLossError: for a loss that is infinite or NaN.
        """
        if not self._pending:
            return
        run = self._run
        self._pending, waiting = ([], self._pending) if newest else (self._pending[-1:], self._pending[:-1])
        pending = jax.device_get(waiting)
        now = (time.perf_counter(), run.compiling.seconds)
        run.tick("steps")
        for first, count, metrics in pending:
            for number, loss in enumerate(metrics.loss[:count], first + 1):
                if not np.isfinite(loss):
                    raise run.non_finite(number, f"the loss became {loss}")
        losses = np.concatenate([metrics.loss[:count] for _, count, metrics in pending])
        correct = np.concatenate([metrics.correct[:count] for _, count, metrics in pending])
        _, count, last = pending[-1]
        first_line, self._first_line = self._first_line, self._first_line and math.isinf(self.seconds) and not newest
        seconds = now[0] - self._started[0] - (now[1] - self._started[1])
        self.seconds = max(seconds, 1e-9) / len(losses)
        line = {
            "loss": float(np.mean(losses)),
            "train_accuracy": float(np.mean(correct)) / run.problem.settings.batch_size,
            "seconds_per_step": self.seconds,
            "active": {name: int(bits[count - 1].sum()) for name, bits in last.alive.by_site().items()},
            **run.state(step),
        }
        disturbed = self._was_disturbed or self._disturbed() or first_line
        if run.steering is not None and run.steering.by_time and not disturbed:
            # Each process has a clock of its own, and all have to steer alike.
            run.steering.timed(run.learner.flops, run.problem.devices.firsts(self.seconds))
        # The time of what follows is part of the next steps' time, which go on meanwhile.
        self.restart(now)
        run.records.metrics(step, line)
        run.progress.update(step, line["loss"], run.learner.graph.neurons, run.counters.test_accuracy)
