# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A workdir belongs to one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_collections

from experiments import records
from experiments.errors import UsageError

# Fields that change where a run reads and what it shows, not what it computes.
FREE_FIELDS = ("data.dir", "progress", "compile_cache", "checkpoint_every", "checkpoints_kept", "log_every")


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a config as it is kept in `config.json`."""
    return json.loads(config.to_json_best_effort())


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes `workdir` the folder of this run, or checks that it is already.

    Raises:
      UsageError: when it holds the run of another config.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            theirs = _flat(json.loads(path.read_text()))
        except ValueError:
            raise UsageError(f"{path} is not a config of this program. Choose another --workdir.") from None
        ours = _flat(as_json(config))
        changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        changed = [k for k in changed if k not in FREE_FIELDS]
        if changed:
            differences = ", ".join(f"{k}={theirs.get(k)!r} there, {ours.get(k)!r} here" for k in changed[:4])
            raise UsageError(
                f"--workdir={workdir} holds the run of another config ({differences}). Give its config to continue it, "
                "or another --workdir to start anew."
            )
    elif (workdir / "checkpoints").exists():
        raise UsageError(f"--workdir={workdir} has checkpoints but no config.json. Choose another --workdir.")
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        records.write_json(path, as_json(config))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for name, value in tree.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
