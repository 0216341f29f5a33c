"""Copies of a network: averages of weights, target networks, teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from tests.helpers import batch

X = batch((64, 5))


def _network(p, x):
    """What reads the units adds a constant first, so a dead unit is a constant other than zero."""
    h = jax.nn.relu(x @ p["params"]["w1"] + p["params"]["b1"][None]) + p["shift"][None]
    return h @ p["params"]["w2"] + p["params"]["b2"][None]


def _variables(seed, dead):
    rng = np.random.default_rng(seed)
    bias = np.where(np.isin(np.arange(8), dead), -99.0, 0.1)
    params = {"w1": rng.normal(size=(5, 8)), "b1": bias, "w2": rng.normal(size=(8, 3)), "b2": rng.normal(size=3)}
    tree = {"params": params, "shift": rng.normal(size=8)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def test_a_unit_is_removed_if_it_is_dead_in_every_network_and_each_folds_its_own_constant():
    model, average = _variables(0, [0, 1, 2]), _variables(1, [1, 2, 3])
    result = demp_jax.prune(_network, model, [X], copies={"average": average})
    assert result.removed["b1" if "b1" in result.removed else "params"].nonzero()[0].tolist() == [1, 2]
    assert result.record.folded == 2
    assert set(result.record.differences) == {"evaluation", "average"}
    for before, after in ((model, result.variables), (average, result.copies["average"])):
        np.testing.assert_allclose(_network(after, X), _network(before, X), rtol=1e-5, atol=1e-5)
    # Without the average as a copy, it would have been another function.
    alone = demp_jax.prune(_network, model, [X])
    assert np.abs(_network(alone.plan.slice(average), X) - _network(average, X)).max() > 0.1


def test_a_copy_of_the_parameters_alone_takes_the_other_variables_of_the_network():
    model, average = _variables(0, [0, 1, 2]), _variables(1, [0, 1, 2])["params"]
    before = _network({**model, "params": average}, X)
    result = demp_jax.prune(_network, model, [X], copies={"average": average})
    assert result.copies["average"]["w1"].shape == (5, 5)
    np.testing.assert_allclose(
        _network({**result.variables, "params": result.copies["average"]}, X), before, rtol=1e-5, atol=1e-5
    )


def test_a_copy_whose_outputs_would_change_keeps_the_unit():
    """The constant is absorbed by a bias that the copy shares with the network, whose own constant is another."""
    model, shifts = _variables(0, [0, 1, 2]), _variables(1, [0, 1, 2])["shift"]
    copy = {"shift": shifts}
    result = demp_jax.prune(_network, model, [X], copies={"shifted": copy})
    assert result.record.refused
    assert "of shifted" in result.record.refused
    assert result.copies["shifted"] is copy
    assert result.variables is model


@pytest.mark.parametrize(
    ("copies", "message"),
    [
        ({"training": {}}, "copies: 'training' is the name of a mode"),
        ({"average": {"w9": jnp.zeros(3)}}, r"copies\['average'\]: no variable has the path 'w9' and the shape \(3,\)"),
        ({"average": {"b1": jnp.zeros(3)}}, r"no variable has the path 'b1' and the shape \(3,\)"),
    ],
)
def test_bad_copies(copies, message):
    with pytest.raises(ValueError, match=message):
        demp_jax.prune(_network, _variables(0, [0]), [X], copies=copies)
