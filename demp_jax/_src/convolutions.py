# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The same convolutions, faster, where a backend is slow at them.

XLA's convolutions on the CPU have four weak spots (`benchmarks/README.md` has the figures):

* Images smaller than the kernel, as in the last stage of a ResNet-18 on 16 x 16 maps or of a VGG-16 on 32 x 32 images.
  XLA exchanges image and kernel there and is left with a plain loop, up to 45 times slower than a product of matrices.
* Gradients of kernels over large images: up to 19 times slower than products over a few images at a time, which stay in
  the cache.
* Numbers of channels that do not fill vectors, as units that leave one by one bring about. With a few channels of zero
  beside them it is faster, up to 3.5 times: with at most 16 of each as multiples of 8, with odd numbers of inputs, and
  with numbers of outputs just below 24, 32 and 48 (suite `paddings`).
* Gradients within a loop. XLA brings a convolution into the layouts its fast code takes in the main computation alone;
  in the body of a loop it is left with a plain one, up to 130 times slower. So every convolution without groups leaves
  here in them.

Dimension letters: N examples, H W image, P Q positions of the result, C inputs, O outputs, I J kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from demp_jax._src import program as program_lib

# Of images and gradients together, that are worked on at a time: half of the second-level cache of most cores.
_CHUNK_BYTES = 2**20
# Fewer positions than this, and XLA's own gradient of a kernel is as fast; with few channels it is for more.
_LEAST_POSITIONS = 64
_LEAST_POSITIONS_FEW_CHANNELS = 256
_FEW_CHANNELS = 1024  # Inputs times outputs.

# Specifications of operands as `jax.lax.ConvDimensionNumbers` gives them, for two spatial axes: the layouts of
# Flax forward, of the gradient with respect to the image (the kernel's channels exchanged), and of that with respect to
# the kernel (a convolution of image and gradient).
_FORWARD = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_IMAGE_GRADIENT = ((0, 3, 1, 2), (2, 3, 0, 1), (0, 3, 1, 2))
_KERNEL_GRADIENT = ((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
_FLAX = ("NHWC", "HWIO", "NHWC")  # The same as the first, by name.


def with_fast_convolutions(
    fn: Callable[..., Any], *, platform: str | None = None, devices: int = 1
) -> Callable[..., Any]:
    """Returns `fn` with convolutions computed by other means where those are faster, up to the order of sums the same.

    It changes two-dimensional convolutions in Flax's layout, `[N, H, W, C]`, on the CPU; anywhere else it returns `fn`
    itself. Convolutions inside of `lax.scan`, `lax.while_loop`, `lax.cond` and `jax.checkpoint` of `fn` stay as they
    are; in a loop over steps, put it around what is inside. The result must be compiled, and can no longer be
    differentiated faster than before: put it around the gradient.

    Example:
      >>> def loss(kernel, x):
      ...     return jnp.sum(lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
      ...         dimension_numbers=("NHWC", "HWIO", "NHWC")))
      >>> gradient = jax.jit(with_fast_convolutions(jax.grad(loss)))
      >>> gradient(jnp.ones((3, 3, 1, 1)), jnp.ones((1, 2, 2, 1)))[:, :, 0, 0].tolist()
      [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]

    Args:
      fn: any function of trees of arrays.
      platform: `"cpu"`, `"gpu"`, ...; by default that of `jax.default_backend()`.
      devices: over how many devices examples are split. With more than one, gradients of kernels stay as they are:
        taking a few images at a time would need all devices for each few.

    Returns:
      A function with the same arguments and results.
    """
    if (platform or jax.default_backend()) != "cpu":
        return fn

    def rule(op: program_lib.Op, operands: Sequence[Any]) -> Any:
        x, kernel = operands
        layout = tuple(op.params["dimension_numbers"])
        if (op.params["feature_group_count"], op.params["batch_group_count"]) != (1, 1):
            return None
        by_xla = x.dtype not in (jnp.float32, jnp.float64)  # Others are not computed as they are.
        if layout in (_FORWARD, _IMAGE_GRADIENT):
            kernel = kernel if layout == _FORWARD else jnp.swapaxes(kernel, 2, 3)
            small = math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3])
            return (_convolution if by_xla else _over_small_image if small else _beside_zeros)(x, kernel, op)
        if layout == _KERNEL_GRADIENT:
            if devices == 1 and not by_xla and _large(op, kernel.shape[1:3]):
                return _kernel_gradient(x, kernel, op)
            y = _convolution(x.transpose(3, 1, 2, 0), kernel.transpose(1, 2, 0, 3), op)
            return y.transpose(1, 2, 0, 3)
        return None

    def wrapped(*args: Any) -> Any:
        program = program_lib.trace(fn, *args)
        results = program_lib.rewrite(program, jax.tree.leaves(args), {"conv_general_dilated": rule})
        return jax.tree.unflatten(program.out_tree, results)

    return wrapped


def _large(op: program_lib.Op, positions: Sequence[int]) -> bool:
    """Returns whether many positions of an undilated image are summed to the few of a kernel."""
    out = op.eqn.outvars[0].aval.shape
    least = _LEAST_POSITIONS if math.prod(out[2:]) >= _FEW_CHANNELS else _LEAST_POSITIONS_FEW_CHANNELS
    return op.params["lhs_dilation"] == (1, 1) and math.prod(positions) >= max(least, 2 * math.prod(out[:2]))


def _over_small_image(x: jax.Array, kernel: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns the convolution as one product: every position of the image with every position of the result.

    y[n, pq, o] = sum over hw, c of x[n, hw, c] K[hw, c, pq, o], K being the kernel's tap between the two, or zero.
    """
    params, out = op.params, op.eqn.outvars[0].aval
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
    """Returns with how many inputs and outputs a convolution is computed fastest, at least so many; as measured."""
    if inputs <= 4 and outputs <= 16:  # What is saved goes into images twice as large.
        return inputs, outputs
    if outputs <= 16 and inputs <= 16:
        return _up(inputs, 8), _up(outputs, 8)
    more = _up(inputs, 4) if inputs % 2 and inputs > 4 else inputs
    if outputs <= 16:
        return more, _up(outputs, 8 if outputs > 4 else 4)
    return more, next((to for low, to in ((20, 24), (24, 32), (43, 48)) if low < outputs < to), outputs)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _beside_zeros(x: jax.Array, kernel: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns the convolution, with inputs and outputs of zero beside its own where that is faster."""
    params = op.params
    inputs, outputs = kernel.shape[2:]
    if params["lhs_dilation"] != (1, 1) or math.prod(kernel.shape[:2]) == 1:
        return _convolution(x, kernel, op)
    more_inputs, more_outputs = (to - n for to, n in zip(_even(inputs, outputs), (inputs, outputs), strict=True))
    zero = jnp.zeros([], x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0),) * 3 + ((0, more_inputs, 0),))
    kernel = lax.pad(kernel, zero, ((0, 0, 0), (0, 0, 0), (0, more_inputs, 0), (0, more_outputs, 0)))
    return _convolution(x, kernel, op)[..., :outputs]


def _convolution(x: jax.Array, kernel: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns XLA's convolution of operands in the layouts of Flax."""
    params = op.params
    return lax.conv_general_dilated(
        x,
        kernel,
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=_FLAX,
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


def _kernel_gradient(x: jax.Array, g: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns the gradient `[I, J, C, O]` for images `[N, H, W, C]` and gradients `[N, P, Q, O]`, a few at a time.

    k[i, j, c, o] = sum over n, p, q of x[n, i a + p s, j a + q s, c] g[n, p, q, o], with the forward convolution's
    stride s and dilation a.
    """
    params, out = op.params, op.eqn.outvars[0].aval
    apart, stride = params["window_strides"], params["rhs_dilation"]
    (n, p, q, _), (i, j) = g.shape, out.shape[:2]

    def part(x: jax.Array, g: jax.Array) -> jax.Array:
        zero = jnp.zeros([], x.dtype)
        x = lax.pad(x, zero, ((0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)))
        flat = g.reshape(-1, g.shape[-1])
        # The columns of a kernel side by side: a product as wide as J kernels.
        wide = [x[:, :, b * apart[1] : b * apart[1] + (q - 1) * stride[1] + 1 : stride[1]] for b in range(j)]
        side = jnp.concatenate(wide, -1)
        rows = [side[:, a * apart[0] : a * apart[0] + (p - 1) * stride[0] + 1 : stride[0]] for a in range(i)]
        products = [
            lax.dot_general(
                row.reshape(flat.shape[0], -1),
                flat,
                (((0,), (0,)), ((), ())),
                precision=params["precision"],
                preferred_element_type=params["preferred_element_type"],
            )
            for row in rows
        ]
        return jnp.stack(products)

    size = _chunk(n, (x[0].size + g[0].size) * x.dtype.itemsize)
    if size == n:
        total = part(x, g)
    else:
        few = [leaf.reshape(n // size, size, *leaf.shape[1:]) for leaf in (x, g)]
        first = jnp.zeros((i, j * x.shape[-1], g.shape[-1]), out.dtype)
        total = lax.scan(lambda total, xs: (total + part(*xs), None), first, few)[0]
    return total.reshape(out.shape)


def _chunk(examples: int, each: int) -> int:
    """Returns how many examples of so many bytes fit, a divisor of all."""
    most = max(1, min(examples, _CHUNK_BYTES // each))
    return max(size for size in range(1, most + 1) if examples % size == 0)
