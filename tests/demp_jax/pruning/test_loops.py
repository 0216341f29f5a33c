# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Units that are read inside loops and branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from tests.helpers import batch

X = batch((9, 4, 3))


def _fed(p, x):
    return jax.nn.relu(x @ p["feed"] + p["b"][None, None])


def _recurrence(p, x):
    """Reads units at every step, slice by slice and as a whole."""
    memory = jax.nn.relu(x.mean(1) @ p["memory"] + p["c"][None])

    def cell(state, h):
        return jnp.tanh(state @ p["u"] + h.astype(jnp.float32) @ p["w"] + memory @ p["v"]), None

    state, _ = jax.lax.scan(cell, jnp.zeros((x.shape[0], 5)), _fed(p, x).swapaxes(0, 1))
    return state @ p["out"]


def _unrolled(p, x):
    memory, h = jax.nn.relu(x.mean(1) @ p["memory"] + p["c"][None]), _fed(p, x)
    state = jnp.zeros((x.shape[0], 5))
    for t in range(x.shape[1]):
        state = jnp.tanh(state @ p["u"] + h[:, t] @ p["w"] + memory @ p["v"])
    return state @ p["out"]


def _iterated(p, x):
    """Reads units in a `while` loop."""
    h = _fed(p, x).mean(1)
    return (
        jax.lax.fori_loop(0, 3, lambda i, s: jnp.tanh(s @ p["u"] + h @ p["w"]), jnp.zeros((x.shape[0], 5))) @ p["out"]
    )


def _until(p, x):
    h = _fed(p, x).mean(1)
    state = jnp.zeros((x.shape[0], 5))
    state = jax.lax.while_loop(lambda s: jnp.max(s) < 2, lambda s: s + jnp.exp(h @ p["w"]), state)
    return state @ p["out"]


def _branches(p, x):
    """Reads units in one branch of two, and again in both of a nested branch."""
    h = _fed(p, x).mean(1)

    def inner(h):
        return jax.lax.cond(h[0, 0] > 9, lambda h: h @ p["w"], lambda h: jnp.sin(h @ p["w"]), h)

    return jax.lax.cond(x[0, 0, 0] > 0, inner, lambda h: inner(2 * h), h) @ p["out"]


def _params():
    shapes = {"feed": (3, 8), "memory": (3, 6), "u": (5, 5), "w": (8, 5), "v": (6, 5), "out": (5, 2)}
    params = {name: batch(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    return params | {"b": jnp.ones(8).at[2:5].set(-99.0), "c": jnp.ones(6).at[1].set(-99.0)}


@pytest.mark.parametrize("network", [_recurrence, _iterated, _until])
def test_units_that_are_read_at_every_step(network):
    params = _params()
    result = demp_jax.prune(network, params, [X])
    assert result.record.removed["b"] >= 3
    assert ("c" in result.record.removed) == (network is _recurrence)
    np.testing.assert_allclose(network(result.variables, X), network(params, X), rtol=1e-5, atol=1e-6)
    if network is _recurrence:
        expected = demp_jax.prune(_unrolled, params, [X])
        assert result.record.removed == expected.record.removed
        jax.tree.map(np.testing.assert_array_equal, result.variables, expected.variables)


def test_units_that_branches_read():
    params = _params()
    graph = demp_jax.trace(_branches, params, X)
    # The branch that doubles its input reads another value, which is not measured.
    assert graph.num_groups == 0
    assert "read inside a `cond`" in graph.report()

    def network(p, x):
        h = _fed(p, x).mean(1)
        return jax.lax.cond(x[0, 0, 0] > 0, lambda h: h @ p["w"], lambda h: jnp.sin(h @ p["w"]), h) @ p["out"]

    for x in (X, -X):
        result = demp_jax.prune(network, params, [x])
        assert result.record.removed["b"] >= 3
        np.testing.assert_allclose(network(result.variables, x), network(params, x), rtol=1e-5, atol=1e-6)


def test_a_constant_that_a_loop_reads_stays():
    def network(p, x):
        shifted = (_fed(p, x) + p["shift"][None, None]).swapaxes(0, 1)
        state, _ = jax.lax.scan(lambda s, h: (jnp.tanh(s @ p["u"] + h @ p["w"]), None), jnp.zeros((len(x), 5)), shifted)
        return state @ p["out"]

    record = demp_jax.prune(network, _params() | {"shift": jnp.ones(8)}, [X]).record
    assert not record.removed
    assert record.needed["b"] >= 3
    assert "`scan`" in record.needed_by["b"]


def test_the_hidden_state_is_refused():
    graph = demp_jax.trace(_recurrence, _params() | {"u": jnp.eye(5)}, X)
    assert {site.name for site in graph.sites} == {"b", "c"}
