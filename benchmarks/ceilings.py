# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Measured peak rates of a device: products of large matrices, and copies of large arrays.

The roofline model (Williams, Waterman, Patterson, 2009): a program that does F FLOPs and moves B bytes takes at least
max(F / FLOPs per second, B / bytes per second).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import interleaved

# Sides of the matrices, and bytes that are copied: far more than caches hold.
_SIDE = {"cpu": 2048, "gpu": 8192}
_BYTES = {"cpu": 2**28, "gpu": 2**32}
_REPEATS = 9


@functools.cache
def measure(dtype: str, side: int | None = None) -> dict[str, float]:
    """Returns the `gflops_per_second` of products in a dtype, on random numbers, and the `gbytes_per_second` of copies.

    Bytes count once for reading and once for writing. Products have the default precision of JAX, as in a step.

    Args:
      dtype: dtype of the products.
      side: side of the matrices, and the size of copies; by default large enough to fill the device.
    """
    backend = "cpu" if jax.default_backend() == "cpu" else "gpu"
    copied = _BYTES[backend] if side is None else 4 * side**2
    side = side or _SIDE[backend]
    a, b = (jax.random.normal(jax.random.key(k), (side, side), jnp.dtype(dtype)) for k in (0, 1))
    x = jnp.zeros(copied // 4)
    # What XLA sees to be a copy it may leave out.
    calls = {"product": jax.jit(jnp.matmul), "copy": jax.jit(lambda x: x + 1)}
    given: dict[str, tuple[jax.Array, ...]] = {"product": (a, b), "copy": (x,)}
    seconds = {
        name: interleaved({name: functools.partial(call, *given[name])}, _REPEATS)[name].seconds
        for name, call in calls.items()
    }
    return {
        "gflops_per_second": float(f"{2 * side**3 / seconds['product'] / 1e9:.4g}"),
        "gbytes_per_second": float(f"{2 * copied / seconds['copy'] / 1e9:.4g}"),
    }


def share(found: Mapping[str, float], step: Mapping[str, Any]) -> float:
    """Returns the minimum time of a step by the roofline over its measured time.

    Args:
      found: the result of `measure`.
      step: `seconds`, `gflops_per_second` and `least_gbytes` of the step.
    """
    arithmetic = step["gflops_per_second"] * step["seconds"] / found["gflops_per_second"]
    memory = step["least_gbytes"] / found["gbytes_per_second"]
    return float(max(arithmetic, memory) / step["seconds"])
