# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Channels routed through an index variable, so that both ends of a residual connection can shrink on their own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demp_jax._src.tracing.axes import SELECT
from demp_jax._src.tracing.program import register_opaque

# On a CPU, a product with a 0-1 matrix is faster than a gather for up to so many channels; a step is up to 5% faster
# (`benchmarks/README.md`, shortcuts).
_FEW_CHANNELS = 128

NOTHING = np.iinfo(np.int32).max  # An index that takes nothing: the fill value stands there.


def select(
    x: jax.Array, index: jax.Array, fill: jax.Array, *, identity: bool = False, unique_indices: bool = False
) -> jax.Array:
    """Returns `out[..., o] = x[..., index[o]]`, or `fill[o]` where `index[o]` is no channel of `x`.

    A residual sum `x + f(x)` couples its operands: a channel can leave only where both let it go. The sum
    `select(x, index, fill) + f(x)` does not: tracing treats `index` as what ties the channels, so a channel that died
    after one block can leave there and stay alive after the next. A cut rewrites `index` (and `fill`, the constant of a
    channel that was folded away). The released code of the paper multiplies by a sliced identity matrix, to the same
    effect.

    Args:
      x: `[..., channels in]`.
      index: `[channels out]`, int32, a variable of the network; start with `arange(channels)`.
      fill: `[channels out]`, a variable of the network that is not trained; start with zeros.
      identity: the caller's promise that `index` is `arange(channels in)`; the selection then costs nothing.
      unique_indices: the caller's promise that `index` names no channel of `x` twice, as no cut of `arange(channels)`
        does; the gradient is then a gather, too, and no sum over positions, which is faster.

    Returns:
      `[..., channels out]`.
    """
    return _select(x, index, fill, identity=identity, unique_indices=unique_indices)


def _by_product(x: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `_taken(x, index)` as a matrix product, exactly: each sum has at most one nonzero term."""
    matrix = (jnp.arange(x.shape[-1])[:, None] == index[None, :]).astype(x.dtype)
    return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")


def _taken(x: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `x[..., index]`, 0 where there is no such channel."""
    return jnp.take(x, index, axis=-1, mode="fill", fill_value=0)


@jax.custom_jvp
def _taken_once(x: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `_taken(x, index)` for an index that names no channel twice."""
    return _taken(x, index)


@_taken_once.defjvp
def _scattered(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    """Scatters tangents to the places of their channels; the transpose of that is a gather."""
    (x, index), (dx, _) = primals, tangents
    places = jnp.full(x.shape[-1], index.size, index.dtype)
    places = places.at[index].set(jnp.arange(index.size, dtype=index.dtype), mode="drop")
    put = jnp.zeros((*x.shape[:-1], index.size), x.dtype).at[..., places].add(dx, mode="drop")
    return _taken(x, index), put


def _routed(x: jax.Array, index: jax.Array, fill: jax.Array, *, identity: bool, unique_indices: bool) -> jax.Array:
    if identity:
        return x
    # On a mesh with explicit axes, the arrays in the derivative of `_taken_once` would need shardings.
    sharded = any(axis is not None for axis in jax.typeof(x).sharding.spec)
    gather = _taken_once if unique_indices and not sharded else _taken
    if x.shape[-1] <= _FEW_CHANNELS:
        # Resolved when the program is lowered, so that an exported program is right for each of its platforms.
        taken = jax.lax.platform_dependent(x, index, cpu=_by_product, default=gather)
    else:
        taken = gather(x, index)
    # The fill is added instead of selected, so that the gradient of `taken` needs no mask.
    filled = jnp.where(index < x.shape[-1], 0, fill).astype(x.dtype)
    return taken + jnp.broadcast_to(filled, taken.shape)


# The tracer recognizes the call by its name and does not look inside, so `identity` hides nothing from it.
_routed.__name__ = _routed.__qualname__ = SELECT
_select = functools.partial(jax.jit, static_argnames=("identity", "unique_indices"))(_routed)
register_opaque(SELECT)
