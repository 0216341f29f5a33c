"""What a trace says: which units can be removed, on what condition, what stays and why, and what nothing reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import demp_jax
from demp_jax import linen as demp_linen
from demp_jax import nnx as demp_nnx
from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing import rules
from tests.helpers import batch

relu = jax.nn.relu
X = batch((4, 5))


def _params(**more):
    params = {"w1": batch((5, 8)), "b1": jnp.zeros(8), "w2": batch((8, 3), 1)}
    return params | {name: batch(shape, seed) for seed, (name, shape) in enumerate(more.items(), start=2)}


def _hidden(p, x):
    return relu(x @ p["w1"] + p["b1"][None])


def _lines(fn, params, x=X):
    return demp_jax.trace(fn, params, x).report().splitlines()


def test_a_consumer_that_may_see_a_number_is_a_condition():
    lines = _lines(
        lambda p, x: jnp.concatenate([_hidden(p, x) + p["shift"][None], x], 1) @ p["w3"],
        _params(shift=(8,), w3=(13, 3)),
    )
    assert lines[0] == "8 neurons in 1 activations, 0 removable units"
    assert lines[1].startswith("  b1: 0 of 8 removable (zero on every example)  [")
    assert lines[2].startswith("    8 more only while zero where `dot_general` reads them at ")
    assert "test_reports.py" in lines[2]


def test_a_constant_that_a_bias_takes_up_is_a_condition():
    lines = _lines(
        lambda p, x: (_hidden(p, x) + p["shift"][None]) @ p["w2"] + p["b2"][None], _params(shift=(8,), b2=(3,))
    )
    assert lines[0] == "8 neurons in 1 activations, 8 removable units"
    assert lines[1].startswith("  b1: 8 of 8 removable")
    assert lines[2].startswith("    8 of them only while constant where `dot_general` reads them at ")
    assert lines[2].endswith(": it is folded into b2")


def test_no_condition_where_every_consumer_sees_zero():
    lines = _lines(lambda p, x: _hidden(p, x) @ p["w2"], _params())
    assert len(lines) == 2
    assert lines[1].startswith("  b1: 8 of 8 removable")


class _Normalized(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(x)
        x = nn.relu(nn.InstanceNorm()(nn.Conv(8, (3,))(x)))
        x = nn.Dense(6)(x) + nn.Dense(6)(nn.GroupNorm(num_groups=2)(x))
        return nn.Dense(2)(nn.LayerNorm()(x).mean(1))


def test_the_variance_of_a_norm_is_no_activation():
    x = batch((2, 7, 3))
    network = _Normalized()
    variables = network.init(jax.random.key(0), x)
    graph = demp_jax.trace(demp_linen.Forward(network), variables, x)
    assert len(graph.sites) == 1
    assert not graph.refusals, graph.report()


def test_a_scale_of_the_input_is_no_activation():
    def network(p, x):
        x = x / jnp.maximum(jnp.abs(x).mean(1, keepdims=True), 1e-6)
        return _hidden(p, x) @ p["w2"]

    graph = demp_jax.trace(network, _params(), X)
    assert [site.name for site in graph.sites] == ["b1"]
    assert not graph.refusals


def test_a_unit_made_from_a_statistic_is_an_activation():
    def network(p, x):  # Units that see nothing but the mean of the hidden layer.
        mean = _hidden(p, x).mean(1, keepdims=True)
        return relu(mean * p["scale"][None]) @ p["w3"]

    graph = demp_jax.trace(network, _params(scale=(6,), w3=(6, 3)), X)
    assert [site.width for site in graph.sites] == [8, 6]


class _Recurrent(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn, self.up = nnx.RNN(cell(3, 6, rngs=rngs)), nnx.Linear(6, 10, rngs=rngs)
        self.out = nnx.Linear(10, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(relu(self.up(relu(self.rnn(x)))))


@pytest.mark.parametrize("cell", [nnx.SimpleCell, nnx.GRUCell, nnx.LSTMCell])
def test_a_long_recurrence_is_called_one(cell):
    graph = demp_nnx.trace(_Recurrent(cell, nnx.Rngs(0)), batch((2, 33, 3)))
    assert graph.widths["up"] == 10
    assert graph.num_groups == 10
    [refusal] = [r for r in graph.refusals if r.what == "rnn/cell" or r.what.startswith("rnn")]
    assert "hidden state of a recurrence (`scan`)" in refusal.reason
    assert "at most 32 steps" in refusal.reason
    assert "test_reports.py" in refusal.source
    assert "stacked" not in graph.report()


def test_units_of_a_loop_are_one_line():
    def network(p, x):
        state = jax.lax.fori_loop(0, 3, lambda i, s: s + relu(s @ p["w1"]) @ p["down"], x)
        return state @ p["out"]

    report = demp_jax.trace(network, _params(down=(8, X.shape[-1]), out=(X.shape[-1], 2)), X).report()
    assert "w1 to w1_3 (3 uses of the same units): 8 of 8 removable" in report
    assert "together with" not in report


def test_layers_inside_a_map_are_refused():
    def network(p, x):
        return jax.lax.map(lambda row: relu(row @ p["w1"]) @ p["w2"], x)

    graph = demp_jax.trace(network, _params(), X)
    assert not graph.sites
    [refusal] = graph.refusals
    assert refusal.what == "what meets `scan`"
    assert "read inside a `scan`, where units are not followed" in refusal.reason


@pytest.mark.parametrize(
    ("fn", "operation"),
    [
        (lambda p, x: _hidden(p, x), "max"),
        (lambda p, x: (_hidden(p, x) * np.linspace(0, 1, 8)[None]) @ p["w2"], "mul"),
        (lambda p, x: jax.nn.softmax(_hidden(p, x)) @ p["w2"], "reduce_max"),
        (lambda p, x: _hidden(p, x)[:, ::2] @ p["w2"][:4], "slice"),
    ],
)
def test_refusals_name_the_operation_and_its_line(fn, operation):
    graph = demp_jax.trace(fn, _params(), X)
    [refusal] = [r for r in graph.refusals if r.what == "b1"]
    assert f"`{operation}`" in refusal.reason
    assert "test_reports.py" in refusal.source


def test_an_operation_that_meets_no_unit_is_no_refusal():
    def network(p, x):
        x = jax.pure_callback(lambda y: y, x, x)
        return _hidden(p, jax.lax.platform_dependent(x, cpu=lambda y: y, default=lambda y: y + 0)) @ p["w2"]

    graph = demp_jax.trace(network, _params(), X)
    assert not graph.refusals
    assert graph.num_groups == 8


def test_what_meets_a_value_that_is_not_followed_names_where_it_came_from():
    def network(p, x):
        sorted_scores = jnp.sort(x @ p["w3"], -1)
        return (_hidden(p, x) + sorted_scores) @ p["w2"]

    [refusal] = demp_jax.trace(network, _params(w3=(5, 8)), X).refusals
    assert "the result of `sort` (" in refusal.reason
    assert "whose positions are not followed (`add`)" in refusal.reason


def test_advice_fits_the_network():
    def fixed(p, x):
        return _hidden(p, x) @ (p["w2"] + jnp.zeros((8, 3)))

    params = _params()
    params["b1"] = params["b1"].at[:2].set(-99.0)
    with pytest.raises(ValueError, match="cannot run at smaller widths") as error:
        demp_jax.prune(fixed, params, [X])
    assert "refit" not in str(error.value)

    class Fixed(nnx.Module):
        def __init__(self):
            self.params = nnx.data({name: nnx.Param(value) for name, value in params.items()})

        def __call__(self, x):
            return fixed({name: value[...] for name, value in self.params.items()}, x)

    with pytest.raises(ValueError, match=r"method `refit\(\)`"):
        demp_nnx.prune(Fixed(), [X])


def test_variables_that_no_output_depends_on():
    def network(p, x):
        h = _hidden(p, x)
        jax.debug.callback(lambda y: None, h @ p["printed"])
        lost = h @ p["lost"]
        read, _ = jax.lax.scan(
            lambda s, w: ((s[0] + s[1], s[1] * p["carried"], s[2] * p["dropped"]), s[2] @ w),
            (h @ p["w2"], jnp.ones((4, 3)), jnp.ones((4, 3))),
            p["slices"],
        )
        picked = jax.lax.cond(x[0, 0] > 0, lambda a, b: a * 2, lambda a, b: a, p["kept"], p["other"])
        return read[0] * picked + jax.lax.stop_gradient(0 * lost.shape[0])

    shapes = {"printed": (8, 1), "lost": (8, 2), "carried": (), "dropped": (), "slices": (2, 3, 3)}
    graph = demp_jax.trace(network, _params(**shapes, kept=(4, 3), other=(4, 3)), X)
    assert set(graph.unread) == {"printed", "lost", "dropped", "slices", "other"}
    assert graph.report().splitlines()[-1] == "read by no output: dropped, lost, other, printed, slices"
    assert "read by no output" not in demp_jax.trace(lambda p, x: _hidden(p, x) @ p["w2"], _params(), X).report()


def _labeled(fn, params, updates):
    program = program_lib.trace(fn, params, X)
    names = sorted(params)
    numbered = {output: names.index(name) for output, name in updates.items()}
    labels = rules.label(program, len(names), 1, 0, numbered)
    component, frozen = labels.components()
    axes = {name: labels.axes[program.inputs[i]] for i, name in enumerate(names)}
    return axes, component, frozen


def _training(p, x):
    h = _hidden(p, x)
    seen = 0.9 * p["seen"] + 0.1 * (h > 0).mean(0)
    return h @ p["w2"], {"seen": seen, "steps": p["steps"] + 1}


def test_a_state_update_goes_with_the_units_it_is_made_of():
    params = _params(seen=(8,)) | {"steps": jnp.zeros((), jnp.int32)}
    axes, component, frozen = _labeled(_training, params, {1: "seen", 2: "steps"})
    units = component[axes["w1"][1]]
    np.testing.assert_array_equal(component[axes["seen"][0]], units)
    assert (frozen[units] < 0).all()
    axes, component, frozen = _labeled(_training, params, {})  # As an output of the network it stays.
    assert (frozen[component[axes["w1"][1]]] >= 0).all()

    def replaced(p, x):  # The new value does not read the old one.
        h = _hidden(p, x)
        return h @ p["w2"], (h > 0).mean(0)

    axes, component, frozen = _labeled(replaced, params, {1: "seen"})
    np.testing.assert_array_equal(component[axes["seen"][0]], component[axes["w1"][1]])


def test_updates_that_are_none():
    params = _params(seen=(8,), rows=(4,)) | {"steps": jnp.zeros((), jnp.int32)}
    with pytest.raises(ValueError, match=r"updates\[0\]=3: the new value has shape \(4, 3\), the variable \(\)"):
        _labeled(_training, params, {0: "steps"})
    with pytest.raises(ValueError, match=r"updates\[7\]=2 must be the positions of one of 3 outputs and of one of 6"):
        _labeled(_training, params, {7: "seen"})

    def rows(p, x):  # The new value lies along the examples, which stay.
        h = _hidden(p, x)
        return h @ p["w2"], h.mean(1)

    axes, component, frozen = _labeled(rows, params, {1: "rows"})
    assert (frozen[component[axes["rows"][0]]] >= 0).all()


def test_features_without_an_activation_are_named_with_a_remedy():
    def network(p, x, mark=lambda h: h):
        return jax.nn.relu(mark(x @ p["a"]) @ p["b"]) @ p["c"]

    params = {"a": batch((5, 4)), "b": batch((4, 6), 1), "c": batch((6, 2), 2)}
    graph = demp_jax.trace(network, params, batch((8, 5)))
    assert graph.linear == ("a",)
    assert 'no units, as no activation that saturates at zero follows: a; extra_units="features" or' in graph.report()
    marked = functools.partial(network, mark=lambda h: demp_jax.mark_units(h, "bottleneck", kind="zero"))
    graph = demp_jax.trace(marked, params, batch((8, 5)))
    assert graph.linear == ()
    assert graph.widths == {"bottleneck": 4, "b": 6}
    dead = {**params, "a": params["a"].at[:, :2].set(0.0)}
    assert demp_jax.prune(marked, dead, [batch((8, 5))]).record.removed["bottleneck"] == 2
