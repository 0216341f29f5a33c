# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Times of several programs within one run, so that they can be compared on a machine that is not quiet."""

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
    """How long a program takes.

    Attributes:
      seconds: the median of its repeats, of one step where a call takes several.
      ratio: the median, over rounds, of its time over that of the first program in the same round.
      spread: the middle half of those ratios, from the 25th to the 75th percentile.
    """

    seconds: float
    ratio: float
    spread: tuple[float, float]

    def record(self) -> dict[str, Any]:
        """Returns the fields as they stand in a record."""
        return {
            "seconds": round(self.seconds, 6),
            "ratio": round(self.ratio, 4),
            "spread": [round(s, 4) for s in self.spread],
        }


def interleaved(programs: Mapping[str, Callable[[], Any]], repeats: int, steps: int = 1) -> dict[str, Timing]:
    """Times programs round by round, in another order each round; the first round warms up and does not count.

    Args:
      programs: by name, what to call; results are waited for.
      repeats: rounds that count, at least 1.
      steps: how many steps a call takes.
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
