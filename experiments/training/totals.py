# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a run adds up while it goes on, also over interruptions."""

from __future__ import annotations

import dataclasses
import time

from experiments.core.compile_clock import CompileClock

# What a run spends its time on, besides compiling.
PARTS = ("steps", "data", "cuts", "evaluation", "checkpoints", "other")


@dataclasses.dataclass
class Counters:
    """Totals of a run; part of every checkpoint.

    Attributes:
      train_flops: of all steps, forward and backward.
      seconds_total, seconds_compiling: of the run, and of it for compiling.
      seconds: of what is not compiling, by `PARTS`.
      cuts: how many removed something.
      waited: what waiting with a cut has cost, in parts of a dense step's time times steps.
      test_accuracy: as last measured; NaN before.
    """

    train_flops: float = 0.0
    seconds_total: float = 0.0
    seconds_compiling: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    cuts: int = 0
    waited: float = 0.0
    test_accuracy: float = float("nan")

    def spent(self, part: str, seconds: float, compiling: float) -> None:
        """Adds time that went to one of `PARTS`, of which some was compiling."""
        self.seconds_total += seconds
        self.seconds_compiling += compiling
        self.seconds[part] += seconds - compiling


class Stopwatch:
    """Time since it was last asked."""

    def __init__(self, compiling: CompileClock):
        """Begins now."""
        self._compiling = compiling
        self._last = time.perf_counter()

    def take(self) -> tuple[float, float]:
        """Returns seconds, and how many of them went into compiling."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        # What is traced within another trace counts twice.
        return seconds, min(self._compiling.take(), seconds)
