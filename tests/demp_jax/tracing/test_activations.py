"""Activations are found by what they compute."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import demp_jax
from demp_jax import nnx as demp_nnx
from tests.helpers import batch

FOUND = {
    "relu": (jax.nn.relu, "zero"),
    "max": (lambda x: jnp.maximum(x, 0), "zero"),
    "where": (lambda x: jnp.where(x > 0, x, 0), "zero"),
    "relu6": (jax.nn.relu6, "zero"),
    "clip": (lambda x: jnp.clip(x, 0, 6), "zero"),
    "squared_relu": (lambda x: jnp.square(jax.nn.relu(x)), "zero"),
    "negative_part": (lambda x: jnp.minimum(x, 0), "zero"),
    "gelu": (jax.nn.gelu, "soft"),
    "gelu_exact": (lambda x: jax.nn.gelu(x, approximate=False), "soft"),
    "gelu_scaled": (lambda x: 0.1 * jax.nn.gelu(2 * x), "soft"),
    "swish": (jax.nn.swish, "soft"),
    "swish_by_hand": (lambda x: x / (1 + jnp.exp(-x)), "soft"),
    "softplus": (jax.nn.softplus, "soft"),
    "mish": (jax.nn.mish, "soft"),
    "hard_silu": (jax.nn.hard_silu, "soft"),
    "leaky_relu": (lambda x: jax.nn.leaky_relu(x, 0.05), "negative"),
    "leaky_by_hand": (lambda x: jnp.where(x > 0, x, 0.3 * x), "negative"),
}
NOT_FOUND = {
    "identity": lambda x: x,
    "affine": lambda x: 2 * x + 1,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
    "exp": jnp.exp,
    "square": jnp.square,
    "abs": jnp.abs,
    "softmax": jax.nn.softmax,
}


def _sites(activation, dtype=jnp.float32):
    def fn(params, x):
        return activation(x @ params["hidden"]) @ params["out"]

    params = {"hidden": batch((4, 6)).astype(dtype), "out": batch((6, 2)).astype(dtype)}
    return demp_jax.trace(fn, params, jax.ShapeDtypeStruct((2, 4), dtype)).sites


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_found(name, dtype):
    activation, kind = FOUND[name]
    assert [(s.name, s.kind, s.width) for s in _sites(activation, dtype)] == [("hidden", kind, 6)]


@pytest.mark.parametrize("name", NOT_FOUND)
def test_not_found(name):
    assert not _sites(NOT_FOUND[name])


def test_both_halves_of_a_concatenated_relu_are_sites():
    def fn(params, x):
        y = x @ params["hidden"]
        return jnp.concatenate([jax.nn.relu(y), jax.nn.relu(-y)], -1) @ params["out"]

    params = {"hidden": batch((4, 6)), "out": batch((12, 2))}
    graph = demp_jax.trace(fn, params, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    assert [s.name for s in graph.sites] == ["hidden", "hidden_2"]
    assert (graph.sites[0].groups == graph.sites[1].groups).all()


def test_two_uses_of_one_activation_are_one_site():
    def fn(params, x):
        y = jax.nn.relu(x @ params["hidden"])
        return y @ params["out"] + (2 * y) @ params["out"]

    params = {"hidden": batch((4, 6)), "out": batch((6, 2))}
    assert len(demp_jax.trace(fn, params, jax.ShapeDtypeStruct((2, 4), jnp.float32)).sites) == 1


def test_marks():
    def gated(params, x):
        return (
            demp_jax.mark_units(jnp.tanh(x @ params["gate"]) * (x @ params["up"]), "mlp", kind="soft") @ params["out"]
        )

    params = {"gate": batch((4, 6), 1), "up": batch((4, 6), 2), "out": batch((6, 2))}
    [site] = demp_jax.trace(gated, params, jax.ShapeDtypeStruct((2, 4), jnp.float32)).sites
    assert (site.name, site.kind, site.width) == ("mlp", "soft", 6)

    [renamed] = _sites(lambda x: demp_jax.mark_units(jax.nn.relu(x), "mine"))
    assert (renamed.name, renamed.kind) == ("mine", "zero")
    with pytest.raises(ValueError, match="kind must be one of zero, soft, negative; got kind='soggy'"):
        demp_jax.mark_units(batch((2, 2)), kind="soggy")


def test_statistics_of_norms_in_training_mode_are_no_activations():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(4, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
            self.group, self.head = nnx.GroupNorm(6, num_groups=2, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.group(self.norm(self.first(x)))))

    graphdef, state = nnx.split(Net(nnx.Rngs(0)))

    def train(state, x):
        model = nnx.merge(graphdef, state, copy=True)
        return model(x), nnx.state(model)

    _, activity = demp_jax.with_activity(train)(state, batch((8, 4)))
    assert list(activity) == ["group"]


def test_an_activation_inside_a_custom_derivative_is_refused():
    @jax.custom_jvp
    def layer(w, x):
        return jax.nn.relu(x @ w)

    layer.defjvp(lambda primals, tangents: (layer(*primals), tangents[1] @ primals[0]))
    graph = demp_jax.trace(
        lambda p, x: layer(p["a"], x * 1.0) * 2.0 @ p["b"] + 0 * jnp.sum(layer(p["a"], x)),
        {"a": batch((4, 6)), "b": batch((6, 2))},
        jax.ShapeDtypeStruct((2, 4), jnp.float32),
    )
    assert graph.sites  # What the function returns is in reach.


def test_a_layer_of_one_unit_counts_and_stays():
    graph = demp_jax.trace(
        lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"],
        {"a": batch((4, 1)), "b": batch((1, 2))},
        jax.ShapeDtypeStruct((2, 4), jnp.float32),
    )
    assert graph.neurons == 1
    assert "it has a single unit" in graph.report()


def test_names_are_those_of_modules():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            for layer in self.layers:
                x = nnx.relu(layer(x))
            return self.head(x)

    assert list(demp_nnx.trace(Net(nnx.Rngs(0)), batch((2, 4))).widths) == ["layers/0", "layers/1"]
