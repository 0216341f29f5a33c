# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Trains a config and its dense twin, and compares them.

    python -m experiments.compare --config=configs/quickstart.py --workdir=runs/quickstart
    python -m experiments.compare --config=configs/resnet18_cifar.py:cpu --workdir=runs/cpu --config.method.noise=1e-6
    python -m experiments.compare --config=configs/resnet18_cifar.py --dry_run
    python -m experiments.compare --config=configs/resnet18_cifar.py --help | grep noise

The twin has the method `dense` and the same initialization, batches, optimizer and length. The workdir gets a folder
for each run, a table (`comparison.txt`) and a plot (`comparison.png`). The same command resumes an interrupted run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections

from experiments.cli import command
from experiments.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def compare(config: ml_collections.ConfigDict, workdir: str | Path, console: Console | None = None) -> int:
    """Trains the dense twin and then the config itself; returns the exit status.

    The twin is the same config with the method `dense`.

    Args:
      config: the config with the method to compare.
      workdir: folder for the comparison, with a subfolder for each run.
      console: console for the output; standard output by default.

    Raises:
      UsageError: for invalid input, before anything is trained.
    """
    # Slow imports, which --help does not need.
    from rich.console import Console

    from experiments.recipe.problem import pose
    from experiments.reporting import curves
    from experiments.rundir import reader
    from experiments.training import summary
    from experiments.training.loop import train_and_evaluate

    _require_a_method(config)
    pose(config)  # Raises errors before the twin is trained.
    workdir = Path(workdir)
    console = console or Console(soft_wrap=True)
    twin = ml_collections.ConfigDict(config).copy_and_resolve_references()
    with twin.unlocked():
        twin.method.name = "dense"
    summaries = {}
    for name, each in (("dense", twin), (config.method.name, config)):
        console.print(f"training {name} ...")
        result = train_and_evaluate(each, workdir / name)
        if result.stopped_by is not None:
            console.print(f"stopped by {result.stopped_by.name} and saved; give the same command to continue")
            return command.status_of(result.stopped_by)
        summaries[name] = result.summary
    table = summary.comparison(summaries)
    console.print(table)
    with (workdir / "comparison.txt").open("w") as file:
        Console(file=file, width=120).print(table)
    curves.comparison([reader.read(workdir / name, name) for name in summaries], workdir / "comparison.png")
    console.print(f"table, plot and records: {workdir}/comparison.txt, comparison.png, {', '.join(summaries)}")
    return 0


def plan(config: ml_collections.ConfigDict, *, compiles: bool) -> int:
    """Prints the dry run of `compare`; returns the exit status."""
    from experiments.cli import dry_run

    _require_a_method(config)
    return dry_run.show(config, twin=True, compiles=compiles)


def _require_a_method(config: ml_collections.ConfigDict) -> None:
    if config.method.name == "dense":
        raise UsageError("config.method.name must be a method to compare with dense; got 'dense'. Use experiments.run.")


if __name__ == "__main__":
    command.run(compare, plan)
