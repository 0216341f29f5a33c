"""Models in training mode, as pure functions, and running statistics renewed from data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import demp_jax
from demp_jax import equinox as demp_equinox
from demp_jax import linen as demp_linen
from demp_jax import nnx as demp_nnx
from tests import helpers
from tests.helpers import batch


class NNX(nnx.Module):
    """A hidden layer with BatchNorm and dropout; what is set by `axis_name` belongs to a mapped axis."""

    def __init__(self, axis_name=None, momentum=0.99):
        rngs = nnx.Rngs(0)
        self.hidden, self.head = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=momentum, axis_name=axis_name, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.hidden(x)))))


class Linen(nn.Module):
    """The same."""

    axis_name: str | None = None
    momentum: float = 0.99

    @nn.compact
    def __call__(self, x, train=False):
        norm = nn.BatchNorm(momentum=self.momentum, axis_name=self.axis_name)
        x = nn.relu(norm(nn.Dense(8)(x), use_running_average=not train))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


class Equinox(eqx.Module):
    """The same."""

    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, mode="batch", momentum=0.99, axis_name="batch"):
        keys = jax.random.split(jax.random.key(0))
        self.hidden, self.head = eqx.nn.Linear(3, 8, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1])
        self.norm = eqx.nn.BatchNorm(8, axis_name, momentum=momentum, mode=mode)
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x, state):
        x, state = self.norm(self.hidden(x), state)
        return self.head(self.drop(jax.nn.relu(x))), state


def _calls_with_axis(model, x, state):
    state = state.set(model.norm.batch_counter, jnp.array(3))
    return jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(x, state)[0]


def _calls_without_axis(model, x, state):
    return jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(x, state)[0]


def _of(library):
    """Returns a model as `forward, variables`, and its hidden weights `[3, 8]`."""
    if library == "nnx":
        model = NNX(axis_name="devices")
        return *demp_nnx.forward(model), model.hidden.kernel[...]
    if library == "linen":
        model = Linen(axis_name="devices")
        variables = model.init(jax.random.key(0), batch((4, 3)))
        return demp_linen.Forward(model), variables, variables["params"]["Dense_0"]["kernel"]
    model, state = eqx.nn.make_with_state(Equinox)()
    # Its bias is drawn at random, where those of Flax are zero.
    model = eqx.tree_at(lambda m: m.hidden.bias, model, jnp.zeros(8))
    return *demp_equinox.forward(model, state), model.hidden.weight.T


LIBRARIES = ("nnx", "linen", "equinox")


def _hidden_head(library, variables):
    """Returns the weights and the bias of the head, `[8, 2]` and `[2]`."""
    if library == "nnx":
        return variables["head"]["kernel"], variables["head"]["bias"]
    if library == "linen":
        return variables["params"]["Dense_1"]["kernel"], variables["params"]["Dense_1"]["bias"]
    return variables["params"].head.weight.T, variables["params"].head.bias


def _with_head(library, variables, change):
    """Returns the variables with changed weights of the head, `[8, 2]`."""
    if library == "equinox":
        params = eqx.tree_at(lambda m: m.head.weight, variables["params"], change(variables["params"].head.weight.T).T)
        return {**variables, "params": params}
    name = {"nnx": "head", "linen": "Dense_1"}[library]
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    found = [
        change(leaf) if f"{name}/kernel" in jax.tree_util.keystr(path, simple=True, separator="/") else leaf
        for path, leaf in leaves
    ]
    return jax.tree.unflatten(structure, found)


@pytest.mark.parametrize("library", LIBRARIES)
def test_training_uses_batch_statistics_and_no_dropout(library):
    fn, variables, weights = _of(library)
    x = batch((16, 3)) * 3 + 1
    train = fn.training(variables, x)
    hidden = np.asarray(x @ weights)
    normalized = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    kernel, bias = _hidden_head(library, variables)
    expected = np.maximum(normalized, 0) @ np.asarray(kernel) + np.asarray(bias)
    np.testing.assert_allclose(jax.jit(train)(variables, x), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(train(variables, x) - fn(variables, x)).max() > 0.1
    np.testing.assert_array_equal(train(variables, x), train(variables, x))  # Nothing was updated.
    again = _of(library)
    assert (train, hash(train)) == (other := again[0].training(again[1], x), hash(other))


@pytest.mark.parametrize("library", LIBRARIES)
def test_training_from_shapes_alone(library):
    fn, variables, _ = _of(library)
    shapes = jax.eval_shape(lambda: (variables, batch((16, 3))))
    train = fn.training(*shapes)
    assert jax.eval_shape(train, *shapes).shape == (16, 2)


@pytest.mark.parametrize("library", LIBRARIES)
def test_training_of_a_smaller_network(library):
    fn, variables, _ = _of(library)
    x = batch((16, 3))
    [site] = demp_jax.trace(fn, variables, x).sites
    cut = demp_jax.prune(fn, variables, [x], remove={site.name: np.arange(8) < 3})
    assert cut.record.removed == {site.name: 3}
    train = cut.fn.training(cut.variables, x)
    dense = fn.training(variables, x)
    whole = jax.jit(dense)(variables, x)
    masked = jax.jit(dense)(_with_head(library, variables, lambda kernel: kernel.at[:3].set(0.0)), x)
    np.testing.assert_allclose(jax.jit(train)(cut.variables, x), masked, rtol=1e-4, atol=1e-5)
    assert np.abs(whole - masked).max() > 1e-2
    if hasattr(dense, "resized"):
        assert dense.resized(cut.variables) == train


def test_without_a_batch_norm_there_is_nothing_to_train_with():
    x = batch((4, 3))
    model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.LayerNorm(8, rngs=nnx.Rngs(0)))
    fn, variables = demp_nnx.forward(model)
    assert fn.training(variables, x) is None
    module = nn.Sequential([nn.Dense(8), nn.LayerNorm()])
    assert demp_linen.Forward(module).training(module.init(jax.random.key(0), x), x) is None
    fn, variables = demp_equinox.forward(eqx.nn.Linear(3, 8, key=jax.random.key(0)))
    assert fn.training(variables, x) is None


def test_an_equinox_call_of_ones_own_has_to_name_the_axis():
    x = batch((16, 3))
    model, state = eqx.nn.make_with_state(Equinox)()
    fn, variables = demp_equinox.forward(model, state)
    own, _ = demp_equinox.forward(model, state, _calls_with_axis)
    train = own.training(variables, x)
    np.testing.assert_allclose(train(variables, x), fn.training(variables, x)(variables, x), rtol=1e-6)
    state.get(model.norm.batch_counter)  # Still valid.
    unnamed, _ = demp_equinox.forward(model, state, _calls_without_axis)
    assert unnamed.training(variables, x) is None
    model, state = eqx.nn.make_with_state(Equinox)(axis_name=("batch", "devices"))
    fn, variables = demp_equinox.forward(model, state)
    assert fn.training(variables, x) is None


class Counted(nnx.Module):
    """A head and a counter that only the training mode uses, and what it keeps of a call."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.body, self.aux = NNX(axis_name="devices"), nnx.Linear(2, 4, rngs=rngs)
        self.seen = nnx.BatchStat(jnp.zeros(2))

    def __call__(self, x):
        y = self.body(x)
        if self.body.drop.deterministic:
            return y
        self.seen[...] = self.seen[...] + jnp.mean(y, 0)
        self.kept = nnx.Intermediate(y)
        return y, self.aux(y)


def test_updating_is_the_model_in_training_mode():
    model, x = Counted(), batch((16, 3))
    fn, variables = demp_nnx.forward(model)
    updating = fn.updating()
    (y, aux), updated = jax.jit(updating)(variables, x)
    assert jax.tree.structure(updated) == jax.tree.structure(variables)
    model.train()
    model.body.norm.axis_name = None
    expected, expected_aux = model(x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aux, expected_aux, rtol=1e-5, atol=1e-6)
    nnx.pop(model, nnx.Intermediate)
    helpers.assert_trees_close(updated, nnx.as_pure(nnx.state(model)), rtol=1e-5, atol=1e-6)
    assert updated["body"]["drop"]["rngs"]["count"] == 1
    assert updating == demp_nnx.forward(Counted())[0].updating()
    _, again = updating(variables, x)
    helpers.assert_trees_close(again, updated, rtol=1e-5, atol=1e-6)  # The variables given were not changed.


def test_updating_of_a_smaller_network():
    fn, variables = demp_nnx.forward(NNX())
    x = batch((16, 3))
    cut = demp_jax.prune(fn, variables, [x], remove={"norm": np.arange(8) < 3})
    assert cut.fn.updating() == fn.updating().resized(cut.variables)
    assert cut.fn.updating()(cut.variables, x)[1]["norm"]["mean"].shape == (5,)


def _truth(batches, weights):
    """Returns the mean over batches of the batch means and of the batch variances, in float64."""
    hidden = [np.asarray(x, np.float64) @ np.asarray(weights, np.float64) for x in batches]
    return np.mean([h.mean(0) for h in hidden], 0), np.mean([h.var(0) for h in hidden], 0)


def _shifted():
    return [batch((16, 3), seed) * (1 + seed) + seed for seed in range(5)]


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_statistics_of_an_nnx_model_are_averages_over_batches(momentum):
    model = NNX(axis_name="devices", momentum=momentum)
    model.norm.mean[...] = jnp.full(8, jnp.nan)
    before = nnx.as_pure(nnx.clone(nnx.state(model, nnx.Not(nnx.BatchStat))))
    graphdef = nnx.split(model)[0]
    with helpers.compilations() as compiled:
        demp_nnx.reestimate_batch_stats(model, iter(_shifted()))
    assert len(compiled) < 12  # One program for all batches, and small ones to begin and to end.
    mean, var = _truth(_shifted(), model.hidden.kernel[...])
    np.testing.assert_allclose(model.norm.mean[...], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.norm.var[...], var, rtol=1e-4, atol=1e-5)
    assert nnx.split(model)[0] == graphdef
    helpers.assert_trees_close(nnx.as_pure(nnx.state(model, nnx.Not(nnx.BatchStat))), before, rtol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_statistics_of_a_linen_model_are_averages_over_batches(momentum):
    model = Linen(axis_name="devices", momentum=momentum)
    variables = model.init(jax.random.key(0), batch((4, 3)))
    variables["batch_stats"]["BatchNorm_0"]["mean"] = jnp.full(8, jnp.nan)
    variables["batch_stats"]["own"] = {"mean": jnp.full(8, jnp.nan)}
    new = demp_linen.reestimate_batch_stats(model, variables, iter(_shifted()))
    mean, var = _truth(_shifted(), variables["params"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(new["batch_stats"]["BatchNorm_0"]["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["BatchNorm_0"]["var"], var, rtol=1e-4, atol=1e-5)
    assert new["batch_stats"]["own"]["mean"] is variables["batch_stats"]["own"]["mean"]
    helpers.assert_trees_close(new["params"], variables["params"], rtol=0)
    forward = demp_linen.Forward(model, train=False)
    again = demp_linen.reestimate_batch_stats(forward, variables, _shifted())
    helpers.assert_trees_close(again["params"], new["params"], rtol=0)
    helpers.assert_trees_close(again["batch_stats"]["BatchNorm_0"], new["batch_stats"]["BatchNorm_0"], rtol=0)


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("steps", [0, 3])
def test_statistics_of_an_equinox_model_are_averages_over_batches(mode, steps):
    model, state = eqx.nn.make_with_state(Equinox)(mode, momentum=0.9)
    model = eqx.tree_at(lambda m: m.hidden.bias, model, jnp.zeros(8))
    train = eqx.tree_at(lambda m: m.drop, model, eqx.nn.Identity())
    for x in _shifted()[:steps]:
        _, state = jax.vmap(train, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(x, state)
    index = model.norm.ema_state_index if mode == "ema" else model.norm.batch_state_index
    state = state.set(index, (jnp.full(8, jnp.nan, jnp.float32),) * 2)
    new = demp_equinox.reestimate_batch_stats(model, state, iter(_shifted()))
    inference = eqx.nn.inference_mode(model.norm)
    mean, var = _truth(_shifted(), model.hidden.weight.T)
    # Whatever the layer keeps, it normalizes with the averages.
    for value in (mean, mean + np.sqrt(var)):
        out, _ = inference(jnp.float32(value), jax.tree.map(lambda leaf: leaf, new))
        expected = (value - mean) / np.sqrt(var + 1e-5)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    assert not model.norm.inference
    # Training goes on from there, with the momentum of the layer.
    x = _shifted()[0]
    _, later = jax.vmap(train, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(x, new)
    first, _ = _truth([x], model.hidden.weight.T)
    weight = 0.1 if mode == "ema" else 0.1 / (1 - 0.9 ** (max(steps, 1) + 1))
    value = mean + weight * (first - mean)
    out, _ = inference(jnp.float32(value), later)
    np.testing.assert_allclose(out, 0.0, atol=1e-4)


def test_a_layer_that_is_not_called_keeps_its_statistics():
    class Spare(nnx.Module):
        def __init__(self):
            self.norm, self.spare = (nnx.BatchNorm(3, rngs=nnx.Rngs(0)) for _ in range(2))
            self.spare.mean[...] = jnp.array([0.1, 0.7, 1e-3])

        def __call__(self, x):
            return self.norm(x)

    model = Spare()
    demp_nnx.reestimate_batch_stats(model, _shifted())
    np.testing.assert_array_equal(model.spare.mean[...], jnp.array([0.1, 0.7, 1e-3]))

    class SpareEquinox(eqx.Module):
        norm: eqx.nn.BatchNorm
        spare: tuple

        def __init__(self):
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")
            self.spare = tuple(eqx.nn.BatchNorm(3, "batch", mode=mode) for mode in ("batch", "ema"))

        def __call__(self, x, state):
            return self.norm(x, state)

    model, state = eqx.nn.make_with_state(SpareEquinox)()
    new = demp_equinox.reestimate_batch_stats(model, state, _shifted())
    assert new.get(model.norm.batch_counter) == 1
    assert new.get(model.spare[0].batch_counter) == 0
    assert new.get(model.spare[1].ema_first_time_index)


def test_there_must_be_batches_and_a_batch_norm():
    x = batch((4, 3))
    with pytest.raises(ValueError, match="batches is empty; give at least one"):
        demp_nnx.reestimate_batch_stats(NNX(), [])
    with pytest.raises(ValueError, match=r"the model has no nnx\.BatchNorm"):
        demp_nnx.reestimate_batch_stats(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), [x])
    dense = nn.Dense(2)
    with pytest.raises(ValueError, match=r"the model calls no nn\.BatchNorm"):
        demp_linen.reestimate_batch_stats(dense, dense.init(jax.random.key(0), x), [x])
    model, state = eqx.nn.make_with_state(eqx.nn.Linear)(3, 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"the model has no eqx\.nn\.BatchNorm"):
        demp_equinox.reestimate_batch_stats(model, state, [x])
