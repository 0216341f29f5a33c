"""Convolutions by other means: the same numbers, and only where they are asked for."""

import functools
import os
import subprocess
import sys
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import programs
from demp_jax import models
from experiments.fast_convolutions import compiler_options, options, transform, ways, with_fast_convolutions
from experiments.training import step

FLAX = ("NHWC", "HWIO", "NHWC")


def _reference(x, kernel, strides, padding, apart, g=None):
    """y[n, p, q, o] = sum over i, j, c of x[n, p s + i a - low, q s + j a - low, c] k[i, j, c, o], in float64.

    With the gradient g of y also those of x and of k.
    """
    whole = np.pad(x, ((0, 0), *padding, (0, 0))).astype(np.float64)
    span = [(k - 1) * a + 1 for k, a in zip(kernel.shape[:2], apart, strict=True)]
    size = [(whole.shape[1 + d] - span[d]) // strides[d] + 1 for d in range(2)]
    y = np.zeros((x.shape[0], *size, kernel.shape[3]))
    g = np.zeros(y.shape) if g is None else g
    of_x, of_kernel = np.zeros(whole.shape), np.zeros(kernel.shape)
    for p in range(size[0]):
        for q in range(size[1]):
            top, left = p * strides[0], q * strides[1]
            at = np.s_[:, top : top + span[0] : apart[0], left : left + span[1] : apart[1]]
            y[:, p, q] = np.einsum("nijc,ijco->no", whole[at], kernel)
            of_x[at] += np.einsum("no,ijco->nijc", g[:, p, q], kernel)
            of_kernel += np.einsum("nijc,no->ijco", whole[at], g[:, p, q])
    (top, _), (left, _) = padding
    return y, of_x[:, top : top + x.shape[1], left : left + x.shape[2]], of_kernel


@st.composite
def _cases(draw):
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    image = draw(st.one_of(pair(1, 3), pair(8, 12)))
    kernel = draw(pair(1, 4))
    # Half have neither strides nor gaps: most other ways are for those.
    strides, apart = draw(st.one_of(st.just(((1, 1), (1, 1))), st.tuples(pair(1, 3), pair(1, 2))))
    span = [(k - 1) * a + 1 for k, a in zip(kernel, apart, strict=True)]
    low, high = draw(pair(0, 3)), draw(pair(0, 3))
    short = [max(0, s - i - lo - hi) for s, i, lo, hi in zip(span, image, low, high, strict=True)]
    padding = tuple((lo, hi + more) for lo, hi, more in zip(low, high, short, strict=True))
    # Few channels, and numbers of them that are computed with zeros beside them.
    channels = st.one_of(st.integers(1, 4), st.sampled_from((5, 7, 8, 13, 16, 21, 31)))
    examples, inputs, outputs = draw(st.integers(1, 6)), draw(channels), draw(channels)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.normal(size=(examples, *image, inputs)).astype(np.float32)
    return x, rng.normal(size=(*kernel, inputs, outputs)).astype(np.float32), strides, padding, apart


def _replaced(fn, *args):
    """Returns how many convolutions of `fn` are computed by other means."""
    count = lambda f: str(jax.make_jaxpr(f)(*args)).count("conv_general_dilated[")  # noqa: E731
    return count(fn) - count(with_fast_convolutions(fn, platform="cpu"))


def _kernels(fn, *args):
    """Returns the inputs and outputs of the kernels of all convolutions of `fn`."""
    found = set()
    for eqn in jax.make_jaxpr(fn)(*args).eqns:
        if eqn.primitive.name == "conv_general_dilated":
            out_axis, in_axis = eqn.params["dimension_numbers"].rhs_spec[:2]
            kernel = eqn.invars[1].aval.shape
            found.add((kernel[in_axis], kernel[out_axis]))
    return found


def _agrees(case):
    """The result and both gradients, as plain NumPy has them."""
    x, kernel, strides, padding, apart = case

    def forward(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, padding, rhs_dilation=apart, dimension_numbers=FLAX)

    g = np.random.default_rng(0).normal(size=jax.eval_shape(forward, x, kernel).shape).astype(np.float32)

    def all_three(x, kernel):
        y, back = jax.vjp(forward, x, kernel)
        return y, *back(g)

    fast = with_fast_convolutions(all_three, platform="cpu")
    found = jax.jit(fast, compiler_options=compiler_options("cpu"))(x, kernel)
    for ours, wanted in zip(found, _reference(*case, g), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@given(_cases())
def test_any_convolution_and_its_gradients(case):
    _agrees(case)


@pytest.mark.parametrize("channels", [(3, 12), (12, 3), (8, 7), (13, 4)])
@pytest.mark.parametrize(
    ("kernel", "padding"),
    [((3, 3), ((1, 1), (1, 1))), ((1, 3), ((0, 0), (0, 2))), ((2, 4), ((1, 2), (3, 0))), ((3, 5), ((4, 0), (1, 3)))],
)
def test_convolutions_by_pairs_and_with_outputs_for_inputs(channels, kernel, padding):
    rng = np.random.default_rng(0)
    columns = 8 - sum(padding[1]) + kernel[1] - 1
    x = rng.normal(size=(3, 6, columns, channels[0])).astype(np.float32)
    case = x, rng.normal(size=(*kernel, *channels)).astype(np.float32), (1, 1), padding, (1, 1)
    args = case[:2]

    def conv(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=FLAX)

    if channels[1] <= 8:
        (found,) = _kernels(with_fast_convolutions(conv, platform="cpu"), *args)
        assert found[0] == (channels[0] + channels[0] % 2) * 2
    _agrees(case)


@pytest.mark.parametrize(("image", "replaced"), [(2, 2), (3, 0), (16, 0)])
def test_what_is_replaced(image, replaced):
    """Over images smaller than the kernel, the result and the image's gradient."""

    def loss(kernel, x):
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=FLAX)
        return jnp.sum(y**2)

    args = jnp.ones((3, 3, 4, 5)), jnp.ones((6, image, image, 4))
    fast = with_fast_convolutions(jax.grad(loss, (0, 1)), platform="cpu")
    text = str(jax.make_jaxpr(fast)(*args))
    assert text.count("conv_general_dilated[") == 3 - replaced


@pytest.mark.parametrize(
    ("channels", "computed"),
    [
        # Two columns for one, with even inputs, up to 8 outputs as multiples of 4; the same for the image's gradient.
        ((7, 5), {(16, 16), (12, 16)}),
        ((4, 4), {(8, 8)}),
        ((12, 12), {(24, 24)}),
        ((9, 15), {(20, 32), (16, 16)}),
        ((3, 64), {(8, 64), (128, 8)}),
        ((21, 7), {(44, 16), (8, 21)}),
        # Up to 16 inputs and outputs, to multiples of 8.
        ((13, 16), {(16, 16)}),
        ((21, 13), {(21, 16), (16, 21)}),
        # More inputs, where one or two are wanting; more outputs as they are.
        ((22, 37), {(24, 37), (37, 22)}),
        ((31, 30), {(32, 30), (32, 31)}),
        ((45, 61), {(45, 61), (61, 45)}),
        # As they are.
        ((24, 48), {(24, 48), (48, 24)}),
    ],
)
def test_what_is_computed_beside_zeros_and_by_pairs(channels, computed):
    def both(x, kernel):
        y, back = jax.vjp(lambda x: lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=FLAX), x)
        return y, back(y)

    args = jnp.ones((2, 8, 8, channels[0])), jnp.ones((3, 3, *channels))
    assert _kernels(with_fast_convolutions(both, platform="cpu"), *args) == computed
    y, back = jax.jit(with_fast_convolutions(both, platform="cpu"))(*args)
    assert y.shape == (2, 8, 8, channels[1])
    assert back[0].shape == args[0].shape


@pytest.mark.parametrize(
    ("image", "stride", "apart", "padding"),
    [(7, 1, 1, "SAME"), (8, 2, 1, "SAME"), (8, 1, 2, "SAME"), (8, 1, 1, ((0, 0), (0, 1)))],
)
def test_what_no_pairs_are_made_of(image, stride, apart, padding):
    """An odd number of columns in the result, strides, taps that lie apart."""

    def conv(x, kernel):
        dilation = (apart, apart)
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, rhs_dilation=dilation, dimension_numbers=FLAX
        )

    args = jnp.ones((2, image, image, 8)), jnp.ones((3, 3, 8, 8))
    assert _kernels(with_fast_convolutions(conv, platform="cpu"), *args) == {(8, 8)}


@pytest.mark.parametrize("channels", [(12, 5), (5, 12), (9, 9)])
@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), "SAME"), ((1, 1), "SAME"), ((2, 5), ((2, 3), (0, 6)))])
def test_transposed_convolutions_and_their_gradients(channels, kernel, padding):
    """Of an image with zeros between its positions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 9, 8, channels[0])).astype(np.float32)
    weights = rng.normal(size=(*kernel, *channels)).astype(np.float32)
    pads = [(-(-k // 2), k // 2 + 1) for k in kernel] if padding == "SAME" else padding

    def forward(x, weights):
        return lax.conv_general_dilated(x, weights, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=FLAX)

    g = rng.normal(size=jax.eval_shape(forward, x, weights).shape).astype(np.float32)

    def all_three(x, weights):
        y, back = jax.vjp(forward, x, weights)
        return y, *back(g)

    between = np.zeros((3, 17, 15, channels[0]), np.float32)
    between[:, ::2, ::2] = x
    y, of_x, of_weights = _reference(between, weights, (1, 1), pads, (1, 1), g)
    found = jax.jit(with_fast_convolutions(all_three, platform="cpu"))(x, weights)
    for ours, wanted in zip(found, (y, of_x[:, ::2, ::2], of_weights), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "strides", "computed"),
    [
        # Four phases of the image's five channels each.
        ((3, 3), (2, 2), {(8, 8), (7, 20)}),
        ((2, 3), (2, 2), {(8, 8), (7, 20)}),
        # Of three phases or one tap most would be zeros.
        ((3, 3), (3, 3), {(8, 8), (7, 5)}),
        ((3, 1), (2, 2), {(8, 8), (7, 5)}),
        ((3, 3), (2, 1), {(8, 8), (7, 5)}),
        # A product.
        ((1, 1), (2, 2), set()),
        ((1, 1), (1, 3), set()),
    ],
)
def test_what_is_computed_of_convolutions_with_strides(kernel, strides, computed):
    def loss(x, kernel):
        return jnp.sum(lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=FLAX) ** 2)

    args = jnp.ones((2, 12, 12, 5)), jnp.ones((*kernel, 5, 7))
    gradient = with_fast_convolutions(jax.value_and_grad(loss), platform="cpu")
    assert _kernels(gradient, *args) == computed


def test_images_too_small_for_the_kernel():
    def loss(x, kernel):
        return jnp.sum(lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=FLAX))

    gradient = with_fast_convolutions(jax.value_and_grad(loss, (0, 1)), platform="cpu")
    value, grads = jax.jit(gradient)(jnp.ones((2, 3, 2, 4)), jnp.ones((3, 3, 4, 5)))
    assert value == 0
    assert not any(np.any(g) for g in grads)


@pytest.mark.parametrize(
    ("channels", "stride", "along"),
    [((5, 12), 1, 12), ((12, 5), 1, 12), ((9, 5), 1, 5), ((9, 9), 1, 9), ((12, 5), 2, 5), ((64, 32), 1, 64)],
)
def test_more_channels_lie_along_vectors_in_the_gradient_of_a_kernel(channels, stride, along):
    def loss(kernel, x):
        return jnp.sum(lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=FLAX) ** 2)

    args = jnp.ones((3, 3, *channels)), jnp.ones((50, 7, 7, channels[0]))
    kernels = _kernels(with_fast_convolutions(jax.grad(loss), platform="cpu"), *args)
    assert {outputs for inputs, outputs in kernels if inputs == 50} == {along}


@pytest.mark.parametrize(("stride", "dtype"), [(1, "float32"), (2, "float32"), (1, "bfloat16")])
def test_every_convolution_has_the_layout_that_is_fast_in_loops(stride, dtype):
    """On a CPU XLA brings no other into that layout within a loop, and computes it by a plain loop of its own."""

    def loss(kernel, x):
        y = lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=FLAX)
        return jnp.sum(y**2)

    args = jnp.ones((3, 3, 4, 5), dtype), jnp.ones((6, 8, 8, 4), dtype)
    layouts = []
    for fn in (jax.grad(loss, (0, 1)), with_fast_convolutions(jax.grad(loss, (0, 1)), platform="cpu")):
        eqns = jax.make_jaxpr(fn)(*args).eqns
        found = [eqn.params["dimension_numbers"] for eqn in eqns if eqn.primitive.name == "conv_general_dilated"]
        layouts.append([tuple(layout) for layout in found])
    assert len(layouts[0]) == len(layouts[1]) == 3
    assert set(layouts[0]) == {ways.FORWARD, ways.IMAGE_GRADIENT, ways.KERNEL_GRADIENT}
    assert set(layouts[1]) == {ways.FORWARD}


@given(st.tuples(*(st.integers(1, high) for high in (70, 5, 5, 9))), st.integers(0, 99))
def test_any_sum_over_positions(shape, seed):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    with mock.patch.object(transform, "_LARGE", 0):
        fast = with_fast_convolutions(lambda x: jnp.sum(x, (0, 1, 2)), platform="cpu")
        assert "sum_over_positions" in str(jax.make_jaxpr(fast)(x))
        np.testing.assert_allclose(jax.jit(fast)(x), x.astype(np.float64).sum((0, 1, 2)), rtol=1e-5, atol=1e-4)
        squares = with_fast_convolutions(lambda x: jnp.sum(jnp.square(x), (0, 1, 2)), platform="cpu")
        assert "squares_over_positions" in str(jax.make_jaxpr(squares)(x))
        wanted = np.square(x.astype(np.float64)).sum((0, 1, 2))
        np.testing.assert_allclose(jax.jit(squares)(x), wanted, rtol=1e-5, atol=1e-4)


@given(st.tuples(*(st.integers(1, high) for high in (70, 5, 5, 9))), st.integers(0, 99))
def test_any_question_who_is_zero_throughout(shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32) * (rng.random(shape) < 0.02)
    with mock.patch.object(transform, "_LARGE", 0):
        fast = with_fast_convolutions(lambda x: jnp.any(x != 0, (0, 1, 2)), platform="cpu")
        assert "nonzero_anywhere" in str(jax.make_jaxpr(fast)(x))
        np.testing.assert_array_equal(jax.jit(fast)(x), (x != 0).any((0, 1, 2)))
        for other in (1, x):
            fast = with_fast_convolutions(lambda x, o=other: jnp.any(x != o, (0, 1, 2)), platform="cpu")
            np.testing.assert_array_equal(jax.jit(fast)(x), (x != other).any((0, 1, 2)))


@pytest.mark.parametrize(
    ("axes", "dtype", "shape"),
    [
        ((1, 2), "float32", (64, 8, 8, 64)),
        ((0, 1, 2), "bfloat16", (64, 8, 8, 64)),
        ((0, 1, 2), "float32", (8, 8, 8, 64)),
    ],
)
def test_other_sums_stay(axes, dtype, shape):
    """Those of a pooling, in half precision, of few values."""
    fn = lambda x: lax.reduce_sum(x, axes)  # noqa: E731
    x = jnp.ones(shape, dtype)
    assert str(jax.make_jaxpr(fn)(x)) == str(jax.make_jaxpr(with_fast_convolutions(fn, platform="cpu"))(x))


def test_nothing_is_computed_within_transposes_and_sums():
    """XLA computes the kernel's gradient from what it has computed already, and no activation a second time."""

    def loss(kernel, x):
        x = jax.nn.relu(jnp.sin(x))
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=FLAX)
        return jnp.sum(y**2), jnp.sum(x, (0, 1, 2))

    args = jnp.ones((3, 3, 24, 24)), jnp.ones((32, 24, 24, 24))
    gradient = jax.grad(loss, has_aux=True)
    maxima = []
    for fn in (gradient, with_fast_convolutions(gradient, platform="cpu")):
        text = jax.jit(fn, compiler_options=compiler_options("cpu")).lower(*args).compile().as_text()
        maxima.append(text.count(" maximum("))
    assert maxima[1] == 1 < maxima[0]


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_what_is_spread_over_devices(kind):
    """Convolutions and sums of images on all of them."""

    def loss(kernel, x):
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=FLAX)
        return jnp.sum(y**2), (jnp.sum(y, (0, 1, 2)), jnp.any(x != 0, (0, 1, 2)), y)

    fn = jax.grad(loss, has_aux=True)
    rng = np.random.default_rng(0)
    args = rng.normal(size=(3, 3, 4, 8)).astype(np.float32), rng.normal(size=(16, 8, 8, 4)).astype(np.float32)
    wanted = jax.jit(fn)(*args)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    spread = [jax.device_put(a, NamedSharding(mesh, P(*axes))) for a, axes in zip(args, ((), ("data",)), strict=True)]
    with mock.patch.object(transform, "_LARGE", 0):
        found = jax.jit(with_fast_convolutions(fn, platform="cpu"))(*spread)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "strides", "kernels"),
    [
        ((21, 41), (1, 1), {(24, 48), (48, 24), (4, 48)}),  # Of the gradient of the kernel the examples are the inputs.
        ((8, 31), (2, 2), {(8, 32), (32, 8), (4, 32)}),
        ((16, 24), (1, 1), None),  # All multiples of 8.
        ((3, 64), (1, 1), None),  # 8 would be more than 1.35 times as many.
        ((17, 16), (1, 1), None),
    ],
)
def test_a_gpu_gets_multiples_of_eight_channels(channels, strides, kernels):
    """In bfloat16; of ones, so that all sums are exact, and zeros beside the channels change nothing."""
    rng = np.random.default_rng(0)

    def ones(*shape):
        return rng.choice([-1.0, 0.0, 1.0], shape)

    x, kernel = ones(4, 5, 6, channels[0]), ones(3, 3, *channels)
    padding = ((1, 1), (1, 1))

    def forward(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=FLAX)

    g = ones(*jax.eval_shape(forward, jnp.asarray(x), jnp.asarray(kernel)).shape)

    def all_three(x, kernel, g):
        y, back = jax.vjp(forward, x, kernel)
        return y, *back(g)

    def given(dtype):
        return [jnp.asarray(a, dtype) for a in (x, kernel, g)]

    fast = with_fast_convolutions(all_three, platform="gpu")
    assert _kernels(fast, *given("bfloat16")) == (kernels or _kernels(all_three, *given("bfloat16")))
    assert _kernels(fast, *given("float32")) == _kernels(all_three, *given("float32"))
    wanted = _reference(x, kernel, strides, padding, (1, 1), g)
    for ours, theirs in zip(jax.jit(fast)(*given("bfloat16")), wanted, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(jnp.asarray(theirs, jnp.bfloat16)))


def test_elsewhere_nothing_changes():
    fn = lambda x: x  # noqa: E731
    assert with_fast_convolutions(fn, platform="tpu") is fn
    assert compiler_options("gpu") == {}


def test_with_the_options_no_convolution_goes_to_ynnpack():
    """In a process of its own: at the level of optimization of these tests none goes there anyway."""
    code = """
import jax
import jax.numpy as jnp
from experiments.fast_convolutions import compiler_options

conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
lowered = jax.jit(conv).lower(jnp.ones((16, 16, 16, 64)), jnp.ones((3, 3, 64, 64)))
print(*("__ynn_fusion" in lowered.compile(compiler_options=o).as_text() for o in ({}, compiler_options("cpu"))))
"""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    by_default, with_options = done.stdout.split()
    assert with_options == "False"
    if by_default == "False":
        pytest.skip("this XLA gives no convolution to YNNPACK on this CPU")


def test_the_step_is_compiled_with_the_options():
    """Where convolutions are not as XLA has them."""
    asked = []
    lowered = types.SimpleNamespace(compile=lambda **kwargs: asked.append(kwargs["compiler_options"]))
    for fast in (True, False):
        task = types.SimpleNamespace(fast_convolutions=fast)
        step.compiled(types.SimpleNamespace(lower=lambda *args, task: lowered), task=task)
    assert asked == [compiler_options("cpu"), {}]
    assert compiler_options("cpu")


def test_options_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=individual_dot")
    assert compiler_options("cpu") == {}


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(options, "_EIGEN", {"xla_cpu_no_such_option": "1"})
    assert compiler_options("cpu") == {}


def test_what_is_left_alone():
    """Groups, half precision and other layouts."""
    x, kernel = jnp.ones((4, 1, 1, 4)), jnp.ones((3, 3, 4, 4))

    def conv(x, kernel, layout=FLAX, groups=1):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups)

    assert _replaced(conv, x, kernel) == 1
    assert _replaced(lambda x, k: conv(x, k, groups=2), x, kernel[:, :, :2]) == 0
    assert _replaced(conv, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)) == 0
    assert _replaced(lambda x, k: conv(x, k, ("NCHW", "OIHW", "NCHW")), x.transpose(0, 3, 1, 2), kernel.T) == 0
    assert _replaced(jax.checkpoint(conv), x, kernel) == 0


@pytest.mark.slow
def test_the_gradient_of_a_residual_network():
    """All of a network: nested calls, strides, BatchNorm, what is returned beside the gradient."""
    net = models.ResNet(3, 10, base_width=4, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def loss(params, x):
        model = nnx.merge(graphdef, params, rest, copy=True)
        logits = model(x)
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0]), nnx.state(model, nnx.BatchStat)

    x = jax.random.normal(jax.random.key(0), (6, 16, 16, 3))
    gradient = jax.value_and_grad(loss, has_aux=True)
    # Seven over images smaller than the kernel; of three shortcuts with strides the result and the image's gradient.
    assert _replaced(gradient, params, x) == 7 + 2 * 3
    plain = jax.jit(gradient)(params, x)
    fast = jax.jit(with_fast_convolutions(gradient, platform="cpu"))(params, x)
    assert jax.tree.structure(plain) == jax.tree.structure(fast)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(fast), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(a))) + 1e-7)


@pytest.mark.slow
def test_a_step_with_convolutions_as_xla_has_them():
    """One for each of a ResNet-18's and for both of its gradients, but for that of the image; to the same numbers."""
    net, variables = programs.initial({"name": "resnet18", "base_width": 4}, (8, 8, 3))
    steps = [programs.built(net, variables, (8, 8, 3), 4, fast_convolutions=fast) for fast in (False, True)]
    traced = [jax.make_jaxpr(functools.partial(step.train_step, task=s.task))(s._state, *s._rest) for s in steps]
    plain, fast = (str(jaxpr).count("conv_general_dilated[") for jaxpr in traced)
    assert fast < plain == 3 * 20 - 1
    np.testing.assert_allclose(*(s()[1].loss for s in steps), rtol=1e-5)
