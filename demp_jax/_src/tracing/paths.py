# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Names of the leaves of trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

# The names of the keys of a path.
Entries = tuple[str, ...]


def leaf_paths(tree: Any) -> tuple[str, ...]:
    """Returns the path of every leaf of a tree, such as `"blocks/0/conv1/kernel"`, in the order of the leaves."""
    return tuple(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def path_name(path: Sequence[Any]) -> str:
    """Returns a key path as a string, its keys joined by `/`, without the `.value` of Flax NNX variables."""
    return "/".join(entries(without_value(path)))


def entries(path: Sequence[Any]) -> Entries:
    """Returns the name of each key of a path. Keys are indices, attributes or keys of dicts."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def without_value(path: Sequence[Any]) -> tuple[Any, ...]:
    """Returns a key path without the attribute `.value` or `.raw_value` at its end, which NNX variables have.

    The key "value" of a dict is kept.
    """
    end = len(path)
    while end > 1 and isinstance(path[end - 1], jax.tree_util.GetAttrKey) and path[end - 1].name in _VALUES:
        end -= 1
    return tuple(path[:end])


_VALUES = ("value", "raw_value")
