"""The progress bar: what it says while something takes long, and when it says nothing."""

import contextlib

import pytest

from experiments.core import progress
from experiments.core.progress import Progress
from experiments.training.loop import train_and_evaluate
from tests.runs import short_config


def test_a_bar_says_what_takes_long(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # As on a terminal.
    monkeypatch.setenv("COLUMNS", "100")
    with Progress(20, 5, 40, "bar") as bar:
        task = bar._bar.tasks[0]
        with bar.doing("compiling the step"):
            assert task.description == "compiling the step"
        bar.update(10, 0.5, 30, float("nan"))
        assert (task.completed, task.description) == (10, "loss 0.500, 30 of 40 neurons")
        with contextlib.suppress(KeyError), bar.doing("evaluating"):
            assert task.description == "evaluating, loss 0.500, 30 of 40 neurons"
            raise KeyError
        assert task.description == "loss 0.500, 30 of 40 neurons"
        bar.update(20, None, 30, 0.25)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "20/20" in shown.err
    assert "loss 0.500, test 25.0%, 30 of 40 neurons" in shown.err
    assert "\x1b[3" in shown.err


def test_no_color_is_honoured(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    with Progress(20, 0, 40, "bar") as bar, progress.waiting("reading", "bar"):
        bar.update(10, 0.5, 40, 0.5)
    shown = capsys.readouterr().err
    assert "10/20" in shown
    assert "\x1b[3" not in shown


@pytest.mark.parametrize("mode", ["auto", "lines", "off"])
def test_elsewhere_there_is_a_line_now_and_then(mode, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.waiting("reading", mode), Progress(20, 0, 40, mode) as quiet:
        for step in range(20):
            now[0] += 2
            with quiet.doing("evaluating"):
                quiet.update(step + 1, 0.5, 40, 0.5)
    shown = capsys.readouterr()
    # Two seconds a step.
    line = "step {} of 20: loss 0.500, test 50.0%, 40 of 40 neurons, 0:00:{:02} left"
    expected = [line.format(step, 2 * (20 - step)) for step in (8, 16)]
    assert shown.err.splitlines() == ([] if mode == "off" else expected)
    assert shown.out == ""


def test_a_run_says_all_that_takes_long(tmp_path, monkeypatch):
    said = []

    @contextlib.contextmanager
    def doing(self, what):
        said.append(what)
        yield
        said.append(f"{what}: done")

    monkeypatch.setattr(Progress, "doing", doing)
    changes = {"steps": "10", "method.strength_span": "10", "method.noise_span": "10", "watch.every": "10"}
    train_and_evaluate(short_config(**changes, **{"pruning.every": "4", "pruning.ahead": "2"}), tmp_path)
    phases = ["measuring dead units", "compiling the step", "pruning", "saving", "evaluating", "timing the step"]
    assert set(said) == {*phases, *(f"{phase}: done" for phase in phases)}
    assert said[-2:] == ["timing the step", "timing the step: done"]
    assert said.count("pruning") == 4  # Prepared at 4, made at 6, one possible at 8, and at the end.
