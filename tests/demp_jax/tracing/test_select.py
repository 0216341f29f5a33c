"""Channels routed through an index."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from demp_jax._src.tracing import select as select_lib
from tests import helpers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("last", [0, 3])
@pytest.mark.parametrize("few", [0, 128])
def test_every_channel_is_the_one_its_index_names_or_its_fill(few, last, dtype, monkeypatch):
    """With the derivatives forward and back; channel 0 is named twice, which its gradient sums, or once."""
    monkeypatch.setattr(select_lib, "_FEW_CHANNELS", few)
    jax.clear_caches()
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.normal(size=(2, 3, 5)), dtype) for _ in range(2))
    index = jnp.asarray([4, 0, select_lib.NOTHING, 2, last, 7], jnp.int32)
    fill = jnp.arange(6, dtype=jnp.float32)
    for unique in {False, last == 3}:
        fn = functools.partial(demp_jax.select, index=index, fill=fill, unique_indices=unique)
        found, back = jax.vjp(fn, x)
        assert found.dtype == x.dtype
        wanted, moved = np.full((2, 3, 6), np.arange(6.0), np.float32), np.zeros((2, 3, 6), np.float32)
        for array, of in ((wanted, x), (moved, dx)):
            array[..., [0, 1, 3, 4]] = np.asarray(of, np.float32)[..., [4, 0, 2, last]]
        np.testing.assert_array_equal(np.asarray(found, np.float32), wanted)
        np.testing.assert_array_equal(np.asarray(jax.jvp(fn, (x,), (dx,))[1], np.float32), moved)
        np.testing.assert_array_equal(np.asarray(jax.vmap(fn)(x), np.float32), wanted)
        g = jnp.asarray(rng.normal(size=found.shape), dtype)
        gradient = np.zeros((2, 3, 5))
        for o, i in ((0, 4), (1, 0), (3, 2), (4, last)):
            gradient[..., i] += np.asarray(g, np.float64)[..., o]
        np.testing.assert_allclose(
            np.asarray(back(g)[0], np.float64), gradient, rtol=1e-2 if dtype == "bfloat16" else 1e-6
        )
    jax.clear_caches()


@pytest.mark.parametrize("unique", [False, True])
def test_nothing_is_scattered_where_no_channel_is_named_twice(unique, monkeypatch):
    monkeypatch.setattr(select_lib, "_FEW_CHANNELS", 0)
    jax.clear_caches()
    x, index = jnp.ones((2, 3, 9)), jnp.arange(7)
    gradient = jax.jit(jax.grad(lambda x, i: jnp.sum(demp_jax.select(x, i, jnp.zeros(7), unique_indices=unique) ** 2)))
    scattered = re.findall(r"scatter.*?-> tensor<(\S+)>", gradient.lower(x, index).as_text().replace("\n", " "))
    assert ("2x3x9xf32" in scattered) is not unique
    jax.clear_caches()


def _routed_network():
    """A residual network whose two convolutions have lost different channels, with its variables."""
    rng = np.random.default_rng(0)
    variables = {
        "first": jnp.asarray(rng.normal(size=(3, 3, 2, 5)), jnp.float32),
        "second": jnp.asarray(rng.normal(size=(3, 3, 5, 4)), jnp.float32),
        "index": jnp.asarray([3, 0, select_lib.NOTHING, 1], jnp.int32),
        "fill": jnp.arange(4.0),
    }

    def network(variables, x):
        h = jax.nn.relu(_convolve(x, variables["first"]))
        skip = demp_jax.select(h, variables["index"], variables["fill"], unique_indices=True)
        return jnp.sum(jax.nn.relu(_convolve(h, variables["second"]) + skip), (1, 2))

    return network, variables


def _convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_a_program_for_several_platforms_is_right_on_each():
    """The choice between product and gather is made when the program is lowered, not when it is traced."""
    network, variables = _routed_network()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6, 6, 2)), jnp.float32)
    apply = jax.jit(functools.partial(network, variables))
    exported = jax.export.export(apply, platforms=("cpu", "cuda"))(x)
    assert exported.platforms == ("cpu", "cuda")
    np.testing.assert_allclose(exported.call(x), apply(x), rtol=1e-6)
    for fn in (network, jax.grad(lambda variables, x: jnp.sum(network(variables, x) ** 2), allow_int=True)):
        traced = jax.jit(fn).trace(variables, x)
        texts = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
        found = {p: {op for op in ("dot_general", "gather") if f"stablehlo.{op}" in text} for p, text in texts.items()}
        assert found == {"cpu": {"dot_general"}, "cuda": {"gather"}}


def test_gathers_are_taken_elsewhere(monkeypatch):
    """To the same outputs and gradients."""
    network, variables = _routed_network()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6, 6, 2)), jnp.float32)
    found = []
    for platform in ("cpu", "cuda"):
        helpers.resolve_for(platform, monkeypatch)
        found.append(jax.value_and_grad(lambda v: jnp.sum(network(v, x) ** 2), allow_int=True)(variables))
    jax.clear_caches()
    (value, grads), (other, others) = found
    np.testing.assert_allclose(other, value, rtol=1e-6)
    for name in ("first", "second", "fill"):
        np.testing.assert_allclose(others[name], grads[name], rtol=1e-5, atol=1e-5)


def test_an_identity_costs_nothing():
    x = jnp.ones((2, 4))
    fn = lambda x: demp_jax.select(x, jnp.arange(4), jnp.zeros(4), identity=True)  # noqa: E731
    assert "dot_general" not in jax.jit(fn).lower(x).as_text()
    assert "gather" not in jax.jit(fn).lower(x).as_text()
