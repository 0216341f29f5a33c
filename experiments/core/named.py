# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Lookup of methods, models and datasets: a built-in name, or `package.module:attribute` to import."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from typing import TypeVar

from experiments.core.errors import UsageError, require, require_choice

T = TypeVar("T")


def find(field: str, name: str, known: Mapping[str, T]) -> T:
    """Returns the object that a config option names.

    Args:
      field: the config option, for messages.
      name: a key of `known`, or a function to import, such as `my_lab.methods:snip`, from the working directory or an
        installed package.
      known: the built-in objects by name.

    Raises:
      UsageError: for an unknown name, or a module or attribute that cannot be imported.
    """
    if ":" not in name:
        require_choice(field, name, known)
        return known[name]
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:  # It is not on the path of an installed entry point.
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise UsageError(
            f"{field}={name!r}: the module {module!r} cannot be imported ({type(error).__name__}: {error}). It must be "
            f"in the working directory, {here}, or an installed package."
        ) from error
    try:
        found = functools.reduce(getattr, attribute.split("."), found)
    except AttributeError:
        raise UsageError(f"{field}={name!r}: the module {module!r} has no {attribute!r}.") from None
    require(callable(found), field, name, "a function")
    return found  # type: ignore[return-value]
