"""Methods, models and datasets of one's own, in a folder outside this repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import quickstart
from experiments.core import named
from experiments.core.errors import UsageError
from experiments.recipe.problem import pose

ROOT = Path(__file__).resolve().parents[3]
MINE = """
import numpy as np
from flax import nnx
from experiments.data import arrays
from experiments.recipe import methods


class Two(nnx.Module):
    def __init__(self, width, classes, rngs):
        self.hidden = nnx.Linear(16, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.hidden(x.reshape(x.shape[0], -1)))))


def two(section, input_shape, classes, common):
    return Two(section.widths[0], classes, common["rngs"])


def squares(section, seed):
    images = np.random.default_rng(0).integers(0, 255, (96, 4, 4, 1), np.uint8)
    labels = (images.mean((1, 2, 3)) > 127).astype(np.int32)
    return arrays.of("squares", (images[:64], labels[:64]), (images[64:], labels[64:]), classes=2)


def gentle(settings, base):
    return methods.METHODS["demp"](settings, base)
"""


def _run(folder, module, *words):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-m", f"experiments.{module}", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_everything_of_ones_own_from_a_folder_of_ones_own(tmp_path):
    (tmp_path / "my_lab.py").write_text(MINE)
    names = {"model.name": "my_lab:two", "data.name": "my_lab:squares", "method.name": "my_lab:gentle"}
    smoke = {"batch_size": "16", "pruning.examples": "32", "eval_batch_size": "32", "devices": "1"}
    changes = [f"{key}={value}" for key, value in {**names, **smoke}.items()]
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}:smoke"
    sets = [f"--set={change}" for change in changes]
    swept = _run(tmp_path, "sweep", config, *sets, "--grid=seed=0", "--processes=1", "--out=sweep")
    assert swept.returncode == 0, swept.stderr
    [folder] = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert json.loads((folder / "config.json").read_text())["model"]["name"] == "my_lab:two"
    for module, words in (
        ("report", (str(folder),)),
        ("export", (f"--workdir={folder}", "--format=safetensors")),
    ):
        done = _run(tmp_path, module, *words)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere.at_all:x",
            r"config.x='nowhere.at_all:x': the module 'nowhere.at_all' cannot be imported \(ModuleNotF",
        ),
        ("json:nothing", r"config.x='json:nothing': the module 'json' has no 'nothing'."),
        ("json:__name__", r"config.x must be a function; got 'json:__name__'"),
        ("two", r"config.x must be one of one; got 'two'"),
    ],
)
def test_what_cannot_be_found_is_named(name, message):
    with pytest.raises(UsageError, match=message):
        named.find("config.x", name, {"one": print})


@pytest.mark.parametrize("name", ["json:dumps", "operator:eq"])
def test_a_function_that_is_no_row_of_methods(name):
    """A score or mask in the place of its row."""
    config = quickstart.get_config("smoke")
    config.method.name = name
    with pytest.raises(UsageError, match=rf"method.name must be a row such as ranked\(score\), .*; got '{name}'"):
        pose(config)
