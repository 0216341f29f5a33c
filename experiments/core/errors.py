# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Errors that the user can fix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class UsageError(ValueError):
    """Invalid input. The message is one line with the field, its value, what is allowed and the remedy."""


class NonFiniteLossError(RuntimeError):
    """The loss or a parameter became infinite or NaN. The message names the step and the last good checkpoint."""


class ExportError(RuntimeError):
    """An exported model does not compute the same outputs as the network."""


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raises `UsageError` unless `condition` holds."""
    if not condition:
        raise UsageError(f"{field} must be {allowed}; got {value!r}.")


def require_choice(field: str, value: Any, choices: Iterable[str]) -> None:
    """Raises `UsageError` unless `value` is one of `choices`."""
    choices = sorted(choices)
    require(value in choices, field, value, f"one of {', '.join(choices)}")
