# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Implementations of a residual sum whose operands have lost different channels.

The benchmark times relu(y + selected x) with the gradients of both, for x and y with different halves of the channels.
`take` gathers, and its gradient scatters. `scatter` adds into y at given positions, and its gradient gathers. `matmul`
multiplies by a 0-1 matrix in full precision. `ours` is `demp_jax.select`, which gathers forward and backward, and uses
products for few channels on a CPU. Times are relative to a plain sum of equally many channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import demp_jax
from benchmarks.timing import interleaved

# Examples, side of the image, channels of the dense network, dtype.
_GPU = ((512, 32, 64), (512, 16, 128), (512, 8, 256), (512, 4, 512))
CASES: dict[str, tuple[tuple[int, int, int, str], ...]] = {
    "tiny": ((2, 4, 8, "float32"),),
    "cpu": tuple(
        (*size, "float32") for size in ((128, 16, 16), (128, 4, 64), (16, 32, 64), (16, 16, 128), (16, 4, 512))
    ),
    "gpu": tuple((*size, dtype) for dtype in ("bfloat16", "float32") for size in _GPU),
}


def take(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Adds gathered channels, and zero if the index is out of bounds."""
    return y + jnp.take(x, index, axis=-1, mode="fill", fill_value=0)


def matmul(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Adds a product with the 0-1 matrix of the index."""
    matrix = (jnp.arange(x.shape[-1])[:, None] == index[None, :]).astype(x.dtype)
    return y + jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")


def scatter(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Adds x into y at the positions that read it. Channels that no position reads are dropped."""
    where = jnp.full(x.shape[-1], y.shape[-1]).at[index].set(jnp.arange(y.shape[-1]), mode="drop")
    return y.at[..., where].add(x, mode="drop")


def plain(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Adds position by position."""
    del index
    return y + x


def ours(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Adds like the networks of the library."""
    return y + demp_jax.select(x, index, jnp.zeros(index.size), unique_indices=True)


WAYS: dict[str, Callable[..., jax.Array]] = {
    "sum": plain,
    "take": take,
    "scatter": scatter,
    "matmul": matmul,
    "ours": ours,
}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per shape: times of every implementation."""
    for examples, side, channels, dtype in cases:
        rng = np.random.default_rng(0)
        left, right = (np.sort(rng.choice(channels, channels // 2, replace=False)) for _ in range(2))
        # Position of each channel of the right side on the left, or one beyond it.
        found = [int(np.flatnonzero(left == c)[0]) if c in left else len(left) for c in right]
        index = jnp.asarray(found, jnp.int32)
        shape = (examples, side, side, channels // 2)
        x, y = (jax.random.normal(jax.random.key(k), shape, jnp.dtype(dtype)) for k in (0, 1))

        calls = {name: functools.partial(_gradients(way), x, y, index) for name, way in WAYS.items()}
        timings = interleaved(calls, 2 if scale == "tiny" else 31)
        ways = {name: timing.record() for name, timing in timings.items()}
        yield {"examples": examples, "image": side, "channels": channels // 2, "dtype": dtype, "ways": ways}


def _gradients(way: Callable[..., jax.Array]) -> Callable[..., Any]:
    def loss(x: jax.Array, y: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.sum(jax.nn.relu(way(x, index, y)) ** 2)

    return jax.jit(jax.grad(loss, (0, 1)))


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    ways = list(WAYS)[1:]
    found: list[tuple[str, ...]] = [("examples", "image", "channels", "dtype", *ways)]
    for record in records:
        side = record["image"]
        cells = [f"x {record['ways'][way]['ratio']:.2f}" if way in record["ways"] else "" for way in ways]
        dtype = record.get("dtype", "float32")
        found.append((str(record["examples"]), f"{side} x {side}", str(record["channels"]), dtype, *cells))
    return found
