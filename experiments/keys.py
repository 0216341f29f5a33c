# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The keys of configs, with what they mean: the comments of `configs/base.py`, read from its source."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from configs import base
from experiments.errors import UsageError

# Where the comments of a listing begin.
_COLUMN = 46


@dataclasses.dataclass(frozen=True)
class Comment:
    """What `configs/base.py` says of a key or a section.

    Attributes:
      text: of the key.
      heading: over the keys that it is one of; "" for none.
    """

    text: str
    heading: str


def comments() -> dict[str, Comment]:
    """Returns what is said of every key and section, by its path, such as `"method.noise"` and `"method"`.

    A comment stands behind its key or in the lines above it. One above that ends in a colon is a heading: it holds
    for all keys up to the next heading, the next empty line or the end of the section.
    """
    source = inspect.getsource(base.base)
    lines = source.splitlines()
    found: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.removeprefix("#").strip()
    said: dict[str, Comment] = {}
    heading, previous = "", 0
    [function] = ast.parse(textwrap.dedent(source)).body
    assert isinstance(function, ast.FunctionDef)
    for statement in function.body:
        path = _path(statement)
        if path is None:
            continue
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        above = [n for n in range(previous + 1, first) if n in found]
        if any(not lines[n - 1].strip() for n in range(previous + 1, first)):
            heading = ""
        text = " ".join(found[n] for n in above)
        if text.endswith(":"):
            heading, text = text, ""
        said[path] = Comment(found.get(last, text), heading)
        previous = last
    return said


def _path(statement: ast.stmt) -> str | None:
    """Returns the path that a statement assigns to: of `c.method.noise = 0.0`, `"method.noise"`."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    names: list[str] = []
    while isinstance(target, ast.Attribute):
        names.insert(0, target.attr)
        target = target.value
    return ".".join(names) or None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a nested config by their paths, such as `"method.noise"`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping | ml_collections.ConfigDict)
        found |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


# Keys that may be None.
OPTIONAL = tuple(key for key, value in flat(base.base()).items() if value is None)


def kind_of(path: str, value: Any) -> str:
    """Returns in words what the value of a key has to be; `value` is an example."""
    if path not in _kinds():
        return f"like {as_text(value)!r}"
    kind = _kinds()[path]
    optional = " or None" if path in OPTIONAL else ""
    if kind is tuple:
        many = {int: "whole numbers", str: "texts"}[_of_elements(path)]
        return f"a tuple of {many}, such as {as_text(value or ('stem/*',))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind] + optional


@functools.cache
def _kinds() -> dict[str, type]:
    """Returns the type of every key of the base config; of an optional one, that of its values."""
    config, found = base.base(), {}
    for key in flat(config):
        section, _, name = key.rpartition(".")
        found[key] = functools.reduce(lambda c, part: c[part], filter(None, section.split(".")), config).get_type(name)
    return found


def require_whole(config: Mapping[str, Any], what: str) -> None:
    """Raises `UsageError` unless a config has all keys of the base config, with values of their kinds."""
    has = flat(config)
    sections = {key.rpartition(".")[0] for key in _kinds()} - {""}
    for section in sorted(sections & has.keys()):
        raise UsageError(
            f"config.{section} must be a section, as in configs/base.py; {what} makes it {has[section]!r}."
        )
    for key, kind in _kinds().items():
        if key not in has:
            raise UsageError(f"config.{key} must be in every config; {what} has none. Begin from configs.base.base().")
        value = has[key]
        good = _is(value, kind) and (kind is not tuple or all(_is(each, _of_elements(key)) for each in value))
        if not good and not (key in OPTIONAL and value is None):
            raise UsageError(f"config.{key} must be {kind_of(key, base_value(key))}; got {value!r}.")


def base_value(key: str) -> Any:
    """Returns the value of a key in the base config."""
    return flat(base.base())[key]


def _of_elements(key: str) -> type:
    """Returns the type of the elements of a tuple; one without any by default holds patterns."""
    return type(next(iter(base_value(key)), ""))


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, {float: (int, float), tuple: (tuple, list)}.get(kind, kind))


def as_text(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "(" + "".join(f"{v!r}," for v in value) + ")"
    return "" if value is None else str(value)


def listing(config: ml_collections.ConfigDict, file: str, width: int | None) -> str:
    """Returns all keys of a config with their values and comments, by sections.

    Args:
      config: the config.
      file: its name, with or without a variant; what the file says of itself comes first.
      width: of the lines; `None` for one line per key, as long as it takes.
    """
    said, usual = comments(), flat(base.base())
    lines = [f"{file}: {_docstring(file)}".rstrip(), "", "Its keys; * marks those that differ from configs/base.py:"]
    section, heading = None, ""
    places = {path: place for place, path in enumerate(said)}
    for path, value in sorted(flat(config).items(), key=lambda pair: places.get(pair[0], len(places))):
        comment = said.get(path, Comment("", ""))
        if path.rpartition(".")[0] != section:
            section = path.rpartition(".")[0]
            about = said.get(section, Comment("", "")).text
            title = f"{section}: {about}".rstrip(": ")
            lines += ["", *(textwrap.wrap(title, width) if width else [title])]
            heading = ""
        if comment.heading != heading:
            heading = comment.heading
            lines += [f"  {heading}"] if heading else []
        mark = " " if path in usual and usual[path] == value else "*"
        lines += _entry(f"{mark} --config.{path}={as_text(value)}", comment.text, width)
    return "\n".join(lines)


def _entry(flag: str, text: str, width: int | None) -> list[str]:
    if width is None:
        return [f"{flag:{_COLUMN}} {text}".rstrip()]
    indent = " " * (_COLUMN + 1)
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)
    if len(flag) > _COLUMN or not lines:
        return [flag, *lines]
    return [flag.ljust(len(indent)) + lines[0][len(indent) :], *lines[1:]]


def _docstring(file: str) -> str:
    return ast.get_docstring(ast.parse(Path(file.partition(":")[0]).read_text())) or ""
