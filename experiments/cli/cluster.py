# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Many runs as jobs of a cluster, through submitit: one to a job, or several that share its machine.

A job that is preempted, or comes to the end of its time, lets its runs save and is queued again; they go on from their
checkpoints. So a run may be longer than a job.
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
# Part of a GPU's memory that the runs of a job share.
_MEMORY = 0.9


class Job:
    """Runs of one job, a process each. It is pickled, and holds the words of processes that have yet to start."""

    def __init__(self, processes: Sequence[tuple[list[str], str]], env: Mapping[str, str]):
        """Takes of each process its words and the path of its log, and what their environment has besides the job's."""
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
                        # Slurm sends it to all processes of a job; it is meant for this one.
                        preexec_fn=_ignore_warning,
                    )
                )
        return self._wait()

    def checkpoint(self) -> Any:
        """Lets the runs save; returns the job that goes on with them, which submitit queues again."""
        from submitit.helpers import DelayedSubmission

        for process in self._running:
            process.terminate()
        self._wait()
        return DelayedSubmission(Job(self.processes, self.env))

    def _wait(self) -> list[int]:
        """Waits for the processes; returns their exit statuses.

        It asks now and then: `checkpoint` runs in the handler of a signal, and must not want the lock of a wait that it
        interrupts.
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
    """Runs everything that has not ended yet as jobs, and waits for them. See `launch.execute`.

    Args:
      runs: what to run.
      folder: of the folders of the runs; those of jobs lie in `jobs`.
      cluster: one of `CLUSTERS`; `local` runs jobs as processes of this machine.
      per_job: how many runs share a job.
      parameters: of the jobs, as submitit takes them, such as `timeout_min` and `slurm_partition`.
      say: told a line now and then.

    Returns:
      By run, its outcome.

    Raises:
      UsageError: for a bad argument, or where submitit or the cluster is not there.
      KeyboardInterrupt: when it is stopped; jobs of a cluster go on.
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
            say("the jobs go on; the same command reads what has ended")
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
