# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Strengths of a regularizer in proportion to what the units cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64

from demp_jax._src.optim.regularizers import norm_scales
from demp_jax._src.tracing.graph import Graph
from demp_jax._src.tracing.paths import path_name


def by_cost(
    graph: Graph, params: Any, *, power: float = 0.5, where: Callable[[Any], Any] = norm_scales
) -> Callable[[Any], Any]:
    """Returns a mask for a regularizer whose strength depends on the number of parameters of a unit.

    With the number n_g of parameters that are removed with the units of group g, and the regularized parameters of a
    layer l, which belong to the groups G_l, the strength of this layer is::

        lambda_l = lambda * f_l,     f_l ~ (mean of n_g over G_l)^power

    The factors f_l have a mean of 1 over all regularized parameters. A Lasso with one strength removes units of all
    layers. With factors, it removes more units of wide layers, which hold most of the parameters and little of the
    computation: at equal accuracy the network has fewer parameters and more FLOPs.

    The factors are those of the network that is given, and stay the same after prunes.

    Example:
      >>> import jax.numpy as jnp
      >>> from demp_jax import trace
      >>> def network(p, x):
      ...     h = jax.nn.relu(x @ p["first"] * p["norm1"]["scale"][None])
      ...     return jax.nn.relu(h @ p["second"] * p["norm2"]["scale"][None]) @ p["out"]
      >>> params = {"first": jnp.ones((2, 8)), "second": jnp.ones((8, 4)), "out": jnp.ones((4, 1))}
      >>> params |= {"norm1": {"scale": jnp.ones(8)}, "norm2": {"scale": jnp.ones(4)}}
      >>> mask = by_cost(trace(network, params, jnp.ones((3, 2))), params, power=1.0)
      >>> factors = mask(params)  # A unit has 2 + 1 + 4 parameters, or 8 + 1 + 1.
      >>> round(factors["norm1"]["scale"], 3), round(factors["norm2"]["scale"], 3), factors["first"]
      (0.875, 1.25, False)

    Args:
      graph: the trace of the network.
      params: its parameters, or their shapes and dtypes.
      power: 0 for the same strength in all layers, 1 for strengths in proportion to the parameters, >= 0.
      where: the regularized parameters, a function from parameters to a tree of bools.

    Returns:
      A function from parameters, of any widths, to a tree of factors: `where=` of the regularizers and of
      `demp_jax.demp`. A parameter that belongs to no removable unit has the factor 1.

    Raises:
      ValueError: if `power` is negative.
    """
    if not power >= 0:
        raise ValueError(f"by_cost: power must be at least 0; got {power=}.")
    costs = _parameters_of_groups(graph, params)
    found: dict[str, tuple[float, int]] = {}
    leaves = zip(
        graph.match(params), _paths(params), jax.tree.leaves(params), jax.tree.leaves(where(params)), strict=True
    )
    for variable, path, leaf, on in leaves:
        axes = graph.axes[variable] if on and variable is not None else ()
        groups = np.concatenate([np.ravel(axis) for axis in axes if axis is not None] or [np.zeros(0, int)])
        if (groups >= 0).any():
            found[path] = (float(costs[groups[groups >= 0]].mean() ** power), int(np.prod(leaf.shape)))
    total = sum(size for _, size in found.values())
    mean = sum(factor * size for factor, size in found.values()) / max(total, 1)
    factors = {path: factor / mean for path, (factor, _) in found.items()}

    def mask(params: Any) -> Any:
        chosen = jax.tree.leaves(where(params))
        values = [bool(on) and factors.get(path, 1.0) for path, on in zip(_paths(params), chosen, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(params), values)

    return mask


def _paths(tree: Any) -> list[str]:
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _parameters_of_groups(graph: Graph, params: Any) -> Float64[np.ndarray, " {graph.num_groups}"]:
    """Returns how many parameters are removed with each group alone."""
    counts = np.zeros(graph.num_groups)
    for variable in graph.match(params):
        if variable is None:
            continue
        size = int(np.prod(graph.shapes[variable], dtype=np.int64))
        for groups in graph.axes[variable]:
            if groups is not None:
                np.add.at(counts, groups[groups >= 0], size / groups.size)
    return counts
