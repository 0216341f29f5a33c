"""Equinox models, cut with their state and their optimizer's state."""

import importlib.util

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import demp_jax
from demp_jax import equinox as demp_equinox
from tests import helpers
from tests.helpers import batch


class Convolutional(eqx.Module):
    """A convolution and a linear layer with BatchNorm, in either of its modes, and dropout."""

    conv: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    hidden: eqx.nn.Linear
    norm2: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(3, 12, 3, use_bias=False, key=keys[0])
        self.norm1 = eqx.nn.BatchNorm(12, "batch", momentum=0.5, mode="batch")
        self.hidden = eqx.nn.Linear(48, 16, use_bias=False, key=keys[1])
        self.norm2 = eqx.nn.BatchNorm(16, "batch", momentum=0.5, mode="ema")
        self.dropout, self.head = eqx.nn.Dropout(0.5), eqx.nn.Linear(16, 5, key=keys[2])

    def __call__(self, x, state, key=None):
        x, state = self.norm1(self.conv(x), state)
        x, state = self.norm2(self.hidden(jax.nn.relu(x).reshape(-1)), state)
        return self.head(self.dropout(jax.nn.relu(x), key=key)), state


def _built(make):
    """Returns `make(key)`, its initialization compiled as one program instead of a small one per array."""
    return eqx.filter_jit(make)(jax.random.key(0))


def _tx(base):
    # The noise ends before the cut: its draws depend on the widths.
    noise = demp_jax.one_cycle(1e-6, transition_steps=2)
    return demp_jax.demp(base, strength=1e-3, noise=noise, where=demp_equinox.norm_weights)


def _trained(model):
    return eqx.filter(model, eqx.is_inexact_array)


@eqx.filter_jit
def _step(model, state, opt_state, tx, x, labels):
    # Dropout is of no use here: its masks depend on the widths, too.
    model = eqx.tree_at(lambda m: m.dropout, model, eqx.nn.Dropout(0.0))

    def loss(model):
        mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None, None), out_axes=(0, None))
        logits, new_state = mapped(x, state, jax.random.key(0))
        return helpers.cross_entropy(logits, labels), new_state

    grads, state = eqx.filter_grad(loss, has_aux=True)(model)
    updates, opt_state = tx.update(grads, opt_state, _trained(model))
    return eqx.apply_updates(model, updates), state, opt_state


def _killed(model, units):
    """Returns the model with the first units of norms dead, scale 0 and bias -1."""
    for name, n in units.items():
        norm = getattr(model, name)
        changed = (norm.weight.at[:n].set(0.0), norm.bias.at[:n].set(-1.0))
        model = eqx.tree_at(lambda m, name=name: [getattr(m, name).weight, getattr(m, name).bias], model, changed)
    return model


def test_cut_and_train_on():
    model, state = _built(eqx.nn.make_with_state(Convolutional))
    model = _killed(model, {"norm1": 4, "norm2": 5})
    x, labels, tx = batch((16, 3, 4, 4)), jnp.arange(16) % 5, _tx(optax.adam(1e-3))
    opt_state = tx.init(_trained(model))
    for _ in range(2):
        model, state, opt_state = _step(model, state, opt_state, tx, x, labels)
    fn, variables = demp_equinox.forward(model, state)
    masked = jax.jit(fn)(variables, x)

    cut = demp_equinox.prune(model, [x], state, opt_state=opt_state, tx=tx)
    assert cut.record.removed == {"norm1": 4, "norm2": 5}
    fn, variables = demp_equinox.forward(cut.model, cut.state)
    np.testing.assert_allclose(jax.jit(fn)(variables, x), masked, rtol=1e-4, atol=1e-5)
    assert cut.record.parameters[1] == sum(leaf.size for leaf in jax.tree.leaves(_trained(cut.model)))
    helpers.assert_same_shapes(cut.opt_state, jax.eval_shape(tx.init, _trained(cut.model)))
    assert not cut.model.norm1.inference  # Still in training mode.

    model, state, opt_state = _step(model, state, opt_state, tx, x, labels)
    smaller, smaller_state, smaller_opt_state = _step(cut.model, cut.state, cut.opt_state, tx, x, labels)
    ours = (smaller, smaller_state, smaller_opt_state)
    dense = [demp_equinox.refit(cut.plan.slice(tree)) for tree in (model, state, opt_state)]
    for one, other in zip(ours, dense, strict=True):
        arrays = [eqx.filter(tree, eqx.is_array) for tree in (one, other)]
        helpers.assert_trees_close(*arrays, rtol=1e-3, atol=1e-5)
    moved = jnp.abs(smaller.head.weight - cut.model.head.weight)
    assert moved.max() > 1e-4


class Everything(eqx.Module):
    """Layers whose widths are static attributes, some of them read when they are called."""

    embedding: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.GroupNorm
    up: eqx.nn.ConvTranspose1d
    grouped: eqx.nn.Conv1d
    own: eqx.Module
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 6)
        self.embedding = eqx.nn.Embedding(20, 12, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, 12, output_size=10, use_output_bias=True, key=keys[1])
        self.norm, self.up = eqx.nn.GroupNorm(5, 10), eqx.nn.ConvTranspose1d(10, 8, 2, key=keys[2])
        self.grouped, self.own = eqx.nn.Conv1d(8, 16, 1, groups=4, key=keys[3]), Own(keys[4])
        self.head = eqx.nn.Linear(6, "scalar", key=keys[5])

    def __call__(self, tokens):
        x = jax.nn.relu(jax.vmap(self.embedding)(tokens))
        x = jax.nn.relu(self.norm(self.attention(x, x, x).T))
        x = jax.nn.relu(self.grouped(jax.nn.relu(self.up(x)))).mean(1)
        return self.head(self.own(x))


def test_attention_heads_are_removed_with_the_state_of_the_optimizer():
    """One step of Adam after the prune is the step of the model whose dead heads are masked."""

    class Attention(eqx.Module):
        attention: eqx.nn.MultiheadAttention
        head: eqx.nn.Linear

        def __call__(self, x):
            return self.head(self.attention(x, x, x).mean(0))

    keys = jax.random.split(jax.random.key(0), 3)
    model = Attention(eqx.nn.MultiheadAttention(4, 12, key=keys[0]), eqx.nn.Linear(12, 3, key=keys[1]))
    dead = np.array([False, True, False, True])
    model = eqx.tree_at(
        lambda m: m.attention.value_proj.weight,
        model,
        replace_fn=lambda w: jnp.where(np.repeat(dead, 3)[:, None], 0, w),
    )
    x, labels, tx = jax.random.normal(keys[2], (8, 5, 12)), jnp.arange(8) % 3, optax.sgd(0.1, momentum=0.9)

    def loss(m):
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(m)(x), labels).mean()

    opt_state = tx.init(eqx.filter(model, eqx.is_array))
    cut = demp_equinox.prune(model, [x], opt_state=opt_state, tx=tx, options=demp_jax.PruneOptions(extra_units="heads"))
    assert cut.record.removed == {"attention/heads": 2}
    assert (cut.model.attention.num_heads, cut.model.attention.qk_size) == (2, 3)
    np.testing.assert_allclose(jax.vmap(cut.model)(x), jax.vmap(model)(x), rtol=1e-5, atol=1e-6)
    grads, smaller = eqx.filter_grad(loss)(model), eqx.filter_grad(loss)(cut.model)
    updates, _ = tx.update(smaller, cut.opt_state)
    kept = np.repeat(~dead, 3)
    for name in ("query_proj", "key_proj", "value_proj"):
        ours, theirs = getattr(updates.attention, name).weight, getattr(grads.attention, name).weight
        np.testing.assert_allclose(ours, -0.1 * theirs[kept], rtol=1e-4, atol=1e-6)


class Own(eqx.Module):
    """A layer of one's own that has its width as an attribute, and knows how to follow its arrays."""

    weight: jax.Array
    width: int = eqx.field(static=True)

    def __init__(self, key, weight=None):
        self.weight = jax.random.normal(key, (16, 6)) if weight is None else weight
        self.width = self.weight.shape[1]

    def __call__(self, x):
        return jax.nn.relu(x @ self.weight).reshape(self.width)

    def refit(self):
        return Own(None, self.weight)


def test_attributes_follow_their_arrays():
    model = _built(Everything)
    model = eqx.tree_at(
        lambda m: [m.embedding.weight, m.norm.weight, m.norm.bias, m.up.bias, m.grouped.bias, m.own.weight],
        model,
        [
            model.embedding.weight.at[:, 3:6].set(-1.0),
            model.norm.weight.at[2:4].set(0.0),
            model.norm.bias.at[2:4].set(-1.0),
            jnp.full((8, 1), 5.0).at[2:4].set(-99.0),
            jnp.full((16, 1), 99.0).at[4:8].set(-99.0),
            jnp.abs(model.own.weight).at[:, 1].set(-1.0),
        ],
    )
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 20, (8, 7)))
    cut = demp_equinox.prune(model, [tokens])
    assert cut.record.removed == {"embedding": 3, "norm": 2, "up": 2, "grouped": 4, "own": 1}
    run = eqx.filter_jit(lambda model: jax.vmap(model)(tokens))
    np.testing.assert_allclose(run(cut.model), run(model), rtol=1e-4)
    small = cut.model
    assert (small.embedding.num_embeddings, small.embedding.embedding_size) == (20, 9)
    attention = small.attention
    assert (attention.query_size, attention.key_size, attention.value_size, attention.output_size) == (9, 9, 9, 8)
    assert (attention.query_proj.in_features, attention.output_proj.out_features) == (9, 8)
    assert (small.norm.channels, small.norm.groups) == (8, 4)
    assert (small.up.in_channels, small.up.out_channels, small.up.groups) == (8, 6, 1)
    assert (small.grouped.in_channels, small.grouped.out_channels, small.grouped.groups) == (6, 12, 3)
    assert (small.own.width, small.head.in_features, small.head.out_features) == (5, 5, "scalar")


def test_as_plain_jax_without_the_adapter():
    model = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.full(16, 1.0).at[:5].set(-99.0))
    x = batch((8, 4))
    params, static = eqx.partition(model, eqx.is_array)
    plain = demp_jax.prune(lambda params, x: jax.vmap(eqx.combine(params, static))(x), params, [x])
    cut = demp_equinox.prune(model, [x])
    assert plain.record.removed["layers/0"] == cut.record.removed["layers/0"] == 5
    for one, other in zip(jax.tree.leaves(plain.variables), jax.tree.leaves(_trained(cut.model)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (plain.variables.layers[0].out_features, cut.model.layers[0].out_features) == (16, 11)


def test_an_untrained_part_is_not_counted_and_keeps_no_moments():
    model = eqx.nn.MLP(4, 3, 16, 1, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.full(16, 1.0).at[:5].set(-99.0))
    head_only = eqx.tree_at(lambda m: m.layers[1], jax.tree.map(lambda _: False, model), eqx.is_inexact_array)
    tx = optax.adam(1e-3)
    opt_state = tx.init(eqx.filter(model, head_only))
    cut = demp_equinox.prune(model, [batch((8, 4))], opt_state=opt_state, tx=tx, filter_spec=head_only)
    assert cut.record.parameters == (16 * 3 + 3, 11 * 3 + 3)
    trained = eqx.filter(cut.model, eqx.is_inexact_array)
    trained = eqx.tree_at(lambda m: m.layers[0], trained, jax.tree.map(lambda _: None, trained.layers[0]))
    helpers.assert_same_shapes(cut.opt_state, jax.eval_shape(tx.init, trained))


def test_where_nothing_is_dead_nothing_changes():
    model = eqx.nn.MLP(4, 3, 6, 1, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.full(6, 9.0))
    cut = demp_equinox.prune(model, [batch((8, 4))])
    assert cut.model is model
    assert (cut.plan, cut.opt_state, cut.state, cut.record.removed) == (None, None, None, {})
    assert demp_equinox.forward(model)[0] == demp_equinox.forward(model)[0]


def test_the_regularizer_takes_the_weights_of_norms():
    model, _ = _built(eqx.nn.make_with_state(Convolutional))
    params = _trained(_killed(model, {"norm1": 4}))
    tx = demp_jax.add_regularizer(0.1, where=demp_equinox.norm_weights)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    expected = {name: np.zeros(p.shape, np.float32) for name, p in _named(params)}
    for norm in ("norm1", "norm2"):
        expected[f".{norm}.weight"] = 0.1 * np.sign(np.asarray(getattr(params, norm).weight))
    assert (expected[".norm1.weight"][:4] == 0).all()
    for name, update in _named(updates):
        np.testing.assert_allclose(update, expected[name], err_msg=name)


def _named(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_what_is_missing_is_said():
    model = eqx.nn.MLP(4, 3, 6, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="norm_weights: no normalization layer of equinox.nn"):
        demp_equinox.norm_weights(_trained(model))
    with pytest.raises(ValueError, match="norm_scales: .*where=demp_jax.equinox.norm_weights"):
        demp_jax.norm_scales(_trained(model))
    with pytest.raises(ValueError, match="prune: opt_state was given without tx"):
        demp_equinox.prune(model, [batch((8, 4))], opt_state=optax.adam(1e-3).init(_trained(model)))


def _call_equimo(model, x, state):
    del state
    return jax.vmap(lambda one: model(one, key=jax.random.key(0)))(x)


@eqx.filter_jit
def _step_equimo(model, opt_state, tx, x, labels):
    loss = lambda model: helpers.cross_entropy(_call_equimo(model, x, None), labels)  # noqa: E731
    updates, opt_state = tx.update(eqx.filter_grad(loss)(model), opt_state, _trained(model))
    return eqx.apply_updates(model, updates), opt_state


EQUIMO = {
    "vit": (
        lambda models, key: models.VisionTransformer(16, 3, 24, 8, 2, [2], act_layer="relu", num_classes=5, key=key),
        lambda model: [block.mlp.fc1 for block in model.blocks[0].blocks],
    ),
    "convnext": (
        lambda models, key: models.ConvNeXt(
            depths=[1, 1], dims=[8, 16], act_layer="relu", layer_scale_init_value=1.0, num_classes=5, key=key
        ),
        lambda model: [stage.blocks[0].pwconv1 for stage in model.blocks],
    ),
    "mobilenet": (
        lambda models, key: models.MobileNetv3(
            3, [(16, 48, 3, 1, False, "relu"), (24, 72, 3, 1, False, "relu")], last_channels=32, num_classes=5, key=key
        ),
        lambda model: [conv.norm for layer in model.layers for conv in (layer.inverted_conv, layer.depth_conv)],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUIMO)
def test_networks_of_equimo(name):
    """Networks of a library of Equinox models are trained, cut and trained on; of GroupNorm whole groups leave."""
    pytest.importorskip("equimo", reason="equimo is not installed: pip install equimo")
    moved = importlib.util.find_spec("equimo.vision") is not None  # In version 2, which needs Python 3.12.
    models = importlib.import_module("equimo.vision.models" if moved else "equimo.models")
    make, dying = EQUIMO[name]
    model, x, labels = make(models, jax.random.key(0)), batch((8, 3, 16, 16)), jnp.arange(8) % 5
    tx = _tx(optax.sgd(0.1, momentum=0.9))  # Adam would divide small gradients by themselves, rounding included.
    arrays = lambda model: [array for layer in dying(model) for array in (layer.weight, layer.bias)]  # noqa: E731
    dead = [array.at[:9].set(value) for array, value in zip(arrays(model), (0.0, -1.0) * 4, strict=False)]
    model = eqx.tree_at(arrays, model, dead)
    opt_state = tx.init(_trained(model))
    for _ in range(2):
        model, opt_state = _step_equimo(model, opt_state, tx, x, labels)
    cut = demp_equinox.prune(model, [x], opt_state=opt_state, tx=tx, call=_call_equimo)
    assert sum(cut.record.removed.values()) >= 9 * len(dying(model))
    np.testing.assert_allclose(_call_equimo(cut.model, x, None), _call_equimo(model, x, None), rtol=1e-4, atol=1e-5)
    helpers.assert_same_shapes(cut.opt_state, jax.eval_shape(tx.init, _trained(cut.model)))
    ours = _step_equimo(cut.model, cut.opt_state, tx, x, labels)
    dense = _step_equimo(model, opt_state, tx, x, labels)
    for one, other in zip(ours, dense, strict=True):
        other = demp_equinox.refit(cut.plan.slice(other))
        helpers.assert_trees_close(_trained(one), _trained(other), rtol=1e-3, atol=1e-5)
