"""Networks on which a careless trace or cut goes wrong: each is cut rightly, or left whole with a reason."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import demp_jax
from demp_jax import linen as demp_linen
from demp_jax import nnx as demp_nnx
from tests import helpers
from tests.helpers import batch


def _params(dead=2, *shapes):
    """Weights of a hidden layer of 8 units on 5 features, the first `dead` of them dead, and further arrays."""
    params = {"w1": batch((5, 8)), "b1": jnp.zeros(8).at[:dead].set(-99.0)}
    return params | {f"w{i}": batch(shape, i) for i, shape in enumerate(shapes, start=2)}


def _hidden(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"][None])


def _cut(fn, params, x, **options):
    result = demp_jax.prune(fn, params, [x], **helpers.pruning(**options))
    np.testing.assert_allclose(result.fn(result.variables, x), fn(params, x), rtol=1e-4, atol=1e-4)
    return result


X = batch((9, 5), 99)


@pytest.mark.parametrize(
    "fn",
    [
        lambda p, x: 1 - _hidden(p, x) @ p["w2"],
        lambda p, x: jax.nn.relu(_hidden(p, x) @ p["w2"] - 0.5),
        lambda p, x: nnx.hard_sigmoid(_hidden(p, x) @ p["w2"]),
    ],
    ids=["one_minus", "minus_half", "hard_sigmoid"],
)
def test_a_number_after_a_contraction(fn):
    assert _cut(fn, _params(2, (8, 3)), X).record.removed["b1"] == 2


@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.relu])
def test_a_unit_whose_raw_value_is_read_elsewhere_stays(activation):
    params = {"w1": jnp.abs(batch((5, 8))), "w2": jnp.abs(batch((8, 6), 2)), "w3": batch((6, 3), 3)}
    params |= {"w4": batch((6, 3), 4), "b1": jnp.zeros(8).at[0].set(-99.0)}
    params["w2"] = params["w2"].at[:, 1].set(-50.0)

    def network(p, x):
        y = _hidden(p, x) @ p["w2"]  # The second of its units is dead after the activation, and read before it, too.
        return activation(y) @ p["w3"] + y @ p["w4"]

    result = _cut(network, params, jnp.abs(X) + 1)
    assert result.record.removed == {"b1": 1}
    assert result.record.needed == {"w2": 1}


def test_without_exact_zeros_the_cut_is_held_to_the_masked_network():
    params = _params(4, (8, 3))
    soft = lambda p, x: jax.nn.gelu(x @ p["w1"] + p["b1"][None]) @ p["w2"]  # noqa: E731
    record = _cut(soft, params, X).record
    assert record.removed == {"b1": 4}
    assert record.deviation <= record.difference <= 1e-5

    def divided(p, x):  # What it computes depends on the width itself.
        return soft(p, x) / p["w2"].shape[0]

    result = demp_jax.prune(divided, params, [X])
    assert "from those of the masked network" in result.record.refused
    assert result.plan is None
    assert result.record.spared == ["b1"]


def test_the_criterion_may_change_outputs_and_the_cut_may_not():
    params = _params(0, (8, 3))
    leaky = lambda p, x: jax.nn.leaky_relu(x @ p["w1"] + p["b1"][None], 0.05) @ p["w2"]  # noqa: E731
    params["b1"] = params["b1"].at[0].set(-9.0)
    record = demp_jax.prune(leaky, params, [X]).record
    assert record.removed == {"b1": 1}
    assert record.difference > 0.05
    assert record.deviation < 1e-5


def test_only_the_sites_that_change_outputs_are_spared():
    params = _params(2, (8, 6), (6, 3)) | {"b2": jnp.zeros(6).at[:3].set(-99.0)}

    def network(p, x):
        h = jax.nn.relu(_hidden(p, x) @ p["w2"] + p["b2"][None])
        return h @ p["w3"] / h.shape[-1]  # The second site cannot shrink.

    result = demp_jax.prune(network, params, [X])
    assert result.record.removed == {"b1": 2}
    assert result.record.spared == ["b2"]
    assert result.record.refused is None
    np.testing.assert_allclose(network(result.variables, X), network(params, X), rtol=1e-5)
    assert "left whole since the outputs would change: b2" in str(result.record)


def test_a_constant_is_not_folded_into_a_bias_that_others_read():
    params = _params(1, (8, 3)) | {"c": batch((8,), 5), "end": batch((3,), 6), "wa": batch((3, 4), 7)}
    params["wb"] = batch((3, 4), 8)

    def tower(p, x):
        return (_hidden(p, x) + p["c"][None]) @ p["w2"] + p["end"][None]

    def siamese(p, x):
        return tower(p, x) @ p["wa"] + tower(p, 2 * x) @ p["wb"]

    result = _cut(siamese, params, X)
    assert not result.record.refused
    assert sum(result.record.needed.values()) >= 1
    # Read once, it takes the constant up.
    assert _cut(tower, params, X).record.removed == {"b1": 1}


def test_what_lies_along_another_axis_is_no_bias():
    tokens = batch((4, 6, 6), 1)
    params = {"w1": batch((6, 8)), "b1": jnp.zeros(8).at[0].set(-99.0), "c": batch((8,), 5)}
    params |= {"w2": batch((8, 6), 2), "positions": batch((6,), 3)}

    def network(p, x):
        h = jax.nn.relu(x @ p["w1"] + p["b1"][None, None]) + p["c"][None, None]
        return h @ p["w2"] + p["positions"][None, :, None]  # As long as the features, but along the tokens.

    result = _cut(network, params, tokens)
    assert result.record.needed == {"b1": 1}


def test_outputs_that_are_not_finite():
    params = _params(2, (8, 6), (6, 3))

    def second_is_nan(p, x):
        y = _hidden(p, x) @ p["w2"] @ p["w3"]
        return y, jnp.where(p["w2"].shape[0] == 8, y, jnp.nan)

    record = demp_jax.prune(second_is_nan, params, [X]).record
    assert np.isnan(record.difference)
    assert record.refused

    def masked(p, x):  # As logits of words that are not allowed.
        return (_hidden(p, x) @ p["w2"] @ p["w3"]).at[:, 0].set(-jnp.inf)

    record = demp_jax.prune(masked, params, [X]).record
    assert record.removed == {"b1": 2}
    assert record.difference <= 1e-5
    assert np.isfinite(record.scale)


def test_scanned_layers_count():
    def network(p, x):
        def layer(h, w):
            return jnp.tanh(h @ w), None

        h, _ = jax.lax.scan(layer, x, p["stack"])
        return jax.nn.relu(h @ p["w1"] + p["b1"][None]) @ p["w2"]

    params = _params(2, (8, 3)) | {"stack": batch((3, 5, 5), 5)}
    graph = demp_jax.trace(network, params, X)
    assert graph.flops() == 2 * (3 * 5 * 5 + 5 * 8 + 8 * 3)
    assert _cut(network, params, X).record.flops[1] == 2 * (3 * 5 * 5 + 5 * 6 + 6 * 3)


class _Tokens(nnx.Module):
    """An MLP beside learned tokens, whose positions are labeled, too."""

    def __init__(self, tokens, rngs):
        self.embed = nnx.Linear(16, 8, rngs=rngs)
        self.registers = nnx.Param(jnp.ones((1, tokens, 8)) * 0.1)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        x = jnp.concatenate([jnp.broadcast_to(self.registers[...], (x.shape[0], *self.registers.shape[1:])), x], 1)
        x = x + self.down(nnx.relu(self.up(self.norm(x))))
        return self.out(x[:, 0])


@pytest.mark.parametrize("tokens", [1, 2])
def test_units_beside_learned_tokens(tokens):
    model = _Tokens(tokens, nnx.Rngs(0))
    model.up.bias[...] = model.up.bias[...].at[:3].set(-99.0)
    assert demp_nnx.prune(model, [batch((4, 5, 16))]).removed == {"up": 3}


def test_a_mark_stands_for_what_it_is_made_of():
    params = {"wa": batch((5, 8)), "wb": batch((5, 8), 1).at[:, :3].set(0.0), "out": batch((8, 2), 2)}

    def gated(p, x):
        return demp_jax.mark_units(jax.nn.silu(x @ p["wa"]) * (x @ p["wb"]), "gate", kind="zero") @ p["out"]

    graph = demp_jax.trace(gated, params, X)
    assert graph.widths == {"gate": 8}
    assert _cut(gated, params, X).record.removed == {"gate": 3}


def test_inputs_can_be_trees():
    def network(p, x):
        return (_hidden(p, x["tokens"]) * x["mask"][:, None]) @ p["w2"]

    result = _cut(network, _params(2, (8, 3)), {"tokens": X, "mask": jnp.ones(9)})
    assert result.record.removed == {"b1": 2}
    assert result.record.examples == 9


def test_an_array_in_place_of_batches():
    with pytest.raises(ValueError, match=r"batches must be a list of batches; got one array of shape \(9, 5\)"):
        demp_jax.prune(lambda p, x: _hidden(p, x) @ p["w2"], _params(2, (8, 3)), X)


def test_a_network_with_written_widths_is_named():
    def fixed(p, x):
        return _hidden(p, x) @ (p["w2"] + jnp.broadcast_to(jnp.float32(0), (8, 3)))

    with pytest.raises(ValueError, match=r"cannot run at smaller widths \(b1 8 -> 6\).*exclude=\[...\]"):
        demp_jax.prune(fixed, _params(2, (8, 3)), [X])
    with pytest.raises(ValueError, match=r"no prunable unit found: b1: it is excluded by 'b1'"):
        demp_jax.prune(fixed, _params(2, (8, 3)), [X], options=demp_jax.PruneOptions(exclude="b1"))


def test_factored_moments_are_not_mixed_up():
    # The longer axis of the kernel becomes the shorter one: the column moments have the shape wanted of the row ones.
    params = {"in": batch((8, 140)) / 3, "k": batch((140, 140), 1) / 12, "out": batch((140, 4), 2)}
    params["b"] = jnp.zeros(140).at[:10].set(-99.0)

    def network(p, x):
        return jax.nn.relu(jnp.tanh(x @ p["in"]) @ p["k"] + p["b"][None]) @ p["out"]

    x = batch((64, 8), 4)
    tx = optax.chain(optax.scale_by_factored_rms(), optax.trace(0.9))
    state = tx.init(params)
    grads = jax.grad(lambda p: jnp.mean((network(p, x) - 1) ** 2))(params)
    for _ in range(3):
        _, state = tx.update(grads, state, params)
    result = demp_jax.prune(network, params, [x], opt_state=state, tx=tx)
    factored, momentum = result.opt_state
    fresh = tx.init(result.variables)[0]
    helpers.assert_trees_close(factored, fresh, rtol=0, atol=0)
    # The counter with it: an old one would take the new moments for well averaged.
    assert int(factored.count) == 0
    assert {"0/count", "0/v_row/k", "0/v_col/k"} <= set(result.record.reset)
    np.testing.assert_array_equal(momentum.trace["k"], state[1].trace["k"][:, 10:])
    assert momentum.trace["k"].shape == (140, 130)


def test_a_sharding_that_no_longer_divides_is_dropped():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    params = _params(1, (8, 3))
    split = {"w1": PartitionSpec(None, "model"), "b1": PartitionSpec("model"), "w2": PartitionSpec("model")}
    placed = {name: jax.device_put(value, NamedSharding(mesh, split[name])) for name, value in params.items()}
    for dead, spec in ((1, None), (2, "model")):
        network = lambda p, x: _hidden(p, x) @ p["w2"]  # noqa: E731
        placed["b1"] = jax.device_put(params["b1"].at[:dead].set(-99.0), placed["b1"].sharding)
        result = demp_jax.prune(network, placed, [X])
        assert result.variables["w1"].shape == (5, 8 - dead)
        assert result.variables["w1"].sharding.spec[1] == spec


class _Stacked(nnx.Module):
    """Layers stacked by `nnx.vmap` and run by a scan, beside a layer that can shrink."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return nnx.Linear(6, 6, rngs=rngs)

        self.stack = make(rngs)
        self.up, self.norm = nnx.Linear(6, 10, rngs=rngs), nnx.BatchNorm(10, rngs=rngs)
        self.out = nnx.Linear(10, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.scan(lambda h, layer: nnx.tanh(layer(h)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.stack)
        return self.out(nnx.relu(self.norm(self.up(x))))


def test_stacked_layers_beside_a_cut():
    model = _Stacked(nnx.Rngs(0))
    helpers.kill_units(model, np.random.default_rng(0))
    model.eval()
    before = model(batch((7, 6)))
    demp_nnx.prune(model, [batch((7, 6))])
    assert model.out.in_features < 10
    np.testing.assert_allclose(model(batch((7, 6))), before, rtol=1e-5, atol=1e-6)


class _Attends(nnx.Module):
    def __init__(self, rngs):
        self.up, self.norm = nnx.Linear(6, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 16, 8, 8, decode=False, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(self.attention(nnx.relu(self.norm(self.up(x)))).mean(1))


def test_attention_over_a_cut_layer():
    model, average = _Attends(nnx.Rngs(0)), _Attends(nnx.Rngs(1))
    for each in (model, average):
        helpers.kill_units(each, np.random.default_rng(0))
    model.eval()
    x = batch((3, 4, 6))
    before = model(x)
    record = demp_nnx.prune(model, [x], copies=[average])
    assert record.removed["norm"] >= 3
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)
    # The other model shrank with it.
    helpers.assert_same_shapes(nnx.as_pure(nnx.state(average)), nnx.as_pure(nnx.state(model)))
    assert average(x).shape == before.shape


class _LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3), name="conv")(x))
        x = nn.relu(nn.Conv(16, (3, 3), feature_group_count=x.shape[-1], name="depthwise")(x))
        x = nn.relu(nn.ConvTranspose(12, (3, 3), strides=(2, 2), name="up")(x))
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = nn.MultiHeadDotProductAttention(2, name="attention")(tokens)
        return nn.Dense(3)(tokens.mean(1))


def test_linen_layers_at_other_widths():
    module = _LinenNet()
    x = batch((2, 4, 4, 3))
    variables = module.init(jax.random.key(0), x)
    params = variables["params"]
    # More than half of the channels of the depthwise convolution, and some of the transposed one.
    for name, dead in (("conv", 11), ("up", 5)):
        bias = params[name]["bias"]
        params[name] = {**params[name], "bias": bias.at[:dead].set(-99.0)}
    params["depthwise"] = {**params["depthwise"], "bias": jnp.full(16, -1e-3)}
    network = demp_linen.Forward(module)
    result = demp_jax.prune(network, variables, [x])
    assert result.record.removed["conv"] >= 11
    assert result.record.removed["up"] >= 5
    np.testing.assert_allclose(network(result.variables, x), network(variables, x), rtol=1e-4, atol=1e-5)


def _gated(p, x):
    return (jax.nn.silu(x @ p["a"]) * jax.nn.softplus(x @ p["b"])) @ p["c"]


def test_a_unit_that_is_multiplied_by_zero_is_removed():
    """Of two activations that are multiplied it is enough that one is zero; softplus never is."""
    params = {"a": batch((5, 6)), "b": batch((5, 6), 1), "c": batch((6, 3), 2)}
    params["a"] = params["a"] * np.array([[0, 1, 1, 0, 1, 1]], np.float32)
    graph = demp_jax.trace(_gated, params, X)
    assert [enough.tolist() for enough in graph.sufficient] == [[True] * 6, [True] * 6]
    result = demp_jax.prune(_gated, params, [X])
    assert {name: leaf.shape for name, leaf in result.variables.items()} == {"a": (5, 4), "b": (5, 4), "c": (4, 3)}
    np.testing.assert_allclose(_gated(result.variables, X), _gated(params, X), rtol=1e-5, atol=1e-6)


def test_a_unit_that_is_also_read_elsewhere_stays():
    def network(p, x):
        a, b = jax.nn.relu(x @ p["a"]), jax.nn.relu(x @ p["b"])
        return (a * b) @ p["c"] + b @ p["c"]

    params = {"a": -jnp.abs(batch((5, 6))), "b": batch((5, 6), 1), "c": batch((6, 3), 2)}
    positive = jnp.abs(X)
    graph = demp_jax.trace(network, params, positive)
    enough = dict(zip(graph.widths, graph.sufficient, strict=True))
    assert (enough["a"].any(), enough["b"].all()) == (False, True)
    result = demp_jax.prune(network, params, [positive])
    assert result.variables["a"].shape[1] > 1
    # The plan has kept them, not the proof.
    assert (result.record.refused, result.record.spared) == (None, [])
    np.testing.assert_allclose(network(result.variables, positive), network(params, positive), rtol=1e-5, atol=1e-6)


def test_a_group_with_several_units_at_a_site_needs_all_of_them_to_be_zero():
    """A depthwise convolution with two outputs for each channel: one of them is zero for the first two channels."""

    def network(p, x):
        h = jax.nn.relu(x @ p["a"])[:, None]
        layout = {"dimension_numbers": ("NWC", "WIO", "NWC"), "feature_group_count": h.shape[-1]}
        h = jax.lax.conv_general_dilated(h, p["b"], (1,), "VALID", **layout)
        return jax.nn.relu(h[:, 0]) @ p["c"]

    params = {"a": jnp.abs(batch((5, 6))), "b": jnp.abs(batch((1, 1, 12), 1)), "c": batch((12, 3), 2)}
    x = jnp.abs(X)
    half = {**params, "b": params["b"].at[..., jnp.array([0, 2])].set(-1.0)}
    assert demp_jax.prune(network, half, [x]).record.removed == {}
    whole = {**params, "b": params["b"].at[..., :4].set(-1.0)}
    result = demp_jax.prune(network, whole, [x])
    assert (result.variables["a"].shape, result.variables["b"].shape) == ((5, 4), (1, 1, 8))
    assert result.record.difference < 1e-6
