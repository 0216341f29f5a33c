# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What is written of a figure and its claims: records, a picture, a paragraph, and the page of all claims."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.figures import FIGURES
from experiments.figures.drawing import draw
from experiments.figures.figure import SCALES, Figure, Point, averaged
from experiments.figures.judging import FAILS, HOLDS, UNDECIDED, UNTESTED, Verdict
from experiments.reporting import tables
from experiments.rundir import records


def finish(figure: Figure, content: dict[str, Any], out: Path) -> None:
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
        text += "\n" + tables.lines([tuple(_COLUMNS.values()), *map(told, [*rows, *figure.rows])]) + "\n"
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


def told(row: Mapping[str, Any]) -> tuple[str, ...]:
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
        lines.append(f"Likely reason: {figure.caveat}")
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
            ("rate_sum", "sum of the learning rates over the regularizer's span"),
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
    return bool(figure.caveat) and scale == "cpu" and bad


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

Repeated with the same config, seed, commit and number of cores, a run gives the same numbers, bit for bit. Another
number of cores, other convolutions or another level of XLA's optimizations round otherwise, and training amplifies
that: one run of three epochs, repeated so, came to accuracies of 57.5 to 58.3% and weight sparsities of 63.6 to 66.9%
(`reruns_cifar.jsonl`). The spread over seeds includes it.

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
                reasons.append(f"* {name}: {figure.caveat}")
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
