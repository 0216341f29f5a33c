"""What a run would do and take, held to runs and to counts by hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from experiments import compare
from experiments.cli import dry_run, memory
from experiments.core.errors import UsageError
from experiments.recipe import network
from experiments.recipe.problem import pose
from experiments.training.loop import train_and_evaluate
from tests.runs import lines, short_config

ROOT = Path(__file__).resolve().parents[3]


def _shown(width=100, plain=False, **changes):
    console = Console(markup=False, width=width)
    with console.capture() as captured:
        console.print(dry_run.plan(pose(short_config(**changes)), width, plain))
    return captured.get()


def test_what_leaves_with_a_unit_is_as_by_hand():
    text = _shown()
    # An MLP of 64-24-16-10, each hidden unit with a scale and a bias.
    assert re.search(rf"^norm/0 +24 +24 +{64 + 2 + 16} +{2 * (64 + 16)} *$", text, re.M)
    assert re.search(rf"^norm/1 +16 +16 +{24 + 2 + 10} +{2 * (24 + 10)} *$", text, re.M)
    weights = 64 * 24 + 24 * 16 + 16 * 10
    assert f"{weights + 2 * 40 + 10:,} parameters, 40 neurons in 2 activations, of which 40 can be pruned" in text
    step = 3 * 2 * weights * 64
    assert f"{dry_run.amount(2 * weights)} for the forward pass of an image" in text
    assert f"{dry_run.amount(step)} for a training step" in text
    assert f"{dry_run.amount(30 * step)} for the run" in text
    assert re.search(r"log_every=5 +5 +0\.223 ", text)  # Of 1,437 / 64 steps.


@pytest.mark.slow
def test_cuts_come_when_it_says(tmp_path):
    config = short_config(**{"pruning.ahead": "4", "pruning.every": "3", "pruning.start": "7", "method.noise": 0.0})
    train_and_evaluate(config, tmp_path)
    expected = dry_run.steps_of_cuts(pose(config))
    assert [cut["step"] for cut in lines(tmp_path / "cuts.jsonl")] == [*expected, 30]
    assert expected == [13, 19, 25]  # Chances at 9, 12, 15, ..., one in preparation at a time.
    assert dry_run.steps_of_cuts(pose(short_config(**{"pruning.dynamic": False}))) == []


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"method.name": "dense"}, ["prunes none"]),
        (
            {"method.name": "snap"},
            ["units with the lowest scores: at step 0", "ranking: sparsity=0.5", r"end, step 30"],
        ),
        ({"method.name": "earlycrop", "ranking.latest": "20"}, ["grows slowly, by .*; at step 20 at the latest"]),
        (
            {"method.name": "chase", "ranking.every": "10"},
            ["every 10 steps until step 24", "masking: sparsity=0.8", r"masking.end=75% 22 "],
        ),
        (
            {"method.target.neuron_sparsity": 0.5, "method.target.every": "6", "method.strength": 0.0},
            ["target: neuron_sparsity=0.5; lambda is adjusted every 6 steps", "lambda .* 0.02 "],
        ),
        ({"pruning.exclude": ("norm/1",)}, ["of which 24 can be pruned", "cannot be pruned: norm/1: "]),
    ],
)
def test_methods_and_networks(changes, wanted):
    text = " ".join(_shown(width=120, **changes).split())
    for pattern in wanted:
        assert re.search(pattern, text), (pattern, text)


def test_a_residual_network_on_a_narrow_terminal():
    text = _shown(width=80, plain=True, **{"model.name": "resnet18", "model.base_width": 4, "model.coupled": True})
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()
    assert re.search(r"^stem_bn +4 +4 .* blocks/0/bn2, +$", text, re.M)  # What leaves together with it.


def test_pictures_of_schedules():
    assert dry_run.picture(np.array([0.0, 0.5, 1.0, 0.5, 0.0]), 5) == " ▄█▄ "
    assert dry_run.picture(np.linspace(0, 7, 1000), 8, plain=True) == " :-=+*#@"
    assert dry_run.picture(np.zeros(3), 4) == "    "
    # What is not zero is seen.
    assert dry_run.picture(np.array([1e-9, 1.0]), 2) == "▁█"


def test_memory_from_shapes():
    def taken(**changes):
        return memory.from_shapes(pose(short_config(**changes)))

    found = taken()
    parameters = 4 * (64 * 24 + 24 * 16 + 16 * 10 + 2 * 40 + 10)
    assert found["parameters"] == found["gradients"] == parameters
    assert 2 * parameters < found["optimizer state"] < 2 * parameters + 100  # Adam's moments, and counters.
    assert found["statistics"] == 4 * 2 * 40
    assert found["training set"] == 1437 * (64 + 4)
    # Of every example at least the input and what either layer gives; each example takes as much.
    kept = "kept for the backward pass"
    each = (taken(batch_size=128)[kept] - found[kept]) / 64
    assert 4 * (64 + 24 + 16) <= each <= 10 * 4 * (64 + 24 + 16)
    assert found[kept] == pytest.approx(64 * each, rel=0.2)
    assert taken(accumulate=2)[kept] == pytest.approx(32 * each, rel=0.2)
    assert memory.compiled(pose(short_config())) > sum(found.values()) - found["gradients"] - found[kept]


class _Product(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(64, 8, use_bias=False, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x.reshape(x.shape[0], -1))))


def test_what_the_backward_pass_keeps_is_what_it_reads(monkeypatch):
    """Of two products with tanh between: the input, tanh's derivative, its value, and the logits' probabilities."""
    monkeypatch.setitem(network.MODELS, "mlp", lambda section, shape, classes, common: _Product(common["rngs"]))
    changes = {"method.name": "dense", "batch_size": 100}
    kept = memory.from_shapes(pose(short_config(**changes)))["kept for the backward pass"]
    fewest = 100 * 4 * (64 + 8 + 8 + 10)
    assert fewest <= kept <= fewest + 100 * 4 * 3 * 10 + 100  # The loss keeps a few numbers for each logit.


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_needs_no_workdir(tmp_path):
    config = ROOT / "configs" / "quickstart.py"
    command = [sys.executable, "-m", "experiments.compare", f"--config={config}", "--dry_run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "for the dense twin" in done.stdout
    with pytest.raises(UsageError, match="config.method.name must be a method to compare with dense"):
        compare.plan(short_config(**{"method.name": "dense"}), compiles=False)
