# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Residual blocks without units: what a training step saves, compared with blocks that keep one unit.

In some blocks, all units but one (`PruneOptions(min_units=1)`) or all units (`min_units=0`) are removed. All other
sites keep an equal fraction of their units. Steps are timed in interleaved rounds. They are also compiled for an H200,
without needing one (`benchmarks.gpu_programs`), to count the operations that a GPU would launch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from benchmarks import gpu_programs, programs
from benchmarks.timing import interleaved

_ROUNDS = {"tiny": 2, "cpu": 15, "gpu": 7}

# Model, shape of an image, batch, blocks that are emptied, and the fraction of the units that all other sites keep.
_RESNET = {"name": "resnet18", "stem_stride": 1}
CASES: dict[str, list[tuple[dict[str, Any], tuple[int, int, int], int, tuple[int, ...], float]]] = {
    "tiny": [({**_RESNET, "base_width": 8, "stem_stride": 2}, (16, 16, 3), 8, (6, 7), 0.5)],
    "cpu": [
        ({**_RESNET, "base_width": 32}, (32, 32, 3), 64, (5, 6, 7), 1.0),
        ({**_RESNET, "base_width": 32}, (32, 32, 3), 64, (5, 6, 7), 0.25),
        ({**_RESNET, "base_width": 64}, (32, 32, 3), 16, (5, 6, 7), 0.25),
        ({"name": "resnet50", "base_width": 16}, (64, 64, 3), 16, (1, 5, 8, 9, 11, 12, 14, 15), 0.5),
    ],
    "gpu": [
        ({**_RESNET, "base_width": 64, "dtype": "bfloat16"}, (32, 32, 3), 512, (5, 6, 7), 0.25),
        ({"name": "resnet50", "dtype": "bfloat16"}, (224, 224, 3), 64, (1, 5, 8, 9, 11, 12, 14, 15), 0.5),
    ],
}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per case: times and GPU operations of the dense step and of both pruned steps."""
    for model, shape, batch, blocks, fraction in cases:
        net, variables = programs.initial(model, shape)
        inside = tuple(f"blocks/{block}/bn" for block in blocks)
        steps = {"dense": programs.built(net, variables, shape, batch)}
        for name, least in (("one unit", 1), ("emptied", 0)):
            kept = functools.partial(_kept, inside=inside, least=least, fraction=fraction)
            pruned = programs.narrowed(net, variables, shape, kept, min_units=least)
            steps[name] = programs.built(*pruned, shape, batch)
        timings = interleaved(steps, _ROUNDS[scale], 1)
        found = {}
        for name, each in steps.items():
            found[name] = {
                "parameters": each.parameters,
                "flops_ratio": round(each.step_flops / steps["dense"].step_flops, 4),
                "empty_sites": sum(width == 0 for width in each.graph.widths.values()),
                "compile_seconds": round(each.compile_seconds or 0.0, 2),
                "gpu_operations": gpu_programs.operations_of(each) if gpu_programs.available() else None,
                **timings[name].record(),
            }
        setting = {"model": model, "image": list(shape), "batch": batch, "blocks": list(blocks), "kept": fraction}
        yield {**setting, "steps": found}
        jax.clear_caches()


def _kept(site: str, width: int, inside: tuple[str, ...], least: int, fraction: float) -> float:
    return least if site.startswith(inside) else max(1, fraction * width)


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    found: list[tuple[str, ...]] = [
        ("model", "blocks", "elsewhere", "emptied blocks keep", "parameters", "FLOPs", "time of a step")
        + ("compile time", "GPU operations", "of these convolutions")
    ]
    for record in records:
        model, dense = record["model"], record["steps"]["dense"]
        name = f"{model['name']}, width {model.get('base_width', 64)}, batch {record['batch']}"
        blocks = ", ".join(map(str, record["blocks"]))
        for cut, row in record["steps"].items():
            operations = row["gpu_operations"] or {}
            found.append(
                (
                    name,
                    *(("", "", "dense") if cut == "dense" else (blocks, f"{record['kept']:.0%}", cut)),
                    f"{row['parameters']:,}",
                    f"x {row['flops_ratio']:.3f}",
                    f"x {row['ratio']:.3f}",
                    f"x {row['compile_seconds'] / dense['compile_seconds']:.2f}",
                    str(sum(operations.values())) if operations else "",
                    str(operations.get("custom-call", 0)) if operations else "",
                )
            )
    return found
