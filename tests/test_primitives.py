"""Operations of JAX between two layers: dead units are removed through each of them, and the outputs stay the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from tests.helpers import batch

BATCH, TIME, UNITS, DEAD = 4, 6, 8, 3
SEGMENTS = np.array([0, 2, 2, 1, 0, 1])
EYE = 0.1 * jnp.eye(TIME)


def _params(**more):
    """A hidden layer of 8 units on 5 features, the first 3 of them dead by their bias, and a layer that reads them."""
    params = {"w1": batch((5, UNITS)), "b1": jnp.zeros(UNITS).at[:DEAD].set(-99.0), "w2": batch((UNITS, 4), 1)}
    return params | {name: batch(shape, seed) for seed, (name, shape) in enumerate(more.items(), start=2)}


def _hidden(p, x):
    return jax.nn.relu(x @ p["w1"] + jnp.expand_dims(p["b1"], tuple(range(x.ndim - 1))))


def _removed(fn, params, shape=(BATCH, TIME, 5), **options):
    """Cuts a network on one batch, compares it with the network before on another, and returns what was removed."""
    result = demp_jax.cut(fn, params, [batch(shape, 50)], **options)
    assert result.record.refused is None
    assert not result.record.needed
    fresh = batch(shape, 51)
    np.testing.assert_allclose(result.fn(result.variables, fresh), fn(params, fresh), rtol=1e-4, atol=1e-5)
    return result.record.removed


def _ordered(h, index):
    return jnp.take_along_axis(h, index, 1)


def _segments(op):
    return lambda h: jax.vmap(lambda rows: op(rows, SEGMENTS, 3))(h)


def _mixed(h):
    """Space, in whose place time stands, mixed by a matrix that is no variable."""
    return jnp.einsum("btf,ts->bsf", h, np.asarray(EYE))


def _pooling_gradient(h):
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID")  # noqa: E731
    return jax.vjp(pool, h)[1](pool(h) ** 2)[0]


def _mean_of_neighbors(h):
    nodes = h.reshape(-1, h.shape[-1])
    senders, receivers = np.arange(24)[::-1].copy(), np.arange(24) // 2
    return jax.ops.segment_sum(nodes[senders], receivers, 24).reshape(h.shape)


# What stands between the hidden layer and the one that reads it. A dead unit is zero behind each of them.
KEEPS_ZERO = {
    "sort": lambda h: jnp.sort(h, 1),
    "sort_descending": lambda h: jnp.sort(h, 1, descending=True),
    "argsort": lambda h: _ordered(h, jnp.argsort(h, 1)),
    "argmax": lambda h: _ordered(h, jnp.argmax(h, 1, keepdims=True)),
    "median": lambda h: jnp.median(h, 1),
    "quantile": lambda h: jnp.quantile(h, 0.3, axis=1),
    "top_k": lambda h: jax.lax.top_k(h.swapaxes(1, 2), 2)[0].swapaxes(1, 2),
    "cumsum": lambda h: jnp.cumsum(h, 1),
    "cumprod": lambda h: jnp.cumprod(h, 1),
    "cummax": lambda h: jax.lax.cummax(h, 1),
    "cummin": lambda h: jax.lax.cummin(h, 1, reverse=True),
    "associative_scan": lambda h: jax.lax.associative_scan(jnp.add, h, axis=1),
    "tile": lambda h: jnp.tile(h, (1, 2, 1)),
    "repeat": lambda h: jnp.repeat(h, 2, axis=1),
    "roll": lambda h: jnp.roll(h, 2, 1),
    "roll_by_data": lambda h: jnp.roll(h, jnp.argmax(jnp.arange(9)[::-1] % 4), 1),
    "flip": lambda h: h[:, ::-1],
    "stack": lambda h: jnp.stack([h, 2 * h], 1),
    "unstack": lambda h: sum(jnp.unstack(h, axis=1)),
    "concatenate": lambda h: jnp.concatenate([h, jnp.zeros_like(h[:, :1])], 1),
    "pad": lambda h: jnp.pad(h, ((0, 0), (1, 2), (0, 0))),
    "shift": lambda h: jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0))),
    "dynamic_slice": lambda h: jax.lax.dynamic_slice_in_dim(h, jnp.argmax(jnp.arange(9) % 4), 2, 1),
    "dynamic_update_slice": lambda h: jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(h), h[:, :2], 3, 1),
    "mapped_dynamic_slice": lambda h: jax.vmap(lambda a, i: jax.lax.dynamic_slice_in_dim(a, i, 2))(h, jnp.arange(4)),
    "mapped_update": lambda h: jax.vmap(lambda a, i: jax.lax.dynamic_update_slice_in_dim(a, 2 * a[:1], i, 0))(
        h, jnp.arange(4)
    ),
    "set": lambda h: h.at[:, 2].set(0.0),
    "add": lambda h: jnp.zeros((BATCH, 9, h.shape[-1])).at[:, 2 * np.arange(4)].add(h[:, :4]),
    "multiply": lambda h: h.at[:, 1:3].multiply(7.0),
    "gather_rows": lambda h: h[:, np.array([5, 0, 0])],
    "segment_sum": _segments(jax.ops.segment_sum),
    "graph": _mean_of_neighbors,
    "resize_linear": lambda h: jax.image.resize(h, (h.shape[0], 9, h.shape[2]), "linear"),
    "resize_nearest": lambda h: jax.image.resize(h, (h.shape[0], 9, h.shape[2]), "nearest"),
    "fft": lambda h: jnp.fft.rfft(h, axis=1).real,
    "fft_and_back": lambda h: jnp.fft.irfft(jnp.fft.rfft(h, axis=1) * 1j, axis=1),
    "einsum": _mixed,
    "clip": lambda h: jnp.clip(h, -1.0, 1.0),
    "clamp": lambda h: jax.lax.clamp(0.0, h, 0.5),
    "maximum": lambda h: jnp.maximum(h, -0.5),
    "greater": lambda h: (h > 0).astype(jnp.float32) * 2 + (h != 0).astype(jnp.float32),
    "reduce_precision": lambda h: jax.lax.reduce_precision(h, 8, 7),
    "square": lambda h: jnp.square(h),
    "remainder": lambda h: h % 0.3,
    "erf_inv": lambda h: jax.scipy.special.erfinv(jnp.tanh(h) * 0.9),
    "power": lambda h: h**2.5 * h,
    "bessel": lambda h: jax.scipy.special.i1e(h),
    "complex": lambda h: jnp.abs(jax.lax.complex(h, 2 * h)),
    "complex_parts": lambda h: (h * jnp.exp(1j * jnp.float32(0.3))).conj().imag,
    "real": lambda h: (h * 1j * jnp.ones((), jnp.complex64) * -2j).real,
    "where": lambda h: jnp.where(jnp.arange(TIME)[None, :, None] > 2, h, 0.0),
    "map_over_examples": lambda h: jax.lax.map(lambda row: row * row.sum(0, keepdims=True), h) * h,
    "pooling_gradient": _pooling_gradient,
    "random": lambda h: h * jax.random.bernoulli(jax.random.key(0), 0.5, h.shape[:2])[..., None],
    "print": lambda h: (jax.debug.callback(lambda x: None, h), h)[1],
    "nan_to_num": lambda h: jnp.nan_to_num(h),
    "solve_along_time": lambda h: jnp.einsum("ts,bsf->btf", jnp.linalg.inv(np.eye(TIME) + np.asarray(EYE)), h),
}


@pytest.mark.parametrize("name", KEEPS_ZERO)
def test_dead_units_are_removed_through(name):
    def network(p, x):
        return KEEPS_ZERO[name](_hidden(p, x)) @ p["w2"]

    assert _removed(network, _params()) == {"b1": DEAD}
    graph = demp_jax.trace(network, _params(), batch((BATCH, TIME, 5)))
    assert all(use.negligible.all() for use in graph.uses)
