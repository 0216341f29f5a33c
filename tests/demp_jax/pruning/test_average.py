"""An average of the weights, trained beside a network with AdamW: its outputs do not change at a prune."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
import demp_jax.nnx
from tests.helpers import batch

X = batch((32, 6, 6, 2))
Y = jnp.asarray(np.random.default_rng(1).integers(0, 3, 32))
STEPS = 45


class _Block(nnx.Module):
    def __init__(self, width, rngs):
        self.conv1 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(x + self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x))))))


class _ResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem, self.norm = nnx.Conv(2, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List([_Block(8, rngs) for _ in range(2)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


@nnx.jit
def _step(model, optimizer, average):
    def loss_fn(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(X), Y).mean()

    optimizer.update(model, nnx.grad(loss_fn)(model))
    mean = jax.tree.map(lambda a, b: 0.93 * a + 0.07 * b, nnx.state(average, nnx.Param), nnx.state(model, nnx.Param))
    nnx.update(average, mean)
    nnx.update(average, nnx.state(model, nnx.BatchStat))


@pytest.fixture(scope="module")
def trained():
    """Returns a network in which units died a moment ago, its optimizer, and an average in which some are alive."""
    model = _ResNet(nnx.Rngs(0))
    average = nnx.clone(model)
    kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    base = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.05, weight_decay=0.01, mask=kernels))
    optimizer = nnx.Optimizer(model, demp_jax.demp(base, strength=0.3), wrt=nnx.Param)
    for _ in range(STEPS):
        _step(model, optimizer, average)
    return model, optimizer, average


def _outputs(model):
    return np.asarray(nnx.view(model, use_running_average=True)(X))


def test_a_prune_keeps_the_outputs_of_an_average_that_it_is_given(trained):
    model, optimizer, average = nnx.clone(trained)
    before = _outputs(model), _outputs(average)
    pruner = demp_jax.nnx.Pruner(model, optimizer, [X], every=1, copies={"average": average})
    assert sum(pruner.step().removed.values()) > 0
    for outputs, each in zip(before, (model, average), strict=True):
        np.testing.assert_allclose(_outputs(each), outputs, rtol=0, atol=1e-4)


def test_without_it_units_are_removed_that_are_alive_in_the_average(trained):
    model, _, average = nnx.clone(trained)
    before = _outputs(model), _outputs(average)
    fn, variables = demp_jax.nnx.forward(model)
    result = demp_jax.prune(fn, variables, [X])
    demp_jax.nnx.resize(model, result.variables)
    demp_jax.nnx.resize(average, result.plan.slice_variables(nnx.as_pure(nnx.state(average))))
    np.testing.assert_allclose(_outputs(model), before[0], rtol=0, atol=1e-4)
    assert np.abs(_outputs(average) - before[1]).max() > 1e-2
