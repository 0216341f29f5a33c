# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

MODES = ("auto", "bar", "lines", "off")
_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Shows how far a run is, its loss and accuracy, and how many neurons are left."""

    def __init__(self, steps: int, first: int, neurons: int, mode: str):
        """Prepares for a run of `steps` steps from step `first`.

        Args:
          steps: of the run.
          first: where it begins.
          neurons: of the dense network.
          mode: `"auto"` (a bar on a terminal, else lines), `"bar"`, `"lines"` or `"off"`.
        """
        self._steps = steps
        self._neurons = neurons
        bar = mode == "bar" or (mode == "auto" and sys.stderr.isatty())
        self._lines = mode == "lines" or (mode == "auto" and not bar)
        self._last = time.monotonic()
        self._bar: RichProgress | None = None
        if bar:
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("compiling", total=steps, completed=first)

    def update(self, step: int, loss: float | None, neurons: int, accuracy: float) -> None:
        """Shows where the run stands after `step` steps."""
        parts = [f"loss {loss:.3f}"] if loss is not None else []
        parts += [f"test {100 * accuracy:.1f}%"] if not math.isnan(accuracy) else []
        parts.append(f"{neurons} of {self._neurons} neurons")
        text = ", ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif self._lines and time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            sys.stderr.write(f"step {step} of {self._steps}: {text}\n")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
