# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Matches the leaves of other trees, such as an optimizer's state, with the variables that they mirror.

A leaf mirrors a variable if its key path ends with the full path of that variable and both have the same shape. A full
path begins at the root of the variables or at the root of the trained tree, with which the optimizer was initialized.
For example, with the trained tree `{"mu": {"w": A}, "w": B}` the state of Adam has these leaves::

    0/count        mirrors nothing
    0/mu/mu/w      ends with mu/w (A) and with w (B): the longest path wins, A
    0/mu/w         also ends with mu/w and with w

The last leaf is the moment of B, although the longest matching path is that of A. To tell them apart, let a *root* be a
node of the other tree below which a full path begins. A root is whole if every path below it is a full path. `0/mu` is
whole, because the paths below it are `mu/w` and `w`. `0` is not, because `count` is below it. Candidates at whole roots
win over others, then the longest full path wins. So `0/mu/w` mirrors B.

Keys are compared by name: index 0 of a list equals attribute "0" and key "0", because trees that are restored from a
checkpoint may hold dicts instead of lists and named tuples.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from demp_jax._src.tracing.paths import Entries, entries, without_value

Params = Callable[[Any], Any] | Mapping[Any, Any] | Sequence[Any] | None

_UNKNOWN = -1


class Leaf(NamedTuple):
    """A leaf with a full path.

    Attributes:
      path: the key path, from the root of the variables or of the trained tree.
      shape: its shape.
      variable: the index of the variable; `None` for a leaf of the trained tree that is not a variable of this network,
        such as a parameter of another network with the same optimizer.
    """

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    variable: int | None


def picked(params: Params, variables: Any) -> Any:
    """Returns the trained tree, `params(variables)`; a dict or list of such trees if `params` is a dict or list."""
    if params is None:
        return variables
    if isinstance(params, Mapping):
        return {key: picked(each, variables) for key, each in params.items()}
    if callable(params):
        return params(variables)
    return [picked(each, variables) for each in params]


def trained_leaves(params: Params, variables: Any) -> tuple[Leaf, ...]:
    """Returns the leaves of the trained tree, each with the index of its variable.

    Raises:
      ValueError: if no leaf is a variable.
    """
    leaves, structure = jax.tree.flatten(variables)
    seen: dict[int, int] = {}
    for i, leaf in enumerate(leaves):
        if id(leaf) in seen:  # The same array is two variables. A copy tells them apart.
            leaves[i] = leaf = leaf.copy()
        seen[id(leaf)] = i
    tree = picked(params, jax.tree.unflatten(structure, leaves))
    found = tuple(
        Leaf(path, np.shape(leaf), seen.get(id(leaf))) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    )
    if leaves and all(leaf.variable is None for leaf in found):
        raise ValueError("params: must return leaves of the variables unchanged, as in `lambda v: v['params']`.")
    return found


def match(
    leaves: Sequence[tuple[Sequence[Any], Sequence[int]]],
    groups: Sequence[Sequence[Leaf]],
    alike: Callable[[int, int], bool],
) -> list[int | None]:
    """Returns the index of the variable that each leaf of a tree mirrors, or `None`.

    Args:
      leaves: the key path and shape of each leaf of the tree.
      groups: the leaves with full paths, one group for paths from the root of the variables and one for paths from the
        root of the trained tree.
      alike: whether two variables are sliced in the same way.

    Raises:
      ValueError: if two variables that are not alike match a leaf equally well.
    """
    # If an `nnx.State` holds Variables, the paths of its leaves end in `.value` or `.raw_value`. This attribute is
    # dropped only if the whole path does not match, because a parameter may be called "value".
    found = _match([(entries(path), tuple(shape)) for path, shape in leaves], _tables(groups, entries), alike)
    if _UNKNOWN in found:
        short = [(entries(without_value(path)), tuple(shape)) for path, shape in leaves]
        tables = _tables(groups, lambda path: entries(without_value(path)))
        again = _match(short, tables, alike) if short else []
        found = [b if a == _UNKNOWN else a for a, b in zip(found, again, strict=True)]
    return [None if variable == _UNKNOWN else variable for variable in found]


_Table = dict[tuple[Entries, tuple[int, ...]], list[int | None]]


def _tables(groups: Sequence[Sequence[Leaf]], named: Callable[[Sequence[Any]], Entries]) -> list[_Table]:
    tables = []
    for group in groups:
        table: _Table = {}
        for path, shape, variable in group:
            table.setdefault((named(path), tuple(shape)), []).append(variable)
        tables.append(table)
    return tables


def _match(
    leaves: Sequence[tuple[Entries, tuple[int, ...]]], tables: Sequence[_Table], alike: Callable[[int, int], bool]
) -> list[int | None]:
    """Returns the index of the variable that each leaf mirrors, or `_UNKNOWN`, given the tables of full paths."""
    beneath = collections.Counter(path[:n] for path, _ in leaves for n in range(len(path) + 1))
    # For each table: how many of the leaves below a root have a full path that begins there.
    matched = [
        collections.Counter(path[:n] for path, shape in leaves for n in range(len(path) + 1) if (path[n:], shape) in t)
        for t in tables
    ]
    found: list[int | None] = []
    for path, shape in leaves:
        candidates: dict[tuple[bool, int], list[int | None]] = {}
        for table, counts in zip(tables, matched, strict=True):
            for n in range(len(path) + 1):
                if (path[n:], shape) in table:
                    root = path[:n]
                    partial = counts[root] < beneath[root]
                    candidates.setdefault((partial, n), []).extend(table[path[n:], shape])
        best: list[int | None] = candidates[min(candidates)] if candidates else [_UNKNOWN]
        if any(not _same(best[0], other, alike) for other in best[1:]):
            raise ValueError(
                f"the leaf {'/'.join(path)!r} mirrors several variables equally well that are sliced differently: pass "
                "params=, which picks the trained variables, or rename it."
            )
        found.append(best[0])
    return found


def _same(one: int | None, other: int | None, alike: Callable[[int, int], bool]) -> bool:
    return one == other or (one is not None and other is not None and alike(one, other))


def subtree(
    leaves: Sequence[tuple[Sequence[Any], Sequence[int]]], variables: Sequence[Leaf]
) -> list[tuple[Entries, list[int]]]:
    """Returns the parts of the variables that have the structure and shapes of a tree.

    For each part, the result has its path and the index of the variable of each leaf of the tree, shortest path first.
    """
    table = {(entries(v.path), v.shape): v.variable for v in variables}
    named = [(entries(path), tuple(shape)) for path, shape in leaves]
    if not named:
        return []
    first = named[0][0]
    places = []
    for (path, shape), _ in table.items():
        where = path[: len(path) - len(first)]
        if shape == named[0][1] and len(path) >= len(first) and path[len(where) :] == first:
            found = [table.get((where + each, size)) for each, size in named]
            if None not in found:
                places.append((where, [i for i in found if i is not None]))
    return sorted(places, key=lambda place: len(place[0]))
