# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Experiment trackers, which receive the records of a run besides its files. Supports Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.core.errors import UsageError, require

_LOG = logging.getLogger(__name__)


def require_usable(name: str) -> None:
    """Raises `UsageError` unless a tracker is known and installed; "" means none."""
    require(name in ("", "wandb"), "config.tracker", name, "wandb, or empty for none")
    if name:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"config.tracker={name!r} needs the package {name} ({error}). Install it by `pip install {name}`, or "
                "leave the option empty."
            ) from error


class Tracker:
    """Logs a run to a tracker. If the tracker fails, warns once and logs nothing more."""

    def __init__(self, name: str, workdir: Path, config: Mapping[str, Any]):
        """Opens or resumes the run at the tracker.

        Args:
          name: name of the tracker; "" for none.
          workdir: the run directory, which keeps the id of the run at the tracker.
          config: the config, as JSON values.
        """
        self._run: Any = None
        self._ended = False
        if name:
            with self._tolerant():
                self._run = _wandb(workdir, config)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers of a step."""
        with self._tolerant():
            # Steps that a resumed run repeats have already been logged.
            if self._run is not None and step >= self._run.step:
                self._run.log(dict(values), step=step)

    def summary(self, values: Mapping[str, float]) -> None:
        """Logs the summary, and marks the run as finished."""
        self._ended = True
        with self._tolerant():
            if self._run is not None:
                self._run.summary.update(dict(values))

    def close(self) -> None:
        """Closes the run at the tracker, as failed unless it has finished. A resumed run continues it."""
        with self._tolerant():
            if self._run is not None:
                self._run.finish(exit_code=0 if self._ended else 1)
        self._run = None

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._run = None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            _LOG.warning("the tracker failed (%s); the run goes on without it", reason)


def _wandb(workdir: Path, config: Mapping[str, Any]) -> Any:
    """Returns the run at Weights & Biases, which also reads environment variables such as WANDB_MODE."""
    wandb: Any = importlib.import_module("wandb")
    path = workdir / "wandb_id"
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "demp_jax"),
        name=os.environ.get("WANDB_NAME", "/".join(workdir.resolve().parts[-2:])),
        id=path.read_text(),
        resume="allow",
        config=dict(config),
        dir=str(workdir),
    )
