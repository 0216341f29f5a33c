# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Launches many runs, each in its own process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import command
from experiments.core.devices import free_memory, processors
from experiments.core.errors import UsageError, require
from experiments.rundir import records, workdir
from experiments.settings import options

_ROOT = Path(__file__).resolve().parents[2]
# Memory per run, in bytes. The largest run on CIFAR-10, the paper's VGG-16 at batch 256, needs 5.6 GiB by `--dry_run`.
_MEMORY = 7 << 30


@dataclasses.dataclass(frozen=True)
class Run:
    """A run to launch.

    Attributes:
      config: the value of `--config`: a file, and optionally its variant.
      changes: overridden options and their values, sorted by option.
      tag: further text that distinguishes the run, such as the source of its data.
    """

    config: str
    changes: tuple[tuple[str, Any], ...]
    tag: str = ""

    @staticmethod
    def of(config: str, *changes: Mapping[str, Any]) -> Run:
        """Returns the run of a config with overrides; later overrides take precedence."""
        merged = {key: value for each in changes for key, value in each.items()}
        return Run(config, tuple(sorted(merged.items())))

    @property
    def name(self) -> str:
        """The name of the workdir: config, method and seed, and a digest of config, overrides and tag."""
        digest = hashlib.sha256(json.dumps([self.config, self.flags(), self.tag]).encode()).hexdigest()[:10]
        fields = dict(self.changes)
        words = [Path(self.config).name.replace(".py", "").replace(":", "-"), str(fields.get("method.name", "demp"))]
        return re.sub(r"[^\w.-]", "-", "-".join([*words, f"seed{fields.get('seed', 0)}", digest]))

    def flags(self) -> list[str]:
        """Returns the overrides as flags of `experiments.run`."""
        return [f"--config.{key}={options.as_text(value)}" for key, value in self.changes]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run: its workdir, and its summary or the reason why there is none."""

    run: Run
    workdir: Path
    summary: dict[str, Any] | None
    error: str | None


def execute(
    runs: Iterable[Run],
    folder: Path,
    *,
    processes: int = 0,
    more: Callable[[Run], Sequence[str]] = lambda run: (),
    say: Callable[[str], None] = print,
) -> dict[Run, Outcome]:
    """Runs all unfinished runs; repeated runs are run once.

    Args:
      runs: the runs.
      folder: parent folder of the workdirs.
      processes: number of runs at once; 0 for as many as cores and memory allow, or one on an accelerator.
      more: returns further flags of a run that do not change its result, such as the folder of its data.
      say: prints a line about the progress.

    Returns:
      The outcome of each run.

    Raises:
      UsageError: if `processes` is negative.
    """
    require(processes >= 0, "--processes", processes, "at least 1, or 0 for as many as suit the machine")
    wanted = list(dict.fromkeys(runs))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = ended_runs(wanted, folder)
    waiting = [run for run in wanted if run not in outcomes]
    if not waiting:
        return outcomes
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(processors()))
    accelerator = _has_accelerator()
    count = processes or (1 if accelerator else min(len(cores), max(free_memory() // _MEMORY, 1)))
    # Cores are divided by the number of all runs, so that a resumed sweep has the same number of cores per run.
    count = min(count, len(wanted))
    share = max(len(cores) // count, 1)
    say(f"{len(outcomes)} of {len(wanted)} runs had ended; {len(waiting)} to go, {count} at a time")
    # A process reserves three quarters of an accelerator's memory by default.
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / count:.2f}"} if accelerator and count > 1 else {}
    free = [cores[i * share : (i + 1) * share] or cores for i in range(count)]
    running: dict[subprocess.Popen[bytes], tuple[Run, list[int]]] = {}
    started = time.monotonic()
    try:
        while waiting or running:
            while waiting and free:
                run, mine = waiting.pop(0), free.pop()
                running[_start(run, folder, [] if accelerator else mine, more(run), memory)] = (run, mine)
            ended = [process for process in running if process.poll() is not None]
            for process in ended:
                run, mine = running.pop(process)
                free.append(mine)
                outcomes[run] = outcome(run, folder, f"exit status {process.returncode}")
                left = len(waiting) + len(running)
                what = "done" if outcomes[run].error is None else f"FAILED: {outcomes[run].error}"
                say(f"{run.name}: {what}; {left} left after {time.monotonic() - started:.0f} s")
            if not ended:
                time.sleep(0.2)
    finally:
        if running:
            say(f"waiting for {len(running)} runs to save; Ctrl-C again ends them at once")
        for process in running:
            process.terminate()  # The runs save, and are resumed by the same command.
        try:
            for process in running:
                process.wait()
        except KeyboardInterrupt:
            for process in running:
                process.kill()
            raise
    return {run: outcomes[run] for run in wanted}


def ended_runs(runs: Iterable[Run], folder: Path) -> dict[Run, Outcome]:
    """Returns the outcomes of finished runs; `folder` is the parent folder of the workdirs."""
    return {run: done for run in dict.fromkeys(runs) if (done := _ended(run, folder)) is not None}


def _has_accelerator() -> bool:
    # Checked in another process, because a process that uses JAX reserves most of the accelerator's memory.
    program = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()[-1:] != ["cpu"]


def words(run: Run, folder: Path, more: Sequence[str] = ()) -> tuple[list[str], dict[str, str], Path]:
    """Returns command, additional environment variables and path of the log of a run; creates its workdir."""
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    program = [
        sys.executable,
        "-m",
        "experiments.run",
        f"--config={located(run.config)}",
        f"--workdir={place.resolve()}",
    ]
    flags = [*run.flags(), *more, "--config.progress=lines"]
    # The run uses the code of this process, and its working directory, so that relative paths stay valid.
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return [*program, *flags], {"PYTHONPATH": path}, (place / "log.txt").resolve()


def _start(
    run: Run, folder: Path, cores: Sequence[int], more: Sequence[str], memory: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    program, env, path = words(run, folder, more)
    if cores and shutil.which("taskset"):
        program = ["taskset", "-c", ",".join(map(str, cores)), *program]
    with path.open("ab") as log:
        return subprocess.Popen(program, env={**memory, **os.environ, **env}, stdout=log, stderr=subprocess.STDOUT)


def located(config: str) -> str:
    """Returns `config`, with an absolute path if the file only exists in this repository."""
    file, colon, variant = config.partition(":")
    ours = _ROOT / file
    return f"{ours}{colon}{variant}" if not Path(file).exists() and ours.exists() else config


def _ended(run: Run, folder: Path) -> Outcome | None:
    path = folder / run.name / "summary.json"
    if not path.exists():
        return None
    try:
        # The config file may have changed since the run.
        workdir.require_same(path.parent, command.config_of([f"--config={located(run.config)}", *run.flags()]))
    except UsageError as error:
        return Outcome(run, path.parent, None, str(error))
    return Outcome(run, path.parent, json.loads(path.read_text()), None)


def outcome(run: Run, folder: Path, how: str) -> Outcome:
    """Returns the outcome of a run whose process has ended; `how` describes the end, such as its exit status."""
    line = records.last_line(folder / run.name / "log.txt")
    return _ended(run, folder) or Outcome(run, folder / run.name, None, f"{how}: {line or 'no output'}")
