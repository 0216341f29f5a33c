# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Writes the results of a figure (records, drawing, Markdown), and the page of all claims."""

from __future__ import annotations

import dataclasses
import json
import statistics
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
    """Judges and draws the points in the record of a figure, and writes its files."""
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
    picture = draw(figure, means, scale=content["scale"], seeds=content["seeds"])
    picture.savefig(out / f"{figure.name}.png", dpi=100)
    options = (content["scale"], content["seeds"], len(content["failed"]), content["smoke"])
    text = summary(figure, verdicts, *options)
    _, collapsed = figure.without_collapsed(points)
    text += "\n" + regime(figure, content["runs"], collapsed) if content["runs"] else ""
    if figure.table is not None:
        text += "\n" + tables.lines([tuple(_COLUMNS.values()), *map(cells, [*rows, *figure.rows])]) + "\n"
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


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of a row of a figure's table."""

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
    """Returns the verdicts on a figure's claims; those about times are not tested with several devices."""
    try:
        verdicts = figure.verdicts(points)
    except (IndexError, KeyError, ValueError) as error:
        # Failed runs left lines without points.
        return [Verdict("Its claims.", "", UNTESTED, note=f"points are missing ({type(error).__name__}: {error})")]
    note = f"times are of different devices: {', '.join(sorted(devices))}"
    return [
        Verdict(each.claim, each.section, UNTESTED, note=note)
        if each.claim in figure.timed and len(devices) > 1
        else each
        for each in verdicts
    ]


def summary(
    figure: Figure, verdicts: Sequence[Verdict], scale: str, seeds: int, failed: int, smoke: bool = False
) -> str:
    """Returns the verdicts on a figure's claims as Markdown."""
    lines = [f"**{figure.name}**, {figure.what} (scale `{scale}`, {seeds} seed{'s' if seeds > 1 else ''})."]
    if smoke:
        lines[0] += " Runs of seconds, which only test the code: no claim is tested."
    elif scale == "cpu" and figure.proxy:
        lines[0] += f" This scale uses {figure.proxy}."
    if failed:
        lines[0] += f" {failed} runs failed."
    for verdict in verdicts:
        section = f" (section {verdict.section})" if verdict.section else ""
        outcome = UNTESTED if smoke else verdict.outcome
        claim = f"{verdict.claim}{section} **{outcome[0].upper()}{outcome[1:]}**"
        lines.append(
            f"{claim}:\n\n{_effects(verdict)}" if _several(verdict) and not smoke else f"{claim}: {verdict.why}."
        )
    if _needs_caveat(figure, verdicts, scale) and not smoke:
        lines.append(f"Likely reason: {figure.caveat}")
    return "\n\n".join(lines) + "\n"


def _several(verdict: Verdict) -> bool:
    """Returns whether a verdict has a table of its own."""
    return len(verdict.decisions) > 1 and any(decision.mean is not None for decision in verdict.decisions)


def _effects(verdict: Verdict) -> str:
    """Returns the effects of a claim as a table, with the note below it."""
    header = ("effect", "range", "mean", "90% bounds", "required", "outcome")
    rows = [
        (each.what, each.range, each.measured, each.bounds, each.required, each.outcome) for each in verdict.decisions
    ]
    text = tables.lines([header, *(tuple(map(_cell, row)) for row in rows)])
    return f"{text}\n\nNote: {verdict.note}." if verdict.note else text


def regime(figure: Figure, runs: Sequence[Mapping[str, Any]], collapsed: int = 0) -> str:
    """Returns as Markdown how long the runs of each panel trained and how far they pruned.

    Args:
      figure: the figure.
      runs: its records.
      collapsed: number of points that were dropped because their runs have collapsed.
    """
    lines = []
    panels = sorted({run["panel"] for run in runs})
    axes = max(len(figure.panels) // (panels[-1] + 1), 1)  # The same runs may be drawn on several axes.
    for panel in panels:
        mine = [run for run in runs if run["panel"] == panel]
        early = [run for run in mine if run["series"].startswith("Early") and run.get("first_cut")]
        cut = [run for run in mine if run["weight_sparsity"] > 0]
        dense = [100 * run["test_accuracy"] for run in mine if run["series"] == figure.dense]
        words = [
            f"{len(mine)} runs",
            f"dense accuracy {statistics.mean(dense):.1f}%" if dense else "",
            _range(mine, "steps", ",.0f", "{} steps"),
            _range(cut, "weight_sparsity", ".0f", "weight sparsity {}%", 100),
            _range(mine, "rate_sum", ".3g", "sum of the learning rates over the regularizer's span {}"),
            _range(mine, "decay_sum", ".3g", "sum of learning rate times weight decay {}"),
            _range(early, "first_cut", ".0f", "early methods prune at {}% of the run", 100),
            _range(mine, "constant", "g", "constants folded up to {}") or "no constants folded",
        ]
        name = figure.panels[panel * axes].title if panel * axes < len(figure.panels) else ""
        lines.append(f"* {name or f'panel {panel + 1}'}: {', '.join(filter(None, words))}.")
    if collapsed:
        lines.append(f"* {collapsed} points of collapsed runs, below half of the dense accuracy, are left out.")
    return "\n".join(["Regime:", "", *lines]) + "\n"


def _range(runs: Sequence[Mapping[str, Any]], field: str, form: str, words: str, factor: float = 1) -> str:
    """Returns the range of a field in words; nothing if no run has the field."""
    values = [factor * run[field] for run in runs if run.get(field) is not None]
    if not values:
        return ""
    low, high = format(min(values), form), format(max(values), form)
    return words.format(low if low == high else f"{low} to {high}")


def _needs_caveat(figure: Figure, verdicts: Sequence[Verdict], scale: str) -> bool:
    bad = any(verdict.outcome == FAILS for verdict in verdicts)
    return bool(figure.caveat) and scale == "cpu" and bad


_PAGE = """# The claims of the paper, one by one

{counts}

This page is written by `python -m experiments.reproduce all --page=results/README.md --out=results/figures` from the
records beside it, which hold every point, run, flag, commit and device. The claims are in our words; sections are the
paper's. A claim is decided by differences between runs of the same seed. The table has their mean, the one-sided 90%
t-bounds of the mean in brackets, and the values for which the claim holds. With fewer than three seeds a claim is
`undecided`; `experiments/figures/judging.py` has the rule. Accuracies are compared between upper envelopes, over the
range of sparsity where both sides have runs. Runs below half of the dense accuracy are left out. Training at scales
`cpu` and `gpu` is shorter than the paper's, and at `cpu` the networks are narrower: a claim that fails here may hold at
the paper's scale. The page of each figure (`figures/SCALE/NAME.md`) says how long its runs trained, how far they
pruned, and whether constants were folded.

A run that is repeated with the same config, seed, commit and number of cores gives the same numbers, bit for bit.
Another number of cores, other convolutions or another level of XLA's optimizations changes the rounding, and training
amplifies the difference. Repetitions of one run of three epochs gave accuracies of 57.5 to 58.3% and weight sparsities
of 63.6 to 66.9% (`reruns_cifar.jsonl`). The spread over seeds includes this difference.

"""


def page(folder: Path) -> str:
    """Returns the page of all claims, from the figures in a folder; claims of other figures are listed as not run."""
    rows, details, caveats, outcomes = [], [], [], []
    for name, figure in FIGURES.items():
        paths = {scale: path for scale in SCALES if (path := folder / scale / f"{name}.json").exists()}
        for scale, path in paths.items():
            content = json.loads(path.read_text())
            points = [Point(**point) for point in content["points"]]
            verdicts = judged(figure, points, {run["device"] for run in content["runs"]})
            for i, verdict in enumerate(verdicts, 1):
                measured = verdict.why
                if _several(verdict):
                    measured = f"[{len(verdict.decisions)} effects](#{name.lower()}-scale-{scale}-claim-{i})"
                    details.append(f"### {name}, scale {scale}, claim {i}\n\n{verdict.claim}\n\n{_effects(verdict)}\n")
                label = f"[{name}](figures/{scale}/{name}.md)"
                cells = (verdict.claim, verdict.section, measured, verdict.outcome)
                rows.append((label, scale, str(content["seeds"]), *cells))
                outcomes.append((scale, content["seeds"], verdict.outcome))
            if _needs_caveat(figure, verdicts, scale):
                caveats.append(f"* {name}: {figure.caveat}")
        if not paths:
            verdicts = figure.verdicts([])
            rows += [(name, "", "", verdict.claim, verdict.section, "", "not run yet") for verdict in verdicts]
            outcomes += [("", 0, UNTESTED) for _ in verdicts]
    header = ("figure", "scale", "seeds", "claim", "section", "measured", "outcome")
    text = _PAGE.format(counts=_counts(outcomes))
    text += tables.lines([header, *(tuple(map(_cell, row)) for row in rows)]) + "\n"
    if caveats:
        text += "\nLikely reasons of claims that do not hold:\n\n" + "\n".join(caveats) + "\n"
    if details:
        text += "\n## Claims with several effects\n\nSuch a claim holds if all of its effects do.\n\n" + "\n".join(
            details
        )
    return text


_KINDS = {HOLDS: "hold", FAILS: "do not hold", UNDECIDED: "are undecided", UNTESTED: "are not tested"}


def _counts(outcomes: Sequence[tuple[str, int, str]]) -> str:
    """Returns how many claims there are of each outcome, and how many were run at each scale."""
    total = len(outcomes)
    parts = [f"{sum(o == kind for _, _, o in outcomes)} {words}" for kind, words in _KINDS.items()]
    ran = sorted({(scale, seeds) for scale, seeds, _ in outcomes if scale})
    where = "; ".join(
        f"scale `{scale}` with {seeds} seed{'' if seeds == 1 else 's'}: "
        f"{sum((scale, seeds) == (a, b) for a, b, _ in outcomes)} claims"
        for scale, seeds in ran
    )
    return f"Of {total} claims {', '.join(parts)}. Run at {where}." if ran else f"None of {total} claims was run."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # A bare bar would end the column.
