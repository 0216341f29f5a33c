# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The training step of dense and pruned networks: does its time fall as its FLOPs do?

Efficiency is the ratio of FLOPs over the ratio of times, pruned relative to dense. It is 1 if time falls as FLOPs do.
Sites are pruned to an equal fraction of their widths (`even`) or to the widths that a run with DemP left (`DemP`), both
also rounded up to multiples of 4, on a GPU of 8 (`rounded`). As in the training program, several steps run per call. On
a CPU, the dense step is also timed with XLA's convolutions, with one step per call, which suits these better.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import ceilings, programs
from benchmarks.timing import interleaved

_RUNS = Path(__file__).resolve().parent.parent / "results" / "resnet18_cifar_cpu.jsonl"
# By scale: steps per call, and rounds.
_ROUNDS = {"tiny": (2, 2), "cpu": (4, 6), "gpu": (5, 7)}

SPARSITIES = (0.8, 0.9, 0.95)
# The dense step with XLA's convolutions.
_AS_XLA = "dense, XLA's convolutions"

# By scale, most important first: model, shape of an image, batch, and the names of prunes, or `None` for all.
_RESNET = {"name": "resnet18", "stem_stride": 1}
_WIDE = {**_RESNET, "base_width": 64}
_VGG = {"name": "vgg16", "base_width": 64}
_BF16 = {"dtype": "bfloat16"}
CASES: dict[str, list[tuple[dict[str, Any], tuple[int, int, int], int, tuple[str, ...] | None]]] = {
    "tiny": [
        ({**_RESNET, "base_width": 8, "stem_stride": 2}, (16, 16, 3), 8, names)
        for names in ((), ("80%, even", "80%, DemP, rounded"))
    ],
    "cpu": [
        ({**_RESNET, "base_width": 16, "stem_stride": 2}, (32, 32, 3), 128, None),
        ({**_RESNET, "base_width": 32}, (32, 32, 3), 64, None),
        (_WIDE, (32, 32, 3), 16, None),
        ({**_VGG, "hidden": 512}, (32, 32, 3), 16, None),
    ],
    # One prune per case, because compiling for a GPU is slow: a case is recorded as soon as it is measured.
    "gpu": [
        ({"name": "resnet50", "base_width": 64} | _BF16, (224, 224, 3), 256, ("90%, even, rounded",)),
        ({**_VGG, "hidden": 4096} | _BF16, (32, 32, 3), 512, ("90%, even, rounded",)),
        ({"name": "vit"} | _BF16, (224, 224, 3), 128, ("90%, even, rounded",)),
        (_WIDE | _BF16, (32, 32, 3), 512, ("90%, DemP, rounded",)),
        (_WIDE | _BF16, (32, 32, 3), 512, ("90%, DemP",)),
        (_WIDE | _BF16, (32, 32, 3), 512, ("90%, even, rounded",)),
        (_WIDE | _BF16, (32, 32, 3), 512, ("90%, even",)),
        (_WIDE | _BF16, (32, 32, 3), 128, ("90%, DemP, rounded",)),
        (_WIDE, (32, 32, 3), 512, ()),
        ({"name": "resnet50", "base_width": 64} | _BF16, (224, 224, 3), 256, ("80%, even, rounded",)),
        (_WIDE | _BF16, (32, 32, 3), 512, ("80%, even, rounded",)),
        (_WIDE | _BF16, (32, 32, 3), 512, ("95%, even, rounded",)),
        (_WIDE, (32, 32, 3), 512, ("90%, DemP, rounded",)),
        (_WIDE, (32, 32, 3), 128, ()),
    ],
}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per case: times of the dense step and of each pruned step.

    Raises:
      ValueError: for an unknown name of a prune.
    """
    together, rounds = _ROUNDS[scale]
    for model, shape, batch, names in cases:
        dense = _dense(json.dumps(model), shape, batch, together)
        known = kinds(dense, (1, 8 if scale == "gpu" else 4))
        if unknown := set(names or ()) - set(known):
            raise ValueError(f"no prune is named {', '.join(unknown)}. The prunes are: {'; '.join(known)}.")
        steps: dict[str, programs.Program] = {"dense": dense}
        if jax.default_backend() == "cpu":
            steps[_AS_XLA] = programs.built(dense.net, dense.variables, shape, batch, fast_convolutions=False)
        for name in known if names is None else names:
            cut = programs.narrowed(dense.net, dense.variables, shape, *known[name])
            steps[name] = programs.built(*cut, shape, batch, together=together)
        calls = {name: _repeated(each, together // each.together) for name, each in steps.items()}
        try:
            timings = interleaved(calls, rounds, together)
        except Exception:
            # A failed step may have donated its state.
            _dense.cache_clear()
            raise
        finally:
            jax.clear_caches()
        cuts = {}
        for name, step in steps.items():
            flops = step.step_flops / dense.step_flops
            cuts[name] = {
                "weight_sparsity": round(1 - step.parameters / dense.parameters, 4),
                "flops_ratio": round(flops, 4),
                "efficiency": round(flops / timings[name].ratio, 3),
                "gflops_per_second": round(step.step_flops / timings[name].seconds / 1e9, 2),
                "least_gbytes": round(step.least_bytes / 1e9, 4),
                "compile_seconds": round(step.compile_seconds or 0.0, 2),
                "bytes": step.bytes,
                **timings[name].record(),
            }
        roof = ceilings.measure(model.get("dtype", "float32"), 256 if scale == "tiny" else None)
        setting = {"model": model, "image": list(shape), "batch": batch, "steps_per_call": together}
        yield {**setting, "ceilings": roof, "steps": cuts}


def _repeated(step: programs.Program, count: int) -> Callable[[], Any]:
    """Returns a function that calls a step `count` times and returns the last result, without waiting in between."""

    def take() -> Any:
        for _ in range(count):
            left = step()
        return left

    return take


@functools.cache
def _dense(model: str, shape: tuple[int, int, int], batch: int, together: int) -> programs.Program:
    """Returns the step of a network, given as JSON. All cases of the network share one compiled step."""
    return programs.built(*programs.initial(json.loads(model), shape), shape, batch, together=together)


def kinds(dense: programs.Program, multiples: Sequence[int]) -> dict[str, tuple[Callable[[str, int], int], int]]:
    """Returns for each name of a prune the function `kept(site, width)` and the multiple that widths are rounded to."""
    found: dict[str, tuple[Callable[[str, int], int], int]] = {}
    for sparsity in SPARSITIES:
        for kind, kept in _widths(dense, sparsity).items():
            for multiple in multiples:
                found[f"{sparsity:.0%}, {kind}{', rounded' if multiple > 1 else ''}"] = kept, multiple
    return found


def _widths(dense: programs.Program, sparsity: float) -> dict[str, Callable[[str, int], int]]:
    """Returns for each kind of prune the function `kept(site, width)` at about this weight sparsity."""
    part = math.sqrt(1 - sparsity)
    kinds: dict[str, Callable[[str, int], int]] = {"even": lambda _, width: math.ceil(part * width)}
    left = _left_by_demp(sparsity)
    if set(left) == set(dense.graph.widths):
        kinds["DemP"] = lambda name, width: math.ceil(left[name] * width)
    return kinds


def _left_by_demp(sparsity: float) -> dict[str, float]:
    """Returns the fraction of each site that the recorded run of DemP closest to a weight sparsity kept."""
    runs = [json.loads(line) for line in _RUNS.read_text().splitlines()]
    runs = [run for run in runs if run["method"] == "demp" and run["model"] == "resnet18"]
    nearest = min(runs, key=lambda run: abs(run["weight_sparsity"] - sparsity))
    dense = next(r["widths"] for r in map(json.loads, _RUNS.read_text().splitlines()) if r["method"] == "dense")
    return {name: width / dense[name] for name, width in nearest["widths"].items()}


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    header: tuple[str, ...] = ("model", "batch", "cut", "weight sparsity", "FLOPs", "time", "efficiency")
    roof = any("ceilings" in record for record in records)
    memory = any(row.get("bytes") for record in records for row in record["steps"].values())
    header += ("memory",) if memory else ()
    as_xla = any(_AS_XLA in record["steps"] for record in records)
    header += ("relative to XLA's",) if as_xla else ()
    found: list[tuple[str, ...]] = [(*header, "TFLOP/s", "of the roofline") if roof else header]
    told = set()
    for record in records:
        model = record["model"]
        name = f"{model['name']}, width {model.get('base_width', '768')}, {model.get('dtype', 'float32')}"
        name += ", half-size maps" if model.get("stem_stride") == 2 else ""
        for cut, row in record["steps"].items():
            # One dense row per network and batch, if it has more than its ratios to itself.
            if cut == "dense" and (not roof or (name, record["batch"]) in told):
                continue
            told.add((name, record["batch"]))
            cells = [name, str(record["batch"]), cut, f"{row['weight_sparsity']:.1%}", f"x {row['flops_ratio']:.3f}"]
            cells += [f"x {row['ratio']:.3f}", f"{row['efficiency']:.2f}"]
            if memory:
                dense = record["steps"]["dense"].get("bytes")
                cells.append(f"x {row['bytes'] / dense:.2f}" if dense and row.get("bytes") else "")
            if as_xla:
                other = record["steps"].get(_AS_XLA)
                cells.append(f"{row['flops_ratio'] * other['ratio'] / row['ratio']:.2f}" if other else "")
            if roof:
                share = f"{ceilings.share(record['ceilings'], row):.0%}" if "ceilings" in record else ""
                cells += [f"{row['gflops_per_second'] / 1e3:.3g}", share]
            found.append(tuple(cells))
    return found
