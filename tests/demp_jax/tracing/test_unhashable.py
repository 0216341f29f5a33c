"""Modules that hold lists, dictionaries and config objects, and parameters in boxes: nothing of them can be hashed."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import demp_jax
from demp_jax import equinox as demp_equinox
from demp_jax import linen as demp_linen
from demp_jax import nnx as demp_nnx
from tests import helpers
from tests.helpers import batch


@dataclasses.dataclass
class Config:
    """Has no hash, as it can be changed."""

    hidden: int = 8
    names: list = dataclasses.field(default_factory=lambda: ["a", "b"])


class NNX(nnx.Module):
    """Keeps what it was made with."""

    def __init__(self, config, rngs):
        self.config, self.scales = config, np.array([1.0, 2.0])
        self.hidden, self.head = nnx.Linear(3, config.hidden, rngs=rngs), nnx.Linear(config.hidden, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(config.hidden, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.hidden(x))))


class Linen(nn.Module):
    """Widths in a list, more in a dictionary."""

    widths: list
    options: Any

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(width, **self.options)(x)))
        return nn.Dense(2)(x)


class Equinox(eqx.Module):
    """The config is a static attribute."""

    hidden: eqx.nn.Linear
    head: eqx.nn.Linear
    config: Config = eqx.field(static=True)

    def __init__(self):
        keys, self.config = jax.random.split(jax.random.key(0)), Config()
        self.hidden, self.head = eqx.nn.Linear(3, 8, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1])

    def __call__(self, x):
        return self.head(jax.nn.relu(self.hidden(x)))


class Function:
    """A function of the state and an input that cannot be hashed."""

    __hash__ = None

    def __call__(self, variables, x):
        return jax.nn.relu(x @ variables["hidden"]) @ variables["head"]


def _linen(model, x):
    return demp_linen.Forward(model), model.init(jax.random.key(0), x)


def _networks():
    x = batch((16, 3))
    yield demp_nnx.forward(NNX(Config(), nnx.Rngs(0)))
    yield _linen(Linen([8, 8], {"use_bias": False}), x)
    yield demp_equinox.forward(Equinox())
    yield Function(), {"hidden": batch((3, 8)), "head": batch((8, 2))}


@pytest.mark.parametrize("number", range(4))
def test_a_network_without_a_hash_is_cut(number):
    (fn, variables), x = list(_networks())[number], batch((16, 3))
    if number != 2:  # Equinox's static attributes are part of a tree's structure, which hashes without them.
        with pytest.raises(TypeError, match="hash"):
            hash(fn)
    name = demp_jax.trace(fn, variables, x).sites[0].name
    cut = demp_jax.prune(fn, variables, [x, 2 * x], remove={name: np.arange(8) < 3})
    assert cut.record.removed == {name: 3}
    assert jax.jit(lambda v, x: cut.fn(v, x))(cut.variables, x).shape == (16, 2)
    assert cut.record.examples == 32
    if hasattr(fn, "training") and number < 2:
        train = cut.fn.training(cut.variables, x)
        assert demp_jax.activity.outputs(train, cut.variables, [x])[0].shape == (16, 2)


def test_an_nnx_model_with_a_config_is_cut_in_place():
    model, x = NNX(Config(), nnx.Rngs(0)), batch((16, 3))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    assert demp_nnx.prune(model, [x], optimizer, remove={"norm": np.arange(8) < 3}).removed == {"norm": 3}
    demp_nnx.reestimate_batch_stats(model, [x])
    assert model(x).shape == (16, 2)


def test_an_error_at_smaller_widths_is_still_explained():
    class Stiff(Function):
        def __call__(self, variables, x):
            return super().__call__(variables, x) + jnp.ones(8)[: variables["hidden"].shape[1]].reshape(8)[0]

    variables, x = {"hidden": batch((3, 8)), "head": batch((8, 2))}, batch((16, 3))
    with pytest.raises(ValueError, match=r"cannot run at smaller widths \(hidden 8 -> 5\): TypeError: cannot reshape"):
        demp_jax.prune(Stiff(), variables, [x], remove={"hidden": np.arange(8) < 3})


LOGICAL, PARTITIONED = nn.with_logical_partitioning, nn.with_partitioning


class Boxed(nn.Module):
    """Every layer that takes its widths from its variables, with the names of axes."""

    @nn.compact
    def __call__(self, x, train=False):
        kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros_init()
        x = nn.Conv(8, (3,), kernel_init=PARTITIONED(kernel, (None, "in", "out")))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, scale_init=LOGICAL(nn.initializers.ones, ("out",)))(x))
        general = {"kernel_init": LOGICAL(kernel, ("in", "out")), "bias_init": LOGICAL(bias, ("out",))}
        x = nn.relu(nn.DenseGeneral((8,), **general)(x))
        x = nn.relu(nn.ConvTranspose(8, (3,), kernel_init=PARTITIONED(kernel, (None, "in", "out")))(x))
        heads = {"kernel_init": LOGICAL(kernel, ("in", "heads", "out"))}
        x = nn.relu(nn.MultiHeadDotProductAttention(2, out_features=8, **heads)(x))
        return nn.Dense(2, kernel_init=LOGICAL(kernel, ("in", "out")))(x).mean(1)


def _names(tree):
    boxes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, nn.Partitioned))
    return [(type(box), box.names) if isinstance(box, nn.Partitioned) else None for box in boxes]


def test_boxed_parameters_are_cut_and_keep_their_names():
    model, x = Boxed(), batch((8, 4, 3))
    fn, variables = _linen(model, x)
    tx = demp_jax.demp(optax.adam(1e-3), strength=1e-3)
    opt_state = tx.init(variables["params"])
    sites = demp_jax.trace(fn, variables, x).sites
    leave = {site.name: np.arange(8) < 3 for site in sites}
    cut = demp_jax.prune(fn, variables, [x], remove=leave, opt_state=opt_state, tx=tx, params=helpers.params_of)
    assert cut.record.removed == dict.fromkeys(leave, 3)
    assert len(leave) == 4
    assert cut.record.reset == []
    assert _names(cut.variables) == _names(variables)
    kernel = cut.variables["params"]["Dense_0"]["kernel"]
    assert isinstance(kernel, nn.LogicallyPartitioned)
    assert (kernel.names, kernel.value.shape) == (("in", "out"), (5, 2))
    helpers.assert_same_shapes(cut.opt_state, jax.eval_shape(tx.init, cut.variables["params"]))
    # Scales in boxes are found, too.
    assert sum(jax.tree.leaves(demp_jax.norm_scales(variables["params"]))) == 1
    train = cut.fn.training(cut.variables, x)(cut.variables, x)
    with demp_linen.widths_from_variables():
        own, _ = model.apply(cut.variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(train, own, rtol=1e-5, atol=1e-6)
    renewed = demp_linen.reestimate_batch_stats(cut.fn, cut.variables, [x])
    assert jax.tree.structure(renewed) == jax.tree.structure(cut.variables)


def test_a_cut_does_not_need_widths_that_divide_by_the_mesh():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))

    class Sharded(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = nn.initializers.lecun_normal()
            x = nn.relu(nn.Dense(8, kernel_init=PARTITIONED(kernel, (None, "model")))(x))
            return nn.Dense(2, kernel_init=PARTITIONED(kernel, ("model", None)))(x)

    with jax.set_mesh(mesh):
        x = batch((8, 3))
        fn, variables = _linen(Sharded(), x)
        cut = demp_jax.prune(fn, variables, [x], remove={"Dense_0": np.arange(8) < 3})
        assert cut.record.removed == {"Dense_0": 3}
        assert cut.fn(cut.variables, x).shape == (8, 2)
