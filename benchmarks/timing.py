# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Interleaved timing of several programs, whose ratios are comparable on a machine with other load."""

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
      seconds: median seconds of one step.
      ratio: median over rounds of its time over that of the first program in the same round.
      spread: the 25th and 75th percentile of these ratios.
    """

    seconds: float
    ratio: float
    spread: tuple[float, float]

    def record(self) -> dict[str, Any]:
        """Returns the fields of a record."""
        return {
            "seconds": round(self.seconds, 6),
            "ratio": round(self.ratio, 4),
            "spread": [round(s, 4) for s in self.spread],
        }


def interleaved(programs: Mapping[str, Callable[[], Any]], repeats: int, steps: int = 1) -> dict[str, Timing]:
    """Times programs in rounds, in another order in each round. The first round is a warm-up and does not count.

    Args:
      programs: functions by name. Each call is timed until its results are ready.
      repeats: the number of rounds that count, >= 1.
      steps: the number of steps of a call, >= 1.
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
