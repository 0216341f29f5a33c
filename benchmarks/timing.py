# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Interleaved timing of several programs, so that they can be compared on a noisy machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Timing:
    """The time of a program.

    Attributes:
      seconds: the median over rounds, per step.
      ratio: the median over rounds of its time over that of the first program in the same round.
      spread: the 25th and the 75th percentile of these ratios.
    """

    seconds: float
    ratio: float
    spread: tuple[float, float]

    def record(self) -> dict[str, Any]:
        """Returns the rounded fields for a record."""
        return {
            "seconds": round(self.seconds, 6),
            "ratio": round(self.ratio, 4),
            "spread": [round(s, 4) for s in self.spread],
        }


def interleaved(programs: Mapping[str, Callable[[], Any]], repeats: int, steps: int = 1) -> dict[str, Timing]:
    """Times programs in rounds, each in another random order, after one warm-up round.

    Args:
      programs: functions by name. Each call is timed until its results are ready.
      repeats: number of timed rounds, >= 1.
      steps: steps per call.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(repeats + 1):
        for name in np.random.default_rng(repeat).permutation(list(programs)):
            started = time.perf_counter()
            jax.block_until_ready(programs[name]())
            if repeat:
                times[name].append(time.perf_counter() - started)
    first = times[next(iter(programs))]
    found = {}
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken, first, strict=True)]
        low, high = np.percentile(ratios, (25, 75)).tolist()
        found[name] = Timing(statistics.median(taken) / steps, statistics.median(ratios), (low, high))
    return found
