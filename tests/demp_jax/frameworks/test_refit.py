"""Every layer of Flax NNX follows its variables: attributes are those of a layer built at the smaller widths."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from demp_jax import nnx as demp_nnx
from demp_jax._src.frameworks import refit
from tests import helpers
from tests.helpers import batch


def _loop(cell, x):
    """Runs a cell over `[B, L, C]`, unrolled."""
    carry, outputs = cell.initialize_carry(x[:, 0].shape, nnx.Rngs(0)), []
    for i in range(x.shape[1]):
        carry, y = cell(carry, x[:, i])
        outputs.append(y[:, None])
    return jnp.concatenate(outputs, 1)


def _twice(x, axis):
    return jnp.concatenate([jnp.expand_dims(x, axis)] * 2, axis)


def _attention(i, o, r, **options):
    arguments = {"qkv_features": 8, "out_features": o, "decode": False, "rngs": r}
    return nnx.MultiHeadAttention(num_heads=2, in_features=i, **arguments, **options)


# By name: how to build the layer for `i` and `o` channels with `r` as its random keys, which of the two widths a cut
# makes smaller ("" where the units of a layer cannot be removed one by one), and how to call it on `[B, L, i]`.
LAYERS = {
    "BatchNorm": (lambda i, o, r: nnx.BatchNorm(i, rngs=r), "io", None),
    "BatchNorm without affine": (
        lambda i, o, r: nnx.BatchNorm(i, use_bias=False, use_scale=False, rngs=r),
        "io",
        None,
    ),
    "Bidirectional": (
        lambda i, o, r: nnx.Bidirectional(*(nnx.RNN(nnx.GRUCell(i, o // 2, rngs=r), rngs=r) for _ in range(2)), rngs=r),
        "",
        None,
    ),
    "Conv": (lambda i, o, r: nnx.Conv(i, o, 3, rngs=r), "io", None),
    "Conv in groups": (lambda i, o, r: nnx.Conv(i, o, 3, feature_group_count=i // 2, rngs=r), "io", None),
    "Conv depthwise": (lambda i, o, r: nnx.Conv(i, o, 3, feature_group_count=i, use_bias=False, rngs=r), "io", None),
    "Conv with a mask": (
        lambda i, o, r: nnx.Conv(i, o, 3, mask=nnx.data(jnp.ones((3, i, o))), rngs=r),
        "io",
        None,
    ),
    "ConvTranspose": (lambda i, o, r: nnx.ConvTranspose(i, o, 3, rngs=r), "io", None),
    "ConvTranspose transposed": (
        lambda i, o, r: nnx.ConvTranspose(i, o, 3, transpose_kernel=True, rngs=r),
        "io",
        None,
    ),
    "Dropout": (lambda i, o, r: nnx.Dropout(0.5, rngs=r), "io", None),
    "Einsum": (lambda i, o, r: nnx.Einsum("bli,io->blo", (i, o), (o,), rngs=r), "io", None),
    "Einsum without bias": (lambda i, o, r: nnx.Einsum("bli,io->blo", (i, o), rngs=r), "io", None),
    "Embed": (lambda i, o, r: nnx.Embed(5, o, rngs=r), "o", lambda m, x: m(jnp.int32(x[..., 0] * 0))),
    "GRUCell": (lambda i, o, r: nnx.GRUCell(i, o, rngs=r), "i", _loop),
    "GroupNorm": (lambda i, o, r: nnx.GroupNorm(i, num_groups=None, group_size=2, rngs=r), "io", None),
    "InstanceNorm": (lambda i, o, r: nnx.InstanceNorm(i, rngs=r), "io", None),
    "LSTMCell": (lambda i, o, r: nnx.LSTMCell(i, o, rngs=r), "i", _loop),
    "LayerNorm": (lambda i, o, r: nnx.LayerNorm(i, rngs=r), "", None),
    "Linear": (lambda i, o, r: nnx.Linear(i, o, rngs=r), "io", None),
    "LinearGeneral": (lambda i, o, r: nnx.LinearGeneral(i, o, rngs=r), "io", None),
    "LinearGeneral of heads": (
        lambda i, o, r: nnx.LinearGeneral((2, i), (o, 1), axis=(-2, -1), rngs=r),
        "io",
        lambda m, x: m(_twice(x, -2))[..., 0],
    ),
    "LinearGeneral in batches": (
        lambda i, o, r: nnx.LinearGeneral(i, o, batch_axis={0: 2}, rngs=r),
        "io",
        lambda m, x: m(_twice(x, 0))[0],
    ),
    "LoRA": (lambda i, o, r: nnx.LoRA(i, 2, o, rngs=r), "io", None),
    "LoRA around a layer": (
        lambda i, o, r: nnx.LoRA(i, 2, o, base_module=nnx.Linear(i, o, rngs=r), rngs=r),
        "io",
        None,
    ),
    "LoRALinear": (lambda i, o, r: nnx.LoRALinear(i, o, lora_rank=2, rngs=r), "io", None),
    "MultiHeadAttention": (_attention, "io", None),
    "MultiHeadAttention with normalized queries": (functools.partial(_attention, normalize_qk=True), "io", None),
    "MultiHeadAttention with fewer keys": (functools.partial(_attention, num_kv_heads=1), "io", None),
    "MultiHeadAttention of other keys": (
        functools.partial(_attention, in_kv_features=5),
        "io",
        lambda m, x: m(x, jnp.ones((*x.shape[:-1], 5))),
    ),
    "OptimizedLSTMCell": (lambda i, o, r: nnx.OptimizedLSTMCell(i, o, rngs=r), "i", _loop),
    "PReLU": (lambda i, o, r: nnx.PReLU(), "io", None),
    "RMSNorm": (lambda i, o, r: nnx.RMSNorm(i, rngs=r), "", None),
    "RNN": (lambda i, o, r: nnx.RNN(nnx.SimpleCell(i, o, rngs=r), rngs=r), "", None),
    "SimpleCell": (lambda i, o, r: nnx.SimpleCell(i, o, rngs=r), "i", _loop),
    "SimpleCell of ReLUs": (lambda i, o, r: nnx.SimpleCell(i, o, activation_fn=nnx.relu, rngs=r), "io", _loop),
    "SpectralNorm": (lambda i, o, r: nnx.SpectralNorm(nnx.Linear(i, o, rngs=r), rngs=r), "", None),
    "WeightNorm": (lambda i, o, r: nnx.WeightNorm(nnx.Linear(i, o, rngs=r), rngs=r), "o", None),
}


# Layers whose two widths are bound to each other.
BOUND = ("BatchNorm", "BatchNorm without affine", "Conv depthwise", "Conv in groups", "Dropout", "GroupNorm")
BOUND += ("InstanceNorm", "LayerNorm", "PReLU", "RMSNorm")


class Net(nnx.Module):
    """A layer between two others, each with a ReLU after it."""

    def __init__(self, name, i, o):
        rngs = nnx.Rngs(0)
        build, _, self.call = LAYERS[name]
        self.feed, self.layer = nnx.Linear(5, i, rngs=rngs), build(i, o, rngs)
        self.head = nnx.Linear(o, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.feed(x))
        x = self.layer(x) if self.call is None else self.call(self.layer, x)
        return self.head(nnx.relu(x)).mean(1)


def _runs(model, x):
    return nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)(x)


@pytest.mark.parametrize("name", [name for name, (_, shrinks, _) in LAYERS.items() if shrinks])
def test_after_a_cut_a_layer_is_that_of_the_smaller_widths(name):
    shrinks = LAYERS[name][1]
    model, x = Net(name, 8, 8), batch((4, 3, 5))
    graph = demp_nnx.trace(model, x)
    # A hidden unit of a cell is read by the next step, too: it cannot be removed for what the head reads.
    sites = [site for site in graph.sites if site.name == "feed" or "o" in shrinks]
    record = demp_nnx.prune(model, [x], remove={site.name: np.arange(site.width) < 4 for site in sites})
    assert record.refused is None
    i, o = model.feed.kernel.shape[-1], model.head.kernel.shape[0]
    assert (i, o) == tuple(4 if width in shrinks else 8 for width in "io")
    graphdef, state = nnx.split(model)
    assert graphdef == nnx.split(Net(name, i, o))[0]
    np.testing.assert_array_equal(_runs(nnx.merge(graphdef, state), x), _runs(model, x))


@pytest.mark.parametrize("name", LAYERS)
def test_resized_a_layer_is_that_of_the_other_widths(name):
    small, model, x = Net(name, 4, 4 if name in BOUND else 6), Net(name, 8, 8), batch((4, 3, 5))
    demp_nnx.resize(model, nnx.as_pure(nnx.state(small)))
    assert nnx.split(model)[0] == nnx.split(small)[0]
    np.testing.assert_array_equal(_runs(model, x), _runs(small, x))


def test_every_layer_of_flax_is_known():
    def layers(kinds):
        return {kind for kind in kinds if kind.__module__.startswith("flax.nnx.nn.") and issubclass(kind, nnx.Module)}

    known = layers(refit.FITS) | layers(refit.WITHOUT_WIDTHS)
    there = layers(kind for kind in vars(nnx).values() if inspect.isclass(kind)) - {nnx.RNNCellBase}
    assert there == known, "a layer of Flax is in neither FITS nor WITHOUT_WIDTHS of demp_jax/_src/frameworks/refit.py"
    assert {kind.__name__ for kind in known} - {"RoPE"} <= {name.split()[0] for name in LAYERS}


def test_a_group_norm_without_variables_takes_its_groups_from_the_input():
    class Groups(nnx.Module):
        def __init__(self, rngs):
            self.feed = nnx.Linear(5, 8, rngs=rngs)
            self.norm = nnx.GroupNorm(8, num_groups=4, use_bias=False, use_scale=False, rngs=rngs)
            self.head = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.norm(self.feed(x))))

    model, x = Groups(nnx.Rngs(0)), batch((4, 3, 5))
    [site] = demp_nnx.trace(model, x).sites
    assert demp_nnx.prune(model, [x], remove={site.name: np.arange(8) < 4}).removed == {site.name: 4}
    assert model(x).shape == (4, 3, 2)


def test_a_grouped_convolution_built_with_as_many_groups_of_other_widths():
    def conv(channels):
        return nnx.Conv(channels, 2 * channels, (3,), feature_group_count=4, rngs=nnx.Rngs(0))

    model = conv(16)
    demp_nnx.resize(model, nnx.as_pure(nnx.state(conv(8))))
    assert nnx.split(model)[0] == nnx.split(conv(8))[0]


def test_heads_and_batches_are_widths_too():
    def attention(heads):
        return nnx.MultiHeadAttention(heads, 8, 4 * heads, decode=False, rngs=nnx.Rngs(0))

    def general(batches):
        return nnx.LinearGeneral(3, 4, batch_axis={0: batches}, rngs=nnx.Rngs(0))

    for make in (attention, general):
        model = make(4)
        demp_nnx.resize(model, nnx.as_pure(nnx.state(make(2))))
        assert nnx.split(model)[0] == nnx.split(make(2))[0]


class Restored(nnx.Module):
    """Paths with numbers and with tuples, and random keys."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.WeightNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)


def _as_strings(tree):
    return {str(key): _as_strings(value) for key, value in tree.items()} if hasattr(tree, "items") else tree


@pytest.mark.parametrize("boxed", [False, True])
def test_resize_takes_what_orbax_restores_without_a_target(boxed):
    source, target = Restored(0), Restored(1)
    state = _as_strings(nnx.to_pure_dict(nnx.state(source)))
    if boxed:  # As it was saved as a state of variables.
        state["layers"]["0"] = {name: {"value": array} for name, array in state["layers"]["0"].items()}
    demp_nnx.resize(target, state)
    for path, leaf in nnx.to_flat_state(nnx.as_pure(nnx.state(source))):
        assert (dict(nnx.to_flat_state(nnx.as_pure(nnx.state(target))))[path] == leaf).all()


def _state(model, change=lambda flat: None):
    flat = dict(nnx.to_flat_state(nnx.as_pure(nnx.state(model))))
    change(flat)
    return nnx.from_flat_state(flat.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat.pop(("bias",)), r"bias: stored nothing, wanted float32\[4\]\. Only widths may differ"),
        (lambda flat: flat.update({("other",): 1.0}), r"other: stored float, wanted nothing"),
        (
            lambda flat: flat.update({("bias",): jnp.zeros(4, jnp.bfloat16)}),
            r"bias: stored bfloat16\[4\], wanted float32\[4\]",
        ),
        (
            lambda flat: flat.update({("bias",): jnp.zeros((4, 1)), ("kernel",): jnp.zeros((5, 3, 4))}),
            r"bias: stored float32\[4, 1\], wanted float32\[4\] \(and 1 more\)",
        ),
        (
            lambda flat: flat.update({("kernel",): jnp.zeros((5, 3, 4))}),
            r"kernel: stored float32\[5, 3, 4\], wanted float32\[3, 3, 4\]",
        ),
    ],
)
def test_resize_refuses_other_variables_and_changes_nothing(change, message):
    model = nnx.Conv(3, 4, 3, rngs=nnx.Rngs(0))
    before = nnx.as_pure(nnx.state(model))
    with pytest.raises(ValueError, match=message) as error:
        demp_nnx.resize(model, _state(model, change))
    assert "\n" not in str(error.value)
    helpers.assert_trees_close(nnx.as_pure(nnx.state(model)), before, rtol=0)


def test_resize_leaves_random_keys_out_and_refuses_other_kinds_of_keys():
    source, target = Restored(0), Restored(1)
    key = target.drop.rngs.key[...]
    demp_nnx.resize(target, nnx.as_pure(nnx.state(source, nnx.Not(nnx.RngState))))
    assert target.drop.rngs.key[...] == key
    state = nnx.to_pure_dict(nnx.state(source))
    state["drop"]["rngs"]["key"] = jax.random.key_data(key)
    with pytest.raises(ValueError, match=r"drop/rngs/key: stored uint32\[2\], wanted key<fry>\[\]"):
        demp_nnx.resize(target, state)
