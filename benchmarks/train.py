# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Whole runs of a recipe, dense and with DemP: seconds, accuracy and FLOPs.

Runs of `experiments.run` are made one after the other in `runs/benchmarks/`. Finished runs are not repeated, and
interrupted ones continue. Times are those of the whole run, including compiling, pruning, evaluating and saving. Runs
are not interleaved, so a change of the machine's speed shows in the ratios.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli.launch import Run, execute
from experiments.rundir.records import read_lines

_ROOT = Path(__file__).resolve().parent.parent

# Without a cache of compiled programs, which would only help runs whose widths are in it.
_COLD: dict[str, Any] = {"compile_cache": ""}

_DENSE: dict[str, Any] = {"method.name": "dense"}
_TWINS: dict[str, dict[str, Any]] = {"dense": _DENSE, "demp": {}}
_WEAK = "demp, lambda 0.0005"

# By scale: name, config, options of all runs, and options of each run. The first run is the baseline of the others.
CASES: dict[str, list[tuple[str, str, dict[str, Any], dict[str, dict[str, Any]]]]] = {
    "tiny": [
        ("digits", "configs/quickstart.py", {"steps": "400", "pruning.cut_cost": "10", "pruning.ahead": "10"}, _TWINS),
    ],
    "cpu": [
        ("resnet18", "configs/resnet18_cifar.py:cpu", _COLD, _TWINS),
        # In wider networks, convolutions are a larger fraction of a step, and prunes save more.
        (
            "resnet18, width 32",
            "configs/resnet18_cifar.py:cpu",
            _COLD | {"model.base_width": 32},
            # With weaker regularizers, and dense runs of about the same time, with fewer epochs.
            _TWINS
            | {"demp, lambda 0.001": {"method.strength": 0.001}, _WEAK: {"method.strength": 0.0005}}
            | {f"dense, {epochs} epochs": _DENSE | {"steps": f"{epochs}ep"} for epochs in (9, 8.4)},
        ),
        (
            "resnet18, width 32, seed 1",
            "configs/resnet18_cifar.py:cpu",
            _COLD | {"model.base_width": 32, "seed": 1},
            {"dense": _DENSE, _WEAK: {"method.strength": 0.0005}},
        ),
        (
            "resnet18, width 32, seed 2",
            "configs/resnet18_cifar.py:cpu",
            _COLD | {"model.base_width": 32, "seed": 2},
            {"dense": _DENSE, _WEAK: {"method.strength": 0.0005}},
        ),
        # Higher sparsity: 93% in results/resnet18_cifar_cpu.jsonl.
        (
            "resnet18, SGDM",
            "configs/resnet18_cifar.py:cpu,sgdm",
            _COLD,
            {"dense": _DENSE, "demp": {"method.strength": 0.005}},
        ),
        ("vgg16", "configs/vgg16_cifar.py:cpu", _COLD, _TWINS),
        (
            "vgg16, width 32",
            "configs/vgg16_cifar.py:cpu",
            _COLD | {"model.base_width": 32},
            _TWINS
            | {
                "demp, lambda 0.002": {"method.strength": 0.002},
                # About the time of DemP at the recipe's strength of 0.005.
                "dense, 5 epochs": _DENSE | {"steps": "5ep"},
            },
        ),
        # In longer runs, the first prune comes after a smaller fraction of the steps.
        (
            "vgg16, width 32, 10 epochs",
            "configs/vgg16_cifar.py:cpu",
            _COLD | {"model.base_width": 32, "steps": "10ep"},
            {"dense": _DENSE, "demp, lambda 0.002": {"method.strength": 0.002}},
        ),
    ],
    # Large batches, and few prunes that are prepared long before, because compiling is slow on a GPU. A few minutes.
    "gpu": [
        (
            "resnet18",
            "configs/resnet18_cifar.py",
            _COLD
            | {
                "steps": "30ep",
                "batch_size": 512,
                "model.dtype": "bfloat16",
                "optimizer.schedule": "cosine",
                "method.strength": 0.0015,
                "method.strength_span": "50%",
                "method.noise_span": "50%",
                "method.noise": 0.0,
                "pruning.every": "25%",
                "pruning.ahead": "700",
                "pruning.cut_cost": "500",
                "pruning.constant": 0.1,
                "pruning.tolerance": 100.0,
                "eval_every": "50%",
                "checkpoint_every": "50%",
            },
            _TWINS,
        )
    ],
}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per recipe: the results of its runs.

    Raises:
      RuntimeError: if a run fails.
    """
    del scale
    for name, config, common, changes in cases:
        runs = {kind: Run.of(config, common, change) for kind, change in changes.items()}
        outcomes = execute(runs.values(), _ROOT / "runs" / "benchmarks", processes=1)
        failed = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
        if failed:
            raise RuntimeError(f"{name}: {failed[0]}")
        found = {kind: _outcome(outcomes[run].workdir) for kind, run in runs.items()}
        yield {"recipe": name, "config": config, "changes": common, "runs": found}


def _outcome(workdir: Path) -> dict[str, Any]:
    summary = json.loads((workdir / "summary.json").read_text())
    cuts = read_lines(workdir / "cuts.jsonl")
    # A prune that is prepared in a thread only costs the time that the loop waits for it.
    waited = sum(
        sum(cut["seconds"].values()) if "slice" in cut["seconds"] else cut["seconds"].get("trials", 0.0) for cut in cuts
    )
    kept = ["test_accuracy", "neuron_sparsity", "weight_sparsity", "inference_flops_ratio", "train_flops_ratio"]
    kept += ["step_time_ratio", "seconds_total", "seconds_compiling", "cuts", "steps"]
    kept += ["seed", "command", "commit", "device"]
    return {**{name: summary[name] for name in kept}, "seconds_cutting": round(waited, 2)}


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    header = ("recipe", "run", "test accuracy", "weight sparsity", "FLOPs", "training FLOPs", "last step")
    found: list[tuple[str, ...]] = [(*header, "cuts", "cutting", "seconds", "faster", "commit")]
    for record in records:
        first = next(iter(record["runs"].values()))["seconds_total"]
        for kind, run in record["runs"].items():
            found.append(
                (
                    record["recipe"],
                    kind,
                    f"{run['test_accuracy']:.1%}",
                    f"{run['weight_sparsity']:.1%}",
                    f"x {run['inference_flops_ratio']:.2f}",
                    f"x {run['train_flops_ratio']:.2f}",
                    f"x {run['step_time_ratio']:.2f}",
                    str(run["cuts"]),
                    f"{run['seconds_cutting'] / run['seconds_total']:.1%} of the time",
                    f"{run['seconds_total']:.0f}",
                    f"x {first / run['seconds_total']:.2f}",
                    run["commit"][:7],
                )
            )
    return found
