"""Attention heads as units: found in modules and in code written by hand, removed exactly, refitted."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
from baselines import random_units, snap, structured
from demp_jax import PruneOptions
from demp_jax import nnx as demp_nnx
from demp_jax.linen import Forward, widths_from_variables
from experiments.training.loop import train_and_evaluate
from tests.helpers import batch, cross_entropy
from tests.runs import lines, short_config

HEADS = PruneOptions(extra_units="heads")
X = batch((6, 7, 8))
KILLED = np.array([False, True, False, True])


def _by_hand(p, x):
    examples, tokens, _ = x.shape
    q, k, v = ((x @ p[name]).reshape(examples, tokens, 4, 2) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k), -1)
    out = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
    return (out.reshape(examples, tokens, -1) @ p["o"]).mean(1)


def _resizing(p, x):
    """The same, with the number of heads from the weights."""
    examples, tokens, _ = x.shape
    q, k, v = ((x @ p[name]).reshape(examples, tokens, -1, 2) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k), -1)
    out = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
    return (out.reshape(examples, tokens, -1) @ p["o"]).mean(1)


def _grouped_queries(p, x):
    """Two heads of keys and values, each for two of queries."""
    examples, tokens, _ = x.shape
    q = (x @ p["q"]).reshape(examples, tokens, -1, 2, 2)
    k, v = ((x @ p[name]).reshape(examples, tokens, -1, 2) for name in "kv")
    weights = jax.nn.softmax(jnp.einsum("bnhgd,bmhd->bhgnm", q, k), -1)
    out = jnp.einsum("bhgnm,bmhd->bnhgd", weights, v)
    return (out.reshape(examples, tokens, -1) @ p["o"]).mean(1)


def _params(k=8):
    return {name: batch((8, size), i) for i, (name, size) in enumerate([("q", 8), ("k", k), ("v", k), ("o", 8)])}


def test_heads_are_no_units_unless_asked_for():
    assert demp_jax.trace(_resizing, _params(), X).widths == {}
    graph = demp_jax.trace(_resizing, _params(), X, extra_units="heads")
    assert graph.widths == {"heads": 4}
    assert graph.num_groups == 4


def test_heads_by_hand():
    params = _params()
    dead = np.repeat(KILLED, 2)
    params["v"] = params["v"] * ~dead[None]
    result = demp_jax.prune(_resizing, params, [X], options=HEADS)
    assert {name: leaf.shape for name, leaf in result.variables.items()} == {
        **dict.fromkeys("qkv", (8, 4)),
        "o": (4, 8),
    }
    np.testing.assert_array_equal(result.variables["q"], params["q"][:, ~dead])
    np.testing.assert_allclose(_resizing(result.variables, X), _resizing(params, X), rtol=1e-5, atol=1e-6)


def test_a_number_of_heads_in_the_code_is_one_clear_line():
    with pytest.raises(ValueError, match="cannot run at smaller widths"):
        demp_jax.prune(_by_hand, _params(), [X], remove={"heads": KILLED}, options=HEADS)


def test_grouped_queries_lose_their_keys_and_values_together():
    params = _params(k=4)
    result = demp_jax.prune(_grouped_queries, params, [X], remove={"heads": np.array([True, False])}, options=HEADS)
    assert {name: leaf.shape for name, leaf in result.variables.items()} == {
        "q": (8, 4),
        "k": (8, 2),
        "v": (8, 2),
        "o": (4, 8),
    }


def _attend(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k), -1)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def _parts_indexed(p, x):
    qkv = (x @ p["qkv"]).reshape(*x.shape[:2], 3, -1, 2)
    return jnp.einsum("bnhd,hde->be", _attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]), p["o"])


def _parts_in_front(p, x):
    """As vision transformers do it: `[examples, tokens, 3, heads, size]`, transposed, and unpacked."""
    q, k, v = (x @ p["qkv"]).reshape(*x.shape[:2], 3, -1, 2).transpose(2, 0, 1, 3, 4)
    return jnp.einsum("bnhd,hde->be", _attend(q, k, v), p["o"])


def _parts_unstacked(p, x):
    q, k, v = jnp.unstack((x @ p["qkv"]).reshape(*x.shape[:2], 3, -1, 2), axis=2)
    return jnp.einsum("bnhd,hde->be", _attend(q, k, v), p["o"])


def _parts_split(p, x):
    q, k, v = (part.reshape(*x.shape[:2], -1, 2) for part in jnp.split(x @ p["qkv"], 3, axis=-1))
    return jnp.einsum("bnhd,hde->be", _attend(q, k, v), p["o"])


def _parts_within_heads(p, x):
    """`[examples, tokens, heads, 3, size]`: the parts are inside each head."""
    qkv = (x @ p["qkv"]).reshape(*x.shape[:2], -1, 3, 2)
    return jnp.einsum("bnhd,hde->be", _attend(qkv[..., 0, :], qkv[..., 1, :], qkv[..., 2, :]), p["o"])


@pytest.mark.parametrize("network", [_parts_indexed, _parts_in_front, _parts_unstacked, _parts_split])
def test_heads_of_a_fused_projection(network):
    weights = np.array(batch((8, 3, 4, 2)))
    weights[:, 2, KILLED] = 0
    params = {"qkv": jnp.asarray(weights.reshape(8, 24)), "o": batch((4, 2, 3), 1)}
    result = demp_jax.prune(network, params, [X], options=HEADS)
    assert result.record.removed == {"heads": 2}
    np.testing.assert_array_equal(result.variables["qkv"], weights[:, :, ~KILLED].reshape(8, 12))
    np.testing.assert_array_equal(result.variables["o"], params["o"][~KILLED])
    np.testing.assert_allclose(network(result.variables, X), network(params, X), rtol=1e-5, atol=1e-5)


def test_heads_of_a_fused_projection_with_the_parts_inside_each_head():
    weights = np.array(batch((8, 4, 3, 2)))
    weights[:, KILLED, 2] = 0
    params = {"qkv": jnp.asarray(weights.reshape(8, 24)), "o": batch((4, 2, 3), 1)}
    result = demp_jax.prune(_parts_within_heads, params, [X], options=HEADS)
    np.testing.assert_array_equal(result.variables["qkv"], weights[:, ~KILLED].reshape(8, 12))
    np.testing.assert_allclose(
        _parts_within_heads(result.variables, X), _parts_within_heads(params, X), rtol=1e-5, atol=1e-5
    )


def test_heads_of_fused_projections_in_a_scan():
    weights = np.array(batch((2, 8, 3, 4, 2)))
    weights[:, :, 2, KILLED] = 0
    params = {"qkv": jnp.asarray(weights.reshape(2, 8, 24)), "o": batch((2, 4, 2, 8), 1)}

    def network(params, x):
        def layer(x, p):
            qkv = (x @ p["qkv"]).reshape(*x.shape[:2], 3, -1, 2)
            return x + jnp.einsum("bnhd,hde->bne", _attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]), p["o"]), None

        return jax.lax.scan(layer, x, params)[0].mean(1)

    result = demp_jax.prune(network, params, [X], options=HEADS)
    assert result.record.neurons == (8, 4)
    np.testing.assert_array_equal(result.variables["qkv"], weights[..., ~KILLED, :].reshape(2, 8, 12))
    np.testing.assert_allclose(network(result.variables, X), network(params, X), rtol=1e-4, atol=1e-4)


def test_the_two_halves_of_a_gated_layer_that_are_an_axis():
    def network(p, x):
        h = (x @ p["up"]).reshape(*x.shape[:2], 2, -1)
        return ((jax.nn.relu(h[:, :, 0]) * h[:, :, 1]) @ p["down"]).mean(1)

    dead = np.arange(6) < 2
    weights = np.array(batch((8, 2, 6)))
    weights[:, 0, dead] = 0
    params = {"up": jnp.asarray(weights.reshape(8, 12)), "down": batch((6, 3), 1)}
    result = demp_jax.prune(network, params, [X])
    np.testing.assert_array_equal(result.variables["up"], weights[:, :, ~dead].reshape(8, 8))
    np.testing.assert_allclose(network(result.variables, X), network(params, X), rtol=1e-5, atol=1e-5)


class _Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 8, 16, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head((x + self.attention(self.norm(x))).mean(1))


def _killed():
    model = _Block(nnx.Rngs(0))
    alive = jnp.asarray(~KILLED)
    value = model.attention.value
    value.kernel.set_value(value.kernel[...] * alive[None, :, None])
    value.bias.set_value(value.bias[...] * alive[:, None])
    return model


def test_nnx_attention_is_pruned_with_its_optimizer_and_refitted():
    model = _killed()
    before = model(X)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    record = demp_nnx.prune(model, [X], optimizer, options=HEADS)
    assert record.removed == {"attention/heads": 2}
    assert (model.attention.num_heads, model.attention.qkv_features) == (2, 8)
    assert model.attention.out.kernel.shape == (2, 4, 8)
    np.testing.assert_allclose(model(X), before, rtol=1e-5, atol=1e-6)


def test_training_goes_on_as_of_the_masked_heads():
    """Three steps of Adam beside the network whose dead heads are held at zero."""
    labels = jnp.arange(6) % 3
    large, small = _killed(), _killed()
    demp_nnx.prune(small, [X], options=HEADS)

    def trained(model, mask):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        tx = optax.adam(1e-2)
        state = tx.init(params)
        for _ in range(3):
            grads = jax.grad(lambda p: cross_entropy(nnx.merge(graphdef, p, rest)(X), labels))(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            if mask is not None:
                value = params["attention"]["value"]
                value["kernel"].set_value(value["kernel"][...] * mask[None, :, None])
                value["bias"].set_value(value["bias"][...] * mask[:, None])
        return nnx.merge(graphdef, params, rest)

    one, other = trained(large, jnp.asarray(~KILLED)), trained(small, None)
    np.testing.assert_allclose(other(X), one(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        other.attention.query.kernel[...], one.attention.query.kernel[...][:, ~KILLED], rtol=1e-4, atol=1e-5
    )


def test_linen_attention():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.MultiHeadDotProductAttention(num_heads=4)(x).mean(1))

    net = Net()
    variables = net.init(jax.random.key(0), X)
    [site] = demp_jax.trace(Forward(net), variables, X, extra_units="heads").widths
    result = demp_jax.prune(Forward(net), variables, [X], remove={site: KILLED}, options=HEADS)
    assert result.record.refused is None
    with widths_from_variables():
        np.testing.assert_allclose(net.apply(result.variables, X), result.fn(result.variables, X), rtol=1e-5)
    assert result.record.neurons == (4, 2)


@pytest.mark.parametrize("score", [random_units.score, snap.score])
def test_scores_prune_heads(score):
    params = _params()
    pruned = structured.prune(_resizing, params, [(X, jnp.arange(6) % 8)], score, 0.5, steps=1, extra_units="heads")
    assert pruned.cut.variables["o"].shape == (4, 8)


def test_a_group_lasso_acts_on_the_weights_of_a_head():
    params = _params()
    groups = demp_jax.weight_groups(demp_jax.trace(_resizing, params, X, extra_units="heads"), params)
    tx = demp_jax.regularizers.add_group_lasso(1.0)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params, groups=groups)
    first = [np.asarray(params[name][:, :2]) for name in "qkv"]
    norm = np.sqrt(sum((leaf**2).sum() for leaf in first))
    np.testing.assert_allclose(updates["q"][:, :2], np.sqrt(48) * first[0] / norm, rtol=1e-4)
    assert not updates["o"].any()


@pytest.mark.slow
def test_a_vit_of_the_training_program_loses_heads(tmp_path):
    changes = {
        "model.name": "vit",
        "model.patch": 4,
        "model.features": 16,
        "model.depth": 2,
        "model.heads": 4,
        "model.hidden": 24,
        "method.name": "random",
        "ranking.sparsity": 0.5,
        "ranking.batches": 1,
        "ranking.batch_size": 64,
        "method.strength": 0.0,
        "method.noise": 0.0,
        "pruning.extra_units": ("heads",),
    }
    result = train_and_evaluate(short_config(**changes), tmp_path)
    first = lines(tmp_path / "cuts.jsonl")[0]
    assert first["refused"] is None
    assert any(name.endswith("heads") and count for name, count in first["removed"].items())
    assert result.summary["neuron_sparsity"] >= 0.5
