# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Alternative implementations of a convolution.

Each function takes the operands and the equation of a `conv_general_dilated`, whose parameters it reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.fast_convolutions.isolated import isolated, transposed

# Layouts of two-dimensional convolutions as `jax.lax.ConvDimensionNumbers`: of Flax's convolutions, of their gradients
# with respect to the image (the kernel's channels are exchanged), and with respect to the kernel (a convolution of the
# image with the gradient of the result).
FORWARD = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
IMAGE_GRADIENT = ((0, 3, 1, 2), (2, 3, 0, 1), (0, 3, 1, 2))
KERNEL_GRADIENT = ((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
_FLAX = ("NHWC", "HWIO", "NHWC")  # `FORWARD` by name.


def over_small_image(x: jax.Array, kernel: jax.Array, eqn: Any) -> jax.Array:
    """Computes a convolution as one matrix product of every position of the image with every position of the result.

    y[n, pq, o] = sum over hw, c of x[n, hw, c] K[hw, c, pq, o], where K[hw, c, pq, o] is the tap of the kernel that
    lies between the positions hw and pq, or zero if none does.
    """
    params, out = eqn.params, eqn.outvars[0].aval
    across = [
        _taps(x.shape[1 + d], out.shape[1 + d], kernel.shape[d], d, params)  # [H, P] and [W, Q]
        for d in range(2)
    ]
    rows, columns = across[0][:, None, :, None], across[1][None, :, None, :]
    number = np.where((rows >= 0) & (columns >= 0), rows * kernel.shape[1] + columns, math.prod(kernel.shape[:2]))
    taps = jnp.concatenate([kernel.reshape(-1, *kernel.shape[2:]), jnp.zeros((1, *kernel.shape[2:]), kernel.dtype)])
    h, w, p, q = number.shape
    whole = taps[number.reshape(h * w, p * q)]  # [HW, PQ, C, O]
    y = lax.dot_general(
        x.reshape(x.shape[0], h * w, -1),
        whole,
        (((1, 2), (0, 2)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return y.reshape(out.shape)


def _even(inputs: int, outputs: int) -> tuple[int, int]:
    """Returns the numbers of inputs and outputs to pad a convolution to. The rule is empirical."""
    more = -(-inputs // 8) * 8
    # Padding is cheap for few channels; many channels are padded by at most two.
    return more if inputs <= 16 or more - inputs <= 2 else inputs, -(-outputs // 8) * 8 if outputs <= 16 else outputs


def by_shape(kernel: jax.Array, eqn: Any) -> Callable[[jax.Array, jax.Array, Any], jax.Array]:
    """Returns the function that computes a convolution of this shape fastest."""
    params = eqn.params
    strides, dilation = set(params["window_strides"]), set(params["lhs_dilation"])
    if kernel.shape[:2] == (1, 1) and (strides != {1}) != (dilation != {1}):
        return _at_points
    # With more zeros between positions, or with fewer taps, most taps of a phase would be zero.
    if strides | set(params["rhs_dilation"]) == {1} and dilation == {2} and min(kernel.shape[:2]) > 1:
        return _by_phases
    return _by_pairs if _pairs_are_faster(kernel, eqn) else _with_padded_channels


def _at_points(x: jax.Array, kernel: jax.Array, eqn: Any) -> jax.Array:
    """Computes a convolution with a kernel of one tap as a matrix product over the positions that it reads or writes.

    The convolution has a stride or a dilated image, but not both.
    """
    params, out = eqn.params, eqn.outvars[0].aval
    dilation, (down, across) = params["lhs_dilation"], params["window_strides"]
    pads = [(low, high, apart - 1) for (low, high), apart in zip(params["padding"], dilation, strict=True)]

    def padded(y: jax.Array) -> jax.Array:
        return lax.pad(y, jnp.zeros([], y.dtype), ((0, 0, 0), *pads, (0, 0, 0)))

    dilated = set(dilation) != {1}
    x = x if dilated else padded(x)[:, ::down, ::across]
    y = lax.dot_general(
        x.reshape(-1, x.shape[3]),
        kernel[0, 0],
        (((1,), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    ).reshape(*x.shape[:3], out.shape[3])
    return padded(y) if dilated else y


def _by_phases(x: jax.Array, kernel: jax.Array, eqn: Any) -> jax.Array:
    """Computes the convolution of a dilated image, such as the image gradient of a strided convolution.

    With d - 1 zeros between positions, the results at p = d m + r, for each phase r in 0, ..., d - 1, are a convolution
    of the image without the zeros: y[m] = sum over a of x[m + a] K[d a + low - r]. All phases are computed by one
    convolution, with the phases as additional output channels. Taps that a phase lacks are zero.
    """
    params, out = eqn.params, eqn.outvars[0].aval
    zero = jnp.zeros([], x.dtype)
    apart, padding, sizes = params["lhs_dilation"], [], []
    for axis, (d, (low, _)) in enumerate(zip(apart, params["padding"], strict=True)):
        size = kernel.shape[axis]
        first = -(low // d)
        last = (d - 1 + size - 1 - low) // d
        taps = d * (last - first + 1)
        # The tap of phase r at d (a - first) is K[d a + low - r].
        shift = [d * first + low - r for r in range(d)]
        phases = [
            lax.pad(kernel, zero, [(-by, taps - size + by, 0) if n == axis else (0, 0, 0) for n in range(kernel.ndim)])
            for by in shift
        ]
        kernel = jnp.concatenate([lax.slice_in_dim(each, 0, None, d, axis) for each in phases], 3)
        sizes.append(-(-out.shape[1 + axis] // d))
        padding.append((-first, sizes[-1] + last - x.shape[1 + axis]))
    y = convolution(x, kernel, eqn, padding, (1, 1))
    # The channel axis is ordered, from the outermost, by phase of columns, phase of rows, and output.
    y = y.reshape(-1, *sizes, apart[1], apart[0], out.shape[3]).transpose(0, 1, 4, 2, 3, 5)
    y = y.reshape(-1, sizes[0] * apart[0], sizes[1] * apart[1], out.shape[3])
    return y[:, : out.shape[1], : out.shape[2]]


def _with_padded_channels(x: jax.Array, kernel: jax.Array, eqn: Any) -> jax.Array:
    """Computes a convolution with inputs and outputs padded by zeros where that is faster."""
    params = eqn.params
    inputs, outputs = kernel.shape[2:]
    if params["lhs_dilation"] != (1, 1) or math.prod(kernel.shape[:2]) == 1:
        return convolution(x, kernel, eqn)
    more_inputs, more_outputs = (to - n for to, n in zip(_even(inputs, outputs), (inputs, outputs), strict=True))
    zero = jnp.zeros([], x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0),) * 3 + ((0, more_inputs, 0),))
    kernel = lax.pad(kernel, zero, ((0, 0, 0), (0, 0, 0), (0, more_inputs, 0), (0, more_outputs, 0)))
    return convolution(x, kernel, eqn)[..., :outputs]


def _pairs_are_faster(kernel: jax.Array, eqn: Any) -> bool:
    """Returns whether `_by_pairs` applies to a convolution and is faster. The rule is empirical."""
    params, columns = eqn.params, eqn.outvars[0].aval.shape[2]
    steps = (*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"])
    if set(steps) != {1} or kernel.shape[1] < 3 or columns % 2:
        return False
    inputs, outputs = kernel.shape[2:]
    return outputs <= 8 or (outputs <= 16 and inputs <= 12)


def _by_pairs(x: jax.Array, kernel: jax.Array, eqn: Any) -> jax.Array:
    """Computes a convolution with pairs of columns merged into one column with twice the channels.

    `[N, H, W, C]` becomes `[N, H, W/2, 2 C]` without a copy. With s the column within a pair of the image, and r the
    one within a pair of the result, the kernel is K2[i, a, (s, c), (r, o)] = K[i, 2 a + s - r, c, o]. It is zero where
    K has no such tap: one in four taps for a kernel with three columns.
    """
    (rows, (low, _)), columns = eqn.params["padding"], eqn.outvars[0].aval.shape[2]
    wide, inputs, outputs = kernel.shape[1:]
    more_inputs, more_outputs = -inputs % 2, -outputs % (4 if outputs <= 8 else 2)
    zero = jnp.zeros([], x.dtype)
    pairs = wide // 2 + 1
    high = columns + 2 * (pairs - 1) - x.shape[2] - low
    x = lax.pad(x, zero, ((0, 0, 0), (0, 0, 0), (low, high, 0), (0, more_inputs, 0)))
    shifted = [
        lax.pad(kernel, zero, ((0, 0, 0), (r, 2 * pairs - wide - r, 0), (0, more_inputs, 0), (0, more_outputs, 0)))
        for r in range(2)
    ]
    both = jnp.concatenate(shifted, 3).reshape(kernel.shape[0], pairs, -1, 2 * (outputs + more_outputs))
    y = convolution(x.reshape(*x.shape[:2], x.shape[2] // 2, -1), both, eqn, (rows, (0, 0)))
    return y.reshape(*y.shape[:2], columns, -1)[..., :outputs]


def kernel_gradient(x: jax.Array, g: jax.Array, eqn: Any) -> jax.Array:
    """Computes the gradient of a kernel from the image `[N, H, W, C]` and the gradient of the result, `[N, P, Q, O]`.

    At stride 1, it is dK[i, j, c, o] = sum over n, p, q of x[n, p + i - low, q + j - low, c] g[n, p, q, o]. This is a
    convolution of C images x with a kernel g that has O outputs. With the order of the taps reversed, it is also a
    convolution of O images g with a kernel x that has C outputs. The latter is faster if C > O and C fills vectors.
    """
    params = eqn.params
    inputs, outputs = x.shape[3], g.shape[3]
    filled = [channels / (-(-channels // 8) * 8) for channels in (inputs, outputs)]
    taps = eqn.outvars[0].aval.shape[:2]
    padding = [tuple(size - 1 - pad for pad in pads) for size, pads in zip(taps, params["padding"], strict=True)]
    steps = {*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"]}
    if inputs <= outputs or filled[0] < filled[1] or steps != {1} or min(map(min, padding)) < 0:
        y = convolution(isolated(transposed, x, (3, 1, 2, 0)), isolated(transposed, g, (1, 2, 0, 3)), eqn)
        return y.transpose(1, 2, 0, 3)
    y = convolution(isolated(transposed, g, (3, 1, 2, 0)), isolated(transposed, x, (1, 2, 0, 3)), eqn, padding)
    return y[:, ::-1, ::-1].transpose(1, 2, 3, 0)


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    eqn: Any,
    padding: Sequence[tuple[int, int]] | None = None,
    dilation: Sequence[int] | None = None,
    layout: Any = _FLAX,
) -> jax.Array:
    """Computes the convolution of an equation, with other operands, padding, dilation of the image or layout."""
    params = eqn.params
    padding = params["padding"] if padding is None else padding
    dilation = params["lhs_dilation"] if dilation is None else dilation
    if min(low for low, _ in padding) < 0:
        # With negative padding, Eigen reads past the end of the image.
        within = [(*pads, apart - 1) for pads, apart in zip(padding, dilation, strict=True)]
        x = lax.pad(x, jnp.zeros([], x.dtype), ((0, 0, 0), *within, (0, 0, 0)))
        padding, dilation = ((0, 0), (0, 0)), (1, 1)
    return lax.conv_general_dilated(
        x,
        kernel,
        params["window_strides"],
        padding,
        lhs_dilation=dilation,
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=layout,
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )


def _taps(inputs: int, outputs: int, kernel: int, axis: int, params: dict[str, Any]) -> np.ndarray:
    """Returns which tap of the kernel lies between each input and each output along one axis, -1 for none: `[H, P]`."""
    stride, low = params["window_strides"][axis], params["padding"][axis][0]
    spread, apart = params["lhs_dilation"][axis], params["rhs_dilation"][axis]
    reach = np.arange(inputs)[:, None] * spread + low - np.arange(outputs)[None, :] * stride
    tap = reach // apart
    return np.where((reach % apart == 0) & (tap >= 0) & (tap < kernel), tap, -1)
