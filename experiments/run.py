# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Trains one network by a config.

    python -m experiments.run --config=configs/quickstart.py --workdir=runs/first
    python -m experiments.run --config=configs/resnet18_cifar.py:sgdm --workdir=runs/sgdm --config.method.strength=0.01
    python -m experiments.run --config=configs/resnet50_imagenet.py --config.data.dir=DIR --dry_run
    python -m experiments.run --config=configs/resnet18_cifar.py --help | grep noise

The first trains; the same command continues a run that was stopped or killed. The second takes another variant of a
config and overrides a key. The third shows what a run would do and take, and trains nothing. The last looks up keys.
"""

from __future__ import annotations

import ml_collections

from experiments.cli import command


def main(config: ml_collections.ConfigDict, workdir: str) -> int:
    """Trains by `config` in `workdir`; returns the exit status."""
    import jax  # Help, and Ctrl-C at the start, do not wait for what takes seconds to import.

    from experiments.training.loop import train_and_evaluate
    from experiments.training.summary import one_line

    result = train_and_evaluate(config, workdir)
    what = "finished" if result.stopped_by is None else f"stopped by {result.stopped_by.name} and saved"
    if jax.process_index() == 0:
        command.say(f"{what}: {one_line(result.summary)}; see {workdir}")
    return command.status_of(result.stopped_by)


def plan(config: ml_collections.ConfigDict, *, compiles: bool) -> int:
    """Shows what `main` would do; returns the exit status."""
    from experiments.cli import dry_run

    return dry_run.show(config, compiles=compiles)


if __name__ == "__main__":
    command.run(main, plan)
