# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Normal samples like those of `jax.random.normal`, in one pass over memory.

On a CPU, JAX implements Threefry as a loop over rounds, each of which writes all words to memory. For the weights of a
wide network this is bound by memory bandwidth. Here the rounds are unrolled, so that XLA fuses them.

Dimension names: shape, of an array of draws.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float32, Key, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def is_numbered(key: Key[jax.Array, ""], size: int) -> bool:
    """Returns whether each of `size` samples can be computed from its index alone, see `normal_at`."""
    settings: Any = jax.config
    default = str(jax.random.key_impl(key)) == "threefry2x32" and settings.jax_threefry_partitionable
    return bool(default and size < 2**32)


def normal(key: Key[jax.Array, ""], size: int) -> Float32[jax.Array, " {size}"]:
    """Returns standard normal samples, `float32[size]`, equal to `jax.random.normal(key, (size,))` up to rounding.

    The random bits are the same for a Threefry key with `jax_threefry_partitionable`, the default of JAX. For other
    keys, `jax.random.normal` is called.
    """
    if not is_numbered(key, size):
        return jax.random.normal(key, (size,), jnp.float32)
    return normal_at(key, jax.lax.iota(jnp.uint32, size))


def normal_at(key: Key[jax.Array, ""], numbers: UInt32[jax.Array, "*shape"]) -> Float32[jax.Array, "*shape"]:
    """Returns the samples of `normal(key, ...)` at the indices `numbers`, `uint32[...]`, in that shape."""
    bits = _bits(jax.random.key_data(key), numbers)
    # Map 23 bits to [1, 2), then to (-1, 1), then through the inverse of the normal distribution function.
    mantissa = lax.bitwise_or(lax.shift_right_logical(bits, np.uint32(9)), np.uint32(0x3F800000))
    unit = lax.sub(lax.bitcast_convert_type(mantissa, jnp.float32), np.float32(1))
    inner = np.nextafter(np.float32(-1), np.float32(0))
    centered = lax.max(lax.add(lax.mul(unit, np.float32(1 - inner)), inner), inner)
    return lax.mul(np.float32(np.sqrt(2)), lax.erf_inv(centered))


def _bits(key: UInt32[jax.Array, "2"], numbers: UInt32[jax.Array, "*shape"]) -> UInt32[jax.Array, "*shape"]:
    """Returns random words, `uint32[...]`: Threefry-2x32 of 20 rounds, both words of the block i as word i.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    # There are over a hundred operations, and `lax` functions trace three times as fast as array operators.
    first, second = (lax.index_in_dim(key, i, keepdims=False) for i in range(2))
    schedule = (first, second, lax.bitwise_xor(lax.bitwise_xor(first, second), _PARITY))
    left = lax.broadcast(schedule[0], numbers.shape)
    right = lax.add(numbers, schedule[1])
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            left = lax.add(left, right)
            turned = lax.shift_left(right, np.uint32(rotation))
            turned = lax.bitwise_or(turned, lax.shift_right_logical(right, np.uint32(32 - rotation)))
            right = lax.bitwise_xor(left, turned)
        left = lax.add(left, schedule[(group + 1) % 3])
        right = lax.add(lax.add(right, schedule[(group + 2) % 3]), np.uint32(group + 1))
    return lax.bitwise_xor(left, right)
