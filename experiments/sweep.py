# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
r"""Runs a grid over config options.

    python -m experiments.sweep --config=configs/quickstart.py --grid=method.strength=0.01,0.03 --grid=seed=0,1,2 \
        --set=steps=1000 --out=runs/sweep
    python -m experiments.sweep --config=configs/quickstart.py --grid=method.name=demp,snap,rigl --out=runs/methods
    python -m experiments.sweep --config=configs/quickstart.py --grid="model.widths=(64,),(128,128)" --out=runs/widths
    python -m experiments.sweep --config=configs/resnet18_cifar.py --grid=seed=0,1,2,3 --out=runs/seeds \
        --launcher=slurm --per_job=4 --job=slurm_partition=gpu --job=gpus_per_node=1 --job=timeout_min=240

Each point of the grid is a run of `experiments.run` in its own folder (`python -m experiments.run --config=FILE --help`
lists the config options). Finished runs are not repeated, interrupted runs are resumed, and a failed run does not stop
the others. On a CPU, as many runs as cores and memory allow run at once (`--processes`), each on its own cores; on an
accelerator, one at a time. With `--launcher=slurm`, runs are jobs of a cluster through submitit, with `--per_job` runs
per job and the parameters given by `--job`. When a job is preempted or reaches its time limit, its runs save, and the
job is queued again and resumes them. The table is printed and written to `OUT/sweep.md`, the summaries to
`OUT/sweep.jsonl`.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from experiments.cli import cluster, command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments.cli.launch import Run, execute, located
from experiments.core.errors import UsageError
from experiments.reporting import tables


def grid(text: Sequence[str]) -> list[dict[str, str]]:
    """Returns the points of a grid: `[{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]` for `["a=1,2", "b=3"]`.

    Raises:
      UsageError: for an option without values, or given twice.
    """
    axes: dict[str, list[str]] = {}
    for each in text:
        field, _, values = each.partition("=")
        # A tuple such as (300,100) is one value.
        found = [value for value in re.split(r",(?![^(]*\))", values) if value]
        if not found or field in axes:
            raise UsageError(f"--grid must be KEY=VALUE,VALUE,... with each option once; got {each!r}.")
        axes[field.removeprefix("config.")] = found
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _labeled(config: str, fixed: Sequence[str], axes: Sequence[str]) -> dict[Run, str]:
    """Returns the runs of a grid and their labels in the table."""
    same, *others = grid(fixed)
    if others:
        raise UsageError(f"--set must be KEY=VALUE, one value for all runs; got {fixed}. Use --grid.")
    labels = {}
    for point in grid(axes):
        run = Run.of(config, same, point)
        command.config_of([f"--config={located(config)}", *run.flags()])  # Raises errors before any run.
        labels[run] = ", ".join(f"{k} {v}" for k, v in point.items() if k != "seed") or "run"
    return labels


def _parameters(text: Sequence[str]) -> dict[str, Any]:
    """Returns the parameters of jobs: `{"timeout_min": 60}` for `["timeout_min=60"]`; digits become integers."""
    found: dict[str, Any] = {}
    for each in text:
        key, sign, value = each.partition("=")
        if not (key and sign and value):
            raise UsageError(f"--job must be KEY=VALUE, as in --job=timeout_min=240; got {each!r}.")
        found[key] = int(value) if value.isdecimal() else value
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="the config, as in experiments.run")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,...", help="repeatable")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set an option in all runs; repeatable"
    )
    parser.add_argument("--out", type=command.local, required=True, metavar="DIR", help="folder for runs and table")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="runs at once; by default as the machine allows"
    )
    parser.add_argument("--launcher", choices=cluster.CLUSTERS, help="launch runs as jobs through submitit")
    parser.add_argument("--per_job", type=int, default=1, metavar="N", help="runs per job; %(default)s by default")
    parser.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="submitit parameter of the jobs; repeatable",
    )
    options = parser.parse_args(arguments)
    signals.raise_on_signal()  # Lets the runs save.
    try:
        labels = _labeled(options.config, options.set, options.grid)
        if options.launcher:
            more: dict[str, Any] = {"per_job": options.per_job, "parameters": _parameters(options.job)}
            outcomes = cluster.execute(labels, options.out, cluster=options.launcher, **more)
        else:
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
