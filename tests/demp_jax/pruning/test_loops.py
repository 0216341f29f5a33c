# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Units that are read inside loops and branches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import demp_jax
from tests.helpers import assert_trees_close, batch

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
    assert "`dot_general`" in record.needed_by["b"]


# Recurrences whose units are inside. Each is written with a loop and without.


def _loop(step, state, xs):
    return jax.lax.scan(step, state, xs)


def _python_loop(step, state, xs):
    outs = []
    for x in xs:
        state, out = step(state, x)
        outs.append(out)
    return state, None if outs[0] is None else jnp.stack(outs)


def _state(p, x, loop):
    """A cell whose state is the output of a ReLU; all states are read."""

    def cell(state, x):
        state = jax.nn.relu(x @ p["w"] + state @ p["u"])
        return state, state

    return loop(cell, jnp.zeros((len(x), len(p["u"]))), x.swapaxes(0, 1))[1].mean(0) @ p["out"]


def _inside(p, x, loop):
    """An Euler integration of a network with a hidden layer."""

    def step(y, x):
        return y + 0.3 * jax.nn.softplus(y @ p["u"] + x @ p["w"]) @ p["v"], None

    return loop(step, x[:, 0] @ p["first"], x.swapaxes(0, 1))[0] @ p["out"]


def _two(p, x, loop):
    """A recurrence inside a recurrence."""

    def step(y, x):
        def inner(z, x):
            return z + jax.nn.relu(z @ p["u"] + x[None] @ p["w"]) @ p["v"], None

        return y + loop(inner, y, jnp.ones((2, 3)) * 0.1)[0], None

    return loop(step, x[:, 0] @ p["first"], x[:, :2].swapaxes(0, 1))[0] @ p["out"]


def _lstm(p, x, loop):
    def cell(carry, x):
        state, memory = carry
        i, f, g, o = jnp.split(x @ p["w"] + state @ p["u"], 4, -1)
        memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(memory), memory), None

    zeros = jnp.zeros((len(x), len(p["u"])))
    return loop(cell, (zeros, zeros), x.swapaxes(0, 1))[0][0] @ p["out"]


_DEAD = np.isin(np.arange(8), (1, 4, 6))


def _weights(network):
    if network is _lstm:
        shapes, gates = {"w": (3, 32), "u": (8, 32), "out": (8, 2)}, jnp.asarray(~_DEAD)
    else:
        state = 8 if network is _state else 5
        shapes, gates = {"w": (3, 8), "u": (state, 8), "v": (8, 5), "first": (3, 5), "out": (state, 2)}, None
    params = {name: batch(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    for name in ("w", "u"):
        if network is _lstm:  # A cell without a candidate stays zero.
            params[name] = params[name].at[:, 16:24].multiply(gates)
        else:
            params[name] = params[name].at[:, _DEAD].set(0)
    if network is _inside:  # Softplus is never zero; far down it is negligible.
        params["w"] = params["w"].at[:, _DEAD].set(-99.0)
    return params


@pytest.mark.parametrize("network", [_state, _inside, _two, _lstm])
def test_units_inside_a_recurrence(network):
    """The prune is that of the loop in Python, and Adam goes on as with the masked network."""
    params, x = _weights(network), jnp.abs(X) + 0.5
    options = demp_jax.PruneOptions(extra_units="features") if network is _lstm else None
    looped, unrolled = (lambda p, x: network(p, x, _loop)), (lambda p, x: network(p, x, _python_loop))
    tx = optax.adam(1e-2)
    result = demp_jax.prune(looped, params, [x], opt_state=tx.init(params), tx=tx, options=options)
    expected = demp_jax.prune(unrolled, params, [x], options=options)
    assert result.record.refused is None
    assert result.variables["u"].shape[1] <= (20 if network is _lstm else 5)
    jax.tree.map(np.testing.assert_array_equal, result.variables, expected.variables)
    np.testing.assert_allclose(looped(result.variables, x), looped(params, x), rtol=1e-5, atol=1e-5)
    masks = jax.tree.map(lambda w: w != 0, params)
    if network is not _inside:  # A unit of softplus has a gradient.
        _assert_steps_equal(looped, params, result, x, tx, masks)


def _assert_steps_equal(fn, params, result, x, tx, masks):
    large, small = params, result.variables
    states = [tx.init(large), result.opt_state]
    for _ in range(3):
        for i, tree in enumerate((large, small)):
            grads = jax.grad(lambda p: (fn(p, x) ** 2).mean())(tree)
            updates, states[i] = tx.update(grads, states[i], tree)
            tree = optax.apply_updates(tree, updates)
            if i == 0:
                large = jax.tree.map(jnp.multiply, tree, masks)
            else:
                small = tree
    assert_trees_close(result.plan.slice(large), small, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fn(small, x), fn(large, x), rtol=1e-4, atol=1e-5)


def test_a_long_recurrence_keeps_its_units():
    long = batch((2, 33, 3))
    graph = demp_jax.trace(lambda p, x: _state(p, x, _loop), _weights(_state), long)
    assert not graph.sites
    assert demp_jax.trace(lambda p, x: _state(p, x, _loop), _weights(_state), long[:, :32]).num_groups == 8
