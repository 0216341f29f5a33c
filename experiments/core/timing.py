# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Interleaved timing of several programs, which is robust to other load on the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# Bounds on the timed calls of each program.
_LEAST, _MOST = 10, 500


def median_seconds(
    programs: Mapping[str, Callable[[], Any]],
    seconds: float,
    *,
    stopped: Callable[[], bool] = lambda: False,
    any_process: Callable[[bool], bool] = bool,
) -> dict[str, float] | None:
    """Returns the median time of each program in seconds, with interleaved calls; `None` if stopped.

    Args:
      programs: functions by name. Each call blocks until its results are ready. The first call, which compiles, is not
        counted.
      seconds: minimum total time of each program's calls, within bounds of 10 to 500 calls.
      stopped: returns whether to stop; called before each call.
      any_process: returns whether a flag is set in any process of the run.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}

    def enough(taken: list[float]) -> bool:
        return len(taken) > _LEAST and (sum(taken[1:]) >= seconds or len(taken) > _MOST)

    while any_process(not all(map(enough, times.values()))):
        for name, program in programs.items():
            if any_process(stopped()):
                return None
            started = time.perf_counter()
            jax.block_until_ready(program())
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}
