"""Channels routed through an index: by a gather and by a product, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from demp_jax._src import select as select_lib


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_channel_is_the_one_its_index_names_or_its_fill(few, dtype, monkeypatch):
    monkeypatch.setattr(select_lib, "_FEW_CHANNELS", few)
    jax.clear_caches()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 5)), dtype)
    index = jnp.asarray([4, 0, select_lib.NOTHING, 2, 0, 7], jnp.int32)
    fill = jnp.arange(6, dtype=jnp.float32)
    found, back = jax.vjp(lambda x: demp_jax.select(x, index, fill), x)
    assert found.dtype == x.dtype
    wanted = np.full((2, 3, 6), np.arange(6.0), np.float32)
    wanted[..., [0, 1, 3, 4]] = np.asarray(x, np.float32)[..., [4, 0, 2, 0]]
    np.testing.assert_array_equal(np.asarray(found, np.float32), wanted)
    g = jnp.asarray(rng.normal(size=found.shape), dtype)
    gradient = np.zeros((2, 3, 5))
    for o, i in ((0, 4), (1, 0), (3, 2), (4, 0)):
        gradient[..., i] += np.asarray(g, np.float64)[..., o]
    np.testing.assert_allclose(np.asarray(back(g)[0], np.float64), gradient, rtol=1e-2 if dtype == "bfloat16" else 1e-6)
    jax.clear_caches()


@pytest.mark.parametrize(("backend", "channels", "product"), [("cpu", 128, True), ("gpu", 128, True)])
def test_few_channels_are_routed_by_a_product(backend, channels, product, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jax.clear_caches()
    for width, wanted in ((channels, product), (channels + 1, False)):
        x, index = jnp.ones((2, width)), jnp.arange(3)
        text = jax.jit(lambda x, i: demp_jax.select(x, i, jnp.zeros(3))).lower(x, index).as_text()
        assert ("dot_general" in text, "gather" in text) == (wanted, not wanted)
    jax.clear_caches()


def test_an_identity_costs_nothing():
    x = jnp.ones((2, 4))
    fn = lambda x: demp_jax.select(x, jnp.arange(4), jnp.zeros(4), identity=True)  # noqa: E731
    assert "dot_general" not in jax.jit(fn).lower(x).as_text()
    assert "gather" not in jax.jit(fn).lower(x).as_text()
