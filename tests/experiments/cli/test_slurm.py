"""Jobs of a real Slurm: a cluster of one node, on this machine."""

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
MISSING = [name for name in NEEDED if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (Debian: apt-get install slurm-wlm munge)"),
]

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# However many processors there are.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES
"""


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("localhost", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which the commands of Slurm find the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    controller, node = _free_ports(2)
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    text = CONF.format(folder=folder, host=host, user=user, controller=controller, node=node)
    (folder / "slurm.conf").write_text(text)
    munge = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    # Every process has one device.
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "XLA_FLAGS": flags}
    started = []
    try:
        for words in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{words[0]}.out").open("wb") as log:
                started.append(subprocess.Popen(words, env=env, stdout=log, stderr=subprocess.STDOUT))
        ends = time.monotonic() + 60
        while _said("sinfo", "--noheader", "--format=%T", env=env).stdout.strip() != "idle":
            logs = "\n".join(f"{path.name}: {path.read_text()}" for path in folder.glob("*.out"))
            assert time.monotonic() < ends, f"Slurm does not start:\n{logs}"
            time.sleep(0.5)
        yield env
        _said("scancel", f"--user={user}", env=env)
        while _said("squeue", "--noheader", env=env).stdout.strip():
            time.sleep(0.5)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _said(*words, env):
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_runs_of_a_sweep_are_jobs(slurm, tmp_path):
    words = ["--config=configs/quickstart.py:smoke", "--grid=seed=0,1", f"--out={tmp_path}", "--launcher=slurm"]
    done = _said(sys.executable, "-m", "experiments.sweep", *words, "--job=timeout_min=10", env=slurm)
    assert done.returncode == 0, done.stderr
    assert "0 of 2 runs had ended; 2 to go, in 2 jobs" in done.stdout
    assert "| run | 2 |" in done.stdout
    assert {json.loads(path.read_text())["seed"] for path in tmp_path.glob("*/summary.json")} == {0, 1}


def test_the_processes_of_a_job_join(slurm, tmp_path):
    words = ["--config=configs/quickstart.py:smoke", f"--workdir={tmp_path}", "--distributed=auto"]
    job = ["srun", "--ntasks=2", "--overcommit", sys.executable, "-m", "experiments.run"]
    done = _said(*job, *words, env=slurm)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished:") == 1
    assert json.loads((tmp_path / "summary.json").read_text())["device"].startswith("2 x ")
