# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""CroP: scores units by the change of the gradient flow (Rachwan et al., 2022, https://arxiv.org/abs/2206.10451)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from baselines import losses
from baselines.subject import Subject


def score(subject: Subject) -> np.ndarray:
    """Returns `|sum_b H_b g_b|` of every group, `[num_groups]`, as the code of the DemP paper computes it.

    g_b and H_b are the gradient and the Hessian of the mean cross-entropy of batch b with respect to gates c at c = 1.
    A gate multiplies the value before an activation. The product is computed in forward mode over the gradient, without
    forming the Hessian.
    """
    return _total(subject, shift=False)


def with_shift(subject: Subject) -> np.ndarray:
    """Returns the score of the later code of the DemP paper, with gates c and a threshold b per site.

    Gradient and Hessian are those of (c, b) in `act(c * x - b)`. The score is the part of c, `[num_groups]`.
    """
    return _total(subject, shift=True)


def released(subject: Subject) -> np.ndarray:
    """Returns `|d/dc sum_b <G, dL_b / dW>|` of every group, `[num_groups]`, as the released code of CroP computes it.

    W are the kernels, parameters with two or more axes. `G = sum_b dL_b / dW` is held constant. L_b is the mean
    cross-entropy of batch b. The gate c, at c = 1, multiplies the output of a kernel, before the normalization.
    """
    fn, variables, graph, batches, live, _, exclude = subject
    static = (fn, graph, exclude, "product", losses.cross_entropy)
    total: Any = None
    for x, y in batches:
        grads = _kernel_gradient(variables, x, y, live, *static)
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
    found = [_flow_gradient(total, variables, x, y, live, *static) for x, y in batches]
    return np.abs(np.sum(jax.device_get(found), 0))


def _total(subject: Subject, *, shift: bool) -> np.ndarray:
    fn, variables, graph, batches, live, _, exclude = subject
    static = (fn, graph, exclude, "preactivation", losses.cross_entropy)
    found = [_hessian_times_gradient(variables, x, y, live, shift, *static) for x, y in batches]
    return np.abs(np.sum(jax.device_get(found), 0))


@functools.partial(jax.jit, static_argnums=range(4, 10))
def _hessian_times_gradient(
    variables: Any, x: Any, y: Any, live: Any, shift: bool, fn: Any, graph: Any, *static: Any
) -> jax.Array:
    of = losses.gated(fn, graph, *static)
    layer = np.zeros(graph.num_groups, np.int32)
    for number, site in enumerate(graph.sites):
        layer[site.groups[site.groups >= 0]] = number

    def loss(gates: jax.Array, thresholds: jax.Array) -> jax.Array:
        return of(gates, thresholds[layer], variables, x, y, live)

    ones = jnp.ones(live.shape, jnp.result_type(float))
    at = (ones, jnp.zeros(len(graph.sites), ones.dtype))
    if not shift:
        gradient = jax.grad(loss)
        along = gradient(*at)
        return jax.jvp(lambda c: gradient(c, at[1]), (at[0],), (along,))[1]
    both = jax.grad(loss, (0, 1))
    return jax.jvp(both, at, both(*at))[1][0]


def _split(variables: Any) -> tuple[list[Any], list[int]]:
    leaves = jax.tree.leaves(variables)
    kernels = [i for i, leaf in enumerate(leaves) if leaf.ndim > 1 and jnp.issubdtype(leaf.dtype, jnp.floating)]
    return leaves, kernels


def _of_kernels(variables: Any, loss: Any) -> Any:
    """Returns `loss(variables, *args)` as a function of the list of kernels."""
    leaves, places = _split(variables)
    tree = jax.tree.structure(variables)

    def of(kernels: list[Any], *args: Any) -> jax.Array:
        put = dict(zip(places, kernels, strict=True))
        return loss(jax.tree.unflatten(tree, [put.get(i, leaf) for i, leaf in enumerate(leaves)]), *args)

    return of, [leaves[i] for i in places]


@functools.partial(jax.jit, static_argnums=range(4, 9))
def _kernel_gradient(variables: Any, x: Any, y: Any, live: Any, *static: Any) -> list[jax.Array]:
    of = losses.gated(*static)
    ones = jnp.ones(live.shape, jnp.result_type(float))
    loss, kernels = _of_kernels(variables, lambda v: of(ones, jnp.zeros_like(ones), v, x, y, live))
    return jax.grad(loss)(kernels)


@functools.partial(jax.jit, static_argnums=range(5, 10))
def _flow_gradient(total: list[jax.Array], variables: Any, x: Any, y: Any, live: Any, *static: Any) -> jax.Array:
    of = losses.gated(*static)
    loss, kernels = _of_kernels(variables, lambda v, c: of(c, jnp.zeros_like(c), v, x, y, live))
    ones = jnp.ones(live.shape, jnp.result_type(float))

    def flow(gates: jax.Array) -> jax.Array:
        # <G, dL/dW> is the derivative of L along G.
        return jax.jvp(lambda w: loss(w, gates), (kernels,), (total,))[1]

    return jax.grad(flow)(ones)
