"""Ctrl-C as a terminal sends it: to every process of the program."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENDED = "interrupted: ended at once; the same command continues from the newest checkpoint, if there is one"

# Each says when it is to be interrupted, and how often.
PROGRAMS = {
    "before training": (
        1,
        """
signals.end_at_once_on_interrupt()
ready()
time.sleep(60)
""",
    ),
    "in training, with a thread that nothing ends": (
        2,
        """
import threading
signals.end_at_once_on_interrupt()
threading.Thread(target=threading.Event().wait).start()
with signals.stop_on_signal() as stop:
    ready()
    while stop() is None:
        time.sleep(0.01)
    ready()
    time.sleep(60)
""",
    ),
}
HEAD = """
import os, signal, subprocess, sys, time
from experiments.core import signals

signal.signal(signal.SIGINT, signal.default_int_handler)  # As in a terminal, wherever the tests run.

def ready():
    print("ready", flush=True)
"""


def _interrupted(program, times, tmp_path, patience=60):
    """Runs a program that prints a line whenever it is to be interrupted; returns exit status and standard error."""
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD + program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        )
        for _ in range(times):
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)
        try:
            rest, _ = process.communicate(timeout=patience)
        finally:
            process.kill()
    return process.returncode, rest, errors.read_text()


@pytest.mark.parametrize("moment", PROGRAMS)
def test_it_ends_a_program_at_once_in_one_line(moment, tmp_path):
    times, program = PROGRAMS[moment]
    status, _, errors = _interrupted(program, times, tmp_path)
    assert (status, errors) == (130, ENDED + "\n")


def test_a_shell_that_wants_it_ignored_is_obeyed(tmp_path):
    program = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signals.end_at_once_on_interrupt()
signals.raise_on_signal()
with signals.stop_on_signal() as stop:
    ready()
    time.sleep(0.2)
    assert stop() is None
"""
    assert _interrupted(program, 1, tmp_path) == (0, "", "")


def test_a_second_sigterm_ends_nothing(tmp_path):
    """A scheduler sends one to every process, and so does a program to the runs that it started."""
    program = """
with signals.stop_on_signal() as stop:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop() == signal.SIGTERM
signals.raise_on_signal()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)
    print("waited")
"""
    assert _interrupted(program, 0, tmp_path) == (0, "waited\n", "")


def test_processes_that_read_data_do_not_learn_of_it(tmp_path):
    program = """
child = "import time; time.sleep(0.2); print('read on')"
with signals.quiet_processes():
    process = subprocess.Popen([sys.executable, "-c", child])
with signals.stop_on_signal() as stop:
    ready()
    process.wait()
    assert stop() == 2, stop()
"""
    assert _interrupted(program, 1, tmp_path) == (0, "read on\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "times", "status"),
    [
        ("experiments.data:load", 1, 130),
        ("experiments.recipe.network:initial", 1, 130),
        ("experiments.training.compiled_step:Stepper.compile", 1, 130),
        ("experiments.training.compiled_step:Stepper.compile", 2, 130),
        ("experiments.training.hooks:Evaluate.__call__", 1, 130),
        ("experiments.training.prune_hook:Prune._arrive", 1, 130),
        ("experiments.training.prune_hook:Prune._arrive", 2, 130),
        ("experiments.rundir.checkpoints:Checkpoints.save", 2, 130),
        ("experiments.training.compiled_step:time_ratio", 1, 130),
        ("experiments.reporting.curves:curves", 1, 0),  # The run has ended.
    ],
)
def test_at_every_phase_of_a_run(moment, times, status, tmp_path):
    """What is stopped goes on, whatever it was doing, and nobody sees a traceback."""
    module, name = moment.split(":")
    *owner, last = name.split(".")
    program = f"""
import runpy
import {module} as module
owner = module{"".join("." + part for part in owner)}
real = owner.{last}
left = [{times}]

def wrapped(*args, **kwargs):
    while left[0]:
        left[0] -= 1
        ready()
        time.sleep(0.5)
    return real(*args, **kwargs)

owner.{last} = wrapped
sys.argv = [
    "run", "--config=configs/quickstart.py:smoke", "--workdir={tmp_path / "run"}", "--config.step_time_seconds=0.1",
    "--config.steps=12", "--config.pruning.ahead=3", "--config.pruning.every=5",
]
runpy.run_module("experiments.run", run_name="__main__")
"""
    stopped, said, errors = _interrupted(program, times, tmp_path, patience=300)
    assert "Traceback" not in errors
    assert stopped == status, errors
    assert (ENDED in errors) == (times == 2 or said == ""), errors
    resumed = _interrupted(program.replace(f"left = [{times}]", "left = [0]"), 0, tmp_path, patience=300)
    assert resumed[0] == 0, resumed
    assert (tmp_path / "run" / "summary.json").exists()
