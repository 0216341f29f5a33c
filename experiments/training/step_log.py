# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Logs metrics and times of training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import jax
import numpy as np

from experiments.training.run import Run
from experiments.training.step import StepMetrics


class StepLog:
    """Collects the metrics of steps and writes them every `log_every` steps.

    Steps are dispatched asynchronously. Metrics therefore stay on the devices until a line is due, and the newest call
    is left for the next line, so that the devices are never idle.

    Attributes:
      seconds: seconds per step, as last measured; infinite before.
    """

    def __init__(self, run: Run, disturbed: Callable[[], bool]):
        """Starts timing; `disturbed` returns whether another thread currently slows the steps."""
        self._run, self._disturbed = run, disturbed
        # First step, number of steps and metrics of each call.
        self._pending: list[tuple[int, int, StepMetrics]] = []
        self.seconds = math.inf
        # Until a step has been timed, every call runs one step, which is slower per step.
        self._first_line = run.problem.settings.steps_per_call > 1
        self.restart()

    def restart(self, now: tuple[float, float] | None = None) -> None:
        """Starts timing anew, so that prunes, evaluations and compilation are excluded."""
        self._started = now or (time.perf_counter(), self._run.compiling.seconds)
        self._was_disturbed = self._disturbed()

    def before(self) -> None:
        """Must be called before steps are dispatched."""
        if not self._pending:
            self.restart()

    def took(self, step: int, count: int, metrics: StepMetrics) -> None:
        """Must be called after `count` steps from `step` on were dispatched."""
        self._pending.append((step, count, metrics))
        if len(self._pending) > 1 and step % self._run.problem.settings.log_every == 0:
            # Writes the previous steps while the device runs those just dispatched.
            self.flush(step, newest=False)

    def flush(self, step: int, *, newest: bool = True) -> None:
        """Waits for the pending steps, checks their losses, and writes a line of metrics.

        Args:
          step: the step after them.
          newest: whether to include the last call, or to leave it for the next line.

        Raises:
          NonFiniteLossError: if a loss is infinite or NaN.
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
            # Processes measure different times, but must steer in the same way.
            run.steering.timed(run.learner.flops, run.problem.devices.firsts(self.seconds))
        # Writing counts for the next steps, which run in the meantime.
        self.restart(now)
        run.records.metrics(step, line)
        run.progress.update(step, line["loss"], run.learner.graph.neurons, run.counters.test_accuracy)
