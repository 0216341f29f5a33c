"""Many devices, many processes, a batch in parts: the same run as on one device."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.core import peers
from experiments.core.errors import UsageError
from experiments.recipe.problem import pose
from experiments.rundir.checkpoints import Checkpoints
from experiments.training.loop import train_and_evaluate
from tests.image_files import SMALL, drawn_folder
from tests.runs import lines, short_config

ROOT = Path(__file__).resolve().parents[3]

CHANGES = {"eval_batch_size": 64, "pruning.ahead": "2", "steps_per_call": 4}


def _arrays(workdir):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=None)
    try:
        return checkpoints.restore_all(checkpoints.latest())
    finally:
        checkpoints.close()


def _assert_same_run(one, other, tolerance=2e-4):
    cuts = [lines(workdir / "cuts.jsonl") for workdir in (one, other)]
    assert [c["removed"] for c in cuts[0]] == [c["removed"] for c in cuts[1]]
    assert any(c["removed"] for c in cuts[0])
    expected, seen = _arrays(one), _arrays(other)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected["variables"]):
        there = seen["variables"]
        for key in path:
            there = there[key.key]
        np.testing.assert_allclose(there, leaf, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))
    accuracies = [lines(workdir / "metrics.jsonl")[-1]["test_accuracy"] for workdir in (one, other)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.006)


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    train_and_evaluate(short_config(**CHANGES), workdir)
    return workdir


@pytest.mark.slow
def test_four_devices(on_one, tmp_path):
    result = train_and_evaluate(short_config(**CHANGES, devices=4), tmp_path)
    _assert_same_run(on_one, tmp_path)
    leaves = jax.tree.leaves(result.variables)
    assert all(len(leaf.sharding.device_set) == 4 and leaf.is_fully_replicated for leaf in leaves)


def _stopped_halfway(workdir):
    def stop_at(step, *_):
        if step == 13:
            os.kill(os.getpid(), 15)
        return step

    with pytest.MonkeyPatch.context() as patch:
        from experiments.training.compiled_step import Stepper

        real, steps = Stepper.__call__, iter(range(1, 100))
        patch.setattr(Stepper, "__call__", lambda *args: (stop_at(next(steps)), real(*args))[1])
        assert train_and_evaluate(short_config(**CHANGES), workdir).stopped_by is not None


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(on_one, tmp_path):
    _stopped_halfway(tmp_path)
    train_and_evaluate(short_config(**CHANGES, devices=4), tmp_path)
    _assert_same_run(on_one, tmp_path)


PROGRAM = """
import os, sys
from pathlib import Path
from experiments.core import peers
from experiments.core.devices import Devices, join_processes
from experiments.training.compiled_step import Stepper
from experiments.training.steering import Steering
from experiments.training.loop import train_and_evaluate
from tests.runs import short_config

address, process, workdir, *changes = sys.argv[1:]
join_processes(f"{address},2,{process}")
assert Devices().firsts(0.5 + int(process)) == 0.5

real = Steering.look
def look(self, step, forecast):
    left = real(self, step, forecast)
    print("look", step, left, self.factor)
    return left
Steering.look = look

step = Stepper.__call__
def step_or_die(*args):
    if process in changes[1:] and Path(workdir, "checkpoints/16").exists():
        os.kill(os.getpid(), 9)
    return step(*args)
Stepper.__call__ = step_or_die

with peers.ending_together(lambda: "another process died"):
    train_and_evaluate(short_config(devices=0, **eval(changes[0])), workdir)
"""


def _start_two(program, *words):
    """Starts two processes of a program, which is given an address, the number of the process, and words."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    # One process has two devices, so that shares are not what devices have.
    env = {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(process), *words],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for process in range(2)
    ]


def _two_processes(workdir, changes):
    started = _start_two(PROGRAM, str(workdir), repr(changes))
    outputs = [process.communicate(timeout=300)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)
    looks = [[line for line in output.splitlines() if line.startswith("look")] for output in outputs]
    assert looks[0] == looks[1]
    return looks[0]


def test_two_processes(on_one, tmp_path):
    _two_processes(tmp_path, CHANGES)
    _assert_same_run(on_one, tmp_path)
    steps = [line["step"] for line in lines(tmp_path / "cuts.jsonl")]
    assert steps == sorted(set(steps))  # One process writes.


JOINED = """
import sys, time
from experiments.core import peers
from experiments.core.devices import join_processes

join_processes(f"{sys.argv[1]},2,{sys.argv[2]}")
with peers.ending_together(lambda: "another process died"):
    print("joined", flush=True)
    ends = time.monotonic() + 100
    while time.monotonic() < ends:
        sum(range(2 * 10**7))  # A call that takes a second and holds the interpreter's lock.
"""


@pytest.mark.parametrize("dies", [0, 1])
def test_when_a_process_dies_the_other_ends_with_a_line(dies):
    started = _start_two(JOINED)
    for process in started:
        while process.stdout.readline() not in (b"joined\n", b""):
            pass
    started[dies].kill()
    said = [process.communicate(timeout=100)[0].decode() for process in started]
    assert started[dies].returncode == -signal.SIGKILL
    assert started[1 - dies].returncode == peers.PEER_DIED, said[1 - dies]
    assert said[1 - dies].splitlines()[-1] == "error: another process died"


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_run_of_which_a_process_died_goes_on_in_one_process(dies, on_one, tmp_path):
    started = _start_two(PROGRAM, str(tmp_path), repr(CHANGES), str(dies))
    said = [process.communicate(timeout=300)[0].decode() for process in started]
    statuses = [-signal.SIGKILL if process == dies else peers.PEER_DIED for process in range(2)]
    assert [process.returncode for process in started] == statuses, said
    assert said[1 - dies].splitlines()[-1] == "error: another process died"
    assert not (tmp_path / "summary.json").exists()
    train_and_evaluate(short_config(**CHANGES), tmp_path)
    _assert_same_run(on_one, tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_in_two_processes(on_one, tmp_path):
    _stopped_halfway(tmp_path)
    _two_processes(tmp_path, CHANGES)
    _assert_same_run(on_one, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snap", "chase"])
def test_two_processes_rank_units_alike(name, tmp_path):
    ranking = {"ranking.batch_size": 128, "ranking.batches": 2, "ranking.every": "10", "ranking.until": "20"}
    masking = {"masking.every": "5", "masking.end": "20", "method.strength": 0.0, "method.noise": 0.0}
    changes = {**CHANGES, **ranking, **masking, "method.name": name}
    _two_processes(tmp_path / "two", changes)
    train_and_evaluate(short_config(**changes), tmp_path / "one")
    _assert_same_run(tmp_path / "one", tmp_path / "two", tolerance=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weight_sparsity", "step_time"])
def test_two_processes_are_steered_alike(kind, tmp_path):
    changes = {**CHANGES, "method.target.every": "5", f"method.target.{kind}": 0.5}
    looks = _two_processes(tmp_path / "two", changes)
    assert len(looks) >= 6
    assert len({look.split()[-1] for look in looks}) >= 3
    if kind != "step_time":  # Which is another on each machine.
        train_and_evaluate(short_config(**changes), tmp_path / "one")
        _assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_workdir_that_the_first_process_refuses_ends_all(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(AssertionError, match=r"\[1, 1\] == \[0, 0\]") as failed:
        _two_processes(tmp_path, CHANGES)
    said = str(failed.value)
    assert "config.json is not a config of this program. Choose another --workdir." in said
    assert f"--workdir={tmp_path} was refused by the first process, which says why." in said


@pytest.mark.slow
def test_two_processes_read_their_shares_of_image_files(tmp_path):
    folder = drawn_folder(tmp_path / "images", classes=4, images=8)
    changes = {
        **CHANGES,
        **SMALL,
        "data.dir": str(folder),
        "pruning.examples": 16,
        "steps": "10",
        "method.strength_span": "10",
        "method.noise_span": "10",
        "pruning.every": "5",
        # Adam divides small gradients by their own size, and with it their rounding.
        "optimizer.name": "sgdm",
        "method.decoupled": True,
        "method.strength": 0.4,
    }
    train_and_evaluate(short_config(**changes), tmp_path / "one")
    _two_processes(tmp_path / "two", changes)
    _assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_batch_in_parts(tmp_path):
    """Without BatchNorm, whose statistics are those of a part, it is the same run."""
    changes = {
        **CHANGES,
        "model.norm": False,
        "method.penalized": "all",
        "method.strength": 0.003,
        "optimizer.name": "sgdm",
    }
    train_and_evaluate(short_config(**changes), tmp_path / "whole")
    train_and_evaluate(short_config(**changes, accumulate=4, devices=4), tmp_path / "parts")
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"devices": 4, "batch_size": 62},
            r"config.batch_size must be a multiple of 4, for 4 devices; got 62",
        ),
        (
            {"devices": 4, "accumulate": 3, "batch_size": 64},
            r"config.batch_size must be a multiple of 12, for 4 devices x 3 parts \(config.accumulate\); got 64",
        ),
        ({"devices": 4, "eval_batch_size": 254}, "config.eval_batch_size must be a multiple of 4, for 4 devices; got"),
    ],
)
def test_batches_that_cannot_be_split(changes, message):
    with pytest.raises(UsageError, match=message):
        pose(short_config(**changes))


@pytest.mark.parametrize("asked", ["localhost", "localhost:1,2", "auto", "localhost:1,two,0"])
def test_processes_that_cannot_join(asked):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--config=configs/quickstart.py", "--workdir=/tmp/never"]
        + [f"--distributed={asked}"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    message = done.stderr.decode().strip()
    assert message.startswith("error: --distributed must be auto, on a cluster that JAX knows, or HOST:PORT"), message
    assert "\n" not in message
