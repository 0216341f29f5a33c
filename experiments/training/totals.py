# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Totals of a run, kept in its checkpoints."""

from __future__ import annotations

import dataclasses
import time

from experiments.core.compile_clock import CompileClock

# The parts that the time of a run is split into, besides compilation.
PARTS = ("steps", "data", "cuts", "evaluation", "checkpoints", "other")


@dataclasses.dataclass
class Counters:
    """Totals of a run.

    Attributes:
      train_flops: FLOPs of all steps, forward and backward.
      seconds_total, seconds_compiling: total time, and the part of it that went into compilation.
      seconds: time without compilation, by `PARTS`.
      cuts: number of prunes that removed units.
      waited: number of steps lost by delays since the last prune, see `cost_rule`.
      test_accuracy: the last measured test accuracy; NaN before.
    """

    train_flops: float = 0.0
    seconds_total: float = 0.0
    seconds_compiling: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    cuts: int = 0
    waited: float = 0.0
    test_accuracy: float = float("nan")

    def spent(self, part: str, seconds: float, compiling: float) -> None:
        """Adds the seconds spent on one of `PARTS`, which include `compiling` seconds of compilation."""
        self.seconds_total += seconds
        self.seconds_compiling += compiling
        self.seconds[part] += seconds - compiling


class Stopwatch:
    """Measures the time between calls of `take`."""

    def __init__(self, compiling: CompileClock):
        """Starts the measurement."""
        self._compiling = compiling
        self._last = time.perf_counter()

    def take(self) -> tuple[float, float]:
        """Returns the seconds since the last call, and how many of them went into compilation."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        # The clock counts nested traces twice.
        return seconds, min(self._compiling.take(), seconds)
