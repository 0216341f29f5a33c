# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Transposes and reductions that XLA does not fuse with other operations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata


def isolated(fn: Callable[..., jax.Array], *operands: Any) -> jax.Array:
    """Calls a jitted function so that XLA neither inlines it nor fuses operations into it."""
    with set_xla_metadata(inlineable="false"):
        return fn(*operands)


@functools.partial(jax.jit, static_argnums=1)
def transposed(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns `x.transpose(axes)`."""
    return x.transpose(axes)


@jax.jit
def sum_over_positions(x: jax.Array) -> jax.Array:
    """Returns the sum over all axes but the last, `[N, H, W, C]` to `[C]`."""
    return _over_positions(jnp.sum, x)


@jax.jit
def squares_over_positions(x: jax.Array) -> jax.Array:
    """Returns the sum of squares over all axes but the last, `[N, H, W, C]` to `[C]`."""
    return _over_positions(jnp.sum, jnp.square(x))


@jax.jit
def nonzero_anywhere(x: jax.Array) -> jax.Array:
    """Returns whether any value is nonzero, over all axes but the last, `[N, H, W, C]` to `[C]`."""
    return _over_positions(jnp.any, x != 0)


def _over_positions(reduce: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    """Reduces over groups of examples first, which fills vectors, then over the groups."""
    examples = x.shape[0]
    # For larger groups, XLA emits windowed reductions that process one channel at a time.
    together = max(number for number in range(1, 33) if examples % number == 0)
    fewer = reduce(x.reshape(examples // together, together, -1), 1)
    return reduce(fewer.reshape(-1, x.shape[-1]), 0)
