# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Figures and tables of the paper, one command each.

    python -m experiments.reproduce list
    python -m experiments.reproduce fig3 fig4 --scale=gpu --seeds=3 --out=runs/figures
    python -m experiments.reproduce fig3 --again --out=results/figures
    python -m experiments.reproduce all --page=results/README.md --out=results/figures

`list` shows what can be made. A scale is a set of changes to the recipes: `paper` is the paper's own, `gpu` takes
minutes on one GPU, `cpu` minutes to an hour on a core. The runs are ordinary ones of `experiments.run`, in
`OUT/SCALE/runs`: figures share them, those that ended are not run again, those that were interrupted go on, and what
fails is listed and stops nothing else. With `--optimizer` only the runs with that one are made, with `--ended` none:
the figures are those of the runs that have ended. Each figure leaves beside them `NAME.json` (all points, means and
spreads), `NAME.png` drawn as in the paper, and `NAME.md`, a paragraph on whether its claims hold in these runs.
`--smoke` makes every run one of seconds: it shows that the path works, and nothing else. `--again` runs nothing: it
judges and draws anew what a folder holds, by the points in its `NAME.json`. `--page` makes nothing, and writes the page
of all claims from the figures that a folder holds, of every scale.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
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
    """Returns the cases of a figure; those of a smoke run last seconds."""
    cases = figure.cases(scale, seeds)
    return [dataclasses.replace(case, run=_smoke(case.run, scale)) for case in cases] if smoke else cases


def _smoke(run: Run, scale: str) -> Run:
    fields = dict(run.changes)
    if _on_imagenet(run):
        # Its configs have short runs of their own, that no recipe is to lengthen.
        recipe = {key for recipes in RECIPES.values() for key in recipes[scale][1]}
        return Run.of(
            f"{run.config.partition(':')[0]}:tiny,smoke", {k: v for k, v in fields.items() if k not in recipe}
        )
    changes = dict(SMOKE)
    for name in ("strength", "noise"):
        if fields.get(f"method.{name}_span") == "100%":
            changes.pop(f"method.{name}_span")
    if "vit" not in run.config and "mlp" not in run.config:
        changes["model.base_width"] = 4
    if "watch.every" in fields:
        changes["watch.every"] = "2"
    if "ranking.latest" in fields:
        changes["ranking.latest"] = "2"
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
    """Makes figures; returns what failed, runs and figures.

    Args:
      chosen: names of figures.
      scale: one of `SCALES`.
      seeds: how many seeds, from 0.
      out: folder of what they leave.
      smoke: runs of seconds.
      processes: how many runs at once; 0 for what suits the machine.
      optimizer: only the runs with this one; by default those with any.
      ended: run nothing, and make the figures of the runs that have ended.
      imagenet: a folder of images, `train/CLASS/*` and `val/CLASS/*`, in place of tensorflow-datasets' ImageNet.
    """
    out.mkdir(parents=True, exist_ok=True)
    cases = {name: cases_of(FIGURES[name], scale, range(seeds), smoke=smoke) for name in chosen}
    if optimizer:
        cases = {name: [case for case in group if _optimizer(case.run) == optimizer] for name, group in cases.items()}
    if imagenet is not None:
        cases = {name: [_on_images(case, imagenet) for case in group] for name, group in cases.items()}
    everything = [case.run for group in cases.values() for case in group]

    def places(run: Run) -> list[str]:
        return [f"--config.data.dir={imagenet.resolve()}"] if imagenet is not None and run.tag else []

    if ended:
        outcomes = ended_runs(everything, out / "runs")
    else:
        outcomes = execute(everything, out / "runs", processes=processes, more=places, say=_say)
    failed = [f"{o.workdir}: {o.error}" for o in outcomes.values() if o.error is not None]
    for name in chosen:
        try:
            _write(FIGURES[name], cases[name], outcomes, scale, range(seeds), out, smoke)
            _say(f"{name}: {out / name}.json, .png, .md")
        except Exception as error:  # The others are not to wait for this one's mending.
            failed.append(f"{name}: {type(error).__name__}: {error}")
    return failed


def _optimizer(run: Run) -> str:
    """Returns the optimizer of a run."""
    config = command.config_of([f"--config={located(run.config)}", *run.flags()])
    return str(config.optimizer.name).removesuffix("w")  # AdamW's are among Adam's.


def _on_images(case: Case, folder: Path) -> Case:
    """Returns a case on ImageNet with a folder of images in its place."""
    if not _on_imagenet(case.run):
        return case
    run = Run.of(case.run.config, dict(case.run.changes), {"data.name": "image_folder"})
    return dataclasses.replace(case, run=dataclasses.replace(run, tag=str(folder.resolve())))


def _write(
    figure: Figure,
    cases: Sequence[Case],
    outcomes: dict[Run, Outcome],
    scale: str,
    seeds: Sequence[int],
    out: Path,
    smoke: bool,
) -> None:
    points: list[Point] = []
    if figure.made is not None:
        points = figure.made("cpu" if smoke else scale, seeds)
    summaries: list[dict[str, Any]] = []
    for case in cases:
        outcome = outcomes.get(case.run)
        if outcome is None or outcome.summary is None:
            continue
        points += figure.points(case, outcome)
        place = {"panel": case.panel, "series": case.series, "level": case.level}
        flags = [f"--config={case.run.config}", *case.run.flags()]
        kept = {key: outcome.summary.get(key) for key in _KEPT}
        summaries.append({**place, **kept, "first_cut": _first_cut(outcome), "flags": flags})
    points = figure.whole(points)
    failed = [o for o in (outcomes.get(c.run) for c in cases) if o is not None and o.error is not None]
    content = {
        "figure": figure.name,
        "scale": scale,
        "smoke": smoke,
        "seeds": len(seeds),
        "points": [dataclasses.asdict(point) for point in points],
        "runs": summaries,
        "failed": [{"run": o.run.name, "error": o.error} for o in failed],
        **records.provenance(),
    }
    finish(figure, content, out)


def _first_cut(outcome: Outcome) -> float | None:
    """Returns after which part of the run it was first cut; `None` where it was not."""
    cuts = records.read_lines(outcome.workdir / "cuts.jsonl") if (outcome.workdir / "cuts.jsonl").exists() else []
    made = [line["step"] for line in cuts if line.get("removed")]
    return made[0] / outcome.summary["steps"] if made and outcome.summary else None


_KEPT = (
    "test_accuracy",
    "neuron_sparsity",
    "weight_sparsity",
    "train_flops_ratio",
    "inference_flops_ratio",
    "gpu_flops_ratio",
    "step_time_ratio",
    "rate_sum",
    "decay_sum",
    "constant",
    "seconds_steps",
    "seconds_data",
    "seconds_cuts",
    "seconds_total",
    "steps",
    "seed",
    "commit",
    "device",
)


def judge_again(chosen: Sequence[str], out: Path) -> list[str]:
    """Judges and draws figures anew by the points that a folder holds; returns what failed."""
    failed = []
    for name in chosen:
        try:
            content = json.loads((out / f"{name}.json").read_text())
            finish(FIGURES[name], content, out)
            _say(f"{name}: {out / name}.json, .png, .md")
        except (OSError, ValueError, KeyError, TypeError) as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    return failed


def listing(scale: str, seeds: int) -> str:
    """Returns what figures there are, and how many runs each needs."""
    rows = [f"{'name':9} {'runs':>5}  what it shows"]
    for name, figure in FIGURES.items():
        runs = len({case.run for case in figure.cases(scale, range(seeds))})
        rows.append(f"{name:9} {runs or '-':>5}  {figure.what}")
    every = {case.run for figure in FIGURES.values() for case in figure.cases(scale, range(seeds))}
    cost = {
        "cpu": "a run takes six minutes to an hour of a core",
        "gpu": "a run takes about a minute of one GPU",
        "paper": "a run takes the paper's time: hours on CIFAR-10, days on ImageNet",
    }[scale]
    rows.append(f"{'all':9} {len(every):>5}  those that figures share once; at scale {scale}, {cost}")
    return "\n".join(rows)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Reproduces, by the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    parser.add_argument("name", nargs="+", help=f"list, all, or some of {', '.join(FIGURES)}")
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="cpu by default")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many; %(default)s by default")
    parser.add_argument("--optimizer", choices=("adam", "sgdm"), default="", help="only the runs with this one")
    parser.add_argument(
        "--out", type=command.local, default=Path("runs/reproduce"), metavar="DIR", help="%(default)s by default"
    )
    parser.add_argument("--ended", action="store_true", help="run nothing, make figures of the runs that have ended")
    parser.add_argument("--smoke", action="store_true", help="runs of seconds")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="runs at once; by default by the machine")
    parser.add_argument(
        "--imagenet", type=command.local, metavar="DIR", help="images in place of tensorflow-datasets' ImageNet"
    )
    parser.add_argument("--again", action="store_true", help="judge and draw anew what --out holds, run nothing")
    parser.add_argument(
        "--page", type=command.local, metavar="FILE", help="write the page of all claims there, make nothing"
    )
    options = parser.parse_args(arguments)
    if options.page:
        options.page.write_text(page(options.out))
        return 0
    seeds = options.seeds
    out = options.out / ("smoke" if options.smoke else options.scale)
    signals.raise_on_signal()  # The runs are stopped, and save.
    try:
        unknown = next((name for name in options.name if name not in (*FIGURES, "all", "list")), None)
        require(unknown is None, "name", unknown, f"list, all, or one of {', '.join(FIGURES)}")
        require(seeds >= 1, "--seeds", seeds, "at least 1")
        if "list" in options.name:
            _say(listing(options.scale, seeds))
            return 0
        chosen = list(FIGURES) if "all" in options.name else list(dict.fromkeys(options.name))
        if options.again:
            held = [name for name in chosen if (out / f"{name}.json").exists()]
            missing = next((name for name in options.name if name not in (*held, "all")), None)
            require(missing is None, "name", missing, f"with --again a figure that {out} holds")
            failed = judge_again(held, out)
        else:
            names = ("processes", "imagenet", "optimizer", "ended", "smoke")
            failed = reproduce(chosen, options.scale, seeds, out, **{name: getattr(options, name) for name in names})
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
