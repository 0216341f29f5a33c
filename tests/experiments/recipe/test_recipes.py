"""The paper's recipes: their sizes, and runs of a few steps, also with units made dead on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from configs import mlp_mnist, quickstart, resnet18_cifar, resnet50_imagenet, vgg16_cifar, vit_b16_imagenet
from experiments.recipe import network
from experiments.recipe.problem import pose
from experiments.rundir.checkpoints import load_pruned
from experiments.training.loop import train_and_evaluate
from tests.image_files import SMALL, drawn_folder, needs_sample, sample_folder
from tests.runs import config_of, last_digests, lines, model_of, needs_tfds, short_config

# By recipe: its module, the shape of an input, classes, parameters, neurons.
RECIPES = {
    "resnet18": (resnet18_cifar, (32, 32, 3), 10, 11_173_962, 3_904),
    "vgg16": (vgg16_cifar, (64, 64, 3), 10, 50_703_946, 12_928),
    "resnet50": (resnet50_imagenet, (224, 224, 3), 1000, 25_557_032, 22_720),
    "vit": (vit_b16_imagenet, (224, 224, 3), 1000, 86_567_656, 36_864),
}


def _config(module, variant, **changes):
    always = {"devices": 1, "progress": "off", "compile_cache": ""}
    return config_of({**always, **changes}, lambda: module.get_config(variant))


@pytest.mark.parametrize("name", RECIPES)
def test_networks_are_the_papers(name):
    module, shape, classes, parameters, neurons = RECIPES[name]
    net, variables = network.abstract(model_of(_config(module, "")), shape, classes)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    graph = demp_jax.trace(net, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert graph.neurons == neurons
    if name == "resnet50":
        assert round(graph.flops() / 1e8) == 82  # The paper's 8.2e9.


@pytest.fixture
def killed(monkeypatch):
    """Makes a third of the units of every hidden layer dead on every input, at initialization."""
    real = network.initial

    def initial(*args):
        net, variables = real(*args)
        _die(variables["params"])
        return net, variables

    monkeypatch.setattr(network, "initial", initial)


def _die(params, path=()):
    """A unit is dead whose normalization gives -1 whatever comes in, or whose dense layer gives -9."""
    if "bias" in params and set(path) & {"bn1", "bn2", "stem_bn", "conv_bn", "dense_bn", "dense1"}:
        first, bias = ("scale", -1.0) if "scale" in params else ("kernel", -9.0)
        dead = np.arange(params["bias"].shape[0]) % 3 == 0
        params[first] = params[first] * (~dead).reshape((1,) * (params[first].ndim - 1) + (-1,))
        params["bias"] = jnp.where(dead, bias, params["bias"])
        return
    for name, child in params.items():
        if isinstance(child, dict):
            _die(child, (*path, name))


def _trains_and_cuts(config, tmp_path, at_least):
    """Runs and checks what was cut, and that the network can be loaded; returns the result."""
    whole = train_and_evaluate(config, tmp_path / "whole")
    summary = whole.summary
    first = lines(tmp_path / "whole" / "cuts.jsonl")[0]
    assert first["refused"] is None
    assert not first["spared"]
    assert sum(first["removed"].values()) >= at_least
    rounding = 1e-4 if config.model.dtype == "float32" else 8 * 2**-7
    assert first["deviation"] <= rounding * max(first["scale"], 1)
    assert summary["neurons"] <= summary["dense_neurons"] - at_least
    assert 0 < summary["weight_sparsity"] < 1
    assert np.isfinite([line["loss"] for line in lines(tmp_path / "whole" / "metrics.jsonl") if "loss" in line]).all()

    model = load_pruned(tmp_path / "whole")
    problem = pose(config)
    images, _ = next(problem.dataset.read("test", [np.arange(4)]))
    inputs = problem.preparation(jnp.asarray(images))
    np.testing.assert_allclose(model(inputs), whole.network(whole.variables, inputs), rtol=1e-4, atol=1e-4)
    return whole


def _resumes(config, tmp_path):
    """Runs again, interrupted; the end is that of the run in `whole`."""
    from experiments.training.hooks import Evaluate

    class StopError(Exception):
        pass

    real = Evaluate.__call__

    def stop(self, step):
        if step == 4:
            raise StopError
        real(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluate, "__call__", stop)
        with pytest.raises(StopError):
            train_and_evaluate(config, tmp_path / "stopped")
    train_and_evaluate(config, tmp_path / "stopped")
    assert last_digests(tmp_path / "stopped") == last_digests(tmp_path / "whole")


# As in the recipes: the strength and noise of a smoke run would revive units that are dead from the start.
GENTLE = {"method.strength": 5e-3, "method.decoupled": False, "method.noise": 5e-5}
VGG = {"data.train_examples": 64, "pruning.examples": 16, **GENTLE}


def _on_drawn_images(module, variant, tmp_path, **more):
    folder = drawn_folder(tmp_path / "images", images=4)
    changes = {"data.name": "image_folder", "data.dir": str(folder), "data.side": 32}
    return _config(module, variant, **changes, **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "variant"),
    [
        (quickstart, "smoke"),
        pytest.param(mlp_mnist, "smoke", marks=needs_tfds),
        pytest.param(resnet18_cifar, "smoke", marks=needs_tfds),
        pytest.param(vgg16_cifar, "smoke,tiny", marks=needs_tfds),
        (resnet50_imagenet, "smoke,tiny"),
        (vit_b16_imagenet, "smoke,tiny"),
    ],
)
def test_a_smoke_run_prunes(module, variant, tmp_path):
    images = module in (resnet50_imagenet, vit_b16_imagenet)
    config = _on_drawn_images(module, variant, tmp_path) if images else _config(module, variant)
    whole = _trains_and_cuts(config, tmp_path, at_least=1)
    assert whole.summary["cuts"] >= 1
    if images:
        _resumes(config, tmp_path)


@pytest.mark.slow
def test_training_on_image_files(tmp_path):
    """With all that a recipe does to a batch on its way, and a network of which nothing takes long."""
    folder = drawn_folder(tmp_path / "images", classes=2, images=8)
    changes = {
        **SMALL,
        "data.dir": str(folder),
        "data.framing": "random_resized_crop",
        "data.randaugment_operations": 2,
        "data.mixup": 0.2,
        "data.cutmix": 1.0,
        "accumulate": 2,
        "pruning.examples": 8,
    }
    summary = train_and_evaluate(short_config(**changes), tmp_path / "run").summary
    assert summary["dense_parameters"] == 16 * 16 * 3 * 24 + 24 * 16 + 16 * 2 + 2 + 2 * (24 + 16)
    assert [cut["step"] for cut in lines(tmp_path / "run" / "cuts.jsonl")] == [10, 20, 30]


@pytest.mark.slow
@needs_tfds
@pytest.mark.parametrize("variant", ["smoke,tiny,released", "smoke,tiny,leaky,sgdm"])
@pytest.mark.usefixtures("killed")
def test_variants_of_a_small_vgg(tmp_path, variant):
    _trains_and_cuts(_config(vgg16_cifar, variant, **VGG), tmp_path, at_least=500)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "variant"),
    [
        (resnet50_imagenet, "smoke,tiny,sgdm,l2,bf16"),
        (vit_b16_imagenet, "smoke,tiny,relu,bf16"),
    ],
)
@pytest.mark.usefixtures("killed")
def test_variants_on_image_files(tmp_path, module, variant):
    _trains_and_cuts(_on_drawn_images(module, variant, tmp_path, **GENTLE), tmp_path, at_least=100)


@pytest.mark.slow
@needs_sample
@pytest.mark.parametrize("name", ["resnet50", "vit"])
@pytest.mark.usefixtures("killed")
def test_whole_imagenet_networks_on_real_photographs(tmp_path, name):
    module, *_, neurons = RECIPES[name]
    folder = sample_folder(tmp_path / "images", 12)
    changes = {"data.name": "image_folder", "data.dir": str(folder), "data.workers": 1, "data.train_examples": 12}
    config = _config(module, "smoke", **changes, **GENTLE)
    whole = _trains_and_cuts(config, tmp_path, at_least=neurons // 10)
    assert whole.summary["dense_neurons"] == neurons
    _resumes(config, tmp_path)


@pytest.mark.slow
@needs_tfds
@pytest.mark.usefixtures("killed")
def test_the_whole_vgg_on_cifar(tmp_path):
    config = _config(vgg16_cifar, "smoke", **GENTLE)
    whole = _trains_and_cuts(config, tmp_path, at_least=4000)
    assert whole.summary["dense_neurons"] == 12_928
    _resumes(config, tmp_path)


@pytest.mark.parametrize("name", ["mlp", "resnet18", "resnet50", "vgg16", "vit"])
def test_bfloat16_computes_in_it_and_keeps_parameters_and_statistics_in_float32(name):
    changes = {
        "model.name": name,
        "model.dtype": "bfloat16",
        "model.base_width": 4,
        "model.widths": (12,),
        "model.features": 12,
        "model.heads": 3,
        "model.depth": 1,
        "model.hidden": 16,
    }
    net, variables = network.abstract(model_of(config_of(changes)), (32, 32, 3), 10)
    x = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)
    logits, state = jax.eval_shape(net.train, variables, x)
    assert logits.dtype == jnp.float32
    floats = [leaf for leaf in jax.tree.leaves((variables, state)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(leaf.dtype == jnp.float32 for leaf in floats)
    text = str(jax.make_jaxpr(net.train)(variables, x))
    products = [line for line in text.splitlines() if "= dot_general" in line or "= conv_general_dilated" in line]
    wide = [line for line in products if "bf16" not in line.split("=")[0]]
    assert len(products) - len(wide) == {"mlp": 1, "resnet18": 20, "resnet50": 53, "vgg16": 15, "vit": 8}[name]
    assert len(wide) == (2 if name == "vit" else 1)  # The head; and what a softmax is taken of.


def test_bfloat16_computes_about_the_same():
    found = []
    for dtype in ("bfloat16", "float32"):
        net, variables = network.initial(
            model_of(config_of({"model.dtype": dtype, "model.widths": (24, 24)})), 0, (8, 8, 1), 10
        )
        found.append(np.asarray(net(variables, jax.random.normal(jax.random.key(0), (16, 8, 8, 1)))))
    difference = np.abs(found[0] - found[1]).max() / np.abs(found[1]).max()
    assert 1e-4 < difference < 0.03
