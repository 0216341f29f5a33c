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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import command, signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments import records, tables
from experiments.errors import UsageError, require
from experiments.figures import FIGURES
from experiments.figures.figure import SCALES, Case, Figure, Point, averaged, draw
from experiments.figures.judging import FAILS, HOLDS, UNDECIDED, UNTESTED, Verdict
from experiments.figures.scales import RECIPES, SMOKE
from experiments.sweep import Outcome, Run, ended_runs, execute, located


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
    _finish(figure, content, out)


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


def _finish(figure: Figure, content: dict[str, Any], out: Path) -> None:
    """Judges and draws points, and writes them down with everything that is known of them."""
    points = [Point(**point) for point in content["points"]]
    means = averaged(points)
    verdicts = judged(figure, points, {run["device"] for run in content["runs"]})
    rows = figure.table(content["runs"]) if figure.table is not None else []
    content = content | {
        "what": figure.what,
        "panels": [dataclasses.asdict(panel) for panel in figure.panels],
        "verdicts": [{**dataclasses.asdict(verdict), "why": verdict.why} for verdict in verdicts],
        "means": [dataclasses.asdict(mean) for mean in means],
        "table": rows,
        "paper": list(figure.rows),
    }
    records.write_json(out / f"{figure.name}.json", content)
    draw(figure, means, out / f"{figure.name}.png", scale=content["scale"], seeds=content["seeds"])
    options = (content["scale"], content["seeds"], len(content["failed"]), content["smoke"])
    text = paragraph(figure, verdicts, *options)
    _, collapsed = figure.without_collapsed(points)
    text += "\n" + regime(figure, content["runs"], collapsed) if content["runs"] else ""
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


def judged(figure: Figure, points: Sequence[Point], devices: Collection[str]) -> list[Verdict]:
    """Returns what points say of a figure's claims, if anything; times of several devices say nothing."""
    try:
        found = figure.verdicts(points)
    except (IndexError, KeyError, ValueError) as error:
        # Lines without points, where runs failed.
        return [Verdict("Its claims.", "", UNTESTED, note=f"points are missing ({type(error).__name__}: {error})")]
    note = f"times are of different devices: {', '.join(sorted(devices))}"
    return [
        Verdict(each.claim, each.section, UNTESTED, note=note)
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
    elif scale == "cpu" and figure.proxy:
        lines.append(f"Here it is {figure.proxy}.")
    if failed:
        lines.append(f"{failed} runs failed.")
    for verdict in verdicts:
        section = f" (section {verdict.section})" if verdict.section else ""
        outcome = UNTESTED if smoke else verdict.outcome
        lines.append(f"{verdict.claim}{section} **{outcome[0].upper()}{outcome[1:]}**: {verdict.why}.")
    if _doubted(figure, verdicts, scale) and not smoke:
        lines.append(f"Likely reason: {figure.doubts}")
    return " ".join(lines) + "\n"


def regime(figure: Figure, runs: Sequence[Mapping[str, Any]], collapsed: int = 0) -> str:
    """Returns, as Markdown, how far training went: without that a figure at a small scale says little.

    Args:
      figure: the figure.
      runs: its records.
      collapsed: how many points were left out since their runs have collapsed.
    """
    lines = []
    found = sorted({run["panel"] for run in runs})
    axes = max(len(figure.panels) // (found[-1] + 1), 1)  # The same runs may stand in several.
    for panel in found:
        mine = [run for run in runs if run["panel"] == panel]
        words = [f"{len(mine)} runs"]
        dense = [100 * run["test_accuracy"] for run in mine if run["series"] == figure.dense]
        if dense:
            words.append(f"dense accuracy {_mean(dense):.1f}%")
        steps = sorted({run["steps"] for run in mine})
        words.append(f"{_range(steps, ',.0f')} steps")
        cut = [100 * run["weight_sparsity"] for run in mine if run["weight_sparsity"] > 0]
        if cut:
            words.append(f"weight sparsity {min(cut):.0f} to {max(cut):.0f}%")
        for key, what in (
            ("rate_sum", "sum of the learning rates over the regulariser's span"),
            ("decay_sum", "sum of learning rate times weight decay"),
        ):
            values = [run[key] for run in mine if run.get(key) is not None]
            if values:
                words.append(f"{what} {_range(values, '.3g')}")
        early = [100 * run["first_cut"] for run in mine if run["series"].startswith("Early") and run.get("first_cut")]
        if early:
            words.append(f"early methods prune at {_range(early, '.0f')}% of the run")
        folds = {run["constant"] for run in mine if run.get("constant") is not None}
        words.append(f"constants folded up to {_range(sorted(folds), 'g')}" if folds else "no constants folded")
        name = figure.panels[panel * axes].title if panel * axes < len(figure.panels) else ""
        lines.append(f"* {name or f'panel {panel + 1}'}: {', '.join(words)}.")
    if collapsed:
        lines.append(f"* {collapsed} points are left out: their runs have collapsed, below half of the dense accuracy.")
    return "\n".join(["Regime:", "", *lines]) + "\n"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _doubted(figure: Figure, verdicts: Sequence[Verdict], scale: str) -> bool:
    bad = any(verdict.outcome == FAILS for verdict in verdicts)
    return bool(figure.doubts) and scale == "cpu" and bad


_PAGE = """# The paper's statements, one by one

{counts}

Written by `python -m experiments.reproduce all --page=results/README.md --out=results/figures` from the records
beside it, which hold every point, run, flag, commit and device. The sentences are ours; sections are the paper's. A
statement is decided by differences between runs of the same seed: their mean, in brackets its one-sided 90% t-bounds,
and what it has to be. With fewer than three seeds it is `undecided`; `experiments/figures/judging.py` has the rule.
Accuracies are compared between upper envelopes, over the range of sparsity where both sides have runs. Runs below half
of the dense accuracy are left out. Scales `cpu` and `gpu` are shorter than the paper, and `cpu` narrower: what does
not hold here may hold at its size. The page of each figure (`figures/SCALE/NAME.md`) says how far training went, and
whether constants were folded.

| figure | scale | seeds | statement | section | measured | here |
| --- | --- | --- | --- | --- | --- | --- |
"""


def page(folder: Path) -> str:
    """Returns the page of all claims, from the figures that a folder holds; those it lacks are claims all the same."""
    rows, reasons, outcomes = [], [], []
    for name, figure in FIGURES.items():
        paths = {scale: path for scale in SCALES if (path := folder / scale / f"{name}.json").exists()}
        for scale, path in paths.items():
            content = json.loads(path.read_text())
            points = [Point(**point) for point in content["points"]]
            verdicts = judged(figure, points, {run["device"] for run in content["runs"]})
            label = f"[{name}](figures/{scale}/{name}.md)"
            rows += [_row(label, scale, str(content["seeds"]), verdict) for verdict in verdicts]
            outcomes += [(scale, content["seeds"], verdict.outcome) for verdict in verdicts]
            if _doubted(figure, verdicts, scale):
                reasons.append(f"* {name}: {figure.doubts}")
        if not paths:
            rows += [_row(name, "", "", verdict) for verdict in figure.verdicts([])]
            outcomes += [("", 0, UNTESTED) for _ in figure.verdicts([])]
    text = _PAGE.format(counts=_counts(outcomes)) + "\n".join(rows) + "\n"
    if reasons:
        text += "\nLikely reasons where statements do not hold:\n\n" + "\n".join(reasons) + "\n"
    return text


def _counts(outcomes: Sequence[tuple[str, int, str]]) -> str:
    """Returns how many statements are decided how, in the first lines of the page."""
    total = len(outcomes)
    parts = [f"{sum(o == kind for _, _, o in outcomes)} {words}" for kind, words in _KINDS.items()]
    ran = sorted({(scale, seeds) for scale, seeds, _ in outcomes if scale})
    where = "; ".join(
        f"scale `{scale}` with {seeds} seed{'' if seeds == 1 else 's'}: "
        f"{sum((scale, seeds) == (a, b) for a, b, _ in outcomes)} statements"
        for scale, seeds in ran
    )
    return (
        f"Of {total} statements {', '.join(parts)}. Run at {where}." if ran else f"None of {total} statements was run."
    )


_KINDS = {HOLDS: "hold", FAILS: "do not hold", UNDECIDED: "are undecided", UNTESTED: "are not tested"}


def _row(label: str, scale: str, seeds: str, verdict: Verdict) -> str:
    outcome, why = verdict.outcome, verdict.why
    if not scale:
        outcome, why = "not run yet", ""
    cells = (label, scale, seeds, verdict.claim, verdict.section, why, outcome)
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
