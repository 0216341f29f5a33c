"""The command that exports the network of a run."""

import dataclasses
import importlib.util
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from flax import nnx

from demp_jax import models
from demp_jax.export import load_safetensors
from experiments import export as command
from experiments.core.errors import UsageError, require
from experiments.recipe import network
from experiments.recipe.problem import pose
from experiments.training.loop import train_and_evaluate
from tests.image_files import SMALL, drawn_folder
from tests.runs import edit_metadata, short_config

CONFIG = short_config(
    **{"steps": "16", "method.strength_span": "16", "method.noise_span": "16", "pruning.every": "8", "eval_every": "16"}
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to its end: its workdir and result."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    return workdir, train_and_evaluate(CONFIG, workdir)


def test_the_command_writes_checks_and_times(finished, tmp_path, capsys):
    workdir, result = finished
    out = tmp_path / "out"
    formats = [f"--format={name}" for name in command.FORMATS]
    assert command.main([f"--workdir={workdir}", f"--out={out}", "--batch=3", *formats]) == 0
    printed = capsys.readouterr().out.splitlines()
    number = r"[\d.e+-]+"
    for name, line in zip(command.FORMATS, printed, strict=True):
        wanted = (
            f"{name}: as the network up to {number}, in float32; dense -> pruned: {number} -> {number} ms for a batch "
            f"of 3 on cpu, {number} -> {number} MB; see {re.escape(str(out))}"
        )
        assert re.fullmatch(wanted, line)
    names = {"model.json", "model.safetensors", "model.jax", "model.onnx"}
    assert {path.name for path in out.iterdir()} == names

    about = json.loads((out / "model.json").read_text())
    assert about["widths"] == result.summary["widths"]
    assert about["test_accuracy"] == result.summary["test_accuracy"]
    assert (about["parameters"], about["dense_parameters"]) == (result.summary["parameters"], 2170)
    assert about["input"]["shape"][1:] == [8, 8, 1]
    assert about["config"]["method"]["strength"] == 0.3

    # From raw pixels, by what model.json says, to the accuracy of the run.
    images, labels = pose(CONFIG).dataset.splits["test"]
    how = about["preprocessing"]
    x = ((images - np.array(how["mean"])) / np.array(how["std"])).astype(np.float32)
    for logits in (
        onnxruntime.InferenceSession(out / "model.onnx").run(None, {"x": x})[0],
        jax.export.deserialize(bytearray((out / "model.jax").read_bytes())).call(x),
        models.load(out)(x),
    ):
        accuracy = (np.asarray(logits).argmax(1) == labels).mean()
        assert accuracy == pytest.approx(about["test_accuracy"], abs=2 / len(labels))


class Own(nnx.Module):
    """A model of one's own, which keeps a width."""

    def __init__(self, hidden: int, classes: int, rngs: nnx.Rngs):
        self.dense, self.norm = nnx.Linear(64, hidden, rngs=rngs), nnx.BatchNorm(hidden, rngs=rngs)
        self.head, self.hidden = nnx.Linear(hidden, classes, rngs=rngs), hidden

    def __call__(self, x):
        h = nnx.relu(self.norm(self.dense(x.reshape(x.shape[0], 64))))
        return self.head(h.reshape(x.shape[0], self.hidden))

    def refit(self):
        self.hidden = self.head.kernel.shape[0]


def own(section, input_shape, classes, common):
    require(input_shape == (8, 8, 1), "config.data.name", input_shape, "digits")
    return Own(section.widths[0], classes, common["rngs"])


@pytest.mark.slow
def test_a_model_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(network.MODELS, "own", own)
    spans = {"method.strength_span": "2", "method.noise_span": "2", "pruning.every": "2", "ranking.batches": 1}
    changes = {"model.name": "own", "model.widths": (12,), "steps": "2", "method.name": "random", **spans}
    train_and_evaluate(short_config(**changes), tmp_path)
    found = command.export(tmp_path, ["safetensors"])
    assert found["safetensors"]["difference"] == 0.0
    about = json.loads((tmp_path / "export" / "model.json").read_text())
    assert (about["model"]["name"], about["model"]["arguments"]["widths"]) == ("own", [12])
    loaded = nnx.eval_shape(lambda: Own(12, 10, nnx.Rngs(0)))
    load_safetensors(loaded, tmp_path / "export" / "model.safetensors")
    assert loaded.hidden == 6


def test_an_export_of_another_network_leaves_nothing_of_the_last(finished, tmp_path):
    workdir, _ = finished
    out = tmp_path / "out"
    for name in ("jax", "safetensors"):
        assert command.main([f"--workdir={workdir}", f"--out={out}", f"--format={name}"]) == 0
    assert {path.name for path in out.iterdir()} == {"model.json", "model.safetensors", "model.jax"}
    shutil.copytree(workdir, tmp_path / "shorter")
    shutil.rmtree(tmp_path / "shorter" / "checkpoints" / "16")
    assert command.main([f"--workdir={tmp_path / 'shorter'}", f"--out={out}", "--format=jax"]) == 0
    assert {path.name for path in out.iterdir()} == {"model.json", "model.jax"}
    about = json.loads((out / "model.json").read_text())
    assert (about["step"], about["test_accuracy"]) == (8, None)


def test_an_export_replaces_the_last_one(finished, tmp_path):
    """A killed export leaves a partial folder behind, which is removed."""
    (tmp_path / ".partial-killed" / "dense").mkdir(parents=True)
    for _ in range(2):
        assert command.main([f"--workdir={finished[0]}", f"--out={tmp_path}", "--format=safetensors"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


def test_a_run_that_was_tracked_is_exported_where_the_tracker_is_not(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    tracked = lambda text: text.replace('"tracker": ""', '"tracker": "wandb"')  # noqa: E731
    config = tmp_path / "run" / "config.json"
    config.write_text(tracked(config.read_text()))
    for path in (tmp_path / "run" / "checkpoints").glob("*/meta/metadata"):
        edit_metadata(path, tracked)
    assert '"tracker": "wandb"' in path.read_text()
    assert importlib.util.find_spec("wandb") is None
    assert "jax" in command.export(tmp_path / "run", ["jax"])


def test_what_does_not_compute_the_network_is_not_kept(finished, tmp_path, capsys, monkeypatch):
    def spoiled(net, folder):
        variables = jax.tree.map(lambda leaf: leaf * 1.01 if leaf.ndim == 2 else leaf, net.variables)
        good.write(dataclasses.replace(net, variables=variables), folder)

    good = command.FORMATS["jax"]
    monkeypatch.setitem(command.FORMATS, "jax", dataclasses.replace(good, write=spoiled))
    assert command.main([f"--workdir={finished[0]}", f"--out={tmp_path}", "--format=jax"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: what was written differs from the network by up to .* It was not kept.\n", error)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_bfloat16_and_a_dataset_of_files_that_has_moved(tmp_path):
    folder = drawn_folder(tmp_path / "images")
    spans = {"method.strength_span": "2", "method.noise_span": "2", "pruning.every": "2", "pruning.examples": 8}
    changes = {**SMALL, "data.dir": str(folder), "model.dtype": "bfloat16", "model.widths": (8,), "steps": "2", **spans}
    train_and_evaluate(short_config(**changes), tmp_path / "run")
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="config.data.dir"):
        command.export(tmp_path / "run", ["jax"])
    found = command.export(tmp_path / "run", tuple(command.FORMATS), data=str(moved))
    # Parameters are float32, and ONNX Runtime computes in it.
    dtypes = {name: each["dtype"] for name, each in found.items()}
    assert dtypes == {"safetensors": "bfloat16", "jax": "bfloat16", "onnx": "float32"}
    assert found["safetensors"]["difference"] == 0.0
    assert models.load(tmp_path / "run" / "export").dense[0].dtype == jnp.bfloat16
    how = json.loads((tmp_path / "run" / "export" / "model.json").read_text())["preprocessing"]
    assert (how["shorter_side"], how["central_crop"], how["pixels"]) == (20, 16, [0, 255])


BAD = {
    "--workdir=NONE --format=jax": "workdir must be a run directory; got '.*', which does not exist",
    "--workdir=EMPTY --format=jax": "workdir must hold a checkpoint; '.*' has none",
    "--workdir=RUN --format=jax --batch=0": "--batch must be at least 1; got 0",
    "--workdir=RUN --format=jax --out=FILE": "--out=.* must be a folder that can be written",
    "--workdir=RUN --format=jax --out=OTHER": "--out=.* holds a model.json that this program did not write",
    "--workdir=RUN --format=jax --out=CODE": "--out=.* holds a model.onnx that this program did not write",
    "--workdir=RUN --format=tflite": "argument --format: invalid choice: 'tflite'",
    "--workdir=RUN": "the following arguments are required: --format",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input(arguments, finished, tmp_path, capsys):
    (tmp_path / "FILE").write_text("")
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "OTHER").mkdir()
    (tmp_path / "OTHER" / "model.json").write_text("[]")
    (tmp_path / "CODE").mkdir()
    (tmp_path / "CODE" / "model.onnx").write_text("")
    given = arguments.replace("=RUN", f"={finished[0]}").replace("=NONE", f"={tmp_path}/NONE").split()
    given = [re.sub("=(EMPTY|FILE|OTHER|CODE)$", rf"={tmp_path}/\1", word) for word in given]
    try:
        status = command.main(given)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert re.search(f"error: {BAD[arguments]}", error)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("onnx", "jax2onnx", "onnx"),
        ("jax", "flatbuffers", "experiments"),
        ("safetensors", "safetensors", "experiments"),
    ],
)
def test_a_missing_package_is_named(name, package, extra, finished, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = rf"--format={name} needs {package}, which is not installed: pip install -e '.\[{extra}\]'"
    with pytest.raises(UsageError, match=told):
        command.export(finished[0], [name])
