# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Progress of a run: a bar on a terminal, otherwise a line every 15 seconds."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

MODES = ("auto", "bar", "lines", "off")
_SECONDS_BETWEEN_LINES = 15.0
# Window over which the bar estimates the speed. It is long because steps can be slow.
_SECONDS_OF_SPEED = 600.0


class Progress:
    """Shows the step, loss, test accuracy, remaining neurons and remaining time of a run."""

    def __init__(self, steps: int, first: int, neurons: int, mode: str):
        """Initializes the display.

        Args:
          steps: length of the run.
          first: step that the run starts or resumes at.
          neurons: number of neurons of the dense network.
          mode: `"auto"` (a bar on a terminal, otherwise lines), `"bar"`, `"lines"` or `"off"`.
        """
        self._steps = steps
        self._neurons = neurons
        self._lines = mode == "lines" or (mode == "auto" and not _has_bar(mode))
        self._last = time.monotonic()
        # Time and step of the first update. The speed is measured from there: the first steps include compiling.
        self._since: tuple[float, int] | None = None
        self._loss: float | None = None
        self._text = ""
        self._bar: RichProgress | None = None
        if _has_bar(mode):
            columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            console = Console(stderr=True)
            self._bar = RichProgress(*columns, console=console, speed_estimate_period=_SECONDS_OF_SPEED)
            self._task = self._bar.add_task("", total=steps, completed=first)

    def update(self, step: int, loss: float | None, neurons: int, accuracy: float) -> None:
        """Shows the state after `step` steps. If `loss` is `None`, the last loss stays."""
        self._loss = self._loss if loss is None else loss
        parts = [f"loss {self._loss:.3f}"] if self._loss is not None else []
        parts += [f"test {100 * accuracy:.1f}%"] if not math.isnan(accuracy) else []
        parts.append(f"{neurons} of {self._neurons} neurons")
        self._text = ", ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._text)
            return
        now = time.monotonic()
        left = self._remaining(now, step)
        if self._lines and now - self._last > _SECONDS_BETWEEN_LINES:
            self._last = now
            sys.stderr.write(f"step {step} of {self._steps}: {self._text}{left}\n")

    def _remaining(self, now: float, step: int) -> str:
        """Returns the remaining time as text, at the speed since the first update; "" at the first update."""
        if self._since is None:
            self._since = now, step
        started, first = self._since
        if step == first:
            return ""
        seconds = round((self._steps - step) * (now - started) / (step - first))
        return f", {datetime.timedelta(seconds=seconds)} left"

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shows an activity, such as `"evaluating"`, on the bar while the context is active."""
        if self._bar is None:
            yield
            return
        self._bar.update(self._task, description=", ".join(filter(None, [what, self._text])))
        try:
            yield
        finally:
            self._bar.update(self._task, description=self._text)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()


def waiting(what: str, mode: str) -> contextlib.AbstractContextManager[Any]:
    """Shows an activity on a terminal while there is no bar yet; `mode` is one of `MODES`."""
    return Console(stderr=True).status(what) if _has_bar(mode) else contextlib.nullcontext()


def _has_bar(mode: str) -> bool:
    return mode == "bar" or (mode == "auto" and sys.stderr.isatty())
