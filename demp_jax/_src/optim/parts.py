# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Parts of a vector, taken so that what is computed alike of several is compiled once.

On a CPU XLA compiles kernels once that differ only in their operands. A part that begins at a constant makes another
kernel of whatever it is fused into, such as the update of a weight: a ResNet-18 has 62, of some 20 shapes.

Dimension names: size, that of the vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Shaped


def parts(vector: Shaped[jax.Array, " size"], places: Sequence[tuple[int, int]]) -> list[Shaped[jax.Array, " _"]]:
    """Returns `vector[start : start + size]` for each pair of a start and a size, all within the vector."""

    def static(vector: jax.Array) -> list[jax.Array]:
        # On a GPU, dynamic slices compile no sooner and launch a few more kernels.
        return [jax.lax.slice_in_dim(vector, start, start + size) for start, size in places]

    def dynamic(vector: jax.Array) -> list[jax.Array]:
        # Behind a barrier, the compiler does not see in time that the starts are constants (in a loop over steps;
        # otherwise it does). Equal starts have an operand each, or their kernels would differ from the others.
        starts = jax.lax.optimization_barrier(tuple(np.uint32(start) for start, _ in places))
        pairs = zip(starts, places, strict=True)
        return [jax.lax.dynamic_slice(vector, (start,), (size,)) for start, (_, size) in pairs]

    return jax.lax.platform_dependent(vector, cpu=dynamic, default=static)
