"""Flax NNX models, cut in place with their optimizer."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
from demp_jax import nnx as demp_nnx
from tests import helpers
from tests.helpers import batch


@nnx.jit
def _step(model, optimizer, x, labels):
    def loss(model):
        return helpers.cross_entropy(model(x), labels)

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


def _trained(make=helpers.Blocks, shape=helpers.BLOCKS_INPUT):
    model = make(nnx.Rngs(0))
    tx = demp_jax.demp(optax.adam(1e-3), strength=1e-3, noise=1e-6)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    x, labels = batch(shape), jnp.arange(shape[0]) % 5
    model.train()
    for _ in range(2):
        _step(model, optimizer, x, labels)
    helpers.kill_units(model, np.random.default_rng(0))
    return model, optimizer, x, labels


def test_cut_in_place_with_the_optimizer():
    model, optimizer, x, labels = _trained()
    before = demp_nnx.forward(model)[0](demp_nnx.forward(model)[1], x)
    record = demp_nnx.prune(model, [x], optimizer)
    after = demp_nnx.forward(model)[0](demp_nnx.forward(model)[1], x)
    assert sum(record.removed.values()) > 5
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    assert record.parameters[1] == sum(p.size for p in jax.tree.leaves(params)) < record.parameters[0]
    expected = jax.eval_shape(optimizer.tx.init, params)
    helpers.assert_same_shapes(nnx.as_pure(optimizer.opt_state), expected)
    loss = _step(model, optimizer, x, labels)
    assert np.isfinite(loss)
    assert model.bn0.use_running_average is False  # Still in training mode.


def test_one_compilation_per_cut_and_none_without(caplog):
    model, optimizer, x, labels = _trained()

    def compilations(run):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            run()
        return sum(
            "Compiling jit(_step)" in r.getMessage() or "Compiling _step" in r.getMessage() for r in caplog.records
        )

    step = lambda: _step(model, optimizer, x, labels)  # noqa: E731
    assert compilations(step) == 0
    demp_nnx.prune(model, [x], optimizer)
    assert compilations(step) == 1
    assert compilations(step) == 0
    demp_nnx.prune(model, [x], optimizer)
    assert compilations(step) == 0


def test_attributes_follow_their_variables():
    class Everything(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 12, (3, 3), rngs=rngs)
            self.bn = nnx.BatchNorm(12, rngs=rngs)
            self.depthwise = nnx.Conv(12, 24, (3, 3), feature_group_count=12, rngs=rngs)
            self.bn2 = nnx.BatchNorm(24, rngs=rngs)
            self.up = nnx.ConvTranspose(24, 10, (2, 2), strides=(2, 2), rngs=rngs)
            self.bn3 = nnx.BatchNorm(10, rngs=rngs)
            self.general = nnx.LinearGeneral(10, 14, rngs=rngs)
            self.bn4 = nnx.BatchNorm(14, rngs=rngs)
            self.einsum = nnx.Einsum("bi,io->bo", (14, 9), (9,), rngs=rngs)
            self.bn5 = nnx.BatchNorm(9, rngs=rngs)
            self.head = nnx.Linear(9, 5, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.bn(self.conv(x)))
            x = nnx.relu(self.bn2(self.depthwise(x)))
            x = nnx.relu(self.bn3(self.up(x))).mean((1, 2))
            x = nnx.relu(self.bn4(self.general(x)))
            return self.head(nnx.relu(self.bn5(self.einsum(x))))

    model, optimizer, x, labels = _trained(Everything, (8, 6, 6, 3))
    for norm, dead in ((model.bn, 4), (model.bn2, 8)):  # A channel leaves with both of its outputs.
        norm.scale[...] = norm.scale[...].at[:dead].set(0.0)
        norm.bias[...] = norm.bias[...].at[:dead].set(-1.0)
    record = demp_nnx.prune(model, [x], optimizer)
    assert record.difference < 1e-3  # Rounding, which five BatchNorms amplify; in float64 it is 1e-14.
    assert {"bn", "bn3", "bn4", "bn5"} <= set(record.removed)
    width = model.bn.scale.shape[0]
    assert (model.conv.out_features, model.bn.num_features, model.depthwise.in_features) == (width,) * 3
    assert model.depthwise.feature_group_count == width
    assert model.depthwise.out_features == model.up.in_features == 2 * width
    assert model.general.in_features == (model.up.out_features,) == (model.bn3.scale.shape[0],)
    assert model.einsum.kernel_shape == (model.bn4.scale.shape[0], model.bn5.scale.shape[0])
    assert np.isfinite(_step(model, optimizer, x, labels))


def test_group_norm_and_grouped_convolutions_lose_whole_groups():
    class Groups(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.norm = nnx.Conv(3, 12, (3, 3), rngs=rngs), nnx.GroupNorm(12, num_groups=6, rngs=rngs)
            self.grouped = nnx.Conv(12, 24, (3, 3), feature_group_count=6, rngs=rngs)
            self.head = nnx.Linear(24, 5, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.grouped(nnx.relu(self.norm(self.conv(x))))).mean((1, 2)))

    model = Groups(nnx.Rngs(0))
    dead = jnp.zeros(12, bool).at[jnp.array([2, 3, 8, 9, 11])].set(True)  # Groups 1 and 4, and half of 5.
    model.norm.scale[...] = jnp.where(dead, 0.0, 1.0)
    model.norm.bias[...] = jnp.where(dead, -1.0, 0.1)
    # Of groups 1 and 4 all that they compute is dead as well, of the others a half.
    alive = jnp.arange(24) % 4 < 2
    model.grouped.bias[...] = jnp.where(alive & ~jnp.isin(jnp.arange(24) // 4, jnp.array([1, 4])), 1.0, -1.0)
    model.grouped.kernel[...] = 0.01 * model.grouped.kernel[...]
    x = batch((4, 6, 6, 3))
    record = demp_nnx.prune(model, [x])
    assert record.removed == {"norm": 4, "grouped": 8}
    assert (model.norm.num_groups, model.grouped.feature_group_count) == (4, 4)
    assert (model.conv.out_features, model.grouped.out_features) == (8, 16)
    assert record.difference < 1e-5


def test_a_model_that_takes_more_than_an_input():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.drop = nnx.Linear(4, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x, scale):
            return self.head(self.drop(nnx.relu(self.first(x * scale))))

    model = Net(nnx.Rngs(0))
    model.first.bias[...] = jnp.asarray([-99.0, 1, 1, 1, -99, 1, 1, 1])
    record = demp_nnx.prune(model, [batch((8, 4))], call=_call_scaled)
    assert record.removed == {"first": 2}


def _call_scaled(model, x):
    return model(x, 2.0)


def test_a_module_may_refit_itself():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.weights, self.width = nnx.Param(jax.random.normal(rngs.params(), (4, 6))), 6
            self.head = nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu((x @ self.weights[...]).reshape(-1, self.width)))

        def refit(self):
            self.width = self.weights.shape[1]

    model = Own(nnx.Rngs(0))
    model.weights[...] = model.weights[...].at[:, 1].set(0.0)
    assert demp_nnx.prune(model, [batch((8, 4))]).removed == {"weights": 1}
    assert model(batch((3, 4))).shape == (3, 2)


def test_resize_puts_other_widths_in():
    model, _, x, _ = _trained()
    demp_nnx.prune(model, [x])
    state = nnx.as_pure(nnx.state(model))
    fresh = nnx.eval_shape(lambda: helpers.Blocks(nnx.Rngs(0)))
    demp_nnx.resize(fresh, state)
    model.eval()
    fresh.eval()
    np.testing.assert_array_equal(fresh(x), model(x))
    with pytest.raises(ValueError, match="resize: the state is not of this model; bias: stored nothing"):
        demp_nnx.resize(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), state)


def test_an_untrained_part_is_not_counted_and_keeps_no_moments():
    model = helpers.Blocks(nnx.Rngs(0))
    head_only = nnx.All(nnx.Param, nnx.PathContains("head"))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=head_only)
    helpers.kill_units(model, np.random.default_rng(0))
    record = demp_nnx.prune(model, [batch(helpers.BLOCKS_INPUT)], optimizer)
    assert record.parameters[0] == 20 * 5 + 5
    assert record.parameters[1] == model.bn4.scale.shape[0] * 5 + 5
    moments = jax.tree.leaves(nnx.as_pure(optimizer.opt_state[0].mu))
    assert sorted(m.shape for m in moments) == sorted([(5,), (model.bn4.scale.shape[0], 5)])


@pytest.mark.skipif(os.environ.get("CHECK_SHAPES") == "1", reason="the check of annotations refuses these before")
@pytest.mark.parametrize("odd", [optax.adam(1e-3), [jnp.ones((4, 5))]])
def test_what_is_no_optimizer_is_named_with_the_order_of_arguments(odd):
    model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 2, rngs=nnx.Rngs(1)))
    with pytest.raises(ValueError, match=r"optimizer must be an nnx.Optimizer.* prune\(model, batches, optimizer\)"):
        demp_nnx.prune(model, [jnp.ones((4, 5))], odd)
    with pytest.raises(ValueError, match=r"optimizer must be an nnx.Optimizer.* Pruner\(model, optimizer, death_set\)"):
        demp_nnx.Pruner(model, odd, [jnp.ones((4, 5))], every=1)
