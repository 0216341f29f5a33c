# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""How long programs take, one beside the other on a machine that is not quiet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# Repeats that count, of each program.
_LEAST, _MOST = 10, 500


def median_seconds(
    programs: Mapping[str, Callable[[], Any]],
    seconds: float,
    *,
    stopped: Callable[[], bool] = lambda: False,
    any_process: Callable[[bool], bool] = bool,
) -> dict[str, float] | None:
    """Returns the median seconds of each program, by turns; `None` if it was stopped.

    Args:
      programs: by name, what to call; results are waited for. The first repeat, which compiles, does not count.
      seconds: for how long each is timed; 10 to 500 times whatever that is.
      stopped: asked before each call, whether to end.
      any_process: returns whether a flag is set in any of the processes that take these turns together.
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
