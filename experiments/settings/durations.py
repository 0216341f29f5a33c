# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Durations in configs: steps ("97656"), epochs ("250ep") or a percentage of the run ("87%")."""

from __future__ import annotations

import math

from experiments.core.errors import UsageError


def to_steps(field: str, text: str, *, epoch: float, run: int | None = None) -> int:
    """Returns a duration in steps, rounded down. A positive percentage of the run is at least one step.

    Args:
      field: name of the config option, for messages.
      text: `"N"` steps, `"Nep"` epochs or `"N%"` of the run.
      epoch: steps per epoch.
      run: length of the run in steps; `None` if percentages are not allowed.

    Raises:
      UsageError: for any other text, or a negative duration.
    """
    forms = 'steps ("5000"), epochs ("10ep")' + (' or a part of the run ("30%")' if run is not None else "")
    text = str(text).strip()
    try:
        if text.endswith("ep"):
            steps = float(text[:-2]) * epoch
        elif text.endswith("%") and run is not None:
            part = float(text[:-1])
            steps = max(part / 100 * run, 1.0) if part > 0 else part
        else:
            steps = float(int(text))
    except ValueError:
        raise UsageError(f"{field} must be a duration in {forms}; got {text!r}.") from None
    if not (math.isfinite(steps) and steps >= 0):
        raise UsageError(f"{field} must be a duration >= 0 in {forms}; got {text!r}.")
    return math.floor(steps + 1e-6)
