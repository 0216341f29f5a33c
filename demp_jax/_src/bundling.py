# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Some definitions of a package as one text that runs without it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Collection, Sequence
from pathlib import Path


def bundle(wanted: Sequence[tuple[str, str]], packages: Collection[str]) -> str:
    """Returns the source of definitions, of what they use of some packages, and of the imports that are left.

    So a model can be sent to where the packages are not; the text is a module.

    Taken are functions, classes and assignments to a name at the top level of a module, as they stand there with the
    comments above them. What a module does besides when it is imported is left out.

    Args:
      wanted: modules and names in them, as in `[("demp_jax.models", "ResNet")]`.
      packages: whose source is taken, as in `["demp_jax"]`; others are imported.

    Raises:
      ValueError: where two modules mean different things by one name, a module of the packages is used as a whole, or
        something has no source at the top level of a module.
    """
    bundling = _Bundling(frozenset(packages))
    for module, name in wanted:
        bundling.take(module, name)
    return bundling.text()


@dataclasses.dataclass(frozen=True)
class _Definition:
    """A top-level statement: its text, and the names it reads."""

    text: str
    reads: frozenset[str]


@dataclasses.dataclass(frozen=True)
class _Module:
    """The top level of a module: what it defines, and what it imports as `(module, name)`, `name` "" for the whole."""

    definitions: dict[str, _Definition]
    imports: dict[str, tuple[str, str]]


class _Bundling:
    def __init__(self, packages: frozenset[str]):
        self.packages = packages
        self.imports: dict[str, str] = {}
        # By name, the module that defines it; the texts, each after those it needs.
        self.owners: dict[str, str] = {}
        self.texts: list[str] = []

    def take(self, module: str, name: str) -> None:
        """Takes a name of a module, after what it needs."""
        found = _read(module)
        if name in found.definitions:
            if self.owners.get(name, module) != module or name in self.imports:
                raise ValueError(f"{name} means one thing in {module} and another elsewhere.")
            if name in self.owners:
                return
            self.owners[name] = module
            for other in sorted(found.definitions[name].reads):
                if other in found.definitions or other in found.imports:
                    self.take(module, other)
            self.texts.append(found.definitions[name].text)
            return
        if name not in found.imports:
            raise ValueError(f"{module} defines no {name} at its top level, by `def`, `class` or `=`.")
        source, original = found.imports[name]
        if source.split(".")[0] not in self.packages:
            self._import(module, name, source, original)
        elif not original:
            raise ValueError(f"{module} uses {name}, a whole module: import what is used of it by name.")
        elif original != name:
            raise ValueError(f"{module} uses {original} of {source} by another name, {name}.")
        else:
            self.take(source, name)

    def _import(self, module: str, name: str, source: str, original: str) -> None:
        what = f"from {source} import {original}" if original else f"import {source}"
        alias = f" as {name}" if name not in (original, source) else ""
        if self.imports.setdefault(name, what + alias) != what + alias or name in self.owners:
            raise ValueError(f"{name} means one thing in {module} and another elsewhere.")

    def text(self) -> str:
        """Returns what was taken."""
        groups: tuple[list[str], list[str]] = ([], [])
        for line in sorted(set(self.imports.values()), key=lambda line: (line.startswith("from"), line)):
            groups[line.split()[1].split(".")[0] not in sys.stdlib_module_names].append(line)
        parts = ["\n".join(group) for group in groups if group]
        return "\n\n".join(parts) + "\n\n\n" + "\n\n\n".join(self.texts) + "\n"


@functools.cache
def _read(module: str) -> _Module:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.has_location or spec.origin is None:
        raise ValueError(f"{module} has no source.")
    source = Path(spec.origin).read_text()
    lines = source.splitlines()
    definitions: dict[str, _Definition] = {}
    imports: dict[str, tuple[str, str]] = {}
    before = 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            # `import a.b` binds `a`.
            imports |= {a.asname or a.name.split(".")[0]: (a.name, "") for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports |= {a.asname or a.name: (node.module or "", a.name) for a in node.names}
        else:
            reads = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
            definition = _Definition("\n".join(lines[before : node.end_lineno]).strip("\n"), reads)
            definitions |= dict.fromkeys(_names(node), definition)
        before = node.end_lineno or before
    return _Module(definitions, imports)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []
