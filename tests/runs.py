"""Configs and runs for the tests of the training program."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from configs import quickstart
from experiments import data, settings
from experiments.rundir import checkpoints
from experiments.settings import device_defaults, schema

needs_tfds = pytest.mark.skipif(
    not os.environ.get("TFDS_DATA_DIR"), reason="needs MNIST and CIFAR-10: set TFDS_DATA_DIR to their folder"
)

# A run of seconds in which neurons die and are cut: 30 steps, cuts at 10, 20 and 30.
SHORT = {
    "devices": 1,
    "steps": "30",
    "model.widths": (24, 16),
    "optimizer.learning_rate": 0.05,
    "method.strength": 0.3,
    "method.strength_span": "30",
    "method.noise": 1e-3,
    "method.noise_span": "30",
    "pruning.every": "10",
    "pruning.cut_cost": "0",
    "pruning.ahead": "0",
    "log_every": "5",
    "eval_every": "10",
    "checkpoint_every": "8",
    "steps_per_call": 1,
    "eval_batch_size": 256,
    "pruning.examples": 256,
    "step_time_seconds": 0.01,
    "progress": "off",
    "compile_cache": "",
}


def config_of(changes=None, base=quickstart.get_config) -> ml_collections.ConfigDict:
    """Returns a config with changes."""
    config = base().copy_and_resolve_references().unlock()
    config.data.cache = ""
    config.update_from_flattened_dict(dict(changes or {}))
    return config.lock()


def short_config(**changes) -> ml_collections.ConfigDict:
    """Returns the config of a run of seconds."""
    return config_of({**SHORT, **changes})


def settings_of(config, examples=1437, steps=None) -> settings.Settings:
    """Returns the settings of a config for a training set of so many examples, of a run of other length if given."""
    config = config.copy_and_resolve_references().unlock()
    config.steps = config.steps if steps is None else str(steps)
    settings.require_valid(config)
    return settings.parse(device_defaults.settled(config, settings.run_steps(config, examples)), examples)


def dataset_of(config) -> data.Dataset:
    """Returns the dataset of a config."""
    settings.require_valid(config)
    return data.load(settings.section(schema.Data, config.data), config.seed)


def model_of(config) -> schema.Model:
    """Returns the model section of a config."""
    return settings.section(schema.Model, config.model)


def last_digests(workdir: Path) -> dict[str, int]:
    """Returns the digests of the arrays of the newest checkpoint."""
    folder = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    return json.loads((folder / "meta" / "metadata").read_text())["digests"]


def lines(path: Path) -> list[dict]:
    """Returns the lines of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(records: list[dict]) -> list[dict]:
    """Returns records without what a clock gave."""
    drop = {"seconds", "seconds_per_step"}
    return [{k: v for k, v in record.items() if k not in drop} for record in records]


def is_close(a: float, b: float) -> bool:
    """Returns whether two numbers are equal up to rounding."""
    return bool(np.isclose(a, b, rtol=1e-6))


def edit_metadata(path, edit):
    """Edits the metadata of a checkpoint as if they had been saved so: `edit` takes the text of the JSON."""
    meta = json.loads(edit(path.read_text()))
    path.write_text(json.dumps({**meta, "checksum": checkpoints._checksum(meta)}))
