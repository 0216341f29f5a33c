"""Exported networks equal the networks they were exported from, in programs without this package."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx

import demp_jax
import demp_jax.nnx
from configs.base import base
from demp_jax import export, models
from experiments.recipe import network
from experiments.recipe.network import Network
from tests import helpers
from tests.runs import model_of

ROOT = Path(__file__).resolve().parents[2]

# By `config.model.name`: shape of an input, and further fields of the section.
MODELS = {
    "mlp": ((8, 8, 1), {"widths": [24, 16]}),
    "resnet18": ((8, 8, 3), {"base_width": 4, "activation": "leaky_relu"}),
    "resnet50": ((32, 32, 3), {"base_width": 3, "blocks": [2, 1], "activation": "swish"}),
    "vgg16": ((32, 32, 3), {"base_width": 3, "hidden": 16}),
    "vit": (
        (8, 8, 3),
        {"patch": 4, "features": 8, "depth": 2, "heads": 2, "hidden": 12, "activation": "gelu"},
    ),
}
CLASSES = 5


class Case(NamedTuple):
    """A network at random widths, its variables, all of them random, a batch, the outputs for it, its config."""

    network: Network
    variables: Any
    x: jax.Array
    wanted: np.ndarray
    config: Any


@functools.cache
def cut_network(name):
    shape, more = MODELS[name]
    config = base().unlock()
    config.model.update({"name": name, **more})
    rng = np.random.default_rng(0)

    def value(path, leaf):
        kind = path[-1].key
        if kind.startswith("index"):
            return jnp.arange(leaf.shape[0], dtype=leaf.dtype)
        if kind == "var":
            return jnp.asarray(rng.uniform(0.5, 2.0, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), leaf.dtype)

    dense, variables = network.abstract(model_of(config), shape, CLASSES)
    variables = jax.tree_util.tree_map_with_path(value, variables)
    x = helpers.batch((5, *shape))
    plan = helpers.random_plan(demp_jax.trace(dense, variables, x), rng)
    variables = plan.slice_variables(variables)
    small = dense.resized(variables)
    return Case(small, variables, x, np.asarray(jax.jit(small)(variables, x)), config)


@pytest.mark.slow
def test_the_networks_are_irregular():
    for name, (shape, _) in MODELS.items():
        case = cut_network(name)
        dense = jax.tree.leaves(network.abstract(model_of(case.config), shape, CLASSES)[1])
        assert [leaf.shape for leaf in jax.tree.leaves(case.variables)] != [leaf.shape for leaf in dense]
    blocks = cut_network("resnet18").variables["state"]["blocks"]
    sums = [block["sum"] for block in blocks.values()]
    chosen = [np.asarray(s[key]) for s in sums for key in ("index_0", "index_1")]
    assert any((index == np.iinfo(np.int32).max).any() for index in chosen)
    assert any((index[index < 99] != np.arange((index < 99).sum())).any() for index in chosen)


# Loads folders, with the training program out of reach, and saves the outputs of their networks.
PROGRAM = """
import pathlib, sys
sys.modules["experiments"] = sys.modules["configs"] = None
import jax, numpy as np
from flax import nnx
from demp_jax import models
for folder in map(pathlib.Path, sys.argv[1:]):
    graphdef, state = nnx.split(models.load(folder))
    y = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, np.load(folder / "x.npy"))
    np.save(folder / "y.npy", y)
"""


def write_folder(name, folder):
    case = cut_network(name)
    folder.mkdir()
    state = nnx.as_pure(nnx.state(case.network.model(case.variables)))
    export.save_safetensors(folder / "model.safetensors", state)
    about = {"model": network.description(case.config.model, case.x.shape[1:], CLASSES)}
    (folder / "model.json").write_text(json.dumps(about))
    np.save(folder / "x.npy", case.x)
    return folder


def test_models_load_without_the_training_program(tmp_path):
    folders = {name: write_folder(name, tmp_path / name) for name in MODELS}
    command = [sys.executable, "-c", PROGRAM, *map(str, folders.values())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    for name, folder in folders.items():
        np.testing.assert_allclose(
            np.load(folder / "y.npy"), cut_network(name).wanted, rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_a_loaded_model_is_in_evaluation_mode_and_knows_its_widths(tmp_path):
    model = models.load(write_folder("resnet18", tmp_path / "net"))
    modules = [module for _, module in nnx.iter_modules(model)]
    convolutions = [m for m in modules if isinstance(m, nnx.Conv)]
    assert all((m.in_features, m.out_features) == m.kernel.shape[-2:] for m in convolutions)
    norms = [m for m in modules if isinstance(m, nnx.BatchNorm)]
    assert all(m.use_running_average and m.num_features == m.mean.shape[0] for m in norms)
    assert len(convolutions) == len(norms) == 1 + 2 * 8 + 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "mlp", "widths": [8]}, "must hold model.name and model.arguments; reading them failed with KeyError"),
        (
            {"name": "own", "arguments": {}},
            "must be one of MLP, ResNet, VGG, ViT, resnet50; got 'own'. Build the model ",
        ),
        (
            {"name": "MLP", "arguments": {"depth": 3}},
            "model.arguments of .* must be arguments of MLP; got {'depth': 3}",
        ),
        (
            {"name": "MLP", "arguments": {"features": 9, "classes": 5}},
            "load_safetensors: .* not of this model; .*stored .*, wanted nothing",
        ),
    ],
)
def test_a_model_json_that_does_not_fit_is_named(content, message, tmp_path):
    folder = write_folder("resnet18", tmp_path / "net")
    (folder / "model.json").write_text(json.dumps({"model": content}))
    with pytest.raises(ValueError, match=message) as error:
        models.load(folder)
    assert "\n" not in str(error.value)


# Files, by the package whose format it is.


def test_tensors_are_those_of_the_package_safetensors(tmp_path):
    from safetensors.numpy import load_file

    rng = np.random.default_rng(0)
    kinds = ("float32", "bfloat16", "float16", "int32", "uint8", "bool")
    tree = {"a": {kind: jnp.asarray(rng.integers(0, 2, (2, 3)), kind) for kind in kinds}, "b": [jnp.float32(3)]}
    export.save_safetensors(tmp_path / "t.safetensors", tree, metadata={"what": "a test"})
    ours, theirs = export.read_safetensors(tmp_path / "t.safetensors"), load_file(tmp_path / "t.safetensors")
    assert set(ours) == set(theirs) == {*(f"a/{kind}" for kind in kinds), "b/0"}
    for name, array in ours.items():
        wanted = tree["a"][name[2:]] if name.startswith("a/") else tree["b"][0]
        assert array.dtype == wanted.dtype == theirs[name].dtype
        assert array.shape == wanted.shape == theirs[name].shape
        assert array.tobytes() == np.asarray(wanted).tobytes() == theirs[name].tobytes()


def test_tensors_that_cannot_be_written_or_read(tmp_path):
    path = tmp_path / "t.safetensors"
    with pytest.raises(ValueError, match="save_safetensors: variables must not hold PRNG keys; got one at k"):
        export.save_safetensors(path, {"k": jax.random.key(0)})
    with pytest.raises(ValueError, match="paths of variables must be unique; got a/b twice"):
        export.save_safetensors(path, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(2)})
    export.save_safetensors(path, {"a": jnp.ones(100)})
    for content in (path.read_bytes()[:-1], path.read_bytes()[:20], b"", b"something else"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t.safetensors is not \(.*Save it again"):
            export.read_safetensors(path)


def test_a_network_of_ones_own_takes_the_widths_of_a_file(tmp_path):
    """No config, no `demp_jax.models`: the architecture is in the user's code, at its widths before any cut."""
    model, x = helpers.build(lambda: helpers.Blocks(nnx.Rngs(0))), helpers.batch(helpers.BLOCKS_INPUT)
    fn, state = demp_jax.nnx.forward(model)
    plan = helpers.random_plan(demp_jax.trace(fn, state, x), np.random.default_rng(1))
    small = plan.slice_variables(state)
    export.save_safetensors(tmp_path / "own.safetensors", small)
    fresh = nnx.eval_shape(lambda: helpers.Blocks(nnx.Rngs(0)))
    export.load_safetensors(fresh, tmp_path / "own.safetensors")
    fresh.eval()
    wanted = jax.jit(fn.resized(small))(small, x)
    np.testing.assert_array_equal(jax.jit(demp_jax.nnx.forward(fresh)[0])(nnx.as_pure(nnx.state(fresh)), x), wanted)
    with pytest.raises(
        ValueError, match=r"own.safetensors: .* not of this model; bn0/bias: stored float32\[6\], wanted nothing"
    ):
        export.load_safetensors(
            nnx.eval_shape(lambda: models.MLP(4, 2, rngs=nnx.Rngs(0))), tmp_path / "own.safetensors"
        )


def test_random_keys_stay_those_of_the_model(tmp_path):
    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.layers[1](self.dropout(self.layers[0](x)))

    model, x = Dropped(nnx.Rngs(0)), helpers.batch((2, 3))
    with pytest.raises(ValueError, match=r"must not hold PRNG keys; .* save nnx.as_pure\(nnx.state\(model, nnx.Not"):
        export.save_safetensors(tmp_path / "t.safetensors", nnx.as_pure(nnx.state(model)))
    export.save_safetensors(tmp_path / "t.safetensors", nnx.as_pure(nnx.state(model, nnx.Not(nnx.RngState))))
    other = Dropped(nnx.Rngs(1))
    export.load_safetensors(other, tmp_path / "t.safetensors")
    model.eval()
    other.eval()
    np.testing.assert_array_equal(other(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_stablehlo_of_any_batch_size(name):
    net, variables, x, wanted, _ = cut_network(name)
    exported = jax.export.deserialize(bytearray(export.to_stablehlo(net, variables, x)))
    assert exported.platforms == export.PLATFORMS
    for batch in (1, 5):
        np.testing.assert_allclose(exported.call(x[:batch]), wanted[:batch], rtol=1e-5, atol=1e-5)


def test_stablehlo_for_chosen_platforms():
    net, variables, x, *_ = cut_network("mlp")
    exported = jax.export.deserialize(bytearray(export.to_stablehlo(net, variables, x, platforms=("tpu",))))
    assert exported.platforms == ("tpu",)
    for wrong in (("gpu",), ()):
        with pytest.raises(ValueError, match="platforms must be one or more of cpu, cuda, rocm, tpu; got "):
            export.to_stablehlo(net, variables, x, platforms=wrong)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_of_any_batch_size(name):
    net, variables, x, wanted, _ = cut_network(name)
    model = export.to_onnx(net, variables, x)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["x"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 5):
        [y] = session.run(["y"], {"x": np.asarray(x[:batch])})
        np.testing.assert_allclose(y, wanted[:batch], rtol=1e-4, atol=2e-5)
    # The weights once, and little else.
    weights = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(variables["params"]))
    held = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert weights * 0.9 < held < weights * 1.1 + 8000


def test_onnx_of_plain_functions_with_several_results():
    def fn(variables, x):
        windows = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
        return {"a": jnp.tanh(x.reshape(x.shape[0], -1) @ variables["w"]), "b": windows}

    variables, x = {"w": helpers.batch((3 * 4 * 2, 6), 1)}, helpers.batch((5, 3, 4, 2))
    model = export.to_onnx(fn, variables, jax.ShapeDtypeStruct((2, 3, 4, 2), jnp.float32), opset=21)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [21]
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(["y_0", "y_1"], {"x": np.asarray(x)})
    for y, wanted in zip(found, fn(variables, x).values(), strict=True):
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def test_an_export_leaves_jax_as_it_was():
    before = dict(vars(jnp))
    export.to_onnx(lambda v, x: jax.nn.relu(x @ v), jnp.ones((3, 4)), jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert all(getattr(jnp, name) is value for name, value in before.items())
