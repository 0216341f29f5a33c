# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Config options: their paths, their types, and their values as text."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import base
from experiments.core.errors import UsageError


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a nested config by path, such as `"method.noise"`."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping | ml_collections.ConfigDict)
        found |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


# Options that may be None.
OPTIONAL = tuple(path for path, value in flat(base.base()).items() if value is None)


def kind_of(path: str, value: Any) -> str:
    """Returns a description of the type of an option, for messages; `value` is an example of a valid value."""
    if path not in types():
        return f"like {as_text(value)!r}"
    kind = types()[path]
    optional = " or None" if path in OPTIONAL else ""
    if kind is tuple:
        many = {int: "whole numbers", str: "texts"}[_element_type(path)]
        return f"a tuple of {many}, such as {as_text(value or ('stem/*',))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind] + optional


@functools.cache
def types() -> dict[str, type]:
    """Returns the type of every option of the base config by path; for an optional one, its type if not `None`."""
    config, found = base.base(), {}
    for path in flat(config):
        section, _, name = path.rpartition(".")
        found[path] = functools.reduce(lambda c, part: c[part], filter(None, section.split(".")), config).get_type(name)
    return found


def require_whole(config: Mapping[str, Any], what: str) -> None:
    """Raises `UsageError` unless a config has all options of the base config, with values of the right types.

    Args:
      config: the config.
      what: the source of the config, for messages.
    """
    has = flat(config)
    sections = {path.rpartition(".")[0] for path in types()} - {""}
    for section in sorted(sections & has.keys()):
        raise UsageError(
            f"config.{section} must be a section, as in configs/base.py; {what} makes it {has[section]!r}."
        )
    for path, kind in types().items():
        if path not in has:
            raise UsageError(f"config.{path} must be in every config; {what} has none. Begin from configs.base.base().")
        value = has[path]
        good = _is(value, kind) and (kind is not tuple or all(_is(each, _element_type(path)) for each in value))
        if not good and not (path in OPTIONAL and value is None):
            raise UsageError(f"config.{path} must be {kind_of(path, base_value(path))}; got {value!r}.")


def base_value(path: str) -> Any:
    """Returns the value of an option in the base config."""
    return flat(base.base())[path]


def _element_type(path: str) -> type:
    """Returns the type of the elements of a tuple option. Tuples that are empty by default hold patterns (`str`)."""
    return type(next(iter(base_value(path)), ""))


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, {float: (int, float), tuple: (tuple, list)}.get(kind, kind))


def as_text(value: Any) -> str:
    """Returns a value in the notation of the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "(" + "".join(f"{v!r}," for v in value) + ")"
    return "" if value is None else str(value)
