"""Evaluation and training mode: what is dead in one alone is kept, and both are proved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from demp_jax import PruneOptions
from tests.helpers import batch

X = batch((64, 5))


def _norm(p, x, train):
    mean, var = (x.mean(0), x.var(0)) if train else (p["mean"], p["var"])
    return (x - mean[None]) / jnp.sqrt(var[None] + 1e-5) * p["scale"][None] + p["offset"][None]


def _before(p, x, train=False):
    """Normalized, then ReLU."""
    return jax.nn.relu(_norm(p["norm"], x @ p["w1"], train)) @ p["w2"] + p["b2"][None]


def _after(p, x, train=False):
    """ReLU, then normalized: a dead unit is a constant other than zero."""
    return _norm(p["norm"], jax.nn.relu(x @ p["w1"] + p["b1"][None]), train) @ p["w2"] + p["b2"][None]


def _twice(p, x, train=False):
    """A hidden layer whose result is normalized once more, so that a constant in it vanishes with the mean."""
    h = jax.nn.relu(_norm(p["norm"], x @ p["w1"], train))
    return jax.nn.relu(_norm(p["second"], h @ p["w2"], train)) @ p["w3"]


def _params(width=8, out=3):
    rng = np.random.default_rng(0)
    w1 = rng.normal(size=(5, width)).astype(np.float32)
    h = np.asarray(X) @ w1
    norm = {"mean": h.mean(0), "var": h.var(0), "scale": np.ones(width), "offset": np.full(width, 0.1)}
    tree = {"w1": w1, "b1": np.full(width, 0.1), "norm": norm, "w2": rng.normal(size=(width, out)), "b2": np.zeros(out)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _train(fn):
    return lambda p, x: fn(p, x, train=True)


def _set(p, name, units, value):
    return {**p, "norm": {**p["norm"], name: p["norm"][name].at[jnp.array(units)].set(value)}}


def test_what_is_dead_by_stale_statistics_is_kept():
    params = _set(_params(), "mean", [0, 1], 99.0)  # Dead in evaluation mode alone.
    params = _set(_set(params, "scale", [2], 0.0), "offset", [2], -1.0)  # Dead in both.
    result = demp_jax.prune(_before, params, [X], train_fn=_train(_before))
    assert result.removed["norm"].nonzero()[0].tolist() == [2]
    assert result.record.dead_alone == {"evaluation": 2, "training": 0}
    for train in (False, True):
        np.testing.assert_allclose(_before(result.variables, X, train), _before(params, X, train), rtol=1e-4, atol=1e-5)
    assert set(result.record.differences) == {"evaluation", "training"}
    [warning] = result.record.warnings
    assert "running statistics look stale: 2 of 8 units" in warning
    assert warning in str(result.record)


def test_the_criterion_of_the_paper_looks_at_evaluation_mode_alone():
    params = _set(_params(), "mean", [0, 1], 99.0)
    options = PruneOptions(modes="evaluation")
    result = demp_jax.prune(_before, params, [X], train_fn=_train(_before), options=options)
    assert result.removed["norm"].nonzero()[0].tolist() == [0, 1]
    assert set(result.record.differences) == {"evaluation"}
    assert result.record.dead_alone == {}


def test_what_is_dead_in_training_mode_alone_is_kept():
    params = _set(_params(), "mean", [3], -99.0)
    params = _set(_set(params, "scale", [3], 1e-6), "offset", [3], -1e-5)
    # In evaluation mode the running mean lifts it above zero, in training mode nothing does.
    assert float(_norm(params["norm"], X @ params["w1"], False)[:, 3].min()) > 0
    record = demp_jax.prune(_before, params, [X], train_fn=_train(_before)).record
    assert record.removed == {}
    assert record.dead_alone == {"evaluation": 0, "training": 1}


def test_a_constant_that_differs_between_modes_is_kept_and_one_that_does_not_is_folded():
    params = _params()
    params["b1"] = params["b1"].at[:3].set(-99.0)
    offsets = jnp.arange(8.0)
    params["norm"] = {**params["norm"], "offset": offsets, "mean": jnp.zeros(8).at[0].set(-0.3), "var": jnp.ones(8)}
    result = demp_jax.prune(_after, params, [X], train_fn=_train(_after))
    assert result.removed["b1" if "b1" in result.removed else "norm"].nonzero()[0].tolist() == [1, 2]
    assert result.record.folded == 2
    [why] = result.record.needed_by.values()
    assert "in training mode" in why
    assert "dead units" in str(result.record)
    for train in (False, True):
        np.testing.assert_allclose(_after(result.variables, X, train), _after(params, X, train), rtol=1e-4, atol=1e-4)


def test_a_constant_that_the_mean_over_the_batch_takes_away_again_is_folded():
    params = _params(out=6)
    params = _set(_set(params, "scale", [1, 4], 0.0), "offset", [1, 4], 0.7)
    h = jax.nn.relu(_norm(params["norm"], X @ params["w1"], False)) @ params["w2"]
    params["second"] = {"mean": h.mean(0), "var": h.var(0), "scale": jnp.ones(6), "offset": jnp.full(6, 0.1)}
    params["w3"] = batch((6, 2), 3)
    result = demp_jax.prune(_twice, params, [X], train_fn=_train(_twice), options=PruneOptions(constant=1e-6))
    assert result.removed["norm"].nonzero()[0].tolist() == [1, 4]
    assert max(result.record.differences.values()) < 1e-4
    for train in (False, True):
        np.testing.assert_allclose(_twice(result.variables, X, train), _twice(params, X, train), rtol=1e-3, atol=1e-4)


def test_training_mode_ties_units_to_what_it_alone_reads():
    def network(p, x, train=False):
        h = jax.nn.relu(x @ p["w1"] + p["b1"][None])
        return h @ p["w2"] + (jnp.sum(h @ p["auxiliary"], -1, keepdims=True) if train else 0.0)

    params = _params()
    params["b1"] = params["b1"].at[:2].set(-99.0)
    params = {name: params[name] for name in ("w1", "b1", "w2")} | {"auxiliary": batch((8, 4), 4)}
    result = demp_jax.prune(network, params, [X], train_fn=_train(network))
    assert result.variables["auxiliary"].shape == (6, 4)
    np.testing.assert_allclose(network(result.variables, X, True), network(params, X, True), rtol=1e-4, atol=1e-4)


def test_a_network_without_a_training_mode_pays_nothing():
    params = _params()
    params["b1"] = params["b1"].at[:2].set(-99.0)

    def network(p, x):
        return jax.nn.relu(x @ p["w1"] + p["b1"][None]) @ p["w2"]

    assert demp_jax.trace(network, params, X, train_fn=lambda p, x: network(p, x)).training is None
    record = demp_jax.prune(network, params, [X], train_fn=lambda p, x: network(p, x)).record
    assert record.removed
    assert set(record.differences) == {"evaluation"}


@pytest.mark.parametrize("modes", ["train", ""])
def test_bad_modes(modes):
    with pytest.raises(ValueError, match="modes must be one of both, evaluation; got modes="):
        PruneOptions(modes=modes)
