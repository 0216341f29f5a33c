"""Flax Linen models."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import demp_jax
from demp_jax import linen as demp_linen
from tests import helpers
from tests.helpers import batch


class Net(nn.Module):
    """Convolutions, a depthwise one among them, BatchNorm and dense layers, with widths written in the module."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Conv(16, (3, 3), feature_group_count=8)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(12)(x)))
        return nn.DenseGeneral((5,))(x)


def _dead(variables, rng):
    params = jax.tree.map(lambda a: a, variables["params"])
    for name in [n for n in params if n.startswith("BatchNorm")]:
        dead = rng.random(params[name]["scale"].shape) < 0.4
        dead[: {"BatchNorm_0": 3, "BatchNorm_1": 6}.get(name, 0)] = True  # A channel leaves with both of its outputs.
        params[name] = {"scale": jnp.where(dead, 0.0, 1.0), "bias": jnp.where(dead, -1.0, 0.1)}
    return {**variables, "params": params}


def test_cut_and_train_on():
    model, x, labels = Net(), batch((8, 6, 6, 3)), jnp.arange(8) % 5
    variables = _dead(model.init(jax.random.key(0), x), np.random.default_rng(0))
    tx = optax.adam(1e-3)
    result = demp_jax.prune(
        demp_linen.Forward(model),
        variables,
        [x],
        opt_state=tx.init(variables["params"]),
        tx=tx,
        params=helpers.params_of,
    )
    assert {"BatchNorm_0", "BatchNorm_2"} <= set(result.record.removed)
    np.testing.assert_allclose(result.fn(result.variables, x), model.apply(variables, x), rtol=1e-4, atol=1e-5)
    helpers.assert_same_shapes(result.opt_state, jax.eval_shape(tx.init, result.variables["params"]))

    @jax.jit
    def loss(params, stats):
        with demp_linen.widths_from_variables():
            out, new = model.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        return helpers.cross_entropy(out, labels), new

    grads, _ = jax.grad(loss, has_aux=True)(result.variables["params"], result.variables["batch_stats"])
    full, _ = jax.grad(loss, has_aux=True)(variables["params"], variables["batch_stats"])
    helpers.assert_trees_close(grads, result.plan.slice(full), rtol=1e-3, atol=1e-5)


def test_without_the_context_linen_refuses_smaller_variables():
    model, x = Net(), batch((8, 6, 6, 3))
    variables = _dead(model.init(jax.random.key(0), x), np.random.default_rng(0))
    result = demp_jax.prune(demp_linen.Forward(model), variables, [x], params=helpers.params_of)
    with pytest.raises(Exception, match="(?i)shape"):
        model.apply(result.variables, x)


def test_initializing_is_not_affected():
    x = batch((2, 6, 6, 3))
    with demp_linen.widths_from_variables():
        inside = Net().init(jax.random.key(0), x)
    helpers.assert_trees_close(inside, Net().init(jax.random.key(0), x), rtol=0)


def test_options_of_the_call():
    x = batch((8, 6, 6, 3))
    variables = Net().init(jax.random.key(0), x)
    forward = demp_linen.Forward(Net(), train=False)
    np.testing.assert_array_equal(forward(variables, x), Net().apply(variables, x))
    assert forward == demp_linen.Forward(Net(), train=False)


class ResNetBlock(nn.Module):
    """A residual block in the style of the examples of Flax: modules are given as partial functions."""

    filters: int
    conv: Any
    norm: Any
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(x)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(self.conv(self.filters, (3, 3))(y))
        if residual.shape != y.shape:
            residual = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return nn.relu(residual + y)


class ResNet(nn.Module):
    """A stem and two stages of one block, the second with a projection."""

    @nn.compact
    def __call__(self, x, train=True):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.5)
        x = nn.relu(norm(name="bn_init")(conv(8, (3, 3), name="conv_init")(x)))
        x = ResNetBlock(8, conv, norm)(x)
        x = ResNetBlock(16, conv, norm, (2, 2))(x)
        return nn.Dense(5)(x.mean((1, 2)))


def test_a_residual_network_trains_on_with_the_step_of_the_masked_one():
    model, x, labels = ResNet(), batch((16, 8, 8, 3)), jnp.arange(16) % 5
    # The noise ends before the cut: its draws depend on the widths.
    tx = demp_jax.demp(optax.adam(1e-3), strength=1e-3, noise=demp_jax.one_cycle(1e-6, transition_steps=2))

    @jax.jit
    def step(variables, opt_state):
        def loss(params):
            with demp_linen.widths_from_variables():
                logits, new = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return helpers.cross_entropy(logits, labels), new

        grads, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **new}, opt_state

    variables = jax.jit(model.init)(jax.random.key(0), x)
    dead = {  # Three units of the first block, and four channels of the sum of the second one with the six before it.
        "ResNetBlock_0": {"BatchNorm_0": 3},
        "ResNetBlock_1": {"BatchNorm_0": 6, "BatchNorm_1": 4, "norm_proj": 4},
    }
    for block, norms in dead.items():
        for name, n in norms.items():
            norm = variables["params"][block][name]
            norm.update(scale=norm["scale"].at[:n].set(0.0), bias=norm["bias"].at[:n].set(-1.0))
    opt_state = tx.init(variables["params"])
    for _ in range(2):
        variables, opt_state = step(variables, opt_state)
    result = demp_jax.prune(
        demp_linen.Forward(model, train=False),
        variables,
        [x],
        opt_state=opt_state,
        tx=tx,
        params=helpers.params_of,
    )
    removed = {"ResNetBlock_0/BatchNorm_0": 3, "ResNetBlock_1/BatchNorm_0": 6, "ResNetBlock_1/norm_proj": 4}
    assert result.record.removed == removed
    masked = model.apply(variables, x, train=False)
    np.testing.assert_allclose(result.fn(result.variables, x), masked, rtol=1e-4, atol=1e-5)
    helpers.assert_same_shapes(result.opt_state, jax.eval_shape(tx.init, result.variables["params"]))
    ours = step(result.variables, result.opt_state)
    dense = step(variables, opt_state)
    helpers.assert_trees_close(ours, result.plan.slice(dense), rtol=1e-3, atol=1e-5)
