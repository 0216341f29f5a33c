# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A profile of a training step: time and number of launches by kind of operation, and idle time of the device.

Kinds are told by XLA's names of operations: convolutions, products, reductions (mostly of BatchNorm), copies, and all
else. On a GPU, an operation is one kernel or a few, and the device is idle while it waits for the host.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import programs, step

# By scale: model, shape of an image, batch, and "dense" or the name of a prune as in the suite `step`.
_WIDE: dict[str, Any] = {"name": "resnet18", "stem_stride": 1, "base_width": 64, "dtype": "bfloat16"}
CASES: dict[str, list[tuple[dict[str, Any], tuple[int, int, int], int, str]]] = {
    "tiny": [({"name": "resnet18", "stem_stride": 2, "base_width": 4}, (16, 16, 3), 8, "dense")],
    "gpu": [(_WIDE, (32, 32, 3), 512, cut) for cut in ("90%, DemP, rounded", "dense", "90%, DemP")],
}
# Steps per call, and profiled calls.
_TOGETHER, _CALLS = 5, 3
# Substrings of lower-case names, without "convert" (a cast, not a convolution), by kind. The first kind that matches.
_KINDS = {
    "convolutions": ("conv", "fprop", "dgrad", "wgrad", "implicit_gemm", "cudnn"),
    "products": ("gemm", "dot", "cublas", "nvjet"),
    "reductions": ("reduce",),
    "copies": ("copy", "transpose", "memcpy", "memset"),
}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per case: milliseconds and launches of a step by kind, and its longest operations."""
    for model, shape, batch, name in cases:
        net, variables = programs.initial(model, shape)
        dense = programs.built(net, variables, shape, batch, together=_TOGETHER)
        program = dense
        if name != "dense":
            kept, multiple = step.kinds(dense, (1, 8 if scale == "gpu" else 4))[name]
            program = programs.built(
                *programs.narrowed(net, variables, shape, kept, multiple), shape, batch, together=_TOGETHER
            )
        _run(program, 2)
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder, create_perfetto_trace=True):
                _run(program, _CALLS)
            (path,) = Path(folder).rglob("perfetto_trace.json.gz")
            events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        yield {"model": model, "batch": batch, "cut": name, **summary(events, _CALLS * _TOGETHER)}
        jax.clear_caches()


def _run(program: programs.Program, calls: int) -> None:
    """Calls the program and waits for the last result. Each call donates the memory of the previous one."""
    for _ in range(calls):
        last = program()
    jax.block_until_ready(last)


def summary(events: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Returns time, idle fraction and launches of a device per step, from the events of a profile.

    Args:
      events: events in Chrome's trace format. Operations of a device have an `hlo_op`. On a GPU, only the events of its
        streams count, because other threads repeat them.
      steps: the number of profiled steps.
    """
    threads: dict[tuple[Any, Any], str] = {}
    processes: dict[tuple[Any, Any], str] = {}
    for event in events:
        if event.get("ph") == "M" and event["name"] in ("thread_name", "process_name"):
            names = threads if event["name"] == "thread_name" else processes
            names[event["pid"], event.get("tid") if names is threads else None] = event["args"]["name"]
    found = [event for event in events if event.get("ph") == "X" and "hlo_op" in event.get("args", {})]
    on_gpu = [event for event in found if "GPU" in processes.get((event["pid"], None), "")]
    if on_gpu:
        found = [event for event in on_gpu if "Stream" in threads.get((event["pid"], event["tid"]), "Stream")]
    by_name: dict[str, list[float]] = {}
    kinds: dict[str, list[float]] = {}
    for event in found:
        name = str(event["args"]["hlo_op"])
        by_name.setdefault(name, []).append(event["dur"])
        kinds.setdefault(_kind(f"{name} {event['name']}".lower()), []).append(event["dur"])
    longest = sorted(by_name, key=lambda name: -sum(by_name[name]))[:12]
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in found)
    busy, until = 0.0, float("-inf")
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    whole = until - spans[0][0] if spans else 0.0
    return {
        "ms": round(whole / steps / 1e3, 4),
        "idle": round(1 - busy / whole, 4) if whole else 0.0,
        "launches": round(len(found) / steps, 1),
        "kinds": {
            kind: {"ms": round(sum(kinds[kind]) / steps / 1e3, 4), "launches": round(len(kinds[kind]) / steps, 1)}
            for kind in [*_KINDS, "all else"]
            if kind in kinds
        },
        "longest": {name: round(sum(by_name[name]) / steps / 1e3, 4) for name in longest},
    }


def _kind(name: str) -> str:
    name = name.replace("convert", "")
    return next((kind for kind, parts in _KINDS.items() if any(part in name for part in parts)), "all else")


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    kinds = [*_KINDS, "all else"]
    found: list[tuple[str, ...]] = [("model", "batch", "cut", "a step", "idle", "launches", *kinds)]
    for record in records:
        model = record["model"]
        name = f"{model['name']}, width {model['base_width']}, {model.get('dtype', 'float32')}"
        name += ", half-size maps" if model.get("stem_stride") == 2 else ""
        cells = (f"{record['ms']:.2f} ms", f"{record['idle']:.0%}", f"{record['launches']:.0f}")
        parts = [record["kinds"].get(kind, {"ms": 0.0, "launches": 0}) for kind in kinds]
        found.append(
            (
                name,
                str(record["batch"]),
                record["cut"],
                *cells,
                *(f"{part['ms']:.2f} ms in {part['launches']:.0f}" for part in parts),
            )
        )
    return found
