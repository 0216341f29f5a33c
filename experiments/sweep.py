# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
r"""Many runs: any grid over the fields of a config.

    python -m experiments.sweep --config=configs/quickstart.py --grid=method.strength=0.01,0.03 --grid=seed=0,1,2 \
        --set=steps=1000 --out=runs/sweep
    python -m experiments.sweep --config=configs/quickstart.py --grid=method.name=demp,snap,rigl --out=runs/methods
    python -m experiments.sweep --config=configs/quickstart.py --grid="model.widths=(64,),(128,128)" --out=runs/widths
    python -m experiments.run --config=configs/quickstart.py --help | grep strength

Each point of the grid is an ordinary run of `experiments.run` in a folder of its own, named by what it changes; the
last command looks up what can be changed. Runs that ended are not run again, runs that were interrupted go on, and a
run that fails does not stop the others. On a CPU as many run at once as cores and memory allow (`--processes`), each on
cores of its own; on an accelerator one at a time. The table is printed and left in `OUT/sweep.md`, the summaries
in `OUT/sweep.jsonl`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
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

from experiments import command, signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments import keys, records, tables, workdir
from experiments.devices import free_memory, processors
from experiments.errors import UsageError, require

_ROOT = Path(__file__).resolve().parent.parent
# Bytes that a run may take: `--dry_run` says 5.6 GiB of the paper's VGG-16 at batch 256, the largest on CIFAR-10.
_MEMORY = 7 << 30


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      config: a config file with its variant, as `--config` takes it.
      changes: changed fields and their values, sorted by field.
      tag: what else makes it another run, such as where its data comes from.
    """

    config: str
    changes: tuple[tuple[str, Any], ...]
    tag: str = ""

    @staticmethod
    def of(config: str, *changes: Mapping[str, Any]) -> Run:
        """Returns the run of a config with changes, later ones over earlier ones."""
        merged = {key: value for each in changes for key, value in each.items()}
        return Run(config, tuple(sorted(merged.items())))

    @property
    def name(self) -> str:
        """The name of its folder: the config and a digest of everything that it changes."""
        digest = hashlib.sha256(json.dumps([self.config, self.flags(), self.tag]).encode()).hexdigest()[:10]
        fields = dict(self.changes)
        words = [Path(self.config).name.replace(".py", "").replace(":", "-"), str(fields.get("method.name", "demp"))]
        return re.sub(r"[^\w.-]", "-", "-".join([*words, f"seed{fields.get('seed', 0)}", digest]))

    def flags(self) -> list[str]:
        """Returns the changes as flags of `experiments.run`."""
        return [f"--config.{key}={keys.as_text(value)}" for key, value in self.changes]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: its folder, and its summary or why there is none."""

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
    """Runs everything that has not ended yet; a run that is asked for twice is run once.

    Args:
      runs: what to run.
      folder: of the folders of the runs.
      processes: how many at once; 0 for as many as a CPU has cores and memory, or one on an accelerator.
      more: further flags of a run, which do not change what it computes, such as where its data lies.
      say: told a line now and then.

    Returns:
      By run, its outcome.

    Raises:
      UsageError: for a bad number of processes.
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
    # By all that were wanted: runs that are left over get no more cores than those before them.
    count = min(count, len(wanted))
    share = max(len(cores) // count, 1)
    say(f"{len(outcomes)} of {len(wanted)} runs had ended; {len(waiting)} to go, {count} at a time")
    free = [cores[i * share : (i + 1) * share] or cores for i in range(count)]
    running: dict[subprocess.Popen[bytes], tuple[Run, list[int]]] = {}
    started = time.monotonic()
    try:
        while waiting or running:
            while waiting and free:
                run, mine = waiting.pop(0), free.pop()
                running[_start(run, folder, [] if accelerator else mine, more(run))] = (run, mine)
            ended = [process for process in running if process.poll() is not None]
            for process in ended:
                run, mine = running.pop(process)
                free.append(mine)
                outcomes[run] = _ended(run, folder) or _failed(run, folder, process.returncode)
                left = len(waiting) + len(running)
                what = "done" if outcomes[run].error is None else f"FAILED: {outcomes[run].error}"
                say(f"{run.name}: {what}; {left} left after {time.monotonic() - started:.0f} s")
            if not ended:
                time.sleep(0.2)
    finally:
        if running:
            say(f"waiting for {len(running)} runs to save; Ctrl-C again ends them at once")
        for process in running:
            process.terminate()  # They save, and go on when they are asked for again.
        try:
            for process in running:
                process.wait()
        except KeyboardInterrupt:
            for process in running:
                process.kill()
            raise
    return {run: outcomes[run] for run in wanted}


def ended_runs(runs: Iterable[Run], folder: Path) -> dict[Run, Outcome]:
    """Returns the outcomes of those runs that have ended, in the folder of their folders."""
    return {run: done for run in dict.fromkeys(runs) if (done := _ended(run, folder)) is not None}


def _has_accelerator() -> bool:
    # In a process of its own: one that has opened an accelerator leaves others little of its memory, or none.
    program = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()[-1:] != ["cpu"]


def _start(run: Run, folder: Path, cores: Sequence[int], more: Sequence[str]) -> subprocess.Popen[bytes]:
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    words = [
        sys.executable,
        "-m",
        "experiments.run",
        f"--config={located(run.config)}",
        f"--workdir={place.resolve()}",
    ]
    if cores and shutil.which("taskset"):
        words = ["taskset", "-c", ",".join(map(str, cores)), *words]
    with (place / "log.txt").open("ab") as log:
        flags = [*run.flags(), *more, "--config.progress=lines"]
        # Here, so that paths mean what they do to who gave them, with the program of this one.
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.Popen([*words, *flags], env=env, stdout=log, stderr=subprocess.STDOUT)


def located(config: str) -> str:
    """Returns a config file as it is found from here: our own are known everywhere."""
    file, colon, variant = config.partition(":")
    ours = _ROOT / file
    return f"{ours}{colon}{variant}" if not Path(file).exists() and ours.exists() else config


def _ended(run: Run, folder: Path) -> Outcome | None:
    path = folder / run.name / "summary.json"
    if not path.exists():
        return None
    try:
        # The file of the config may have changed since.
        workdir.require_same(path.parent, command.config_of([f"--config={located(run.config)}", *run.flags()]))
    except UsageError as error:
        return Outcome(run, path.parent, None, str(error))
    return Outcome(run, path.parent, json.loads(path.read_text()), None)


def _failed(run: Run, folder: Path, status: int) -> Outcome:
    line = records.last_line(folder / run.name / "log.txt")
    return Outcome(run, folder / run.name, None, f"exit status {status}: {line or 'no output'}")


def grid(text: Sequence[str]) -> list[dict[str, str]]:
    """Returns the points of a grid: of `["a=1,2", "b=3"]`, `[{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]`.

    Raises:
      UsageError: for a field without values, or one that is given twice.
    """
    axes: dict[str, list[str]] = {}
    for each in text:
        field, _, values = each.partition("=")
        # A tuple such as (300,100) is one value.
        found = [value for value in re.split(r",(?![^(]*\))", values) if value]
        if not found or field in axes:
            raise UsageError(f"--grid must be KEY=VALUE,VALUE,... with each key once; got {each!r}.")
        axes[field.removeprefix("config.")] = found
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _labelled(config: str, fixed: Sequence[str], axes: Sequence[str]) -> dict[Run, str]:
    """Returns the runs of a grid, and what they are called in the table."""
    same, *others = grid(fixed)
    if others:
        raise UsageError(f"--set must be KEY=VALUE, one value for all runs; got {fixed}. Use --grid.")
    labels = {}
    for point in grid(axes):
        run = Run.of(config, same, point)
        command.config_of([f"--config={located(config)}", *run.flags()])  # Says now what no run would understand.
        labels[run] = ", ".join(f"{k} {v}" for k, v in point.items() if k != "seed") or "run"
    return labels


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweeps, by the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="as experiments.run takes it")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,...", help="may be given again")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of all runs; may be given again"
    )
    parser.add_argument("--out", type=command.local, required=True, metavar="DIR", help="for the runs and the table")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="runs at once; by default by the machine")
    options = parser.parse_args(arguments)
    signals.raise_on_signal()  # The runs are stopped, and save.
    try:
        labels = _labelled(options.config, options.set, options.grid)
        outcomes = execute(labels, options.out, processes=options.processes)
    except UsageError as error:
        return command.fail(str(error), 2)
    except KeyboardInterrupt:
        print("stopped; give the same command to continue", file=sys.stderr)  # noqa: T201
        return 130
    done = [{"setting": labels[run], **o.summary} for run, o in outcomes.items() if o.summary is not None]
    (options.out / "sweep.jsonl").write_text("".join(json.dumps(record) + "\n" for record in done))
    table = tables.markdown(done)
    (options.out / "sweep.md").write_text(table + "\n")
    if done:
        print(table)  # noqa: T201
    failed = [o for o in outcomes.values() if o.error is not None]
    for outcome in failed:
        print(f"failed: {outcome.workdir}: {outcome.error}", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command.guarded(main))
