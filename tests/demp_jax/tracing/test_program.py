"""Programs: evaluation with values handed out on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demp_jax._src.tracing import program as program_lib
from tests.helpers import batch


@jax.custom_jvp
def _cubed(x):
    return jnp.sin(x) ** 3


@_cubed.defjvp
def _cubed_jvp(primals, tangents):
    return _cubed(*primals), 100.0 * tangents[0]  # Wrong on purpose: the rule must be the one that is used.


def _network(params, x):
    inner = jax.jit(lambda p, y: jax.nn.relu(y @ p))
    y = inner(params["a"], x)
    y = jax.checkpoint(lambda z: jax.nn.relu(z @ params["b"]) * 2)(y)
    return {"out": _cubed(y), "n": jnp.sum(y)}


_PARAMS = {"a": batch((4, 5), 1), "b": batch((5, 3), 2)}


def _run(params, x, wanted=()):
    program = program_lib.trace(_network, params, x)
    results, values = program_lib.evaluate(program, jax.tree.leaves((params, x)), wanted)
    return program, jax.tree.unflatten(program.out_tree, results), values


@pytest.mark.parametrize("jitted", [False, True])
def test_evaluates_to_the_function(jitted):
    x = batch((6, 4))
    run = lambda p, x: _run(p, x)[1]  # noqa: E731
    out = (jax.jit(run) if jitted else run)(_PARAMS, x)
    expected = _network(_PARAMS, x)
    np.testing.assert_array_equal(out["out"], expected["out"])
    np.testing.assert_array_equal(out["n"], expected["n"])


def test_keeps_derivative_rules():
    x = batch((6, 4))
    gradient = jax.grad(lambda p: jnp.sum(_run(p, x)[1]["out"]))(_PARAMS)
    expected = jax.grad(lambda p: jnp.sum(_network(p, x)["out"]))(_PARAMS)
    for name in _PARAMS:
        np.testing.assert_allclose(gradient[name], expected[name], rtol=1e-6)


def test_hands_out_values_inside_calls():
    x = batch((6, 4))
    program, _, _ = _run(_PARAMS, x)
    relus = [op.outputs[0] for op in program.leaves if op.name == "max"]
    assert len(relus) == 2
    _, out, values = _run(_PARAMS, x, relus)
    first = jax.nn.relu(x @ _PARAMS["a"])
    np.testing.assert_allclose(values[0], first, rtol=1e-6)
    np.testing.assert_allclose(values[1], jax.nn.relu(first @ _PARAMS["b"]), rtol=1e-6)
    np.testing.assert_array_equal(out["out"], _network(_PARAMS, x)["out"])


def test_differentiates_through_a_rematerialised_call_it_reads():
    x = batch((6, 4))
    program, _, _ = _run(_PARAMS, x)
    inside = [op.outputs[0] for op in program.leaves if op.name == "max"]

    def loss(params):
        _, out, values = _run(params, x, inside)
        return jnp.sum(out["out"]) + 0 * sum(jnp.sum(v) for v in values)

    gradient = jax.jit(jax.grad(loss))(_PARAMS)
    expected = jax.grad(lambda p: jnp.sum(_network(p, x)["out"]))(_PARAMS)
    np.testing.assert_allclose(gradient["b"], expected["b"], rtol=1e-6)


def test_values_inside_a_custom_derivative_are_out_of_reach():
    program, _, _ = _run(_PARAMS, batch((6, 4)))
    [sine] = [op for op in program.leaves if op.name == "sin"]
    assert sine.outputs[0] in program.unreadable


def test_source_is_the_users_line():
    program, _, _ = _run(_PARAMS, batch((6, 4)))
    [first, _] = [op for op in program.leaves if op.name == "max"]
    assert "test_program.py" in first.source
    assert "<lambda>" in first.source
