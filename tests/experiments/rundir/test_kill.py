"""A run killed with SIGKILL, as the system kills: nothing is cleaned up, and nothing is lost."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.training.loop import train_and_evaluate
from tests.runs import last_digests, short_config

ROOT = Path(__file__).resolve().parents[3]

# Kills its own process at a step, in the middle of a save, or right after a cut.
PROGRAM = """
import os, signal, sys
from experiments.rundir import checkpoints
from experiments.training import loop
from experiments.training.prune_hook import Prune
from experiments.training.compiled_step import Stepper
from tests.runs import short_config

moment, workdir = sys.argv[1], sys.argv[2]
kind, number = moment.split(":")

def deadly(real, when):
    def wrapped(*args, **kwargs):
        result = real(*args, **kwargs)
        if when(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

if kind == "step":
    Stepper.__call__ = deadly(Stepper.__call__, lambda *_: counter() == int(number))
elif kind == "cut":
    Prune.__call__ = deadly(Prune.__call__, lambda self, step, *_: step == int(number))
elif kind == "save":
    manager = checkpoints.ocp.CheckpointManager
    manager.save = deadly(manager.save, lambda self, step, *_: step == int(number))

steps = [0]
def counter():
    steps[0] += 1
    return steps[0]

loop.train_and_evaluate(short_config(**{"pruning.ahead": "2"}), workdir)
"""


def _run(moment, workdir, program=PROGRAM):
    done = subprocess.run(
        [sys.executable, "-c", program, moment, str(workdir)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    """While a checkpoint is being written, while a cut is prepared, and between that cut and its checkpoint."""
    train_and_evaluate(short_config(**{"pruning.ahead": "2"}), tmp_path / "whole")
    for moment in ("save:8", "cut:20", "cut:22"):
        status, errors = _run(moment, tmp_path / "killed")
        assert status == -signal.SIGKILL, (moment, errors)
    status, errors = _run("never:0", tmp_path / "killed")
    assert status == 0, errors
    assert last_digests(tmp_path / "killed") == last_digests(tmp_path / "whole")


# Files may have no more than 100 bytes once a step is saved.
FULL = """
import resource, sys
from experiments.cli import command
from experiments.core import peers
from experiments.rundir.checkpoints import Checkpoints
from experiments.training.loop import train_and_evaluate
from tests.runs import short_config

step, workdir = sys.argv[1:]
real = Checkpoints.save
def save(self, at, *rest):
    if at == int(step):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    real(self, at, *rest)
Checkpoints.save = save
peers.end_after_failure(command.guarded(lambda: train_and_evaluate(short_config(), workdir) and 0))
"""


@pytest.mark.slow
def test_a_run_that_cannot_save_says_so_in_a_line_and_goes_on_later(tmp_path):
    status, errors = _run("16", tmp_path, FULL)
    assert status == 1
    [line] = errors.splitlines()
    said = (
        r"error: File too large(: .*)?\. Free space or raise the limit; the same command then continues from the newest"
    )
    assert re.match(said, line)
    train_and_evaluate(short_config(), tmp_path)
    train_and_evaluate(short_config(), tmp_path / "whole")
    assert last_digests(tmp_path) == last_digests(tmp_path / "whole")
