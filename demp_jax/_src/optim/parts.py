# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Slices of a vector, written so that XLA reuses kernels on a CPU.

On a CPU, XLA compiles kernels that only differ in their operands once. A slice with a constant start is fused into its
consumer, such as the update of a weight, and makes the kernel of each weight different. A ResNet-18 would have 62
kernels instead of one for each of about 20 shapes. Dynamic starts avoid that.

Dimension names: size, that of the vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Shaped


def parts(vector: Shaped[jax.Array, " size"], places: Sequence[tuple[int, int]]) -> list[Shaped[jax.Array, " _"]]:
    """Returns `vector[start : start + size]` for each `(start, size)` of `places`, all of them within bounds."""

    def static(vector: jax.Array) -> list[jax.Array]:
        # On a GPU, dynamic slices do not compile faster and launch a few more kernels.
        return [jax.lax.slice_in_dim(vector, start, start + size) for start, size in places]

    def dynamic(vector: jax.Array) -> list[jax.Array]:
        # Within a loop over steps, the barrier hides from XLA that the starts are constants. Every slice has its own
        # operand, even for equal starts, because kernels with shared operands would differ from the others.
        starts = jax.lax.optimization_barrier(tuple(np.uint32(start) for start, _ in places))
        pairs = zip(starts, places, strict=True)
        return [jax.lax.dynamic_slice(vector, (start,), (size,)) for start, (_, size) in pairs]

    return jax.lax.platform_dependent(vector, cpu=dynamic, default=static)
