# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Names of the leaves of trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


def leaf_paths(tree: Any) -> tuple[str, ...]:
    """Returns the path of every leaf of a tree, such as `"blocks/0/conv1/kernel"`."""
    return tuple(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def path_name(path: Sequence[Any]) -> str:
    """Returns a key path with `/` between its parts, without the `.value` of Flax NNX variables."""
    parts = [jax.tree_util.keystr((key,), simple=True) for key in path]
    while parts and parts[-1] in ("value", "raw_value"):
        parts.pop()
    return "/".join(parts)
