# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Channels routed through an index variable, so that the operands of a residual sum can be pruned independently.

Dimension names: channels_in and channels_out, those of the operand and of the result.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Num

from demp_jax._src.tracing.axes import SELECT
from demp_jax._src.tracing.program import register_opaque

# Up to this many channels, a product with a 0-1 matrix is faster than a gather on a CPU, which makes a step up to 5%
# faster (`benchmarks/README.md`, shortcuts).
_FEW_CHANNELS = 128

NOTHING = np.iinfo(np.int32).max  # An index that selects no channel, so that the result is the fill value.


def select(
    x: Num[jax.Array, "*batch channels_in"],
    index: Int[jax.Array, " channels_out"],
    fill: Num[jax.Array, " channels_out"],
    *,
    identity: bool = False,
    unique_indices: bool = False,
) -> Num[jax.Array, "*batch channels_out"]:
    """Returns `out[..., o] = x[..., index[o]]`, or `fill[o]` if `index[o]` is not a channel of `x`.

    The operands of a residual sum `x + f(x)` form one group per channel: a channel can only be removed if it is dead in
    both. In `select(x, index, fill) + f(x)` they form separate groups, so that a channel can be dead after one block
    and alive after the next. A prune renumbers `index` and stores the constants of removed channels in `fill`. The
    released code of the paper multiplies by a sliced identity matrix instead, with the same result.

    Example:
      >>> x = jnp.array([[1.0, 2.0]])
      >>> select(x, jnp.array([1, 2, 0]), jnp.array([0.0, 7.0, 0.0])).tolist()
      [[2.0, 7.0, 1.0]]

    Args:
      x: `[..., channels in]`.
      index: `[channels out]`, int32, a variable of the network. Initialize it with `arange(channels)`.
      fill: `[channels out]`, a variable of the network that is not trained. Initialize it with zeros.
      identity: promise that `index` is `arange(channels in)`. The selection then costs nothing.
      unique_indices: promise that no channel of `x` occurs twice in `index`. This holds for `arange(channels)`, also
        after prunes. The gradient is then a gather instead of a scatter-add, which is faster.

    Returns:
      `[..., channels out]`.
    """
    return _select(x, index, fill, identity=identity, unique_indices=unique_indices)


def _by_product(
    x: Num[jax.Array, "*batch channels_in"], index: Int[jax.Array, " channels_out"]
) -> Num[jax.Array, "*batch channels_out"]:
    """Returns `_taken(x, index)` as a matrix product. It is exact, since each sum has at most one nonzero term."""
    matrix = (jnp.arange(x.shape[-1])[:, None] == index[None, :]).astype(x.dtype)
    return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")


def _taken(
    x: Num[jax.Array, "*batch channels_in"], index: Int[jax.Array, " channels_out"]
) -> Num[jax.Array, "*batch channels_out"]:
    """Returns `x[..., index]`, and 0 for an index that is not a channel."""
    return jnp.take(x, index, axis=-1, mode="fill", fill_value=0)


@jax.custom_jvp
def _taken_once(
    x: Num[jax.Array, "*batch channels_in"], index: Int[jax.Array, " channels_out"]
) -> Num[jax.Array, "*batch channels_out"]:
    """Returns `_taken(x, index)` for an index without duplicates."""
    return _taken(x, index)


@_taken_once.defjvp
def _scattered(
    primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[Num[jax.Array, "*batch channels_out"], Num[jax.Array, "*batch channels_out"]]:
    """Scatters tangents to the positions of their channels, because the transpose of this scatter is a gather."""
    (x, index), (dx, _) = primals, tangents
    places = jnp.full(x.shape[-1], index.size, index.dtype)
    places = places.at[index].set(jnp.arange(index.size, dtype=index.dtype), mode="drop")
    put = jnp.zeros((*x.shape[:-1], index.size), x.dtype).at[..., places].add(dx, mode="drop")
    return _taken(x, index), put


def _routed(
    x: Num[jax.Array, "*batch channels_in"],
    index: Int[jax.Array, " channels_out"],
    fill: Num[jax.Array, " channels_out"],
    *,
    identity: bool,
    unique_indices: bool,
) -> Num[jax.Array, "*batch channels_out"]:
    if identity:
        return x
    # On a mesh with explicit axes, arrays in the derivative of `_taken_once` would need explicit shardings.
    sharded = any(axis is not None for axis in jax.typeof(x).sharding.spec)
    gather = _taken_once if unique_indices and not sharded else _taken
    if x.shape[-1] == 0:
        taken = jnp.zeros((*x.shape[:-1], index.size), x.dtype)  # A gather from an empty axis is an error.
    elif x.shape[-1] <= _FEW_CHANNELS:
        # Chosen when the program is lowered, so that an exported program uses the right one on each platform.
        taken = jax.lax.platform_dependent(x, index, cpu=_by_product, default=gather)
    else:
        taken = gather(x, index)
    # The fill is added instead of selected, so that the gradient of `taken` needs no mask.
    filled = jnp.where(index < x.shape[-1], 0, fill).astype(x.dtype)
    return taken + jnp.broadcast_to(filled, taken.shape)


# The tracer recognizes the call by its name and does not trace its body.
_routed.__name__ = _routed.__qualname__ = SELECT
_select = functools.partial(jax.jit, static_argnames=("identity", "unique_indices"))(_routed)
register_opaque(SELECT)
