# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""jaxpruner, where it is installed: `pip install git+https://github.com/google-research/jaxpruner`.

It is not on PyPI, and PyPI accepts no dependency on an address, so there is no extra for it. It uses `jax.tree_map`,
which JAX has removed; here it gets that name back.
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
    """Returns the package jaxpruner, working with today's JAX.

    Raises:
      ImportError: when it is not installed; says how to.
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
    """An updater of another library, which a compiled step can take as it is hashable."""

    updater: Any

    def wrap_optax(self, inner: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns the optimizer with masks in its state."""
        return self.updater.wrap_optax(inner)

    def pre_forward_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters to compute with."""
        return self.updater.pre_forward_update(params, opt_state)

    def post_gradient_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters after a step, masked."""
        return self.updater.post_gradient_update(params, opt_state)


def _tree_map(fn: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """`jax.tree.map` as it was when it was called `jax.tree_map`: `None` in the first tree goes with anything."""

    def one(leaf: Any, *others: Any) -> Any:
        return None if leaf is None else fn(leaf, *others)

    return jax.tree.map(one, tree, *rest, is_leaf=lambda x: x is None or (is_leaf is not None and is_leaf(x)))
