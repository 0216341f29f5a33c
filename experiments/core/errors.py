# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What goes wrong in a way the user can mend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class UsageError(ValueError):
    """Bad input. The message is one line that names the field, its value, what is allowed and the remedy."""


class NonFiniteLossError(RuntimeError):
    """The loss, or a parameter, became infinite or NaN. The message names the step and the last good checkpoint."""


class ExportError(RuntimeError):
    """What was written for other programs does not compute what the network does."""


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raises `UsageError` unless `condition` holds."""
    if not condition:
        raise UsageError(f"{field} must be {allowed}; got {value!r}.")


def require_choice(field: str, value: Any, choices: Iterable[str]) -> None:
    """Raises `UsageError` unless `value` is one of `choices`."""
    choices = sorted(choices)
    require(value in choices, field, value, f"one of {', '.join(choices)}")
