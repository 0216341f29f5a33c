# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Some definitions of a package as one text that runs without it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Collection, Iterator, Sequence
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
    """A top-level statement: its text, the names it reads, and the modules that it imports within."""

    text: str
    reads: frozenset[str]
    imports: frozenset[str]


@dataclasses.dataclass(frozen=True)
class _Import:
    """The import of a name: the module, what of it ("" for the whole), and the line that does it."""

    source: str
    original: str
    line: str


@dataclasses.dataclass(frozen=True)
class _Module:
    """The top level of a module: what it defines and imports; `import a.b` and `import a.c` both bind `a`."""

    definitions: dict[str, _Definition]
    imports: dict[str, list[_Import]]


class _Bundling:
    def __init__(self, packages: frozenset[str]):
        self.packages = packages
        self.imports: dict[str, list[str]] = {}
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
            within = next((i for i in sorted(found.definitions[name].imports) if self._is_ours(i)), None)
            if within is not None:
                raise ValueError(f"{name} of {module} imports {within} within: do so at the top of the module.")
            for other in sorted(found.definitions[name].reads):
                if other in found.definitions or other in found.imports:
                    self.take(module, other)
            self.texts.append(found.definitions[name].text)
            return
        if name not in found.imports:
            raise ValueError(f"{module} defines no {name} at its top level, by `def`, `class` or `=`.")
        for each in found.imports[name]:
            if not self._is_ours(each.source):
                self._import(module, name, each.line)
            elif not each.original:
                raise ValueError(f"{module} uses {name}, a whole module: import what is used of it by name.")
            elif each.original != name:
                raise ValueError(f"{module} uses {each.original} of {each.source} by another name, {name}.")
            else:
                self.take(each.source, name)

    def _is_ours(self, module: str) -> bool:
        return module.split(".")[0] in self.packages

    def _import(self, module: str, name: str, line: str) -> None:
        lines = self.imports.setdefault(name, [])
        if name in self.owners or any(
            other != line and not (_binds_root(other) and _binds_root(line)) for other in lines
        ):
            raise ValueError(f"{name} means one thing in {module} and another elsewhere.")
        lines.append(line)

    def text(self) -> str:
        """Returns what was taken."""
        groups: tuple[list[str], list[str]] = ([], [])
        every = {line for lines in self.imports.values() for line in lines}
        for line in sorted(every, key=lambda line: (line.startswith("from"), line)):
            groups[line.split()[1].split(".")[0] not in sys.stdlib_module_names].append(line)
        parts = ["\n".join(group) for group in groups if group]
        return "\n\n".join(parts) + "\n\n\n" + "\n\n\n".join(self.texts) + "\n"


@functools.cache
def _read(module: str) -> _Module:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.has_location or spec.origin is None:
        raise ValueError(f"{module} has no source.")
    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
    source = Path(spec.origin).read_text()
    lines = source.splitlines()
    definitions: dict[str, _Definition] = {}
    imports: dict[str, list[_Import]] = {}
    before = 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, each in _imported(node, package):
                again = imports.get(name, []) if _binds_root(each.line) else []
                imports[name] = [*(other for other in again if _binds_root(other.line)), each]
        else:
            inside = list(ast.walk(node))
            reads = frozenset(n.id for n in inside if isinstance(n, ast.Name))
            within = [n for n in inside if isinstance(n, ast.Import | ast.ImportFrom)]
            sources = frozenset(each.source for n in within for _, each in _imported(n, package))
            definition = _Definition("\n".join(lines[before : node.end_lineno]).strip("\n"), reads, sources)
            definitions |= dict.fromkeys(_names(node), definition)
        before = node.end_lineno or before
    return _Module(definitions, imports)


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, _Import]]:
    """Returns the names that a statement in a module of a package binds, with what they are."""
    for alias in node.names:
        renamed = f" as {alias.asname}" if alias.asname not in (None, alias.name) else ""
        if isinstance(node, ast.Import):
            # Without another name `import a.b` binds `a`.
            yield (
                alias.asname or alias.name.split(".")[0],
                _Import(alias.name, "", f"import {alias.name}{renamed}"),
            )
        else:
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            line = f"from {source} import {alias.name}{renamed}"
            yield alias.asname or alias.name, _Import(source, alias.name, line)


def _binds_root(line: str) -> bool:
    """Returns whether an import binds the package that its module is in, as others of that package may, too."""
    return line.startswith("import ") and " as " not in line


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []
