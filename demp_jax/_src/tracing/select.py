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

# On a CPU a step is up to 5% faster with products with a 0-1 matrix for so many channels than with gathers
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


def _taken(x: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `x[..., index]`, 0 where there is no such channel."""
    return jnp.take(x, index, axis=-1, mode="fill", fill_value=0)


def _derivative(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    """Has the derivative of `_taken` put channels where they go, which transposed takes them from there."""
    (x, index), (dx, _) = primals, tangents
    places = jnp.full(x.shape[-1], index.size, index.dtype)
    places = places.at[index].set(jnp.arange(index.size, dtype=index.dtype), mode="drop")
    put = jnp.zeros((*x.shape[:-1], index.size), x.dtype).at[..., places].add(dx, mode="drop")
    return _taken(x, index), put


def _with_derivative(fn: Any) -> Any:
    fn.defjvp(_derivative)
    return fn


# Not by a decorator: a network's text, as it is exported, has what is read by name.
_taken_once = _with_derivative(jax.custom_jvp(_taken))


def _routed(x: jax.Array, index: jax.Array, fill: jax.Array, *, identity: bool, unique_indices: bool) -> jax.Array:
    if identity:
        return x
    if jax.default_backend() == "cpu" and x.shape[-1] <= _FEW_CHANNELS:
        # Exact: every sum has one term that is not zero, or none.
        matrix = (jnp.arange(x.shape[-1])[:, None] == index[None, :]).astype(x.dtype)
        taken = jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")
    else:
        # A mesh with explicit axes would ask for shardings of what the derivative makes.
        spread = any(axis is not None for axis in jax.typeof(x).sharding.spec)
        taken = (_taken_once if unique_indices and not spread else _taken)(x, index)
    # Zero is added to what was taken, so that its gradient needs no mask.
    filled = jnp.where(index < x.shape[-1], 0, fill).astype(x.dtype)
    return taken + jnp.broadcast_to(filled, taken.shape)


# The tracer recognises the call by its name and does not look inside, so `identity` hides nothing from it.
_routed.__name__ = _routed.__qualname__ = SELECT
_select = functools.partial(jax.jit, static_argnames=("identity", "unique_indices"))(_routed)
register_opaque(SELECT)
