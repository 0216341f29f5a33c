# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Updaters of jaxpruner, if it is installed: `pip install git+https://github.com/google-research/jaxpruner`.

jaxpruner (Lee et al., 2023, https://arxiv.org/abs/2304.14082) is not on PyPI, so it cannot be an extra of this package.
It calls `jax.tree_map`, which newer versions of JAX have removed; this module restores it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import optax


def jaxpruner() -> ModuleType:
    """Returns the package jaxpruner, made compatible with current versions of JAX.

    Raises:
      ImportError: if it is not installed, with the command that installs it.
    """
    try:
        module = importlib.import_module("jaxpruner")
    except ModuleNotFoundError as error:
        raise ImportError(
            "jaxpruner is not installed: pip install git+https://github.com/google-research/jaxpruner"
        ) from error
    if not hasattr(jax, "tree_map"):
        vars(jax)["tree_map"] = _tree_map
    return module


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """Makes an updater of another library hashable, so that it can be a static argument of a compiled step."""

    updater: Any

    def wrap_optax(self, inner: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns the optimizer with masks in its state."""
        return self.updater.wrap_optax(inner)

    def pre_forward_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters for the forward pass."""
        return self.updater.pre_forward_update(params, opt_state)

    def post_gradient_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters after a step, masked."""
        return self.updater.post_gradient_update(params, opt_state)


def _tree_map(fn: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """`jax.tree_map` of older versions of JAX: a `None` in the first tree matches any subtree."""

    def one(leaf: Any, *others: Any) -> Any:
        return None if leaf is None else fn(leaf, *others)

    return jax.tree.map(one, tree, *rest, is_leaf=lambda x: x is None or (is_leaf is not None and is_leaf(x)))
