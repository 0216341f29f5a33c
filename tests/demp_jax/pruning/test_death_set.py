"""Death sets and outputs that are not what they should be: right, or one clear line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from tests.helpers import batch

PARAMS = {"w1": batch((5, 8)), "b1": jnp.zeros(8).at[:3].set(-99.0), "w2": batch((8, 3), 1)}
X = batch((64, 5), 2)


def _network(p, x):
    return jax.nn.relu(x @ p["w1"] + (p["b1"][None] if x.ndim > 1 else p["b1"])) @ p["w2"]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the death set is empty: give at least one batch"),
        (X, r"batches must be a list of batches; got one array of shape \(64, 5\): give \[batch\]"),
        ([X[:0]], r"at least two examples along batch_axis=0; got the shape \(0, 5\)"),
        ([X[:1]], r"at least two examples along batch_axis=0; got the shape \(1, 5\)"),
        ([X[0]], r"the outputs have no axis of examples. The batch has the shape \(5,\), .* taken for 5 examples"),
        ([jnp.float32(1.0)], r"a batch must hold an array with an axis of examples \(batch_axis=0\)"),
        (["images"], "a batch must hold an array with an axis of examples .*; got 'images'"),
    ],
)
def test_a_death_set_that_is_none(batches, message):
    with pytest.raises(ValueError, match=message):
        demp_jax.prune(_network, PARAMS, batches)


@pytest.mark.parametrize(
    ("fn", "x"),
    [(_network, (X, jnp.zeros(64, int))), (_network, {"image": X}), (lambda p, x, train: _network(p, x), X)],
)
def test_errors_of_the_network_say_how_it_was_called(fn, x):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        demp_jax.prune(fn, PARAMS, [x])
    note = caught.value.__notes__[-1]  # JAX may add others.
    assert "float32[64,5]" in note
    assert "without labels" in note
    assert "train=False" in note


def test_a_prune_inside_jit_is_one_clear_line():
    with pytest.raises(ValueError, match="cannot run inside jax.jit"):
        jax.jit(lambda p: demp_jax.prune(_network, p, [X]).variables)(PARAMS)


def test_nothing_removed_says_why():
    record = demp_jax.prune(_network, PARAMS | {"b1": jnp.ones(8)}, [X]).record
    assert str(record).startswith("0 units removed, as no unit is dead on all 64 examples; neurons 8 -> 8")


def test_outputs_that_are_all_nan_prove_nothing():
    params = {**PARAMS, "w2": PARAMS["w2"] * jnp.nan}
    result = demp_jax.prune(_network, params, [X])
    assert "the outputs (evaluation) are NaN, so nothing can be compared" in result.record.refused
    assert result.variables is params


def test_outputs_that_are_infinite_on_both_sides_are_equal():
    result = demp_jax.prune(lambda p, x: _network(p, x).at[:, 0].set(jnp.inf), PARAMS, [X])
    assert result.record.removed == {"b1": 3}
    assert result.record.difference < 1e-5


def test_no_outputs_prove_nothing():
    def network(p, x):
        return jnp.zeros((x.shape[0], 0)) + 0 * _network(p, x)[:, :0]

    record = demp_jax.prune(network, PARAMS, [X]).record
    assert "are empty, so nothing can be compared" in record.refused


def test_complex_outputs_are_compared_whole():
    def with_width(p, x):
        y = _network(p, x)
        return y + 1j * y / p["w1"].shape[1]  # The imaginary part alone depends on the width.

    record = demp_jax.prune(with_width, PARAMS, [X]).record
    assert record.refused
    y = np.asarray(_network(PARAMS, X))
    assert record.difference == pytest.approx(np.abs(y / 8 - y / 5).max(), rel=1e-4)
    assert demp_jax.prune(lambda p, x: _network(p, x) * (1 + 2j), PARAMS, [X]).record.removed == {"b1": 3}


def test_a_site_whose_units_are_all_dead_keeps_one():
    params = {**PARAMS, "b1": jnp.full(8, -99.0)}
    record = demp_jax.prune(_network, params, [X]).record
    assert (record.removed, record.protected) == ({"b1": 7}, {"b1": 1})
    assert "1 dead units kept by the floor of b1" in str(record)
