"""Flax Linen models."""

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
    result = demp_jax.cut(
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
    result = demp_jax.cut(demp_linen.Forward(model), variables, [x], params=helpers.params_of)
    with pytest.raises(Exception, match="(?i)shape"):
        model.apply(result.variables, x)


def test_initialising_is_not_affected():
    x = batch((2, 6, 6, 3))
    with demp_linen.widths_from_variables():
        inside = Net().init(jax.random.key(0), x)
    helpers.assert_trees_close(inside, Net().init(jax.random.key(0), x), rtol=0)


def test_options_of_the_call():
    x = batch((8, 6, 6, 3))
    variables = Net().init(jax.random.key(0), x)
    forward = demp_linen.Forward(Net(), (("train", False),))
    np.testing.assert_array_equal(forward(variables, x), Net().apply(variables, x))
    assert forward == demp_linen.Forward(Net(), (("train", False),))
