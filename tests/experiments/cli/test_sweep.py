"""Many runs: grids, reuse, and how many at once."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import sweep
from experiments.cli import command, launch
from experiments.cli.launch import Run
from experiments.core.devices import free_memory
from experiments.rundir import workdir
from experiments.settings import options
from tests.runs import SHORT

ROOT = Path(__file__).resolve().parents[3]


def test_a_grid_and_the_names_of_its_runs():
    assert sweep.grid(["a=1,2", "config.b=(3,4),(5,)"]) == [
        {"a": x, "b": y} for x in ("1", "2") for y in ("(3,4)", "(5,)")
    ]
    with pytest.raises(sweep.UsageError, match="--grid must be KEY=VALUE"):
        sweep.grid(["a"])
    run = Run.of("configs/quickstart.py", {"seed": 1, "data.flip": True}, {"model.widths": (3, 4), "seed": 2})
    assert run.flags() == ["--config.data.flip=true", "--config.model.widths=(3,4,)", "--config.seed=2"]
    assert run.name == Run.of("configs/quickstart.py", dict(run.changes)).name
    assert run.name != Run.of("configs/quickstart.py", dict(run.changes), {"seed": 3}).name


def test_a_sweep_lists_failures_and_reuses_what_ended(tmp_path, capsys):
    fixed = {**{k: v for k, v in SHORT.items() if k not in ("devices", "progress")}, "steps": "4", "data.cache": ""}
    fixed |= {"method.strength_span": "4", "method.noise_span": "4"}
    arguments = ["--config=configs/quickstart.py", f"--out={tmp_path}", "--processes=2"]
    arguments += [f"--set={key}={options.as_text(value)}" for key, value in fixed.items() if value != ""]
    grid = ["--grid=method.name=dense,unknown", "--grid=seed=0"]
    assert sweep.main(arguments + grid) == 1
    shown = capsys.readouterr()
    assert "config.method.name must be one of" in shown.err
    assert "| method.name dense | 1 |" in shown.out
    [record] = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    assert (record["method"], record["steps"]) == ("dense", 4)
    summary = next(tmp_path.glob("*/summary.json"))
    before = summary.stat().st_mtime_ns
    assert sweep.main([*arguments, "--grid=method.name=dense", "--grid=seed=0"]) == 0
    assert summary.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("runs", "gigabytes", "accelerator", "at_once", "cores_each"),
    [(9, 40, False, 4, 1), (9, 15, False, 2, 2), (9, 3, False, 1, 4), (9, 40, True, 1, 0), (2, 40, False, 2, 2)],
)
def test_as_many_at_once_as_there_are_cores_and_memory(
    runs, gigabytes, accelerator, at_once, cores_each, tmp_path, monkeypatch
):
    going, most, pinned = [], [0], set()

    class Ended:
        returncode = 0

        def __init__(self):
            going.append(self)
            most[0] = max(most[0], len(going))

        def poll(self):
            if len(going) < min(at_once, runs - len(most)):
                return None
            going.remove(self)
            most.append(0)
            return 0

    shares = set()

    def start(run, folder, cores, more, memory):
        pinned.add(len(cores))
        shares.add(memory.get("XLA_PYTHON_CLIENT_MEM_FRACTION"))
        return Ended()

    monkeypatch.setattr(launch, "_start", start)
    monkeypatch.setattr(launch, "_has_accelerator", lambda: accelerator)
    monkeypatch.setattr(launch, "free_memory", lambda: gigabytes << 30)
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    launch.execute([Run.of("configs/quickstart.py", {"seed": i}) for i in range(runs)], tmp_path, say=lambda text: None)
    assert (max(most), pinned) == (at_once, {cores_each})
    assert shares == {None}
    if accelerator:  # Runs that share an accelerator share its memory.
        launch.execute([Run.of("configs/quickstart.py", {"seed": i}) for i in range(3)], tmp_path, processes=3)
        assert shares == {None, "0.30"}


def test_free_memory_is_that_of_the_machine_and_of_the_container(tmp_path):
    total = free_memory(tmp_path)  # Nothing is told but how large the machine is.
    assert total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 5000 kB\n")
    assert free_memory(tmp_path) == 5000 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    for name, text in {"max": "max", "current": "3000000", "stat": "anon 1\ninactive_file 1000000\n"}.items():
        (group / f"memory.{name}").write_text(text)
    assert free_memory(tmp_path) == 5000 * 1024
    (group / "memory.max").write_text("4000000")
    assert free_memory(tmp_path) == 2000000
    (group / "memory.max").write_text("1000000")
    assert free_memory(tmp_path) == 0


def test_a_summary_of_another_config_is_not_reused(tmp_path):
    run = Run.of("configs/quickstart.py", {"seed": 3})
    place = tmp_path / run.name
    place.mkdir()
    config = workdir.as_json(command.config_of(["--config=configs/quickstart.py", "--config.seed=3"]))
    (place / "summary.json").write_text("{}")
    older = {name: value for name, value in config.items() if name != "tracker"}
    for known in (config, older, {**config, "progress": "off"}):
        (place / "config.json").write_text(json.dumps(known))
        assert launch._ended(run, tmp_path).error is None
    (place / "config.json").write_text(json.dumps({**config, "steps": "1999"}))
    assert "holds the run of another config (steps='1999' there, '2000' here)" in launch._ended(run, tmp_path).error


@pytest.mark.slow
def test_a_sweep_from_elsewhere_takes_the_files_that_are_there(tmp_path, monkeypatch, capsys):
    """Not those of the same names that are here; ours are known everywhere."""
    (tmp_path / "mine.py").write_text(
        "from configs import quickstart\n\n\ndef get_config(variant=''):\n    config = quickstart.get_config('smoke')\n"
        "    config.seed = 7\n    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    for config in ("mine.py", "configs/quickstart.py:smoke"):
        assert sweep.main([f"--config={config}", "--grid=method.name=dense", f"--out={tmp_path / config[:4]}"]) == 0
    assert json.loads(next(tmp_path.glob("mine/*/summary.json")).read_text())["seed"] == 7


def _python(*words, **env):
    env = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", **env}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_runs_are_jobs_of_a_cluster(tmp_path):
    """Two share a job; one fails, and stops neither the other nor the next job. What ended is not run again."""
    common = ["--config=configs/quickstart.py:smoke", "--set=devices=1", f"--out={tmp_path}", "--launcher=local"]
    arguments = ["-m", "experiments.sweep", *common]
    # No loss is finite at such a rate.
    rates = "--grid=optimizer.learning_rate=0.01,1e38"
    done = _python(*arguments, rates, "--set=optimizer.schedule=constant", "--per_job=2", "--job=timeout_min=10")
    assert done.returncode == 1, done.stderr
    assert "0 of 2 runs had ended; 2 to go, in 1 jobs" in done.stdout
    assert done.stderr.count("failed:") == 1
    assert re.search(r"FINISHED: error: (the loss became|parameters became)", done.stderr)
    assert len((tmp_path / "sweep.jsonl").read_text().splitlines()) == 1
    done = _python(*arguments, "--grid=optimizer.learning_rate=0.01", "--set=optimizer.schedule=constant")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 runs had ended; 0 to go" in done.stdout
    for job, message in (
        ("no_such=1", "--launcher=local with --job=.*no_such"),
        ("timeout_min", "--job must be KEY=VALUE"),
    ):
        done = _python(*arguments, "--grid=seed=9", f"--job={job}")
        assert done.returncode == 2
        assert re.search(f"^error: {message}", done.stderr, re.M), done.stderr


PREEMPTED = """
import subprocess, sys, time
from pathlib import Path
from experiments.cli import cluster
from experiments.cli.launch import Run

folder = Path(sys.argv[1])
run = Run.of("configs/quickstart.py:smoke", {"steps": "4000", "checkpoint_every": "100", "devices": 1})
job = cluster._executor("local", folder / "jobs", {"timeout_min": 10}).submit(cluster._job([run], folder, {}))
while not list(folder.glob("*/checkpoints/100*")):
    time.sleep(0.05)
subprocess.run(["pkill", "-USR2", "-P", job.job_id], check=True)  # As a cluster does.
print(job.result())
"""


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on(tmp_path):
    done = _python("-c", PREEMPTED, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0]"
    [summary] = tmp_path.glob("*/summary.json")
    assert json.loads(summary.read_text())["steps"] == 4000
    assert "continuing from step" in (summary.parent / "log.txt").read_text()
