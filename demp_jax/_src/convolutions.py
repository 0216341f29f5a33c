# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The same convolutions, faster, where a backend is slow at them, and what stands beside them.

XLA's programs of convolutions have six weak spots on the CPU (`benchmarks/README.md` has the figures):

* It gives many to YNNPACK, which with JAX 0.10 computes them on one core, and with 0.12 still slower than Eigen does.
  `compiler_options` asks for Eigen.
* Images smaller than the kernel, as in the last stage of a ResNet-18 on 16 x 16 maps or of a VGG-16 on 32 x 32 images.
  XLA exchanges image and kernel there and is left with a plain loop, up to ten times slower than a product of matrices.
* Strides. XLA goes over the zeros that the gradient with respect to the image has between its positions, and over those
  that a kernel of one tap leaves out.
* Few channels, and numbers of them that do not fill vectors, as units that leave one by one bring about. With a few
  channels of zero beside them many are faster, with few two columns of an image taken for one of twice the channels,
  and gradients of kernels with outputs in the place of inputs.
* Gradients within a loop. XLA brings a convolution into the layouts its fast code takes in the main computation alone;
  in the body of a loop it is left with a plain one, a hundred times slower. So every convolution without groups leaves
  here in them.
* What it fuses. A kernel's gradient takes image and gradient transposed; BatchNorm takes sums over all positions, and
  who is alive is asked over all of them. XLA computes what comes before once more within them, in loops that jump about
  in memory. Here all are calls of their own, which it leaves alone, and reductions go over some examples first.

And one on a GPU: units of multiplication take channels by eight. To float16 XLA adds channels of zero for that (its
source, `cudnn_pad_for_convolutions.cc`), to bfloat16 it does not.

Dimension letters: N examples, H W image, P Q positions of the result, C inputs, O outputs.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from demp_jax._src.tracing import program as program_lib

# Which operations XLA gives to YNNPACK on a CPU: none.
_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}

# Specifications of operands as `jax.lax.ConvDimensionNumbers` gives them, for two spatial axes: the layouts of
# Flax forward, of the gradient with respect to the image (the kernel's channels exchanged), and of that with respect to
# the kernel (a convolution of image and gradient).
_FORWARD = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_IMAGE_GRADIENT = ((0, 3, 1, 2), (2, 3, 0, 1), (0, 3, 1, 2))
_KERNEL_GRADIENT = ((3, 0, 1, 2), (3, 0, 1, 2), (2, 3, 0, 1))
_FLAX = ("NHWC", "HWIO", "NHWC")  # The same as the first, by name.

# Of how many channels a GPU computes multiples fast, and how much larger an image may grow for that, both as in XLA's
# rule for float16, which bounds kernels so, too.
_TOGETHER, _GROWTH = 8, 1.35

# Sums of fewer values are fast as they come.
_LARGE = 2**17


def compiler_options(platform: str | None = None) -> dict[str, str]:
    """Returns the options to compile with for fast convolutions, for `jax.jit(fn, compiler_options=...)`.

    On a CPU XLA shall compute them with Eigen instead of YNNPACK, which changes results by the order of sums. Depthwise
    convolutions are slower for it. There are no options where `XLA_FLAGS` sets the same one, on other platforms, and
    with a version of XLA that does not know it. JAX takes options for the outermost `jax.jit` alone.

    Example:
      >>> double = jax.jit(lambda x: 2 * x, compiler_options=compiler_options())
      >>> double(jnp.ones(2)).tolist()
      [2.0, 2.0]

    Args:
      platform: `"cpu"`, `"gpu"`, ...; by default that of `jax.default_backend()`.
    """
    named = any(option in os.environ.get("XLA_FLAGS", "") for option in _EIGEN)
    if (platform or jax.default_backend()) != "cpu" or named:
        return {}
    return dict(_EIGEN) if _known(tuple(_EIGEN.items())) else {}


@functools.cache
def _known(options: tuple[tuple[str, str], ...]) -> bool:
    """Returns whether this version of XLA takes the options; others refuse to compile anything with them."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def with_fast_convolutions(fn: Callable[..., Any], *, platform: str | None = None) -> Callable[..., Any]:
    """Returns `fn` with convolutions computed by other means where those are faster, up to the order of sums the same.

    On a CPU it changes two-dimensional convolutions in Flax's layout, `[N, H, W, C]`, and of large such images sums
    over all but their channels, as BatchNorm takes them, and whether a channel is zero throughout. On a GPU it puts
    channels of zero beside those of such convolutions in bfloat16 whose numbers are no multiples of 8, if that makes no
    image more than 1.35 times as large. Anywhere else it returns `fn` itself. What is inside of `lax.scan`,
    `lax.while_loop`, `lax.cond` and `jax.checkpoint` of `fn` stays as it is; in a loop over steps, put it around what
    is inside. So does what is spread over a mesh with explicit axes (`jax.sharding.AxisType.Explicit`). The result must
    be compiled, best with `compiler_options`, and can no longer be differentiated faster than before: put it around the
    gradient.

    Example:
      >>> def loss(kernel, x):
      ...     return jnp.sum(lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
      ...         dimension_numbers=("NHWC", "HWIO", "NHWC")))
      >>> gradient = jax.jit(with_fast_convolutions(jax.grad(loss)), compiler_options=compiler_options())
      >>> gradient(jnp.ones((3, 3, 1, 1)), jnp.ones((1, 2, 2, 1)))[:, :, 0, 0].tolist()
      [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]

    Args:
      fn: any function of trees of arrays.
      platform: `"cpu"`, `"gpu"`, ...; by default that of `jax.default_backend()`.

    Returns:
      A function with the same arguments and results.
    """
    platform = platform or jax.default_backend()
    if platform == "gpu":
        return _with_aligned_convolutions(fn)
    if platform != "cpu":
        return fn

    def rule(op: program_lib.Op, operands: Sequence[Any]) -> Any:
        x, kernel = operands
        empty = 0 in (x.size, kernel.size, op.eqn.outvars[0].aval.size)
        if empty or _spread(x) or _spread(kernel) or _grouped(op):
            return None
        layout = tuple(op.params["dimension_numbers"])
        by_xla = x.dtype not in (jnp.float32, jnp.float64)  # Others are not computed as they are.
        if layout in (_FORWARD, _IMAGE_GRADIENT):
            kernel = kernel if layout == _FORWARD else jnp.swapaxes(kernel, 2, 3)
            small = math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3])
            if by_xla or small:
                return (_convolution if by_xla else _over_small_image)(x, kernel, op)
            return _by_shape(kernel, op)(x, kernel, op)
        return _kernel_gradient(x, kernel, op) if layout == _KERNEL_GRADIENT else None

    def over_positions(op: program_lib.Op, x: Any) -> bool:
        return x.ndim == 4 and tuple(op.params["axes"]) == (0, 1, 2) and x.size >= _LARGE and not _spread(x)

    def wrapped(*args: Any) -> Any:
        program = program_lib.trace(fn, *args)
        squared: dict[Any, Any] = {}
        compared: dict[Any, Sequence[Any]] = {}

        def remember_square(op: program_lib.Op, operands: Sequence[Any]) -> None:
            squared[op.outputs[0]] = operands[0]

        def remember_comparison(op: program_lib.Op, operands: Sequence[Any]) -> None:
            compared[op.outputs[0]] = operands

        def sum_rule(op: program_lib.Op, operands: Sequence[Any]) -> Any:
            (x,) = operands
            if x.dtype not in (jnp.float32, jnp.float64) or not over_positions(op, x):
                return None
            made_of = squared.get(op.inputs[0])
            return _alone(_sum_over_positions, x) if made_of is None else _alone(_squares_over_positions, made_of)

        def any_rule(op: program_lib.Op, operands: Sequence[Any]) -> Any:
            x, other = compared.get(op.inputs[0], (None, None))
            with_zero = x is not None and not isinstance(other, jax.core.Tracer) and np.all(np.asarray(other) == 0)
            return _alone(_nonzero_anywhere, x) if with_zero and over_positions(op, operands[0]) else None

        rules = {
            "conv_general_dilated": rule,
            "square": remember_square,
            "ne": remember_comparison,
            "reduce_sum": sum_rule,
            "reduce_or": any_rule,
        }
        results = program_lib.rewrite(program, jax.tree.leaves(args), rules)
        return jax.tree.unflatten(program.out_tree, results)

    return wrapped


def _spread(x: Any) -> bool:
    """Returns whether an array is spread over axes of a mesh that are explicit, so that not every reshape exists."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


def _grouped(op: program_lib.Op) -> bool:
    return (op.params["feature_group_count"], op.params["batch_group_count"]) != (1, 1)


def _with_aligned_convolutions(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `fn` with convolutions in bfloat16 of numbers of channels that are multiples of `_TOGETHER`."""

    def rule(op: program_lib.Op, operands: Sequence[Any]) -> Any:
        x, kernel = operands
        layout = tuple(op.params["dimension_numbers"])
        known = layout in (_FORWARD, _IMAGE_GRADIENT, _KERNEL_GRADIENT)
        if not known or x.dtype != jnp.bfloat16 or _grouped(op) or _spread(x) or _spread(kernel):
            return None
        # Of a gradient's operands, image and gradient of the result, only the last axis is one of channels.
        gradient = layout == _KERNEL_GRADIENT
        before = (x, kernel, op.eqn.outvars[0].aval)
        of_channels = ((3,), (3,) if gradient else (2, 3), (2, 3) if gradient else (3,))
        shapes = [
            tuple(-(-size // _TOGETHER) * _TOGETHER if axis in axes else size for axis, size in enumerate(array.shape))
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
        y = _convolution(x, kernel, op, layout=op.params["dimension_numbers"])
        return lax.slice(y, (0,) * y.ndim, before[2].shape)

    def wrapped(*args: Any) -> Any:
        program = program_lib.trace(fn, *args)
        results = program_lib.rewrite(program, jax.tree.leaves(args), {"conv_general_dilated": rule})
        return jax.tree.unflatten(program.out_tree, results)

    return wrapped


def _alone(fn: Callable[..., jax.Array], *operands: Any) -> jax.Array:
    """Calls a compiled function so that XLA neither inlines it nor fuses anything into it."""
    with set_xla_metadata(inlineable="false"):
        return fn(*operands)


@functools.partial(jax.jit, static_argnums=1)
def _transposed(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return x.transpose(axes)


@jax.jit
def _sum_over_positions(x: jax.Array) -> jax.Array:
    """Returns the sum over all axes but the last, `[N, H, W, C]` to `[C]`."""
    return _over_positions(jnp.sum, x)


@jax.jit
def _squares_over_positions(x: jax.Array) -> jax.Array:
    """Returns the sum of squares over all axes but the last, `[N, H, W, C]` to `[C]`."""
    return _over_positions(jnp.sum, jnp.square(x))


@jax.jit
def _nonzero_anywhere(x: jax.Array) -> jax.Array:
    """Returns whether any value is other than zero, over all axes but the last, `[N, H, W, C]` to `[C]`."""
    return _over_positions(jnp.any, x != 0)


def _over_positions(reduce: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    """Reduces over some examples first, which fills vectors, then over the rest."""
    examples = x.shape[0]
    # Of more, XLA makes windows, which it computes channel by channel.
    together = max(number for number in range(1, 33) if examples % number == 0)
    fewer = reduce(x.reshape(examples // together, together, -1), 1)
    return reduce(fewer.reshape(-1, x.shape[-1]), 0)


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
    more = -(-inputs // 8) * 8
    # A few channels are cheap to fill up; of many, only the last two.
    return more if inputs <= 16 or more - inputs <= 2 else inputs, -(-outputs // 8) * 8 if outputs <= 16 else outputs


def _by_shape(kernel: jax.Array, op: program_lib.Op) -> Callable[[jax.Array, jax.Array, program_lib.Op], jax.Array]:
    """Returns the way to compute a convolution that is fastest for its shape."""
    params = op.params
    strides, dilation = set(params["window_strides"]), set(params["lhs_dilation"])
    if kernel.shape[:2] == (1, 1) and (strides != {1}) != (dilation != {1}):
        return _at_points
    # Of more zeros between positions, or of fewer taps, most taps of a phase would be zero.
    if strides | set(params["rhs_dilation"]) == {1} and dilation == {2} and min(kernel.shape[:2]) > 1:
        return _by_phases
    return _by_pairs if _pairs_are_faster(kernel, op) else _beside_zeros


def _at_points(x: jax.Array, kernel: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns the convolution with a kernel of one tap as a product, over those positions alone that it takes or makes.

    It has a stride, or an image with zeros between its positions, but not both.
    """
    params, out = op.params, op.eqn.outvars[0].aval
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


def _by_phases(x: jax.Array, kernel: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns the convolution of an image with zeros between its positions, such as the gradient of one with a stride.

    With d - 1 zeros between them, the results at p = d m + r are a convolution of the image without the zeros, y[m] =
    sum over a of x[m + a] K[d a + low - r]: one for each phase r, the first d results. All phases are computed as one,
    with channels of each, and taps of zero where a phase has none.
    """
    params, out = op.params, op.eqn.outvars[0].aval
    zero = jnp.zeros([], x.dtype)
    apart, padding, sizes = params["lhs_dilation"], [], []
    for axis, (d, (low, _)) in enumerate(zip(apart, params["padding"], strict=True)):
        size = kernel.shape[axis]
        first = -(low // d)
        last = (d - 1 + size - 1 - low) // d
        taps = d * (last - first + 1)
        # Of the phase r, the tap at d (a - first) is K[d a + low - r].
        shift = [d * first + low - r for r in range(d)]
        phases = [
            lax.pad(kernel, zero, [(-by, taps - size + by, 0) if n == axis else (0, 0, 0) for n in range(kernel.ndim)])
            for by in shift
        ]
        kernel = jnp.concatenate([lax.slice_in_dim(each, 0, None, d, axis) for each in phases], 3)
        sizes.append(-(-out.shape[1 + axis] // d))
        padding.append((-first, sizes[-1] + last - x.shape[1 + axis]))
    y = _convolution(x, kernel, op, padding, (1, 1))
    # Channels are those of the phase of columns, of rows, and of the result, from the outermost.
    y = y.reshape(-1, *sizes, apart[1], apart[0], out.shape[3]).transpose(0, 1, 4, 2, 3, 5)
    y = y.reshape(-1, sizes[0] * apart[0], sizes[1] * apart[1], out.shape[3])
    return y[:, : out.shape[1], : out.shape[2]]


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


def _pairs_are_faster(kernel: jax.Array, op: program_lib.Op) -> bool:
    """Returns whether `_by_pairs` can compute the convolution, and does so faster; as measured."""
    params, columns = op.params, op.eqn.outvars[0].aval.shape[2]
    steps = (*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"])
    if set(steps) != {1} or kernel.shape[1] < 3 or columns % 2:
        return False
    inputs, outputs = kernel.shape[2:]
    return outputs <= 8 or (outputs <= 16 and inputs <= 12)


def _by_pairs(x: jax.Array, kernel: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns the convolution with every two columns taken for one of twice the channels.

    `[N, H, W, C]` is `[N, H, W/2, 2 C]` without anything moving in memory. Columns s and r of a pair of the image and
    of one of the result meet by the kernel K2[i, a, (s, c), (r, o)] = K[i, 2 a + s - r, c, o], zero where K has no such
    tap: of three columns one in four.
    """
    (rows, (low, _)), columns = op.params["padding"], op.eqn.outvars[0].aval.shape[2]
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
    y = _convolution(x.reshape(*x.shape[:2], x.shape[2] // 2, -1), both, op, (rows, (0, 0)))
    return y.reshape(*y.shape[:2], columns, -1)[..., :outputs]


def _kernel_gradient(x: jax.Array, g: jax.Array, op: program_lib.Op) -> jax.Array:
    """Returns the gradient of a kernel from the image `[N, H, W, C]` and the gradient of the result, `[N, P, Q, O]`.

    At stride 1 it is dK[i, j, c, o] = sum over n, p, q of x[n, p + i - low, q + j - low, c] g[n, p, q, o]: as many
    images as inputs, convolved with a kernel g that has O outputs. It is as well, its taps from last to first, as many
    images as outputs, convolved with a kernel x that has C; which is faster where these are more and fill vectors.
    """
    params = op.params
    inputs, outputs = x.shape[3], g.shape[3]
    filled = [channels / (-(-channels // 8) * 8) for channels in (inputs, outputs)]
    taps = op.eqn.outvars[0].aval.shape[:2]
    padding = [tuple(size - 1 - pad for pad in pads) for size, pads in zip(taps, params["padding"], strict=True)]
    steps = {*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"]}
    if inputs <= outputs or filled[0] < filled[1] or steps != {1} or min(map(min, padding)) < 0:
        y = _convolution(_alone(_transposed, x, (3, 1, 2, 0)), _alone(_transposed, g, (1, 2, 0, 3)), op)
        return y.transpose(1, 2, 0, 3)
    y = _convolution(_alone(_transposed, g, (3, 1, 2, 0)), _alone(_transposed, x, (1, 2, 0, 3)), op, padding)
    return y[:, ::-1, ::-1].transpose(1, 2, 3, 0)


def _convolution(
    x: jax.Array,
    kernel: jax.Array,
    op: program_lib.Op,
    padding: Sequence[tuple[int, int]] | None = None,
    dilation: Sequence[int] | None = None,
    layout: Any = _FLAX,
) -> jax.Array:
    """Returns XLA's convolution of operands; `padding`, `dilation`: in the place of its own; `layout`: not Flax's."""
    params = op.params
    padding = params["padding"] if padding is None else padding
    dilation = params["lhs_dilation"] if dilation is None else dilation
    if min(low for low, _ in padding) < 0:
        # By Eigen, which reads past the end of an image then.
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
