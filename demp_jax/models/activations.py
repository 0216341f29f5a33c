# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The activation functions of the paper's experiments, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

# The paper's Leaky ReLU has slope 0.05 and its Swish beta 1 (figure 1).
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.05),
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
}
