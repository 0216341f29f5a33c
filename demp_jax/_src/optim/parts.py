# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Parts of a vector, taken so that what is computed alike of several is compiled once.

On a CPU XLA compiles kernels once that differ only in their operands. A part that begins at a constant makes another
kernel of whatever it is fused into, such as the update of a weight: a ResNet-18 has 62, of some 20 shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np


def parts(vector: jax.Array, places: Sequence[tuple[int, int]]) -> list[jax.Array]:
    """Returns `vector[start : start + size]` for each pair of a start and a size, all within the vector."""
    if jax.default_backend() != "cpu":
        # A GPU compiles no sooner with the rest, and launches a few kernels more.
        return [vector[start : start + size] for start, size in places]
    # Operands, as the compiler does not see in time that they are constants (in a loop over steps; otherwise it does).
    # Each its own, also where two are equal: kernels that have one twice are not those that have two.
    starts = jax.lax.optimization_barrier(tuple(np.uint32(start) for start, _ in places))
    return [jax.lax.dynamic_slice(vector, (start,), (size,)) for start, (_, size) in zip(starts, places, strict=True)]
