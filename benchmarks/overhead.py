# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The cost of DemP in a training step of an unpruned network: each part alone and all together.

Times are ratios to the plain step. As in the training program, ten steps run per call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from benchmarks import programs
from benchmarks.timing import interleaved

PARTS: dict[str, dict[str, Any]] = {
    "plain": {"watch": False},
    "alive bits": {},
    "regularizer": {"watch": False, "strength": 5e-3},
    "alive bits and noise": {"noise": 5e-5},
    "everything": {"strength": 5e-3, "noise": 5e-5},
}
_SOME = ("plain", "alive bits", "everything")
# By scale: model, batch, rounds, parts.
CASES: dict[str, list[tuple[dict[str, Any], int, int, tuple[str, ...]]]] = {
    "tiny": [({"base_width": 4, "stem_stride": 2}, 8, 2, tuple(PARTS))],
    "cpu": [
        ({"base_width": 16}, 128, 11, tuple(PARTS)),
        ({"base_width": 16, "stem_stride": 2}, 128, 21, tuple(PARTS)),
    ],
    "gpu": [({"base_width": 64, "dtype": dtype}, 512, 11, _SOME) for dtype in ("bfloat16", "float32")],
}
_TOGETHER = 10
# How many times each part is compiled.
_COMPILED = {"tiny": 1, "cpu": 6, "gpu": 1}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per network: the time of a step and the time to compile it, with each part."""
    for model, batch, repeats, names in cases:
        model = {"name": "resnet18", **model}
        net, variables = programs.initial(model, (32, 32, 3))
        steps = {
            name: programs.built(net, variables, (32, 32, 3), batch, together=_TOGETHER, **PARTS[name])
            for name in names
        }
        if scale == "gpu":
            # Kernels are autotuned once per process. Without this, the first part would pay for kernels that all share.
            steps["plain"].compile()
        compiling = _compiling(steps, _COMPILED[scale])
        timings = interleaved(steps, repeats, _TOGETHER)
        parts = {
            name: {
                **timings[name].record(),
                "compile_seconds": round(compiling[name], 3),
                "compile_ratio": round(compiling[name] / compiling["plain"], 3),
            }
            for name in names
        }
        yield {"model": model, "batch": batch, "steps_per_call": _TOGETHER, "parts": parts}
        jax.clear_caches()


def _compiling(steps: Mapping[str, programs.Program], repeats: int) -> dict[str, float]:
    """Returns the minimum seconds to trace and compile each step, over interleaved repeats.

    Every repeat compiles the same program, so more than the minimum is noise of the machine.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            jax.clear_caches()
            started = time.perf_counter()
            step.compile()
            taken[name].append(time.perf_counter() - started)
    return {name: min(seconds) for name, seconds in taken.items()}


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    found: list[tuple[str, ...]] = [("model", "batch", "part", "step", "middle half", "compiling")]
    for record in records:
        model = record["model"]
        name = f"resnet18, width {model['base_width']}, {model.get('dtype', 'float32')}"
        name += ", half-size maps" if model.get("stem_stride") == 2 else ""
        for part, row in record["parts"].items():
            low, high = row["spread"]
            cells = (name, str(record["batch"]), part, f"x {row['ratio']:.3f}", f"{low:.3f} to {high:.3f}")
            found.append((*cells, f"x {row['compile_ratio']:.2f}"))
    return found
