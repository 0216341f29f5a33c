# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Runs as jobs of a cluster, through submitit, with one or several runs per job.

When a job is preempted or reaches its time limit, its runs save a checkpoint, and the job is queued again and resumes
them. A run may therefore take longer than a job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import launch
from experiments.cli.launch import Outcome, Run
from experiments.core.errors import UsageError, require

CLUSTERS = ("slurm", "local")
# Fraction of the GPU memory that is divided between the runs of a job.
_MEMORY = 0.9


class Job:
    """The runs of a job, with one process per run. submitit pickles it before the processes start."""

    def __init__(self, processes: Sequence[tuple[list[str], str]], env: Mapping[str, str]):
        """Initializes the job.

        Args:
          processes: for each process, its command and the path of its log.
          env: environment variables of the processes, in addition to those of the job.
        """
        self.processes, self.env = processes, env
        self._running: list[subprocess.Popen[bytes]] = []

    def __call__(self) -> list[int]:
        """Runs the processes; returns their exit statuses."""
        for words, log in self.processes:
            with open(log, "ab") as file:
                self._running.append(
                    subprocess.Popen(
                        words,
                        env={**os.environ, **self.env},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        # Slurm signals all processes of a job, but only this one should handle the signal.
                        preexec_fn=_ignore_warning,
                    )
                )
        return self._wait()

    def checkpoint(self) -> Any:
        """Stops the runs after they have saved, and returns the job that resumes them, for submitit to queue."""
        from submitit.helpers import DelayedSubmission

        for process in self._running:
            process.terminate()
        self._wait()
        return DelayedSubmission(Job(self.processes, self.env))

    def _wait(self) -> list[int]:
        """Waits for the processes; returns their exit statuses.

        Polls, because `checkpoint` runs in a signal handler and would deadlock on the lock of an interrupted `wait`.
        """
        while any(process.poll() is None for process in self._running):
            time.sleep(0.2)
        return [process.returncode for process in self._running]


def _ignore_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def execute(
    runs: Iterable[Run],
    folder: Path,
    *,
    cluster: str,
    per_job: int = 1,
    parameters: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[Run, Outcome]:
    """Runs all unfinished runs as jobs, and waits for them. See `launch.execute`.

    Args:
      runs: the runs.
      folder: parent folder of the workdirs; its subfolder `jobs` has the files of the jobs.
      cluster: one of `CLUSTERS`; `local` runs jobs as processes of this machine.
      per_job: number of runs per job.
      parameters: submitit's parameters of the jobs, such as `timeout_min` and `slurm_partition`.
      say: prints a line about the progress.

    Returns:
      The outcome of each run.

    Raises:
      UsageError: for an invalid argument, or if submitit or the cluster is not available.
      KeyboardInterrupt: if interrupted; jobs of a cluster continue.
    """
    require(per_job >= 1, "--per_job", per_job, "at least 1")
    wanted = list(dict.fromkeys(runs))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = launch.ended_runs(wanted, folder)
    waiting = [run for run in wanted if run not in outcomes]
    groups = [waiting[i : i + per_job] for i in range(0, len(waiting), per_job)]
    say(f"{len(outcomes)} of {len(wanted)} runs had ended; {len(waiting)} to go, in {len(groups)} jobs")
    if not groups:
        return outcomes
    executor = _executor(cluster, folder / "jobs", {"name": folder.name, **(parameters or {})})
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_MEMORY / per_job:.2f}"} if per_job > 1 else {}
    with executor.batch():
        jobs = [executor.submit(_job(group, folder, env)) for group in groups]
    by_job = dict(zip(jobs, groups, strict=True))
    say(f"jobs {', '.join(job.job_id for job in jobs[:8])}{', ...' if len(jobs) > 8 else ''}")
    from submitit.helpers import as_completed

    try:
        for job in as_completed(jobs, poll_frequency=1 if cluster == "local" else 15):
            for run in by_job[job]:
                outcomes[run] = launch.outcome(run, folder, job.state)
                what = "done" if outcomes[run].error is None else f"FAILED: {outcomes[run].error}"
                say(f"{run.name}: {what}; {len(wanted) - len(outcomes)} left")
    except KeyboardInterrupt:
        if cluster == "local":
            for job in jobs:
                job.cancel()
        else:
            say("the jobs continue; give the same command to wait for them and read their results")
        raise
    return {run: outcomes[run] for run in wanted}


def _job(group: Sequence[Run], folder: Path, env: Mapping[str, str]) -> Job:
    processes = [launch.words(run, folder) for run in group]
    return Job([(words, str(log)) for words, _, log in processes], {**processes[0][1], **env})


def _executor(cluster: str, folder: Path, parameters: Mapping[str, Any]) -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError(f"--launcher={cluster} needs the package submitit: pip install submitit.") from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**parameters)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--launcher={cluster} with --job={dict(parameters)}: {reason}") from error
    return executor
