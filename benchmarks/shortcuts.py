# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The sum of a residual block whose operands keep different channels: four implementations, relative to a plain sum.

This times `relu(y + select(x))` with its gradients of x and y. Each operand keeps a random half of the channels:

* `take`: a gather, whose gradient is a scatter-add;
* `scatter`: a scatter-add into y, whose gradient is a gather;
* `matmul`: a product with a 0-1 matrix, at the highest precision so that it is exact;
* `ours`: `demp_jax.select`, gathers in both directions, or on a CPU products if there are few channels.
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

# By scale: examples, side of the image, channels of the dense network, dtype.
_GPU = ((512, 32, 64), (512, 16, 128), (512, 8, 256), (512, 4, 512))
CASES: dict[str, tuple[tuple[int, int, int, str], ...]] = {
    "tiny": ((2, 4, 8, "float32"),),
    "cpu": tuple(
        (*size, "float32") for size in ((128, 16, 16), (128, 4, 64), (16, 32, 64), (16, 16, 128), (16, 4, 512))
    ),
    "gpu": tuple((*size, dtype) for dtype in ("bfloat16", "float32") for size in _GPU),
}


def take(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `y + x[..., index]`, with zeros for indices out of bounds."""
    return y + jnp.take(x, index, axis=-1, mode="fill", fill_value=0)


def matmul(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `y + x @ m`, with the 0-1 matrix m of the index."""
    matrix = (jnp.arange(x.shape[-1])[:, None] == index[None, :]).astype(x.dtype)
    return y + jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")


def scatter(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Returns y with channels of x added at the positions that read them. Channels without a reader are dropped."""
    where = jnp.full(x.shape[-1], y.shape[-1]).at[index].set(jnp.arange(y.shape[-1]), mode="drop")
    return y.at[..., where].add(x, mode="drop")


def plain(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `y + x`."""
    del index
    return y + x


def ours(x: jax.Array, index: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the sum as computed by the networks of the library."""
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
        # Position in `left` of each channel of `right`; out of bounds if it is missing.
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
