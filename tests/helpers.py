"""Test utilities: small networks, networks with dead units, and comparisons of trees."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import demp_jax
from demp_jax import models
from demp_jax import nnx as demp_nnx


def batch(shape, seed=0):
    """Returns standard normal inputs."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def pruning(**options):
    """Returns keyword arguments of `demp_jax.prune`, with fields of `PruneOptions` collected into `options`."""
    fields = {field.name for field in dataclasses.fields(demp_jax.PruneOptions)}
    rest = {name: value for name, value in options.items() if name not in fields}
    return {**rest, "options": demp_jax.PruneOptions(**{n: v for n, v in options.items() if n in fields})}


def assert_trees_close(actual, expected, **tolerance):
    """Asserts equal structure and close leaves."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path), **tolerance)


def assert_same_shapes(actual, expected):
    """Asserts equal structure, shapes and dtypes."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), jax.tree_util.keystr(path)


@contextlib.contextmanager
def compilations():
    """Context manager. Its list receives the seconds of every program that is compiled or read from a cache."""
    found = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def build(make):
    """Returns `make()`, with its initialization compiled as one program instead of one per array."""
    graphdef = nnx.split(nnx.eval_shape(make))[0]
    return nnx.merge(graphdef, jax.jit(lambda: nnx.split(make())[1])())


def kill_units(model: nnx.Module, rng: np.random.Generator, share: float = 0.4, lift: float = 0.5) -> None:
    """Makes a fraction of the units dead, by scale 0 and bias -1 in BatchNorm, and weights 0 and bias -9 in MLPs.

    The first unit of every layer stays alive. Biases of units that stay alive are raised by `lift`, so that none is
    dead by chance.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            scale, bias = (np.array(v[...]) for v in (module.scale, module.bias))
            dead = _some(rng, scale.size, share)
            # The last scale of a bottleneck is initialized to 0, which would make all units of its branch constant.
            module.scale[...] = jnp.asarray(np.where(dead, 0.0, scale if scale.any() else 1.0), jnp.float32)
            module.bias[...] = jnp.asarray(np.where(dead, -1.0, bias + lift), jnp.float32)
        if isinstance(module, models.EncoderBlock):
            kernel, bias = (np.array(v[...]) for v in (module.dense1.kernel, module.dense1.bias))
            dead = _some(rng, bias.size, share)
            module.dense1.kernel[...] = jnp.asarray(np.where(dead, 0.0, kernel))
            module.dense1.bias[...] = jnp.asarray(np.where(dead, -9.0, bias), jnp.float32)


def calibrated(model: nnx.Module, x):
    """Returns `split(model)` with the running statistics of every BatchNorm set to those of `x`."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.momentum = 0.0
    network, variables = split(model)
    _, state = jax.jit(network.train)(variables, x)
    return network, {**variables, "state": state}


def _some(rng: np.random.Generator, units: int, share: float) -> np.ndarray:
    chosen = rng.random(units) < share
    chosen[0] = False
    return chosen


def resolve_for(platform, monkeypatch):
    """Makes `jax.lax.platform_dependent` choose the function of `platform` on every backend."""

    def chosen(*args, default=None, **per_platform):
        return per_platform.get(platform, default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    jax.clear_caches()


class Blocks(nnx.Module):
    """A network with strided, dilated and depthwise convolutions, norms, a residual sum, concatenation, flatten."""

    def __init__(self, rngs: nnx.Rngs, coupled: bool = False):
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.bn0 = nnx.BatchNorm(8, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, rngs=rngs)
        self.branch = nnx.Conv(8, 8, (3, 3), kernel_dilation=2, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(8, rngs=rngs)
        self.sum = None if coupled else demp_nnx.ChannelSum(8)
        self.side = nnx.Conv(8, 6, (1, 1), rngs=rngs)
        self.bn3 = nnx.BatchNorm(6, rngs=rngs)
        self.hidden = nnx.Linear(14 * 4, 20, rngs=rngs)
        self.bn4 = nnx.BatchNorm(20, rngs=rngs)
        self.head = nnx.Linear(20, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn0(self.stem(x)))
        y = nnx.relu(self.bn1(self.depthwise(x)))
        y = self.bn2(self.branch(y))
        y = nnx.relu(x + y if self.sum is None else self.sum(y, x))
        z = nnx.relu(self.bn3(self.side(y)))
        y = jnp.concatenate([y, z], axis=-1)
        y = nnx.max_pool(y, (2, 2), strides=(2, 2))
        y = y.reshape(y.shape[0], -1)
        return self.head(nnx.relu(self.bn4(self.hidden(y))))


BLOCKS_INPUT = (16, 8, 8, 3)


def split(model: nnx.Module):
    """Returns `fn(variables, x)`, the model in evaluation mode, and its variables `{"params": ..., "state": ...}`."""
    from experiments.recipe.network import Network

    graphdef, params, state = nnx.split(model, nnx.Param, ...)
    variables = {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}
    return Network(graphdef), variables


def params_of(variables):
    """Returns the trained variables."""
    return variables["params"]


def cross_entropy(logits, labels):
    """Returns the mean cross-entropy."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def train_gradient(network, variables, x, labels):
    """Returns the gradient of the training loss and the new state."""

    def loss(params):
        logits, state = network.train({**variables, "params": params}, x)
        return cross_entropy(logits, labels), state

    return jax.grad(loss, has_aux=True)(variables["params"])


def random_plan(graph: demp_jax.Graph, rng: np.random.Generator, share: float = 0.4):
    """Returns a plan that removes random groups and keeps at least one unit of every site."""
    from demp_jax._src.pruning.slicing import Plan

    removed = rng.random(graph.num_groups) < share
    for site in (*graph.sites, *graph.branches):
        if (site.groups >= 0).all() and removed[site.groups].all():
            removed[site.groups[0]] = False
    return Plan(graph, removed, removed)
