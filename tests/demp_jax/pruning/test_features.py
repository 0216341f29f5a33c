# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Units of layers without an activation: `extra_units="features"`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
import demp_jax.linen
import demp_jax.nnx
from tests.helpers import batch

FEATURES = demp_jax.PruneOptions(extra_units="features")
X = batch((16, 5))


def _bottleneck(p, x):
    return jax.nn.relu(jnp.tanh(x @ p["tanh"]) @ p["narrow"] @ p["wide"]) @ p["out"]


def _params():
    shapes = {"tanh": (5, 7), "narrow": (7, 4), "wide": (4, 6), "out": (6, 2)}
    params = {name: batch(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    return params | {"tanh": params["tanh"].at[:, 1:3].set(0), "narrow": params["narrow"].at[:, 0].set(0)}


def test_linear_layers_and_tanh():
    params = _params()
    assert demp_jax.trace(_bottleneck, params, X).widths == {"wide": 6}
    graph = demp_jax.trace(_bottleneck, params, X, extra_units="features")
    assert graph.widths == {"wide": 6, "tanh": 7, "narrow": 4}
    assert graph.linear == ()
    tx = optax.adam(1e-2)
    result = demp_jax.prune(_bottleneck, params, [X], opt_state=tx.init(params), tx=tx, options=FEATURES)
    assert {name: result.record.removed[name] for name in ("tanh", "narrow")} == {"tanh": 2, "narrow": 1}
    kept = {"tanh": [0, 3, 4, 5, 6], "narrow": [1, 2, 3]}
    np.testing.assert_array_equal(result.variables["tanh"], params["tanh"][:, np.array(kept["tanh"])])
    np.testing.assert_array_equal(result.variables["narrow"], params["narrow"][np.ix_(kept["tanh"], kept["narrow"])])
    assert result.opt_state[0].mu["narrow"].shape == (5, 3)
    np.testing.assert_allclose(_bottleneck(result.variables, X), _bottleneck(params, X), rtol=1e-5, atol=1e-6)
    activity = demp_jax.with_activity(_bottleneck, extra_units="features")(params, X)[1]
    np.testing.assert_array_equal(np.flatnonzero(~np.asarray(activity["tanh"].nonzero)), [1, 2])


def test_a_sum_of_layers_is_one_set_of_features():
    """A channel leaves only if it is zero wherever it is read, not at its last sum alone."""

    def network(p, x):
        h = x @ p["stem"]
        h = h + jax.nn.relu(h @ p["up"]) @ p["down"]
        h = h + p["shift"][None]
        return h @ p["out"]

    shapes = {"stem": (5, 6), "up": (6, 8), "down": (8, 6), "out": (6, 3)}
    params = {name: batch(shape, i) for i, (name, shape) in enumerate(shapes.items())} | {"shift": jnp.zeros(6)}
    # Channel 0 is zero throughout, 1 is only read as zero by the last layer, 2 becomes a constant.
    params["stem"] = params["stem"].at[:, np.array([0, 2])].set(0)
    params["down"] = params["down"].at[:, np.array([0, 2])].set(0)
    params["shift"] = params["shift"].at[2].set(1.0)
    record = demp_jax.prune(network, params, [X], options=FEATURES).record
    assert record.neurons[0] == 8 + 6
    assert sum(count for name, count in record.removed.items() if name != "up") == 1
    constant = demp_jax.PruneOptions(extra_units="features", constant=1e-6)
    biased = params | {"bias": jnp.zeros(3)}
    result = demp_jax.prune(lambda p, x: network(p, x) + p["bias"][None], biased, [X], options=constant)
    assert sum(count for name, count in result.record.removed.items() if name != "up") == 2
    np.testing.assert_allclose(result.variables["bias"], params["out"][2], rtol=1e-6)


class _Inverted(nnx.Module):
    """An inverted residual block with a linear bottleneck, as in MobileNetV2."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 6, (1, 1), rngs=rngs)
        self.up, self.down = nnx.Conv(6, 12, (1, 1), rngs=rngs), nnx.Conv(12, 6, (1, 1), use_bias=False, rngs=rngs)
        self.norm, self.out = nnx.BatchNorm(6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        h = self.stem(x)
        return self.out((h + self.norm(self.down(nnx.relu(self.up(h))))).mean((1, 2)))


def test_linear_bottlenecks_of_a_model():
    model, x = _Inverted(nnx.Rngs(0)), batch((8, 4, 4, 3))
    model.stem.kernel[...] = model.stem.kernel[...].at[..., :2].set(0)
    model.norm.scale[...] = model.norm.scale[...].at[:3].set(0)
    model.eval()
    before = model(x)
    record = demp_jax.nnx.prune(model, [x], options=FEATURES)
    assert record.neurons[0] == 12 + 6
    assert model.out.in_features == model.norm.num_features == 4
    np.testing.assert_allclose(model(x), before, rtol=1e-5, atol=1e-6)


class _Embedded(nn.Module):
    """Embeddings that are read by a layer and, transposed, as the last one."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 6, name="embed")
        h = embed(tokens)
        return embed.attend(h + nn.Dense(6, name="down")(nn.relu(nn.Dense(9, name="up")(h))))


def test_embeddings_of_linen():
    module, tokens = _Embedded(), jnp.arange(14).reshape(2, 7) % 7
    variables = module.init(jax.random.key(0), tokens)
    params = variables["params"]
    params["embed"]["embedding"] = params["embed"]["embedding"].at[:, :2].set(0)
    params["down"]["kernel"] = params["down"]["kernel"].at[:, :2].set(0)
    result = demp_jax.prune(demp_jax.linen.Forward(module), variables, [tokens], options=FEATURES)
    assert result.variables["params"]["embed"]["embedding"].shape == (7, 4)
    with demp_jax.linen.widths_from_variables():
        after = module.apply(result.variables, tokens)
    np.testing.assert_allclose(after, module.apply(variables, tokens), rtol=1e-5, atol=1e-6)


def test_parts_of_attention_heads_are_no_units():
    attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=nnx.Rngs(0))
    model = nnx.Sequential(nnx.Linear(5, 6, rngs=nnx.Rngs(0)), attention, nnx.Linear(6, 3, rngs=nnx.Rngs(1)))
    graph = demp_jax.nnx.trace(model, batch((4, 3, 5)), extra_units="features")
    # What feeds the attention, and what it hands on.
    assert sorted(graph.widths.values()) == [6, 6]


def test_unknown_units_are_refused():
    with pytest.raises(ValueError, match="extra_units must be of heads, features; got 'head'"):
        demp_jax.PruneOptions(extra_units="head")
    with pytest.raises(ValueError, match="extra_units must be of heads, features; got 'neurons'"):
        demp_jax.trace(_bottleneck, _params(), X, extra_units=["neurons"])
