# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Layers stacked by `scan` shrink together, each without its own dead units."""

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
import demp_jax.linen
import demp_jax.nnx
from tests import helpers
from tests.helpers import batch

LAYERS, WIDTH = 3, 8


def _block(layer, h):
    return h + jax.nn.relu(h @ layer["up"] + layer["bias"][None]) @ layer["down"]


def scanned(p, x):
    h, _ = jax.lax.scan(lambda h, layer: (jax.checkpoint(_block)(layer, h), None), x @ p["in"], p["stack"])
    return h @ p["out"]


def looped(p, x):
    """The same network with its layers in a list."""
    h = x @ p["in"]
    for layer in p["stack"]:
        h = _block(layer, h)
    return h @ p["out"]


def _params(dead):
    """Returns parameters whose units `dead[layer]` have biases far below zero."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    stack = {"up": normal(LAYERS, 6, WIDTH), "bias": normal(LAYERS, WIDTH), "down": normal(LAYERS, WIDTH, 6)}
    stack["up"] *= 0.02
    stack["bias"] = np.abs(stack["bias"]) + 0.5  # None is dead by chance.
    for layer, units in enumerate(dead):
        stack["bias"][layer, sorted(units)] = -99.0
    return jax.tree.map(jnp.asarray, {"in": normal(5, 6), "stack": stack, "out": normal(6, 4)})


def _unstacked(p):
    return p | {"stack": [jax.tree.map(lambda leaf, i=i: leaf[i], p["stack"]) for i in range(LAYERS)]}


X = batch((16, 5))
DEAD = ({0, 1, 2}, {5, 6, 7}, {1, 2, 3, 4})


def test_each_layer_has_units_of_its_own():
    graph = demp_jax.trace(scanned, _params(DEAD), X)
    assert graph.widths == {f"stack[{i}]": WIDTH for i in range(LAYERS)}
    assert graph.num_groups == LAYERS * WIDTH
    other = demp_jax.trace(looped, _unstacked(_params(DEAD)), X)
    assert (graph.parameters(), graph.flops()) == (other.parameters(), other.flops())
    activities = [
        jax.jit(demp_jax.with_activity(fn))(p, X)[1]
        for fn, p in ((scanned, _params(DEAD)), (looped, _unstacked(_params(DEAD))))
    ]
    for i in range(LAYERS):
        one, two = activities[0][f"stack[{i}]"], activities[1][f"stack/{i}"]
        np.testing.assert_allclose(one.magnitude, two.magnitude, rtol=1e-5)
        np.testing.assert_array_equal(np.flatnonzero(~np.asarray(one.nonzero)), sorted(DEAD[i]))


@hypothesis.given(st.lists(st.sets(st.integers(0, WIDTH - 1)), min_size=LAYERS, max_size=LAYERS))
@hypothesis.settings(max_examples=15, deadline=None)
def test_any_dead_units(dead):
    params = _params(dead)
    result = demp_jax.prune(scanned, params, [X])
    wide, narrow = params["stack"], result.variables["stack"]
    width = max(1, *(WIDTH - len(units) for units in dead))
    assert narrow["up"].shape == (LAYERS, 6, width)
    assert result.record.neurons == (LAYERS * WIDTH, LAYERS * width)
    for layer, units in enumerate(dead):
        # Every unit that stays has its own weights everywhere, in the order that it had, and no living one is lost.
        columns = [tuple(column) for column in np.asarray(wide["up"][layer]).T]
        kept = [columns.index(tuple(column)) for column in np.asarray(narrow["up"][layer]).T]
        assert kept == sorted(kept)
        assert set(range(WIDTH)) - units <= set(kept)
        np.testing.assert_array_equal(narrow["bias"][layer], wide["bias"][layer, np.array(kept)])
        np.testing.assert_array_equal(narrow["down"][layer], wide["down"][layer, np.array(kept)])
    np.testing.assert_allclose(scanned(result.variables, X), scanned(params, X), rtol=1e-5, atol=1e-5)


def test_pruned_trains_as_masked():
    params = _params(DEAD)
    tx = optax.adam(1e-2)

    def step(params, state, mask):
        grads = jax.grad(lambda p: jnp.mean((scanned(p, X) - batch((16, 4), 1)) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return jax.tree.map(lambda p, u, m: p + u * m, params, updates, mask), state

    state = tx.init(params)
    ones = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        params, state = step(params, state, ones)
    average = jax.tree.map(lambda leaf: leaf * 0.5, params)
    result = demp_jax.prune(scanned, params, [X], opt_state=state, tx=tx, copies={"average": average})
    small, small_state, small_average = result.variables, result.opt_state, result.copies["average"]
    for tree in (small_average, small_state[0].mu, small_state[0].nu):
        helpers.assert_same_shapes(tree, small)
    graph = result.plan.graph
    removed = {site.name: demp_jax.tracing.per_unit(result.plan.removed, site.groups) for site in graph.sites}
    alive = {name: jnp.asarray(~bits) for name, bits in removed.items()}
    mask = jax.tree.map(
        jnp.broadcast_to,
        demp_jax.masks.weight_mask(demp_jax.masks.weight_groups(graph, params), alive, params),
        jax.tree.map(jnp.shape, params),
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    masked = jax.tree.map(jnp.multiply, params, mask)
    for _ in range(3):
        masked, state = step(masked, state, mask)
        small, small_state = step(small, small_state, jax.tree.map(jnp.ones_like, small))
    np.testing.assert_allclose(scanned(small, X), scanned(masked, X), rtol=1e-4, atol=1e-5)


def test_masks_and_the_group_lasso_see_layers_apart():
    params = _params(DEAD)
    graphs = [demp_jax.trace(scanned, params, X), demp_jax.trace(looped, _unstacked(params), X)]
    tx = demp_jax.regularizers.add_group_lasso(0.1)
    rng = np.random.default_rng(3)
    bits = [jnp.asarray(rng.random(WIDTH) < 0.5) for _ in range(LAYERS)]
    found = []
    for graph, tree, name in zip(graphs, (params, _unstacked(params)), ("stack[{}]", "stack/{}"), strict=True):
        groups = demp_jax.masks.weight_groups(graph, tree)
        zeros = jax.tree.map(jnp.zeros_like, tree)
        updates, _ = tx.update(zeros, tx.init(tree), tree, groups=groups)
        mask = demp_jax.masks.weight_mask(groups, {name.format(i): bits[i] for i in range(LAYERS)}, tree)
        mask = jax.tree.map(lambda m, leaf: m & jnp.ones(leaf.shape, bool), mask, tree)
        found.append([each if graph is graphs[1] else _unstacked(each) for each in (updates, mask)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)


def test_a_stream_of_units_is_one_group_with_the_layers():
    """Each layer's units are read by the next one, so that all of them and those before the scan keep one width."""

    def network(p, x):
        h = jax.nn.relu(x @ p["in"])
        h, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), h, p["stack"])
        return h @ p["out"]

    params = {"in": batch((5, 6)), "stack": batch((2, 6, 6), 1), "out": batch((6, 3), 2)}
    params["in"] = params["in"].at[:, :2].set(0)
    params["stack"] = params["stack"].at[0, :, 3].set(0).at[1, :, 4:].set(0)
    h, dead = X, []
    for w in (params["in"], *params["stack"]):
        h = np.maximum(h @ w, 0)
        dead.append(int((h == 0).all(0).sum()))
    assert min(dead) >= 1
    result = demp_jax.prune(network, params, [X])
    assert result.variables["stack"].shape == (2, 6 - min(dead), 6 - min(dead))
    np.testing.assert_allclose(network(result.variables, X), network(params, X), rtol=1e-5, atol=1e-6)


def test_layers_that_are_read_elsewhere_too_lose_the_same_units():
    def network(p, x):
        mean = jax.tree.map(lambda leaf: leaf.mean(0), p["stack"])
        return scanned(p, x) + _block(mean, x @ p["in"]) @ p["out"]

    params = _params(({0, 1}, {1, 2}, {1, 3}))
    graph = demp_jax.trace(network, params, X)
    assert graph.num_groups == WIDTH
    result = demp_jax.prune(network, params, [X])
    assert result.variables["stack"]["up"].shape == (LAYERS, 6, WIDTH - 1)


def test_a_scan_inside_a_scan_is_refused():
    def network(p, x):
        def outer(h, stack):
            return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), h, stack)

        return jax.lax.scan(outer, x @ p["in"], p["stack"])[0] @ p["out"]

    params = {"in": batch((5, 6)), "stack": batch((2, 3, 6, 6)), "out": batch((6, 3))}
    with pytest.raises(ValueError, match="`scan` inside a `scan` share one width"):
        demp_jax.trace(network, params, X).require_prunable()


def test_all_layers_can_be_emptied():
    params = _params([set(range(WIDTH))] * LAYERS)
    result = demp_jax.prune(scanned, params, [X], options=demp_jax.PruneOptions(min_units=0))
    assert result.variables["stack"]["up"].shape == (LAYERS, 6, 0)
    np.testing.assert_allclose(scanned(result.variables, X), scanned(params, X), rtol=1e-5, atol=1e-6)


class _Block(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(6, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.relu(self.norm(self.up(x))))


class _Model(nnx.Module):
    """Residual blocks with BatchNorm, stacked by `nnx.vmap` and run by `nnx.scan`."""

    def __init__(self, rngs):
        make = nnx.vmap(_Block, in_axes=0, out_axes=0)
        self.blocks, self.out = make(rngs.split(LAYERS)), nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.scan(lambda h, block: block(h), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks))


def test_batch_norm_in_nnx_layers():
    model = _Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    norm = model.blocks.norm
    for i in range(LAYERS):
        units = rng.permutation(WIDTH)[: 3 + i]
        norm.scale[...] = norm.scale[...].at[i, units].set(0)
        norm.bias[...] = norm.bias[...].at[i, units].set(-0.1)
    x = batch((32, 6))
    model.eval()
    before = model(x)
    record = demp_jax.nnx.prune(model, [x], optimizer)
    assert record.neurons == (LAYERS * WIDTH, LAYERS * (WIDTH - 3))
    assert model.blocks.up.out_features == model.blocks.norm.num_features == WIDTH - 3
    assert model.blocks.norm.mean[...].shape == (LAYERS, WIDTH - 3)
    np.testing.assert_allclose(model(x), before, rtol=1e-5, atol=1e-6)
    model.train()
    grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
    optimizer.update(model, grads)
    assert np.isfinite(model(x)).all()


class _LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                h = nn.BatchNorm(use_running_average=not train)(nn.Dense(WIDTH)(x))
                return x + nn.Dense(6)(nn.relu(h)), None

        axes = {"params": 0, "batch_stats": 0}
        layers = nn.scan(nn.remat(Block), variable_axes=axes, split_rngs={"params": True}, length=LAYERS)
        return nn.Dense(2)(layers()(x, None)[0])


def test_batch_norm_in_linen_layers():
    module, x = _LinenModel(), batch((32, 6))
    variables = module.init(jax.random.key(0), x)
    [name] = [name for name in variables["params"] if "Block" in name]
    norm = variables["params"][name]["BatchNorm_0"]
    for i, units in enumerate(DEAD):
        norm["scale"] = norm["scale"].at[i, np.array(sorted(units))].set(0)
        norm["bias"] = norm["bias"].at[i, np.array(sorted(units))].set(-0.1)
    forward = demp_jax.linen.Forward(module)
    result = demp_jax.prune(forward, variables, [x], train_fn=forward.training(variables, x))
    small = result.variables
    assert small["batch_stats"][name]["BatchNorm_0"]["mean"].shape == (LAYERS, WIDTH - 3)
    with demp_jax.linen.widths_from_variables():
        np.testing.assert_allclose(module.apply(small, x), module.apply(variables, x), rtol=1e-5, atol=1e-6)
        outs = [module.apply(each, x, True, mutable=["batch_stats"])[0] for each in (small, variables)]
        np.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-6)
