# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Compiler options for convolutions."""

from __future__ import annotations

import functools
import os

import jax

# Keeps XLA from using YNNPACK for any operation.
_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options(platform: str) -> dict[str, str]:
    """Returns compiler options for fast convolutions, for `jax.jit(fn, compiler_options=...)`.

    On a CPU, XLA then computes convolutions with Eigen instead of YNNPACK, which changes results by the order of sums.
    Depthwise convolutions become slower. The result is empty if `XLA_FLAGS` sets the same option, on other platforms,
    and if this version of XLA does not know the option. JAX only accepts options for the outermost `jax.jit`.

    Example:
      >>> import numpy as np
      >>> double = jax.jit(lambda x: 2 * x, compiler_options=compiler_options("cpu"))
      >>> double(np.ones(2)).tolist()
      [2.0, 2.0]

    Args:
      platform: the platform to compile for: `"cpu"`, `"gpu"`, `"tpu"`.
    """
    named = any(option in os.environ.get("XLA_FLAGS", "") for option in _EIGEN)
    if platform != "cpu" or named:
        return {}
    return dict(_EIGEN) if _known(tuple(_EIGEN.items())) else {}


@functools.cache
def _known(options: tuple[tuple[str, str], ...]) -> bool:
    """Returns whether this version of XLA knows the options; compiling with unknown options is an error."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True
