"""Weights & Biases, by a module in its place: runs go on under their id, and what fails there ends no run."""

import json
import os
import signal
import sys
import types

import pytest

from experiments.core.errors import UsageError
from experiments.rundir import records, trackers
from experiments.training.compiled_step import Stepper
from experiments.training.loop import train_and_evaluate
from tests.runs import lines, short_config

SHORT = {"steps": "12", "method.strength_span": "12", "method.noise_span": "12", "pruning.every": "6"}


class _Run:
    def __init__(self, fails, options):
        self.options, self.fails = options, fails
        self.step, self.logged, self.summary, self.exit_code = 0, [], {}, None

    def log(self, values, step):
        if "log" in self.fails:
            raise RuntimeError("the network is down\nand more")
        assert step >= self.step  # Else the real one warns, and drops them.
        self.step = step
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """A module that stands for wandb: `runs` are those begun, `fails` what raises."""
    module = types.ModuleType("wandb")
    module.runs, module.fails = [], set()

    def init(**options):
        if "init" in module.fails:
            raise RuntimeError("no key")
        run = _Run(module.fails, options)
        earlier = [r for r in module.runs if r.options["id"] == options["id"]]
        assert options["resume"] == "allow"
        run.step = earlier[-1].step + 1 if earlier else 0  # As the real one goes on.
        module.runs.append(run)
        return run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    return module


def test_an_interrupted_run_goes_on_under_its_id(wandb, tmp_path, monkeypatch):
    config, workdir = short_config(**SHORT, tracker="wandb"), tmp_path / "runs" / "mine"
    real = Stepper.__call__

    def step(self, state, *args):
        if int(state.step) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", step)
        train_and_evaluate(config, workdir)
    result = train_and_evaluate(config, workdir)
    assert train_and_evaluate(short_config(**SHORT), workdir).summary == result.summary  # It is the same run without.
    first, second = wandb.runs
    assert first.options["id"] == second.options["id"] == (workdir / "wandb_id").read_text()
    assert (first.options["project"], first.options["name"]) == ("demp_jax", "runs/mine")
    assert first.options["config"] == json.loads((workdir / "config.json").read_text())
    assert [(run.exit_code, bool(run.summary)) for run in wandb.runs] == [(1, False), (0, True)]
    assert second.summary["neuron_sparsity"] == result.summary["neuron_sparsity"]
    logged = first.logged + second.logged
    # All that is in the files, once.
    for line in lines(workdir / "metrics.jsonl"):
        [same] = [
            v for s, v in logged if s == line["step"] and v.keys() & line.keys() and v.get("loss") == line.get("loss")
        ]
        assert same["width/norm/0"] == line["width"]["norm/0"]
    cuts = [(s, v) for s, v in logged if "cut/deviation" in v]
    assert [s for s, _ in cuts] == [6, 12]
    for (_, values), cut in zip(cuts, lines(workdir / "cuts.jsonl"), strict=True):
        assert values["cut/neurons"] == cut["neurons"][1]
        assert {k: v for k, v in values.items() if k.startswith("cut/removed/")} == {
            f"cut/removed/{name}": units for name, units in cut["removed"].items()
        }


def test_what_was_logged_before_a_kill_is_not_logged_again(wandb, tmp_path):
    tracker = trackers.Tracker("wandb", tmp_path, {})
    for step in (5, 10, 10):
        tracker.log(step, {"loss": 1.0})
    again = trackers.Tracker("wandb", tmp_path, {})  # The first was killed; its checkpoint is of step 5.
    for step in (10, 15):
        again.log(step, {"loss": 1.0})
    assert [[step for step, _ in run.logged] for run in wandb.runs] == [[5, 10, 10], [15]]


@pytest.mark.parametrize("what", ["init", "log"])
def test_a_tracker_that_fails_ends_no_run(what, wandb, tmp_path, caplog):
    wandb.fails.add(what)
    tracker = trackers.Tracker("wandb", tmp_path, {})
    kept = records.Records(tmp_path, 0, tracker)
    kept.metrics(1, {"loss": 0.5})
    kept.metrics(2, {"loss": 0.4})
    kept.summary({"steps": 2})
    kept.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2]
    [warning] = [r.getMessage() for r in caplog.records]
    reason = {"init": "no key", "log": "the network is down"}[what]
    assert warning == f"the tracker failed ({reason}); the run goes on without it"


def test_the_environment_says_where(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_NAME", "this")
    trackers.Tracker("wandb", tmp_path, {})
    assert [wandb.runs[0].options[key] for key in ("project", "name")] == ["theirs", "this"]


def test_one_that_is_missing_or_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="config.tracker='wandb' needs the package wandb .*pip install wandb"):
        trackers.require_usable("wandb")
    with pytest.raises(UsageError, match="config.tracker must be wandb, or empty for none; got 'mlflow'"):
        trackers.require_usable("mlflow")
    trackers.require_usable("")
