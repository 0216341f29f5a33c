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
    result = demp_jax.prune(fn, params, [batch(shape, 50)], **options)
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
    "take_along": lambda h: _ordered(h, jnp.broadcast_to(jnp.arange(TIME)[None, ::-1, None], h.shape)),
    "mapped_set": lambda h: jax.vmap(jax.vmap(lambda row, i, v: row.at[i].set(v), (1, 0, 0), 1))(
        jnp.zeros_like(h), jnp.argmax(h, 1), jnp.max(h, 1)
    ),
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
    assert all(use.negligible.all() for use in graph.consumers)


def _where_finite(h):
    sums = _segments(jax.ops.segment_max)(h)
    return jnp.where(jnp.isfinite(sums), sums, 0.0)


# The same, but only a measurement tells that what is read is zero.
MEASURED = {
    "segment_max": _where_finite,
    "map_over_time": lambda h: jax.lax.map(lambda row: jnp.tanh(row) * 2, h.swapaxes(0, 1)).swapaxes(0, 1),
    "scan_over_time": lambda h: jax.lax.scan(lambda s, r: (s * 0.9 + r,) * 2, h[:, 0], h.swapaxes(0, 1))[1],
    "fori_loop": lambda h: jax.lax.fori_loop(0, 3, lambda i, y: y * h + i * h, h),
    "while": lambda h: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * h), (0, h))[1],
    "cond": lambda h: jax.lax.cond(jnp.arange(2)[1] > 0, lambda y: 2 * y, jnp.zeros_like, h),
    "switch": lambda h: jax.lax.switch(jnp.arange(3)[1], [lambda y: y, lambda y: 3 * y, jnp.sin], h),
}
if jax.__version_info__ < (0, 12):  # Later it is a primitive of its own, which is refused by name.
    MEASURED["interpolate"] = lambda h: jnp.interp(h, jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0]))


@pytest.mark.parametrize("name", MEASURED)
def test_dead_units_are_removed_where_zero_is_measured(name):
    def network(p, x):
        return MEASURED[name](_hidden(p, x)) @ p["w2"]

    assert _removed(network, _params()) == {"b1": DEAD}


# A dead unit is read as a number other than zero, though only beside its own values: without a bias behind, it stays.
NOT_ZERO = {
    "pad": lambda h: jnp.pad(h, ((0, 0), (1, 0), (0, 0)), constant_values=1.0),
    "concatenate": lambda h: jnp.concatenate([h, jnp.ones_like(h)], 1),
    "stack": lambda h: jnp.stack([h, jnp.ones_like(h)]),
    "dynamic_update_slice": lambda h: jax.lax.dynamic_update_slice_in_dim(jnp.ones_like(h), h[:, :2], 1, 1),
    "set": lambda h: h.at[:, 0].set(1.0),
    "add": lambda h: h.at[:, 0].add(1.0),
    "gather": lambda h: h.at[:, np.array([0, 9])].get(mode="fill", fill_value=1.0),
    "maximum": lambda h: jnp.maximum(h, 0.5),
    "clamp": lambda h: jax.lax.clamp(0.5, h, 2.0),
    "at_least": lambda h: (h >= 0).astype(jnp.float32),
    "where": lambda h: jnp.where(jnp.arange(TIME)[None, :, None] > 2, h, 1.0),
    "cos": jnp.cos,
}


@pytest.mark.parametrize("name", NOT_ZERO)
def test_units_that_are_read_as_a_number_stay(name):
    def network(p, x):
        return NOT_ZERO[name](demp_jax.mark_units(_hidden(p, x), kind="zero")) @ p["w2"]

    graph = demp_jax.trace(network, _params(), batch((BATCH, TIME, 5)))
    assert not any(use.negligible.any() for use in graph.consumers)
    result = demp_jax.prune(network, _params(), [batch((BATCH, TIME, 5), 50)])
    assert result.plan is None
    assert result.record.needed == {"b1": DEAD}


def _chosen(p, x):
    return jax.lax.top_k(x @ p["router"], 2)


def _experts(p, x):
    """Two of three experts, whose weights are looked up for every token."""
    score, i = _chosen(p, x)
    h = jax.nn.relu(jnp.einsum("...d,...kdf->...kf", x, p["w1"][i]) + p["b1"][i])
    return jnp.einsum("...k,...kf,...kfd->...d", jax.nn.softmax(score), h, p["w2"][i])


def _experts_by_take(p, x):
    score, i = _chosen(p, x)
    h = jax.nn.relu(jnp.einsum("bd,bkdf->bkf", x, jnp.take(p["w1"], i, axis=0)) + jnp.take(p["b1"], i, axis=0))
    return jnp.einsum("bk,bkfd,bkf->bd", score, 2 * jnp.take(p["w2"], i, axis=0).astype(jnp.float32), h)


def _experts_in_order(p, x):
    """Tokens sorted by their expert and multiplied in groups."""
    expert = jnp.argmax(x @ p["router"], -1)
    order = jnp.argsort(expert)
    sizes = jnp.bincount(expert, length=3)
    h = jax.lax.ragged_dot(x[order], p["w1"], sizes) + p["b1"][expert[order]]
    y = jax.lax.ragged_dot(jax.nn.relu(h), p["w2"], sizes)
    return jnp.zeros_like(y).at[order].set(y)


def _experts_measured(p, x):
    """Only a measurement tells that the units are zero where they meet the weights that were looked up."""
    score, i = _chosen(p, x)
    h = jax.nn.relu(jnp.einsum("bd,bkdf->bkf", x, p["w1"][i]) + p["b1"][i])
    return jnp.einsum("bkfd,bkf,bk->bd", p["w2"][i], jax.lax.map(jnp.tanh, h), score)


@pytest.mark.parametrize("network", [_experts, _experts_by_take, _experts_measured, _experts_in_order])
def test_hidden_units_of_experts_are_removed(network):
    params = {"router": batch((5, 3)), "w1": batch((3, 5, UNITS), 1), "w2": batch((3, UNITS, 4), 2)}
    params["b1"] = jnp.zeros((3, UNITS)).at[:, :DEAD].set(-99.0).at[1, DEAD].set(-99.0)  # One dies in one expert only.
    result = demp_jax.prune(network, params, [batch((16, 5), 50)])
    assert list(result.record.removed.values()) == [DEAD]
    assert result.variables["w1"].shape == (3, 5, UNITS - DEAD)
    assert result.variables["w2"].shape == (3, UNITS - DEAD, 4)
    fresh = batch((7, 5), 51)
    np.testing.assert_allclose(result.fn(result.variables, fresh), network(params, fresh), rtol=1e-4, atol=1e-5)


def test_a_product_of_data_vanishes_with_either_factor():
    def network(p, x):
        return jnp.einsum("btf,bsf->bts", x @ p["w3"], _hidden(p, x))

    assert _removed(network, _params(w3=(5, UNITS))) == {"b1": DEAD}


def test_what_is_looked_up_can_hold_the_units():
    def network(p, x):
        return jax.nn.relu(p["table"][jnp.argmax(x, -1)]) @ p["w2"]

    params = {"table": jnp.abs(batch((5, UNITS))).at[:, :DEAD].set(-1.0), "w2": batch((UNITS, 4), 1)}
    assert _removed(network, params) == {"table": DEAD}


def _sorted(x):
    return jax.lax.sort((x, jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)), dimension=0)[0]


# Edges of a graph, whose ends are written in the program; nodes that sum over edges; examples sorted with numbers.
@pytest.mark.parametrize(
    "moved",
    [
        lambda x: x[np.arange(16)] - x[np.arange(16) // 2],
        lambda x: jax.ops.segment_sum(x, np.arange(16) // 2, 8),
        _sorted,
    ],
)
def test_units_of_examples_that_are_moved(moved):
    assert _removed(lambda p, x: _hidden(p, moved(x)) @ p["w2"], _params(), (16, 5)) == {"b1": DEAD}


CONVOLUTIONS = {
    "strided": {"window_strides": (2,)},
    "dilated": {"window_strides": (1,), "rhs_dilation": (2,)},
    "transposed": {"window_strides": (1,), "lhs_dilation": (2,)},
    "grouped": {"window_strides": (1,), "feature_group_count": 2},
    "depthwise": {"window_strides": (1,), "feature_group_count": UNITS},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    options = CONVOLUTIONS[name]
    groups = options.get("feature_group_count", 1)
    params = _params(kernel=(3, UNITS // groups, UNITS))
    # Of two groups the one that is dead as a whole is removed.
    params["b1"] = params["b1"].at[: UNITS // groups if groups == 2 else DEAD].set(-99.0)
    layout = ("NWC", "WIO", "NWC")

    def network(p, x):
        now = {**options, "feature_group_count": p["b1"].size // (UNITS // groups)} if groups > 1 else options
        y = jax.lax.conv_general_dilated(_hidden(p, x), p["kernel"], padding=[(1, 1)], dimension_numbers=layout, **now)
        return y @ p["w2"]

    assert _removed(network, params) == {"b1": 4 if groups == 2 else DEAD}


def test_the_rest_of_an_unequal_split_shrinks():
    def network(p, x):
        first, second = jnp.split(_hidden(p, x)[..., ::-1], [2], axis=-1)
        return first @ p["w3"] + second @ p["w4"]

    params = _params(w3=(2, 4), w4=(UNITS - 2, 4))
    assert _removed(network, params) == {"b1": DEAD}


MIXED = {
    "sort": (lambda h: jnp.sort(h, -1), "`sort` mixes it with other units"),
    "fft": (lambda h: jnp.fft.fft(h).real, "`fft` mixes it with other units"),
    "cumsum": (lambda h: jnp.cumsum(h, -1), "`cumsum` mixes it with other units"),
    "roll": (lambda h: jnp.roll(h, 1, -1), "sliced at fixed positions (`slice`)"),
    "scatter": (lambda h: h.at[..., np.array([0, 3])].set(0.0), "written to at fixed positions (`scatter`)"),
    "cholesky": (lambda h: jnp.linalg.cholesky(h[..., None] * h[..., None, :])[..., 0], "`cholesky` mixes"),
    "qr": (lambda h: jnp.linalg.qr(h)[1], "row or column of a matrix, all of which `qr` mixes"),
    "eigh": (lambda h: jnp.linalg.eigh(h[..., None] * h[..., None, :])[0], "`eigh` mixes"),
    "solve": (
        lambda h: jax.scipy.linalg.solve_triangular(h[..., None] * h[..., None, :], h[..., None])[..., 0],
        "_solve`",
    ),
    "unstack": (lambda h: jnp.stack(jnp.unstack(h, axis=-1), -1), "`unstack`"),
    "callback": (lambda h: jax.pure_callback(lambda y: y, h, h), "handed to code outside of JAX (`pure_callback`)"),
}


@pytest.mark.parametrize("name", MIXED)
def test_units_that_are_mixed_stay_with_a_reason(name):
    change, reason = MIXED[name]
    graph = demp_jax.trace(lambda p, x: change(_hidden(p, x)) @ p["w2"], _params(), batch((BATCH, TIME, 5)))
    assert graph.num_groups == 0
    assert any(reason in refusal.reason and "test_primitives.py" in refusal.source for refusal in graph.refusals), (
        graph.report()
    )


def test_complex_networks():
    def network(p, x):
        z = x @ (p["real"] + 1j * p["imag"])
        size = jnp.abs(z)
        gate = jax.nn.relu(size + jnp.expand_dims(p["b1"], (0, 1)))
        z = gate * jnp.exp(1j * jnp.angle(z))
        return jnp.real(jnp.conj(z) @ (p["w2"] * (1 + 2j)))

    params = _params(real=(5, UNITS), imag=(5, UNITS))
    del params["w1"]
    assert _removed(network, params) == {"b1": DEAD}

    def parts(p, x):  # An activation for the real and one for the imaginary part.
        z = x @ (p["real"] + 1j * p["imag"])
        bias = jnp.expand_dims(p["b1"], (0, 1))
        z = jax.lax.complex(jax.nn.relu(z.real + bias), jax.nn.relu(z.imag + bias))
        return jnp.abs(z @ p["w2"].astype(jnp.complex64))

    assert set(_removed(parts, params).values()) == {DEAD}
    assert len(demp_jax.trace(parts, params, batch((BATCH, TIME, 5))).sites) == 2


def test_flops_inside_loops_shrink():
    def network(p, x):
        h = jax.lax.map(lambda row: jax.nn.relu(row @ p["w1"] + p["b1"][None]), x)
        h = jax.lax.fori_loop(0, 2, lambda i, y: y * 0.5, h)
        return (
            jax.lax.cond(x[0, 0, 0] > 0, lambda y: y * (y @ p["w3"])[..., :1], lambda y: y @ p["w3"] @ p["w3"].T, h)
            @ p["w2"]
        )

    def mapped(p, x):
        return jax.nn.relu(jax.lax.map(lambda row: row @ p["w1"] + p["b1"][None], x)) @ p["w2"]

    assert demp_jax.trace(network, _params(w3=(UNITS, 2)), batch((BATCH, TIME, 5))).flops() == (
        2 * TIME * (5 * UNITS + 2 * 2 * UNITS + UNITS * 4)
    )
    result = demp_jax.prune(mapped, _params(), [batch((BATCH, TIME, 5), 50)])
    kept = UNITS - DEAD
    assert result.record.flops == (2 * TIME * (5 + 4) * UNITS, 2 * TIME * (5 + 4) * kept)


def test_calls_with_rules_of_their_own_are_seen_through():
    @jax.custom_batching.custom_vmap
    def doubled(h):
        return 2 * h

    doubled.def_vmap(lambda size, batched, h: (2 * h, True))

    def network(p, x):
        half = jax.lax.composite(lambda h: h / 2, "test.half")
        return half(doubled(_hidden(p, x))) @ p["w2"]

    assert _removed(network, _params()) == {"b1": DEAD}


def _complex_params():
    real, imaginary = batch((UNITS, 4), 2), batch((UNITS, 4), 3)
    return _params(shift=(UNITS,)) | {"w2": real + 1j * imaginary, "b2": jnp.zeros(4, jnp.complex64)}


def test_constants_are_folded_into_a_complex_bias():
    def network(p, x):
        z = (_hidden(p, x) + p["shift"].reshape(1, 1, -1)) * jnp.complex64(1 + 2j) @ p["w2"] + p["b2"].reshape(1, 1, -1)
        return z.real * z.imag

    assert _removed(network, _complex_params()) == {"b1": DEAD}


def test_a_unit_whose_imaginary_part_alone_varies_is_kept():
    def network(p, x):
        imaginary = jnp.sin(x[..., :1]) * p["shift"].reshape(1, 1, -1)
        return jnp.abs(jax.lax.complex(_hidden(p, x), imaginary) @ p["w2"] + p["b2"].reshape(1, 1, -1))

    params = _complex_params()
    params["shift"] = params["shift"].at[1:DEAD].set(0.0)
    record = demp_jax.prune(network, params, [batch((BATCH, TIME, 5), 50)]).record
    assert record.removed == {"b1": DEAD - 1}
    assert record.needed == {"b1": 1}
    assert record.spared == []
