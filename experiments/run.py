# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Trains a network.

    python -m experiments.run --config=configs/quickstart.py --workdir=runs/first
    python -m experiments.run --config=configs/resnet18_cifar.py:sgdm --workdir=runs/sgdm --config.method.strength=0.01
    python -m experiments.run --config=configs/resnet50_imagenet.py --config.data.dir=DIR --dry_run
    python -m experiments.run --config=configs/resnet18_cifar.py --help | grep noise

The first command trains; the same command resumes an interrupted run. The second uses a variant of a config and
overrides an option. The third shows the network, schedules and cost of a run without training. The last looks up
config options.
"""

from __future__ import annotations

import ml_collections

from experiments.cli import command


def main(config: ml_collections.ConfigDict, workdir: str) -> int:
    """Trains the network of `config` in `workdir`; returns the exit status."""
    import jax  # Slow, and not needed for --help.

    from experiments.training.loop import train_and_evaluate
    from experiments.training.summary import one_line

    result = train_and_evaluate(config, workdir)
    what = "finished" if result.stopped_by is None else f"stopped by {result.stopped_by.name} and saved"
    if jax.process_index() == 0:
        command.say(f"{what}: {one_line(result.summary)}; see {workdir}")
    return command.status_of(result.stopped_by)


def plan(config: ml_collections.ConfigDict, *, compiles: bool) -> int:
    """Prints the dry run of `main`; returns the exit status."""
    from experiments.cli import dry_run

    return dry_run.show(config, compiles=compiles)


if __name__ == "__main__":
    command.run(main, plan)
