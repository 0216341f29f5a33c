# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Figures and tables of the paper, one command each.

    python -m experiments.reproduce list
    python -m experiments.reproduce fig3 fig4 --scale=gpu --seeds=3 --out=runs/figures
    python -m experiments.reproduce fig3 --again --out=results/figures
    python -m experiments.reproduce all --page=results/README.md --out=results/figures

`list` shows what can be made. A scale is a set of changes to the recipes: `paper` is the paper's own, `gpu` takes
minutes on one GPU, `cpu` on two cores. The runs are ordinary ones of `experiments.run`, in `OUT/SCALE/runs`: figures
share them, those that ended are not run again, those that were interrupted go on, and what fails is listed and stops
nothing else. Each figure leaves beside them `NAME.json` (all points, means and spreads), `NAME.png` drawn as in the
paper, and `NAME.md`, a paragraph on whether its claims hold in these runs. `--smoke` makes every run one of seconds:
it shows that the path works, and nothing else. `--again` runs nothing: it judges and draws anew what a folder holds, by
the points in its `NAME.json`. `--page` makes nothing, and writes the page of all claims from the figures that a folder
holds, of every scale.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import command, signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments import records, tables
from experiments.errors import UsageError, require
from experiments.figures import FIGURES
from experiments.figures.figure import SCALES, Case, Figure, Point, Verdict, averaged, draw
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
        place = {"panel": case.panel, "series": case.series, "level": case.level}
        flags = [f"--config={case.run.config}", *case.run.flags()]
        summaries.append({**place, **{key: outcome.summary.get(key) for key in _KEPT}, "flags": flags})
    points = figure.whole(points)
    failed = [o for o in (outcomes[c.run] for c in cases) if o.error is not None]
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
    _finish(figure, content, out)


_KEPT = (
    "test_accuracy",
    "neuron_sparsity",
    "weight_sparsity",
    "train_flops_ratio",
    "inference_flops_ratio",
    "gpu_flops_ratio",
    "step_time_ratio",
    "seconds_steps",
    "seconds_data",
    "seconds_cuts",
    "seconds_total",
    "steps",
    "seed",
    "commit",
    "device",
)


def _finish(figure: Figure, content: dict[str, Any], out: Path) -> None:
    """Judges and draws points, and writes them down with everything that is known of them."""
    points = [Point(**point) for point in content["points"]]
    means = averaged(points)
    verdicts = judged(figure, points, content["scale"], {run["device"] for run in content["runs"]})
    rows = figure.table(content["runs"]) if figure.table is not None else []
    content = content | {
        "what": figure.what,
        "panels": [dataclasses.asdict(panel) for panel in figure.panels],
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        "means": [dataclasses.asdict(mean) for mean in means],
        "table": rows,
        "paper": list(figure.rows),
    }
    records.write_json(out / f"{figure.name}.json", content)
    draw(figure, means, out / f"{figure.name}.png")
    options = (content["scale"], content["seeds"], len(content["failed"]), content["smoke"])
    text = paragraph(figure, verdicts, *options)
    if figure.table is not None:
        text += "\n" + tables.lines([tuple(_COLUMNS.values()), *map(_told, [*rows, *figure.rows])]) + "\n"
    (out / f"{figure.name}.md").write_text(text)


_COLUMNS = {
    "method": "method",
    "accuracy": "test accuracy",
    "neuron": "neuron sparsity",
    "weight": "weight sparsity",
    "time": "training time",
    "train_flops": "training FLOPs",
    "flops": "inference FLOPs",
    "gpu_flops": "GPU inference FLOPs",
    "source": "source",
}


def _told(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns a row of a table as text."""

    def cell(name: str) -> str:
        value = row[name]
        if value is None or isinstance(value, str):
            return value or ""
        if name in ("accuracy", "neuron", "weight"):
            spread = f" ± {row['std']:.2f}" if name == "accuracy" and row["std"] is not None else ""
            return f"{value:.2f}%{spread}"
        return f"x {value:.2f}"

    return tuple(map(cell, _COLUMNS))


def judge_again(chosen: Sequence[str], out: Path) -> list[str]:
    """Judges and draws figures anew by the points that a folder holds; returns what failed."""
    failed = []
    for name in chosen:
        try:
            content = json.loads((out / f"{name}.json").read_text())
            _finish(FIGURES[name], content, out)
            _say(f"{name}: {out / name}.json, .png, .md")
        except (OSError, ValueError, KeyError, TypeError) as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    return failed


def judged(figure: Figure, points: Sequence[Point], scale: str, devices: Collection[str]) -> list[Verdict]:
    """Returns what points say of a figure's claims, if anything; times of several devices say nothing."""
    try:
        found = figure.verdicts(points, scale)
    except (IndexError, KeyError, ValueError) as error:
        # Lines without points, where runs failed.
        return [Verdict("Its claims.", "", "not tested", f"points are missing ({type(error).__name__}: {error})")]
    why = f"times are of different devices: {', '.join(sorted(devices))}"
    return [
        Verdict(each.claim, each.section, "not tested", why)
        if each.claim in figure.timed and len(devices) > 1
        else each
        for each in found
    ]


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
        spread = f" ({_margin(verdict)})" if verdict.spread is not None else ""
        lines.append(f"{verdict.claim}{section} **{outcome[0].upper()}{outcome[1:]}**: {verdict.why}{spread}.")
    if _doubted(figure, verdicts, scale) and not smoke:
        lines.append(f"Likely reason: {figure.doubts}")
    return " ".join(lines) + "\n"


def _margin(verdict: Verdict) -> str:
    """Returns by how much a rule is met, as text."""
    if verdict.margin is None:
        return ""
    spread = f" ± {verdict.spread:.2g}" if verdict.spread is not None else ""
    return f"margin {verdict.margin:+.2g}{spread}"


def _doubted(figure: Figure, verdicts: Sequence[Verdict], scale: str) -> bool:
    bad = any(verdict.outcome == "does not hold" for verdict in verdicts)
    return bool(figure.doubts) and scale == "cpu" and bad


_PAGE = """# The paper's statements, one by one

Written by `python -m experiments.reproduce all --page=results/README.md --out=results/figures` from the records beside
it, which hold every point, run, flag, commit and device. The sentences are ours; sections are the paper's. What `holds`
is judged by a rule in `experiments/figures/`: `margin` is by how much it is met, in the unit of what it compares, with
the standard deviation over seeds where there are several; within its standard error of zero a claim is `undecided`.
Scales `cpu` and `gpu` are far shorter than the paper, and `cpu` narrower: with one seed a difference of a point means
little, and what does not hold here may hold at its size.

| figure | scale | seeds | statement | section | measured | margin | here |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def page(folder: Path) -> str:
    """Returns the page of all claims, from the figures that a folder holds; those it lacks are claims all the same."""
    rows, reasons = [], []
    for name, figure in FIGURES.items():
        paths = {scale: path for scale in SCALES if (path := folder / scale / f"{name}.json").exists()}
        for scale, path in paths.items():
            content = json.loads(path.read_text())
            verdicts = [Verdict(**verdict) for verdict in content["verdicts"]]
            label = f"[{name}](figures/{scale}/{name}.png)"
            rows += [_row(label, scale, str(content["seeds"]), verdict) for verdict in verdicts]
            if _doubted(figure, verdicts, scale):
                reasons.append(f"* {name}: {figure.doubts}")
        if not paths:
            rows += [_row(name, "", "", verdict) for verdict in figure.verdicts([], "paper")]
    text = _PAGE + "\n".join(rows) + "\n"
    if reasons:
        text += "\nLikely reasons where statements do not hold:\n\n" + "\n".join(reasons) + "\n"
    return text


def _row(label: str, scale: str, seeds: str, verdict: Verdict) -> str:
    outcome, why = verdict.outcome, verdict.why
    if not scale:
        outcome, why = "not run yet", ""
    margin = _margin(verdict).removeprefix("margin ")
    cells = (label, scale, seeds, verdict.claim, verdict.section, why, margin, outcome)
    return " | ".join(["", *(_cell(cell) for cell in cells), ""]).strip()


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
        "cpu": "a run takes two to six minutes of a core",
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
    parser.add_argument("--again", action="store_true", help="judge and draw anew what --out holds, run nothing")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of all claims there, make nothing")
    options = parser.parse_args(arguments)
    if options.page:
        options.page.write_text(page(options.out))
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
        chosen = list(FIGURES) if "all" in options.name else list(dict.fromkeys(options.name))
        if options.again:
            held = [name for name in chosen if (out / f"{name}.json").exists()]
            missing = next((name for name in options.name if name not in (*held, "all")), None)
            require(missing is None, "name", missing, f"with --again a figure that {out} holds")
            failed = judge_again(held, out)
        else:
            more: dict[str, Any] = {"processes": options.processes, "imagenet": options.imagenet}
            failed = reproduce(chosen, options.scale, seeds, out, smoke=options.smoke, **more)
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
