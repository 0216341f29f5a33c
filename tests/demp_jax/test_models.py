"""Sizes of the models against the papers' numbers and arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import demp_jax
from demp_jax import models
from demp_jax import nnx as demp_nnx
from tests import helpers
from tests.reference import models as reference


def _parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param))))


def _shapes_only(make):
    return nnx.eval_shape(make)


def test_resnet18_is_the_papers():
    model = _shapes_only(lambda: models.ResNet(3, 10, rngs=nnx.Rngs(0)))
    assert _parameters(model) == 11_173_962
    graph = demp_nnx.trace(model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    # Stem, and two activations in each of two blocks in each of four stages.
    assert graph.neurons == 64 + 4 * (64 + 128 + 256 + 512) == 3904
    assert len(graph.sites) == 17
    assert graph.parameters(lambda path: path.endswith(("kernel", "bias", "scale"))) == 11_173_962
    # Every unit can go: the neurons, and the channels of eight branches and three projections.
    assert graph.num_groups == 3904 + 2 * (64 + 128 + 256 + 512) + (128 + 256 + 512)
    assert all((site.groups >= 0).all() for site in graph.sites)
    assert not graph.refusals


def test_resnet18_flops_by_hand():
    model = _shapes_only(lambda: models.ResNet(3, 10, rngs=nnx.Rngs(0)))
    graph = demp_nnx.trace(model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    macs = 32 * 32 * 9 * 3 * 64
    inputs, size = 64, 32
    for stage, width in enumerate((64, 128, 256, 512)):
        size = 32 // 2**stage
        for block in range(2):
            macs += size * size * 9 * (inputs * width + width * width)
            if block == 0 and stage > 0:
                macs += size * size * inputs * width
            inputs = width
    macs += 512 * 10
    assert graph.flops() == 2 * macs


IMAGENET = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)


def test_resnet50_is_the_papers():
    model = _shapes_only(lambda: models.resnet50(3, 1000, rngs=nnx.Rngs(0)))
    assert _parameters(model) == 25_557_032
    graph = demp_nnx.trace(model, IMAGENET)
    assert graph.neurons == 22_720
    assert len(graph.sites) == 1 + 3 * 16
    assert not graph.refusals
    assert graph.flops() == pytest.approx(8.2e9, rel=0.005)  # The paper's table 1.


def test_vgg16_is_the_papers():
    model = _shapes_only(lambda: models.VGG((64, 64, 3), 10, rngs=nnx.Rngs(0)))
    assert _parameters(model) == 50_703_946
    graph = demp_nnx.trace(model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    assert graph.neurons == 12_928
    assert graph.num_groups == 12_928
    assert len(graph.sites) == 15
    assert not graph.refusals


@pytest.mark.parametrize(("activation", "kind"), [("gelu", "soft"), ("relu", "zero")])
def test_vit_b16_is_the_standard_one(activation, kind):
    model = _shapes_only(lambda: models.ViT((224, 224, 3), 1000, activation=activation, rngs=nnx.Rngs(0)))
    assert _parameters(model) == 86_567_656
    graph = demp_nnx.trace(model, IMAGENET)
    # The hidden units of the MLPs and nothing else.
    assert graph.neurons == graph.num_groups == 36_864
    assert graph.widths == {f"blocks/{i}/dense1": 3072 for i in range(12)}
    assert {site.kind for site in graph.sites} == {kind}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.VGG((48, 64, 3), 10, rngs=nnx.Rngs(0)), "multiples of 32; got 48 x 64"),
        (lambda: models.ViT((30, 32, 3), 10, rngs=nnx.Rngs(0)), "multiples of 16; got 30 x 32"),
        (lambda: models.ResNet(3, 10, stem="big", rngs=nnx.Rngs(0)), "stem must be 'small' or 'imagenet'; got 'big'"),
    ],
)
def test_sizes_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _random_variables(model, seed=0):
    """Gives a model random parameters and statistics; returns them in float64."""
    rng = np.random.default_rng(seed)
    state = nnx.as_pure(nnx.state(model))

    def draw(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.arange(leaf.size, dtype=leaf.dtype)  # The order of channels in a sum: as they are.
        if path[-1].key.startswith("fill"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        spread = 0.3 if path[-1].key in ("kernel", "positions", "token") else 0.1
        center = 1.0 if path[-1].key in ("scale", "var") else 0.0
        fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 1.0
        return jnp.asarray(center + spread * rng.normal(size=leaf.shape) * np.sqrt(8 / max(fan_in, 8)), leaf.dtype)

    nnx.update(model, jax.tree_util.tree_map_with_path(draw, state))
    model.eval()
    _, params, rest = nnx.split(model, nnx.Param, ...)
    wide = [jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(part)) for part in (params, rest)]
    return wide


MODELS = {
    "resnet18": (
        lambda rngs: models.ResNet(3, 7, base_width=4, rngs=rngs),
        (2, 32, 32, 3),
        reference.resnet18,
    ),
    "resnet50": (
        lambda rngs: models.resnet50(3, 7, base_width=4, blocks=(2, 1, 2, 1), rngs=rngs),
        (2, 67, 70, 3),
        lambda p, s, x: reference.resnet50(p, s, x, (2, 1, 2, 1)),
    ),
    "vgg16": (
        lambda rngs: models.VGG((64, 64, 3), 7, base_width=4, hidden=24, rngs=rngs),
        (2, 64, 64, 3),
        reference.vgg16,
    ),
    "vit": (
        lambda rngs: models.ViT((24, 16, 3), 7, patch=8, features=12, depth=2, heads=3, hidden=20, rngs=rngs),
        (2, 24, 16, 3),
        lambda p, s, x: reference.vit(p, x, 8),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_forward_is_the_architecture_written_a_second_time(name):
    make, shape, forward = MODELS[name]
    model = _shapes_only(lambda: make(nnx.Rngs(0)))
    params, state = _random_variables(model)
    x = helpers.batch(shape)
    expected = forward(params, state, np.asarray(x, np.float64))
    assert np.abs(expected).max() > 1e-2
    fn, variables = demp_nnx.forward(model)
    np.testing.assert_allclose(jax.jit(fn)(variables, x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_coupled_resnet_has_one_class_per_channel_of_a_stage():
    model = _shapes_only(lambda: models.ResNet(3, 10, base_width=8, coupled=True, rngs=nnx.Rngs(0)))
    graph = demp_nnx.trace(model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert graph.neurons == 3904 // 8
    # Per stage: the inner channels of two blocks, and the channels that its outputs share.
    assert graph.num_groups == 3 * (8 + 16 + 32 + 64)


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
@pytest.mark.parametrize("width", [4, 6])
def test_resnet_with_every_activation(activation, width):
    model = models.ResNet(1, 7, base_width=width, blocks=(1, 1), activation=activation, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 12, 12, 1))
    assert model(x).shape == (2, 7)
    graph = demp_nnx.trace(model, x)
    assert graph.neurons == width + 2 * (width + 2 * width)
    kind = {"relu": "zero", "leaky_relu": "negative"}.get(activation, "soft")
    assert {site.kind for site in graph.sites} == {kind}


def test_leaky_slope_is_the_papers():
    assert models.ACTIVATIONS["leaky_relu"](jnp.asarray(-2.0)) == pytest.approx(-0.1)


@pytest.mark.parametrize("norm", [True, False])
def test_mlp(norm):
    model = models.MLP(64, 10, widths=(128, 128), norm=norm, rngs=nnx.Rngs(0))
    weights = 64 * 128 + 128 * 128 + 128 * 10 + 10
    assert _parameters(model) == weights + (4 if norm else 2) * 128
    assert model(jnp.ones((3, 8, 8, 1))).shape == (3, 10)
    assert demp_jax.trace(*demp_nnx.forward(model), jnp.ones((2, 64))).widths == (
        {"norm/0": 128, "norm/1": 128} if norm else {"dense/0": 128, "dense/1": 128}
    )


def test_a_channel_sum_at_full_width_is_a_plain_sum():
    rngs = nnx.Rngs(0)
    free = models.ResNet(3, 4, base_width=4, blocks=(1, 1), rngs=rngs)
    coupled = models.ResNet(3, 4, base_width=4, blocks=(1, 1), coupled=True, rngs=nnx.Rngs(0))
    nnx.update(coupled, nnx.state(free, nnx.Param))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    assert (free(x) == coupled(x)).all()
    # And costs what a plain sum costs: the compiled programs have the same operations.
    programs = []
    for model in (free, coupled):
        model.eval()
        fn, variables = demp_nnx.forward(model)
        text = jax.jit(fn).lower(variables, x).as_text()
        programs.append(sum(text.count(f"stablehlo.{op} ") for op in ("gather", "select", "iota", "scatter")))
    assert programs[0] == programs[1]
