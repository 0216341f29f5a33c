# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Measured peak rates of a device: FLOP/s of large matrix products, and bytes per second of large copies.

By the roofline model (Williams, Waterman, Patterson, 2009), a program with F FLOPs that moves B bytes takes at least
max(F / peak FLOP/s, B / peak bytes per second).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import interleaved

# Sides of the matrices, and bytes of a copy, far larger than caches.
_SIDE = {"cpu": 2048, "gpu": 8192}
_BYTES = {"cpu": 2**28, "gpu": 2**32}
_REPEATS = 9


@functools.cache
def measure(dtype: str, side: int | None = None) -> dict[str, float]:
    """Returns the measured peak rates: `gflops_per_second` of products and `gbytes_per_second` of copies.

    Products are of random numbers, at JAX's default precision, like those of a training step. Every byte of a copy
    counts twice: once read, once written.

    Args:
      dtype: the dtype of the products.
      side: the side of the square matrices, whose size is then also the size of a copy; by default, sizes that fill the
        device.
    """
    backend = "cpu" if jax.default_backend() == "cpu" else "gpu"
    copied = _BYTES[backend] if side is None else 4 * side**2
    side = side or _SIDE[backend]
    a, b = (jax.random.normal(jax.random.key(k), (side, side), jnp.dtype(dtype)) for k in (0, 1))
    x = jnp.zeros(copied // 4)
    # Adds 1, because XLA may elide a plain copy.
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
    """Returns the minimum time of a step by the roofline model over its measured time.

    Args:
      found: the result of `measure`.
      step: the `seconds`, `gflops_per_second` and `least_gbytes` of the step.
    """
    arithmetic = step["gflops_per_second"] * step["seconds"] / found["gflops_per_second"]
    memory = step["least_gbytes"] / found["gbytes_per_second"]
    return float(max(arithmetic, memory) / step["seconds"])
