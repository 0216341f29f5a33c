# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Reproduces the figures and tables of the paper.

    python -m experiments.reproduce list
    python -m experiments.reproduce fig3 fig4 --scale=gpu --seeds=3 --out=runs/figures
    python -m experiments.reproduce fig3 --again --out=results/figures
    python -m experiments.reproduce all --page=results/README.md --out=results/figures

`list` prints the figures. A scale is a set of changes to the recipes: `paper` is the paper's own, `gpu` takes minutes
on one GPU, `cpu` minutes to an hour on a core. The runs are ordinary runs of `experiments.run` in `OUT/SCALE/runs`.
Figures share runs. Finished runs are not repeated, even if only their record in `NAME.json` is left. Interrupted runs
are resumed, and a failed run is reported without stopping the others. `--optimizer` restricts the runs to one
optimizer, `--ended` to those that have finished. Each figure writes `NAME.json` (points, runs, means and standard
deviations), `NAME.png` (the drawing), and `NAME.md` (whether its claims hold in these runs). `--smoke` shortens every
run to seconds, to test the code. `--again` starts no run: it judges and draws the points of every `NAME.json` again.
`--page` only writes the page of all claims, from the figures of all scales.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments.cli.launch import Outcome, Run, ended_runs, execute, located
from experiments.core.errors import UsageError, require
from experiments.figures import FIGURES
from experiments.figures.figure import SCALES, Case, Figure, Point
from experiments.figures.pages import finish, page
from experiments.figures.scales import RECIPES, SMOKE
from experiments.rundir import records


def cases_of(figure: Figure, scale: str, seeds: Sequence[int], *, smoke: bool = False) -> list[Case]:
    """Returns the cases of a figure, with runs of seconds for `smoke`."""
    cases = figure.cases(scale, seeds)
    return [dataclasses.replace(case, run=_smoke(case.run, scale)) for case in cases] if smoke else cases


def _smoke(run: Run, scale: str) -> Run:
    fields = dict(run.changes)
    if _on_imagenet(run):
        # These configs have a smoke variant, which the recipe must not lengthen.
        recipe = {key for recipes in RECIPES.values() for key in recipes[scale][1]}
        kept = {key: value for key, value in fields.items() if key not in recipe}
        return Run.of(f"{run.config.partition(':')[0]}:tiny,smoke", kept)
    changes = dict(SMOKE)
    for name in ("method.strength_span", "method.noise_span"):
        if fields.get(name) == "100%":
            changes.pop(name)
    if "vit" not in run.config and "mlp" not in run.config:
        changes["model.base_width"] = 4
    changes |= {name: "2" for name in ("watch.every", "ranking.latest") if name in fields}
    changes["batch_size"] = min(16, int(fields.get("batch_size", 16)))
    return Run.of(run.config, fields, changes)


def _on_imagenet(run: Run) -> bool:
    return "imagenet" in run.config and "data.name" not in dict(run.changes)


def reproduce(
    chosen: Sequence[str],
    scale: str,
    seeds: int,
    out: Path,
    *,
    smoke: bool = False,
    processes: int = 0,
    imagenet: Path | None = None,
    optimizer: str = "",
    ended: bool = False,
) -> list[str]:
    """Reproduces figures; returns the failures of runs and figures.

    Args:
      chosen: names of figures.
      scale: one of `SCALES`.
      seeds: number of seeds, from 0.
      out: output folder.
      smoke: shorten every run to seconds.
      processes: number of runs at once; 0 for as many as suit the machine.
      imagenet: a folder of images, `train/CLASS/*` and `val/CLASS/*`, in place of tensorflow-datasets' ImageNet.
      optimizer: use only runs with this optimizer; all by default.
      ended: start no runs, and use those that have finished.
    """
    out.mkdir(parents=True, exist_ok=True)
    cases = {name: cases_of(FIGURES[name], scale, range(seeds), smoke=smoke) for name in chosen}
    if optimizer:
        cases = {name: [case for case in group if _optimizer(case.run) == optimizer] for name, group in cases.items()}
    if imagenet is not None:
        cases = {name: [_on_images(case, imagenet) for case in group] for name, group in cases.items()}
    recorded = {name: _recorded(out / f"{name}.json") for name in chosen}
    runs = [case.run for name, group in cases.items() for case in group if _key(case) not in recorded[name]]

    def places(run: Run) -> list[str]:
        return [f"--config.data.dir={imagenet.resolve()}"] if imagenet is not None and run.tag else []

    if ended:
        outcomes = ended_runs(runs, out / "runs")
    else:
        outcomes = execute(runs, out / "runs", processes=processes, more=places, say=_say)
    failed = [f"{o.workdir}: {o.error}" for o in outcomes.values() if o.error is not None]

    def write(name: str) -> None:
        content = _content(FIGURES[name], cases[name], outcomes, recorded[name], scale, range(seeds), smoke)
        finish(FIGURES[name], content, out)

    return failed + _each(chosen, out, write, Exception)


def judge_again(chosen: Sequence[str], out: Path) -> list[str]:
    """Judges and draws figures again from the points in a folder; returns the failures."""

    def write(name: str) -> None:
        finish(FIGURES[name], json.loads((out / f"{name}.json").read_text()), out)

    return _each(chosen, out, write, OSError, ValueError, KeyError, TypeError)


def _each(chosen: Sequence[str], out: Path, write: Callable[[str], None], *caught: type[Exception]) -> list[str]:
    """Writes figures; returns the failures, which do not stop the other figures."""
    failed = []
    for name in chosen:
        try:
            write(name)
            _say(f"{name}: {out / name}.json, .png, .md")
        except caught as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    return failed


def _optimizer(run: Run) -> str:
    config = command.config_of([f"--config={located(run.config)}", *run.flags()])
    return str(config.optimizer.name).removesuffix("w")  # AdamW counts as Adam.


def _on_images(case: Case, folder: Path) -> Case:
    """Returns a case on ImageNet with a folder of images as its dataset, and others as they are."""
    if not _on_imagenet(case.run):
        return case
    run = Run.of(case.run.config, dict(case.run.changes), {"data.name": "image_folder"})
    return dataclasses.replace(case, run=dataclasses.replace(run, tag=str(folder.resolve())))


def _key(case: Case) -> tuple[Any, ...]:
    return case.panel, case.series, case.level, *_flags(case.run)


def _flags(run: Run) -> list[str]:
    return [f"--config={run.config}", *run.flags(), *([run.tag] if run.tag else [])]


def _recorded(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Returns the runs of a figure's record with their points, by place and flags.

    Raises:
      UsageError: if the record is damaged.
    """
    if not path.exists():
        return {}
    try:
        runs = json.loads(path.read_text())["runs"]
        return {(run["panel"], run["series"], run["level"], *run["flags"]): run for run in runs if "points" in run}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is damaged ({reason}). Restore it, or delete it to repeat its runs.") from error


def _content(
    figure: Figure,
    cases: Sequence[Case],
    outcomes: dict[Run, Outcome],
    recorded: dict[tuple[Any, ...], dict[str, Any]],
    scale: str,
    seeds: Sequence[int],
    smoke: bool,
) -> dict[str, Any]:
    """Returns the record of a figure: its points, and its runs with their points before they are normalized."""
    points = figure.simulate("cpu" if smoke else scale, seeds)
    runs: list[dict[str, Any]] = []
    failed = []
    for case in cases:
        if (known := recorded.get(_key(case))) is not None:
            points += [Point(**point) for point in known["points"]]
            runs.append(known)
            continue
        outcome = outcomes.get(case.run)
        if outcome is None:
            continue
        if outcome.error is not None:
            failed.append({"run": case.run.name, "error": outcome.error})
        if outcome.summary is None:
            continue
        own = figure.points(case, outcome)
        points += own
        place = {"panel": case.panel, "series": case.series, "level": case.level}
        kept = {key: outcome.summary.get(key) for key in _KEPT}
        more = {"first_cut": _first_cut(outcome), "flags": _flags(case.run)}
        runs.append({**place, **kept, **more, "points": [dataclasses.asdict(point) for point in own]})
    return {
        "figure": figure.name,
        "scale": scale,
        "smoke": smoke,
        "seeds": len(seeds),
        "points": [dataclasses.asdict(point) for point in figure.normalize(points)],
        "runs": runs,
        "failed": failed,
        **records.provenance(),
    }


def _first_cut(outcome: Outcome) -> float | None:
    """Returns the fraction of the run before its first prune; `None` if nothing was pruned."""
    path = outcome.workdir / "cuts.jsonl"
    made = [line["step"] for line in records.read_lines(path) if line.get("removed")] if path.exists() else []
    return made[0] / outcome.summary["steps"] if made and outcome.summary else None


_KEPT = (
    "test_accuracy neuron_sparsity weight_sparsity train_flops_ratio inference_flops_ratio gpu_flops_ratio "
    "step_time_ratio rate_sum decay_sum constant seconds_steps seconds_data seconds_cuts seconds_total steps seed "
    "commit device"
).split()


def listing(scale: str, seeds: int) -> str:
    """Returns a table of the figures and the number of runs that each needs."""
    cases = {name: {case.run for case in figure.cases(scale, range(seeds))} for name, figure in FIGURES.items()}
    rows = [f"{'name':9} {'runs':>5}  what it shows"]
    rows += [f"{name:9} {len(runs) or '-':>5}  {FIGURES[name].what}" for name, runs in cases.items()]
    cost = {
        "cpu": "a run takes six minutes to an hour of a core",
        "gpu": "a run takes about a minute of one GPU",
        "paper": "a run takes the paper's time: hours on CIFAR-10, days on ImageNet",
    }[scale]
    rows.append(f"{'all':9} {len(set().union(*cases.values())):>5}  shared runs count once; at scale {scale}, {cost}")
    return "\n".join(rows)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    add, folder = parser.add_argument, command.local
    add("name", nargs="+", help=f"list, all, or some of {', '.join(FIGURES)}")
    add("--scale", choices=SCALES, default="cpu", help="cpu by default")
    add("--seeds", type=int, default=3, metavar="N", help="number of seeds; %(default)s by default")
    add("--optimizer", choices=("adam", "sgdm"), default="", help="use only runs with this optimizer")
    add("--out", type=folder, default=Path("runs/reproduce"), metavar="DIR", help="%(default)s by default")
    add("--ended", action="store_true", help="start no runs, use those that have finished")
    add("--smoke", action="store_true", help="runs of seconds")
    add("--processes", type=int, default=0, metavar="N", help="runs at once; by default what suits the machine")
    add("--imagenet", type=folder, metavar="DIR", help="images in place of tensorflow-datasets' ImageNet")
    add("--again", action="store_true", help="judge and draw the figures in --out again, start no runs")
    add("--page", type=folder, metavar="FILE", help="only write the page of all claims to this file")
    options = parser.parse_args(arguments)
    if options.page:
        options.page.write_text(page(options.out))
        return 0
    out = options.out / ("smoke" if options.smoke else options.scale)
    signals.raise_on_signal()  # Lets the runs save.
    try:
        unknown = next((name for name in options.name if name not in (*FIGURES, "all", "list")), None)
        require(unknown is None, "name", unknown, f"list, all, or one of {', '.join(FIGURES)}")
        require(options.seeds >= 1, "--seeds", options.seeds, "at least 1")
        if "list" in options.name:
            _say(listing(options.scale, options.seeds))
            return 0
        chosen = list(FIGURES) if "all" in options.name else list(dict.fromkeys(options.name))
        if options.again:
            held = [name for name in chosen if (out / f"{name}.json").exists()]
            missing = next((name for name in options.name if name not in (*held, "all")), None)
            require(missing is None, "name", missing, f"with --again a figure that {out} holds")
            failed = judge_again(held, out)
        else:
            names = ("processes", "imagenet", "optimizer", "ended", "smoke")
            more = {name: getattr(options, name) for name in names}
            failed = reproduce(chosen, options.scale, options.seeds, out, **more)
    except UsageError as error:
        return command.fail(str(error), 2)
    except KeyboardInterrupt:
        print("stopped; give the same command to continue", file=sys.stderr)  # noqa: T201
        return 130
    for what in failed:
        print(f"failed: {what}", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command.guarded(main))
