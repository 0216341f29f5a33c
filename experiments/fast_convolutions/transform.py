# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The function transformation that rewrites convolutions and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.fast_convolutions import ways
from experiments.fast_convolutions.isolated import (
    isolated,
    nonzero_anywhere,
    squares_over_positions,
    sum_over_positions,
)
from experiments.fast_convolutions.rewriting import Rule, bind, rewrite

# Tensor cores want channel counts divisible by `_MULTIPLE`. `_GROWTH` bounds the factor by which padding may enlarge an
# image. XLA's rule for float16 has the same numbers, and bounds kernels as well.
_MULTIPLE, _GROWTH = 8, 1.35

# Minimum size of a reduction to rewrite. XLA compiles smaller ones well.
_LARGE = 2**17


def with_fast_convolutions(fn: Callable[..., Any], *, platform: str) -> Callable[..., Any]:
    """Rewrites the convolutions of `fn` that XLA compiles badly. Results only change by the order of sums.

    On a CPU, it rewrites two-dimensional convolutions in Flax's layout, `[N, H, W, C]`, and reductions of large arrays
    of this layout over all axes but the channels: sums, as in BatchNorm, and whether any value is nonzero. On a GPU, it
    pads the channels of bfloat16 convolutions to multiples of 8, if no image becomes more than 1.35 times as large. For
    other platforms, it returns `fn`.

    The bodies of `lax.scan`, `lax.while_loop`, `lax.cond` and `jax.checkpoint` are not rewritten; in a loop over steps,
    apply the transformation to the body. Operations on arrays that are sharded over explicit axes of a mesh
    (`jax.sharding.AxisType.Explicit`) are not rewritten either. Compile the result, preferably with `compiler_options`.
    Apply it after `jax.grad`: derivatives of the result are not accelerated.

    Example:
      >>> def loss(kernel, x):
      ...     return jnp.sum(lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
      ...         dimension_numbers=("NHWC", "HWIO", "NHWC")))
      >>> gradient = jax.jit(with_fast_convolutions(jax.grad(loss), platform="cpu"))
      >>> gradient(jnp.ones((3, 3, 1, 1)), jnp.ones((1, 2, 2, 1)))[:, :, 0, 0].tolist()
      [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]

    Args:
      fn: a function of trees of arrays.
      platform: the platform that the result is compiled for: `"cpu"`, `"gpu"`, `"tpu"`.

    Returns:
      A function with the same arguments and results.
    """
    if platform == "cpu":
        return lambda *args: rewrite(fn, args, _cpu_rules())
    if platform == "gpu":
        return lambda *args: rewrite(fn, args, {"conv_general_dilated": _with_padded_channels})
    return fn


def _cpu_rules() -> dict[str, Rule]:
    """Returns the rules for a CPU. They hold state of one traced function."""
    # By the `id` of the result of a square or a comparison: the result, which keeps the `id` valid, and the operands.
    squares: dict[int, tuple[Any, Any]] = {}
    comparisons: dict[int, tuple[Any, Any, Any]] = {}

    def square(eqn: Any, operands: Sequence[Any]) -> Any:
        (result,) = bind(eqn, operands)
        squares[id(result)] = (result, operands[0])
        return result

    def not_equal(eqn: Any, operands: Sequence[Any]) -> Any:
        (result,) = bind(eqn, operands)
        comparisons[id(result)] = (result, *operands)
        return result

    def sum_(eqn: Any, operands: Sequence[Any]) -> Any:
        (x,) = operands
        if x.dtype not in (jnp.float32, jnp.float64) or not _over_positions(eqn, x):
            return None
        if id(x) in squares:
            return isolated(squares_over_positions, squares[id(x)][1])
        return isolated(sum_over_positions, x)

    def any_(eqn: Any, operands: Sequence[Any]) -> Any:
        (differs,) = operands
        _, x, other = comparisons.get(id(differs), (None, None, None))
        with_zero = x is not None and not isinstance(other, jax.core.Tracer) and np.all(np.asarray(other) == 0)
        return isolated(nonzero_anywhere, x) if with_zero and _over_positions(eqn, differs) else None

    return {
        "conv_general_dilated": _convolution,
        "square": square,
        "ne": not_equal,
        "reduce_sum": sum_,
        "reduce_or": any_,
    }


def _convolution(eqn: Any, operands: Sequence[Any]) -> Any:
    x, kernel = operands
    empty = 0 in (x.size, kernel.size, eqn.outvars[0].aval.size)
    if empty or _sharded(x) or _sharded(kernel) or _grouped(eqn):
        return None
    layout = tuple(eqn.params["dimension_numbers"])
    if layout == ways.KERNEL_GRADIENT:
        return ways.kernel_gradient(x, kernel, eqn)
    if layout not in (ways.FORWARD, ways.IMAGE_GRADIENT):
        return None
    kernel = kernel if layout == ways.FORWARD else jnp.swapaxes(kernel, 2, 3)
    if x.dtype not in (jnp.float32, jnp.float64):
        return ways.convolution(x, kernel, eqn)  # For other dtypes, only the layout is changed.
    if math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3]):
        return ways.over_small_image(x, kernel, eqn)
    return ways.by_shape(kernel, eqn)(x, kernel, eqn)


def _with_padded_channels(eqn: Any, operands: Sequence[Any]) -> Any:
    """Returns a bfloat16 convolution with channels padded to multiples of `_MULTIPLE`; `None` to keep the operation."""
    x, kernel = operands
    layout = tuple(eqn.params["dimension_numbers"])
    known = layout in (ways.FORWARD, ways.IMAGE_GRADIENT, ways.KERNEL_GRADIENT)
    if not known or x.dtype != jnp.bfloat16 or _grouped(eqn) or _sharded(x) or _sharded(kernel):
        return None
    # The operands of a kernel's gradient, image and gradient of the result, have one axis of channels, the last.
    gradient = layout == ways.KERNEL_GRADIENT
    before = (x, kernel, eqn.outvars[0].aval)
    of_channels = ((3,), (3,) if gradient else (2, 3), (2, 3) if gradient else (3,))
    shapes = [
        tuple(-(-size // _MULTIPLE) * _MULTIPLE if axis in axes else size for axis, size in enumerate(array.shape))
        for array, axes in zip(before, of_channels, strict=True)
    ]
    images = (0, 1) if gradient else (0, 2)
    grown = max(math.prod(shapes[n]) / max(before[n].size, 1) for n in images)
    if shapes == [array.shape for array in before] or grown > _GROWTH:
        return None
    x, kernel = (
        lax.pad(a, jnp.zeros([], a.dtype), [(0, to - size, 0) for size, to in zip(a.shape, shape, strict=True)])
        for a, shape in zip(operands, shapes[:2], strict=True)
    )
    y = ways.convolution(x, kernel, eqn, layout=eqn.params["dimension_numbers"])
    return lax.slice(y, (0,) * y.ndim, before[2].shape)


def _over_positions(eqn: Any, x: Any) -> bool:
    """Returns whether a reduction of images `x` is large and over all axes but the channels."""
    return x.ndim == 4 and tuple(eqn.params["axes"]) == (0, 1, 2) and x.size >= _LARGE and not _sharded(x)


def _sharded(x: Any) -> bool:
    """Returns whether an array is sharded over explicit axes of a mesh, for which some reshapes are not defined."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


def _grouped(eqn: Any) -> bool:
    return (eqn.params["feature_group_count"], eqn.params["batch_group_count"]) != (1, 1)
