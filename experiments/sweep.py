# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
r"""Many runs: any grid over the fields of a config.

    python -m experiments.sweep --config=configs/quickstart.py --grid=method.strength=0.01,0.03 --grid=seed=0,1,2 \
        --set=steps=1000 --out=runs/sweep
    python -m experiments.sweep --config=configs/quickstart.py --grid=method.name=demp,snap,rigl --out=runs/methods
    python -m experiments.sweep --config=configs/quickstart.py --grid="model.widths=(64,),(128,128)" --out=runs/widths
    python -m experiments.sweep --config=configs/resnet18_cifar.py --grid=seed=0,1,2,3 --out=runs/seeds \
        --launcher=slurm --per_job=4 --job=slurm_partition=gpu --job=gpus_per_node=1 --job=timeout_min=240

Each point of the grid is an ordinary run of `experiments.run` in a folder of its own, named by what it changes
(`python -m experiments.run --config=FILE --help` lists what can be changed). Runs that ended are not run again, runs
that were interrupted go on, and a run that fails does not stop the others. On a CPU as many run at once as cores and
memory allow (`--processes`), each on cores of its own; on an accelerator one at a time. With `--launcher=slurm` they
are jobs of a cluster, `--per_job` of them in each, through submitit; what `--job` gives is told to it. A job that is
preempted or comes to the end of its time lets its runs save, is queued again, and goes on. The table is printed and
left in `OUT/sweep.md`, the summaries in `OUT/sweep.jsonl`.
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


def _parameters(text: Sequence[str]) -> dict[str, Any]:
    """Returns parameters of jobs: of `["timeout_min=60", "slurm_partition=gpu"]`, the first as a number."""
    found: dict[str, Any] = {}
    for each in text:
        key, sign, value = each.partition("=")
        if not (key and sign and value):
            raise UsageError(f"--job must be KEY=VALUE, as in --job=timeout_min=240; got {each!r}.")
        found[key] = int(value) if value.isdecimal() else value
    return found


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
    parser.add_argument("--launcher", choices=cluster.CLUSTERS, help="runs are jobs of a cluster, through submitit")
    parser.add_argument("--per_job", type=int, default=1, metavar="N", help="runs that share a job, by default 1")
    parser.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the jobs, as submitit takes it; again for more",
    )
    options = parser.parse_args(arguments)
    signals.raise_on_signal()  # The runs are stopped, and save.
    try:
        labels = _labelled(options.config, options.set, options.grid)
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
