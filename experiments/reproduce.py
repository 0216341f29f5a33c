# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Figures and tables of the paper, one command each.

    python -m experiments.reproduce list
    python -m experiments.reproduce fig3 fig4
    python -m experiments.reproduce all --scale=gpu --seeds=3 --out=runs/figures
    python -m experiments.reproduce all --page=results/README.md --out=results/figures

`list` shows what can be made. A scale is a set of changes to the recipes: `paper` is the paper's own, `gpu` takes
minutes on one GPU, `cpu` on two cores. The runs are ordinary ones of `experiments.run`, in `OUT/SCALE/runs`: figures
share them, those that ended are not run again, those that were interrupted go on, and what fails is listed and stops
nothing else. Each figure leaves beside them `NAME.json` (all points, means and spreads), `NAME.png` drawn as in the
paper, and `NAME.md`, a paragraph on whether its claims hold in these runs. `--smoke` makes every run one of seconds:
it shows that the path works, and nothing else. `--page` makes nothing, and writes the page of all claims from the
figures that a folder holds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import command, signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments import records
from experiments.errors import UsageError, require
from experiments.figures import FIGURES
from experiments.figures.figure import SCALES, Case, Figure, Mean, Point, Verdict, averaged, draw
from experiments.figures.scales import SMOKE
from experiments.sweep import Outcome, Run, execute

# Of the recipes that a smoke run leaves out.
_IMAGENET = ("table1", "table2", "table3", "fig17")


def cases_of(figure: Figure, scale: str, seeds: Sequence[int], *, smoke: bool = False) -> list[Case]:
    """Returns the cases of a figure; those of a smoke run last seconds."""
    cases = figure.cases(scale, seeds)
    if not smoke:
        return cases
    short = {}
    for case in figure.cases("cpu" if any("imagenet" in c.run.config for c in cases) else scale, seeds):
        # Those on ImageNet are that short at the scale of a CPU.
        changes = {} if "imagenet" in case.run.config else _smoke(case.run)
        short[case] = dataclasses.replace(case, run=Run.of(case.run.config, dict(case.run.changes), changes))
    return list(short.values())


def _smoke(run: Run) -> dict[str, Any]:
    changes = dict(SMOKE)
    fields = dict(run.changes)
    for name in ("strength", "noise"):
        if fields.get(f"method.{name}_span") == "100%":
            changes.pop(f"method.{name}_span")
    if "resnet18" in run.config or "vgg16" in run.config:
        changes["model.base_width"] = 4
    if "watch.every" in fields:
        changes["watch.every"] = "2"
    changes["batch_size"] = min(16, int(fields.get("batch_size", 16)))
    return changes


def reproduce(
    chosen: Sequence[str],
    scale: str,
    seeds: int,
    out: Path,
    *,
    smoke: bool = False,
    processes: int = 0,
    imagenet: Path | None = None,
) -> list[str]:
    """Makes figures; returns what failed, runs and figures.

    Args:
      chosen: names of figures.
      scale: one of `SCALES`.
      seeds: how many seeds, from 0.
      out: folder of what they leave.
      smoke: runs of seconds.
      processes: how many runs at once; 0 for what suits the machine.
      imagenet: a folder of images, `train/CLASS/*` and `val/CLASS/*`, in place of tensorflow-datasets' ImageNet.
    """
    out.mkdir(parents=True, exist_ok=True)
    cases = {name: cases_of(FIGURES[name], scale, range(seeds), smoke=smoke) for name in chosen}
    if imagenet is not None:
        cases = {name: [_on_images(case, imagenet) for case in group] for name, group in cases.items()}
    everything = [case.run for group in cases.values() for case in group]

    def places(run: Run) -> list[str]:
        return [f"--config.data.dir={imagenet.resolve()}"] if imagenet is not None and run.tag else []

    outcomes = execute(everything, out / "runs", processes=processes, more=places, say=_say)
    failed = [f"{o.workdir}: {o.error}" for o in outcomes.values() if o.error is not None]
    for name in chosen:
        try:
            _write(FIGURES[name], cases[name], outcomes, scale, range(seeds), out, smoke)
            _say(f"{name}: {out / name}.json, .png, .md")
        except Exception as error:  # The others are not to wait for this one's mending.
            failed.append(f"{name}: {type(error).__name__}: {error}")
    return failed


def _on_images(case: Case, folder: Path) -> Case:
    """Returns a case on ImageNet with a folder of images in its place."""
    if "imagenet" not in case.run.config:
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
        outcome = outcomes[case.run]
        if outcome.summary is None:
            continue
        points += figure.points(case, outcome)
        keep = ("test_accuracy", "neuron_sparsity", "weight_sparsity", "train_flops_ratio", "inference_flops_ratio")
        more = ("step_time_ratio", "seconds_total", "steps", "seed", "commit", "device")
        place = {"panel": case.panel, "series": case.series, "level": case.level}
        flags = [f"--config={case.run.config}", *case.run.flags()]
        summaries.append({**place, **{k: outcome.summary[k] for k in (*keep, *more)}, "flags": flags})
    means = averaged(points)
    verdicts = _judged(figure, means, scale)
    failed = [o for o in (outcomes[c.run] for c in cases) if o.error is not None]
    content = {
        "figure": figure.name,
        "what": figure.what,
        "scale": scale,
        "smoke": smoke,
        "seeds": len(seeds),
        "panels": [dataclasses.asdict(panel) for panel in figure.panels],
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        "means": [dataclasses.asdict(mean) for mean in means],
        "points": [dataclasses.asdict(point) for point in points],
        "runs": summaries,
        "failed": [{"run": o.run.name, "error": o.error} for o in failed],
        "paper": list(figure.rows),
        **records.provenance(),
    }
    records.write_json(out / f"{figure.name}.json", content)
    draw(figure, means, out / f"{figure.name}.png")
    (out / f"{figure.name}.md").write_text(paragraph(figure, verdicts, scale, len(seeds), len(failed), smoke))


def _judged(figure: Figure, means: Sequence[Mean], scale: str) -> list[Verdict]:
    judge = figure.judge if scale != "paper" or figure.judge_at_size is None else figure.judge_at_size
    try:
        return judge(means) if means else []
    except (IndexError, KeyError, ValueError) as error:
        # Lines without points, where runs failed.
        return [Verdict("Its claims.", "", "not tested", f"points are missing ({type(error).__name__}: {error})")]


def paragraph(
    figure: Figure, verdicts: Sequence[Verdict], scale: str, seeds: int, failed: int, smoke: bool = False
) -> str:
    """Returns what the runs of a figure say of the paper's claims, as Markdown."""
    size = f"scale `{scale}`, {seeds} seed{'s' if seeds > 1 else ''}"
    lines = [f"**{figure.name}**, {figure.what} ({size})."]
    if smoke:
        lines.append("Runs of seconds, which only show that the path works: no claim is tested.")
    elif scale == "cpu" and figure.name in _IMAGENET:
        lines.append("Runs of a few steps on a few classes, which only show that the path works: no claim is tested.")
    if failed:
        lines.append(f"{failed} runs failed.")
    for verdict in verdicts:
        section = f" (section {verdict.section})" if verdict.section else ""
        outcome = "not tested" if smoke else verdict.outcome
        lines.append(f"{verdict.claim}{section} **{outcome[0].upper()}{outcome[1:]}**: {verdict.why}.")
    return " ".join(lines) + "\n"


_PAGE = """# The paper's statements, one by one

Written by `python -m experiments.reproduce all --page=results/README.md --out=results/figures --scale={scale}` from the
records beside it, which hold every point, run, flag, commit and device. The sentences are ours; sections are the
paper's. What `holds` is judged by a rule in `experiments/figures/`, on runs of scale `{scale}`, far shorter and
narrower than the paper's: with one seed a difference of a point means little, and a statement that does not hold here
may hold at the paper's size.

| figure | seeds | statement | section | measured | here |
| --- | --- | --- | --- | --- | --- |
"""


def page(folder: Path, scale: str) -> str:
    """Returns the page of all claims, from the figures that `folder/scale` holds."""
    rows, missing = [], []
    keys = ("claim", "section", "why", "outcome")
    for name, figure in FIGURES.items():
        path = folder / scale / f"{name}.json"
        if not path.exists():
            missing.append(f"* {name}: {figure.what}")
            continue
        found = json.loads(path.read_text())
        label = f"[{name}](figures/{scale}/{name}.png)"
        rows += [
            " | ".join(["", label, str(found["seeds"]), *(_cell(v[key]) for key in keys), ""]).strip()
            for v in found["verdicts"]
        ]
    text = _PAGE.format(scale=scale) + "\n".join(rows) + "\n"
    if missing:
        text += "\nNot run here yet, each by `python -m experiments.reproduce NAME`:\n\n" + "\n".join(missing) + "\n"
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # Else a column would end there.


def listing(scale: str, seeds: int) -> str:
    """Returns what figures there are, and how many runs each needs."""
    rows = [f"{'name':9} {'runs':>5}  what it shows"]
    for name, figure in FIGURES.items():
        runs = len({case.run for case in figure.cases(scale, range(seeds))})
        rows.append(f"{name:9} {runs or '-':>5}  {figure.what}")
    every = {case.run for figure in FIGURES.values() for case in figure.cases(scale, range(seeds))}
    cost = {
        "cpu": "a run takes one to two minutes of a core",
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
    parser.add_argument("--seeds", type=int, metavar="N", help="how many; by default 3 at the paper's scale, else 1")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="%(default)s by default"
    )
    parser.add_argument("--smoke", action="store_true", help="runs of seconds")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="runs at once; by default by the machine")
    parser.add_argument("--imagenet", type=Path, metavar="DIR", help="images in place of tensorflow-datasets' ImageNet")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of all claims there, make nothing")
    options = parser.parse_args(arguments)
    if options.page:
        options.page.write_text(page(options.out, options.scale))
        return 0
    seeds = options.seeds if options.seeds is not None else (3 if options.scale == "paper" else 1)
    out = options.out / ("smoke" if options.smoke else options.scale)
    signals.raise_on_signal()  # The runs are stopped, and save.
    try:
        unknown = next((name for name in options.name if name not in (*FIGURES, "all", "list")), None)
        require(unknown is None, "name", unknown, f"list, all, or one of {', '.join(FIGURES)}")
        require(seeds >= 1, "--seeds", seeds, "at least 1")
        if "list" in options.name:
            _say(listing(options.scale, seeds))
            return 0
        failed = reproduce(
            list(FIGURES) if "all" in options.name else list(dict.fromkeys(options.name)),
            options.scale,
            seeds,
            out,
            smoke=options.smoke,
            processes=options.processes,
            imagenet=options.imagenet,
        )
    except UsageError as error:
        return command.fail(str(error), 2)
    except KeyboardInterrupt:
        print("stopped; give the same command to continue", file=sys.stderr)  # noqa: T201
        return 130
    for what in failed:
        print(f"failed: {what}", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
