# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Trains one network: `python -m experiments.run --config=configs/NAME.py[:variant] --workdir=DIR`.

Any key of the config can be overridden: `--config.method.strength=0.01`. Run again with the same workdir, it continues
from the newest checkpoint. For the exit status see `experiments.command`.
"""

from __future__ import annotations

import jax
import ml_collections

from experiments import command


def main(config: ml_collections.ConfigDict, workdir: str) -> int:
    """Trains by `config` in `workdir`; returns the exit status."""
    from experiments.summaries import one_line
    from experiments.train import train_and_evaluate

    result = train_and_evaluate(config, workdir)
    what = "finished" if result.stopped_by is None else f"stopped by {result.stopped_by.name} and saved"
    if jax.process_index() == 0:
        command.say(f"{what}: {one_line(result.summary)}; see {workdir}")
    return command.status_of(result.stopped_by)


if __name__ == "__main__":
    command.run(main)
