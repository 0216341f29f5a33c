# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Help on config options, from the comments in the source of `configs/base.py`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from pathlib import Path

import ml_collections

from configs import base
from experiments.settings import options, schema

# Column of the comments in a listing.
_COLUMN = 46


@dataclasses.dataclass(frozen=True)
class Comment:
    """The comment of an option or section in `configs/base.py`.

    Attributes:
      text: the comment.
      heading: heading of the group of options that it belongs to; "" for none.
    """

    text: str
    heading: str


def comments() -> dict[str, Comment]:
    """Returns the comments of all options and sections by path, such as `"method.noise"` and `"method"`.

    A comment is on the line of its option or on the lines above. A comment above that ends in a colon is a heading for
    all options up to the next heading, the next empty line or the end of the section.
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
    """Returns the path that a statement assigns to: `"method.noise"` for `c.method.noise = 0.0`."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    names: list[str] = []
    while isinstance(target, ast.Attribute):
        names.insert(0, target.attr)
        target = target.value
    return ".".join(names) or None


def listing(config: ml_collections.ConfigDict, file: str, width: int | None) -> str:
    """Returns the options of a config with values and comments, by section, after the docstring of its file.

    Args:
      config: the config.
      file: the config file, with or without a variant.
      width: width of the lines; `None` for one line of any length per option.
    """
    said, usual = comments(), options.flat(base.base())
    lines = [f"{file}: {_docstring(file)}".rstrip(), "", "Options; * marks those that differ from configs/base.py:"]
    section, heading = None, ""
    places = {path: place for place, path in enumerate(said)}
    for path, value in sorted(options.flat(config).items(), key=lambda pair: places.get(pair[0], len(places))):
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
        lines += _entry(f"{mark} --config.{path}={options.as_text(value)}", comment.text, width)
    return "\n".join(lines)


def markdown() -> str:
    """Returns tables of all options of `configs/base.py` by section: name, default, meaning and allowed values."""
    lines, section = [], None
    usual, limits = options.flat(base.base()), schema.limits()
    for path, comment in comments().items():
        if path not in usual:
            continue
        if path.rpartition(".")[0] != section:
            section = path.rpartition(".")[0]
            about = comments().get(section, Comment("", "")).text
            lines += ["", f"## {section or 'run'}", *(["", about] if about else [])]
            lines += ["", "| option | default | meaning | allowed |", "| --- | --- | --- | --- |"]
        meaning = f"{comment.heading} {comment.text}".strip() if comment.heading else comment.text
        meaning = meaning.replace("*", r"\*").replace("|", r"\|")
        default = options.as_text(usual[path]) or '""'
        name = path.rpartition(".")[2]
        lines.append(f"| `{name}` | `{default}` | {meaning} | {schema.described(limits.get(path))} |")
    return "\n".join(lines[1:])


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
