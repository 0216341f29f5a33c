# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""From end to end: seconds, accuracy and FLOPs of the same recipe, dense and with DemP.

On a CPU the two runs go side by side, on a core each, so that a machine whose speed changes changes both; elsewhere one
after the other. They are ordinary runs of `experiments.run` in `runs/benchmarks/`: those that ended are not run again,
and those that were interrupted go on. What is timed is the whole run: compiling, cutting, evaluating, saving.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.records import read_lines

_ROOT = Path(__file__).resolve().parent.parent

# Name, config and flags of both runs, flags of the one with DemP.
CASES: dict[str, list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]] = {
    "tiny": [
        (
            "digits",
            "configs/quickstart.py",
            ("--config.steps=400", "--config.pruning.cut_cost=10", "--config.pruning.ahead=10"),
            (),
        )
    ],
    "cpu": [
        ("resnet18", "configs/resnet18_cifar.py:cpu", (), ()),
        ("vgg16", "configs/vgg16_cifar.py:cpu", (), ()),
    ],
    "gpu": [
        (
            "resnet18",
            "configs/resnet18_cifar.py",
            (
                "--config.steps=10ep",
                "--config.optimizer.schedule=cosine",
                "--config.model.dtype=bfloat16",
                "--config.pruning.every=5%",
                "--config.method.strength_span=50%",
                "--config.method.noise=0.0",
            ),
            (),
        )
    ],
}


def rows(scale: str) -> Iterator[dict[str, Any]]:
    """Yields a record per recipe: what both runs came to."""
    for name, config, both, demp in CASES[scale]:
        folder = _ROOT / "runs" / "benchmarks" / f"{name}-{scale}"
        kinds = {"dense": (*both, "--config.method.name=dense"), "demp": (*both, *demp)}
        commands = {
            kind: [sys.executable, "-m", "experiments.run", f"--config={config}", f"--workdir={folder / kind}", *flags]
            for kind, flags in kinds.items()
        }
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        apart = jax.default_backend() == "cpu" and len(cores) >= len(commands)
        _run(folder, commands, cores if apart else None)
        runs = {kind: _outcome(folder / kind) for kind in kinds}
        yield {"recipe": name, "config": config, "flags": list(both), "side_by_side": apart, "runs": runs}


def _run(folder: Path, commands: Mapping[str, list[str]], cores: list[int] | None) -> None:
    """Runs commands to their end, all at once on a core each, or one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        started = {}
        for i, (kind, command) in enumerate(commands.items()):
            log = stack.enter_context((folder / f"{kind}.log").open("a"))
            pinned = ["taskset", "-c", str(cores[i]), *command] if cores else command
            started[kind] = subprocess.Popen(pinned, cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT)
            if not cores:
                started[kind].wait()
        for kind, process in started.items():
            if process.wait():
                tail = (folder / f"{kind}.log").read_text().strip().splitlines()[-1:]
                raise RuntimeError(f"{' '.join(commands[kind])} failed: {' '.join(tail)}")


def _outcome(workdir: Path) -> dict[str, Any]:
    summary = json.loads((workdir / "summary.json").read_text())
    cuts = read_lines(workdir / "cuts.jsonl")
    # In a thread of its own the trial costs the loop nothing but the wait for what is not ready.
    waited = sum(sum(cut["seconds"].values()) for cut in cuts if "slice" in cut["seconds"])
    kept = ("test_accuracy", "neuron_sparsity", "weight_sparsity", "inference_flops_ratio", "train_flops_ratio")
    more = ("seconds_total", "seconds_compiling", "cuts", "steps", "seed", "command", "commit", "device")
    return {**{name: summary[name] for name in (*kept, *more)}, "seconds_cutting": round(waited, 2)}


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    header = ("recipe", "run", "test accuracy", "weight sparsity", "FLOPs", "training FLOPs", "cuts", "cutting")
    found: list[tuple[str, ...]] = [(*header, "seconds", "faster")]
    for record in records:
        dense = record["runs"]["dense"]["seconds_total"]
        for kind, run in record["runs"].items():
            found.append(
                (
                    record["recipe"],
                    kind,
                    f"{run['test_accuracy']:.1%}",
                    f"{run['weight_sparsity']:.1%}",
                    f"x {run['inference_flops_ratio']:.2f}",
                    f"x {run['train_flops_ratio']:.2f}",
                    str(run["cuts"]),
                    f"{run['seconds_cutting'] / run['seconds_total']:.1%} of the time",
                    f"{run['seconds_total']:.0f}",
                    f"x {dense / run['seconds_total']:.2f}",
                )
            )
    return found
