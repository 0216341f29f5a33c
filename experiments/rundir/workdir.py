# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Checks that a workdir belongs to a run, and locks it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from configs import base
from experiments.core.errors import UsageError
from experiments.rundir import records
from experiments.settings import device_defaults, options

# Config options that do not change the result of a run.
FREE_FIELDS = (
    "devices",
    "steps_per_call",
    "data.dir",
    "data.workers",
    "progress",
    "tracker",
    "compile_cache",
    "checkpoint_every",
    "checkpoints_kept",
    "log_every",
    "resume",
)


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a config as the content of `config.json`."""
    return json.loads(config.to_json_best_effort())


@contextlib.contextmanager
def locked(folder: Path, flag: str) -> Iterator[None]:
    """Creates a folder if missing, and locks it against other processes that call this function.

    Args:
      folder: the folder.
      flag: the flag that it was given by, for messages.

    Raises:
      UsageError: if the folder cannot be written, or is in use.
    """
    if re.match(r"\w+:/", str(folder)):  # A `Path` of gs://bucket/run.
        raise UsageError(f"{flag} must be a folder of this machine; got {folder}. Mount it, as with gcsfuse or s3fs.")
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        # Orbax only supports paths in UTF-8.
        raise UsageError(f"{flag} must be a path in UTF-8; got {os.fsencode(folder)!r}. Choose another.") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise UsageError(
            f"{flag}={folder} must be a folder that can be written ({error.strerror}). Choose another."
        ) from error
    try:
        if not writable:
            raise UsageError(f"{flag}={folder} must be a folder that can be written. Choose another.")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"{flag}={folder} is in use by another process. Wait for it, or choose another."
            raise UsageError(message) from None
        yield
    finally:
        os.close(opened)  # Releases the lock.


@contextlib.contextmanager
def claim(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Locks `workdir`, and writes the config to it or checks that it holds a run with this config.

    Raises:
      UsageError: if it holds a run with another config, cannot be written, or is in use.
    """
    with locked(workdir, "--workdir"):
        if (workdir / "config.json").exists():
            require_same(workdir, config)
        elif (workdir / "checkpoints").exists():
            raise UsageError(f"--workdir={workdir} has checkpoints but no config.json. Choose another --workdir.")
        else:
            records.write_json(workdir / "config.json", as_json(config))
        yield


def continued(workdir: Path, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a config in which options that are left to the device are those of the run in `workdir`, if any."""
    try:
        theirs = options.flat(json.loads((workdir / "config.json").read_text()))
    except (OSError, ValueError, AttributeError):
        return config  # `claim` reports the error.
    ours = options.flat(config)
    taken = {name: theirs[name] for name in device_defaults.FIELDS if not ours[name] and theirs.get(name)}
    found = config.copy_and_resolve_references()
    found.update_from_flattened_dict(taken)
    return found


def require_same(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Raises `UsageError` unless a workdir holds a run with this config; `FREE_FIELDS` may differ.

    Options that are missing from the workdir's config count as their defaults.
    """
    path = workdir / "config.json"
    try:
        theirs = json.loads(path.read_text())
        options.flat(theirs)
    except (OSError, ValueError, AttributeError):
        raise UsageError(f"{path} is not a config of this program. Choose another --workdir.") from None
    changed = differences(theirs, config)
    if changed:
        raise UsageError(
            f"--workdir={workdir} holds the run of another config ({changed}). Give its config to continue it, or "
            "another --workdir to start anew."
        )


def require_same_run(checkpoint: str, meta: Mapping[str, Any], config: ml_collections.ConfigDict, data: Any) -> None:
    """Raises `UsageError` unless a checkpoint is of a run with this config and dataset.

    Args:
      checkpoint: the folder of the checkpoint, for messages.
      meta: the checkpoint metadata.
      config: the config of the run.
      data: fingerprint of the dataset of the run.
    """
    remedy = "Give what the run began with or another --workdir, or go on regardless with --config.resume=anyway."
    changed = differences(meta["config"], config)
    if changed:
        raise UsageError(f"checkpoint {checkpoint} is of the run of another config ({changed}). {remedy}")
    theirs, ours = options.flat(meta["dataset"]), options.flat(json.loads(json.dumps(data)))
    other = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    if other:
        shown = ", ".join(f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in other[:4])
        raise UsageError(f"checkpoint {checkpoint} is of a run on other data of config.data.name ({shown}). {remedy}")


def differences(there: Mapping[str, Any], config: ml_collections.ConfigDict) -> str:
    """Describes the options in which a run's config, from JSON, differs from another; "" if none matters."""
    theirs = options.flat(as_json(base.base())) | options.flat(there)
    ours = options.flat(as_json(config))
    changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    # Ignore options that only one of the two configs leaves to the device.
    of_the_device = {k for k in device_defaults.FIELDS if not (ours.get(k) and theirs.get(k))}
    changed = [k for k in changed if k not in FREE_FIELDS and k not in of_the_device]
    return ", ".join(f"{k}={theirs.get(k)!r} there, {ours.get(k)!r} here" for k in changed[:4])
