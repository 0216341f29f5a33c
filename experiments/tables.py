# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Collects records of runs and prints them as tables.

    python -m experiments.tables --collect=results/NAME.jsonl WORKDIR...
    python -m experiments.tables results/NAME.jsonl --fill=README.md
    python -m experiments.tables results/ONE.jsonl results/OTHER.jsonl --lead DemP EarlyCroP --by=inference_flops_ratio
    python -m experiments.tables results/NAME.jsonl --layers=layers.png --only 'DemP*' 'EarlyCroP, rho 0.5'

The first command writes the summaries of finished runs to a record file. The second writes its table, with a row per
setting and the mean over seeds, after the line `<!-- table NAME.jsonl -->` of a file; without `--fill` it prints the
table. The third compares the settings that begin with `DemP` with those that begin with `EarlyCroP`: for each seed, the
difference of their accuracies, interpolated linearly and averaged over the range of `--by` where both have runs; then
the mean over seeds with one-sided 90% t-bounds. Runs below half of the best accuracy are left out. The last one draws
the fraction of its units that each layer keeps, for the settings that match a pattern of `--only`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np

from experiments.cli import command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments.core.errors import UsageError, require
from experiments.figures import judging
from experiments.reporting import curves
from experiments.reporting.tables import collect, fill, markdown
from experiments.rundir.records import read_lines


def leads(
    records: Sequence[Mapping[str, Any]], ours: str, theirs: str, by: str
) -> dict[int, tuple[float, tuple[float, float]]]:
    """Returns, by seed, the lead of one line over another in points of accuracy, and the range over which it was taken.

    Args:
      records: summaries of runs with a `setting`.
      ours, theirs: how the settings of each line begin.
      by: the field at equal values of which accuracies are compared.
    """
    least = max(record["test_accuracy"] for record in records) / 2
    lines: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for record in records:
        for name in (ours, theirs):
            if record["setting"].startswith(name) and record["test_accuracy"] >= least:
                lines.setdefault((name, record["seed"]), []).append((record[by], 100 * record["test_accuracy"]))
    found = {}
    for seed in sorted({seed for _, seed in lines}):
        one, other = (sorted(lines.get((name, seed), [])) for name in (ours, theirs))
        if len(one) < 2 or len(other) < 2:
            continue
        low, high = max(one[0][0], other[0][0]), min(one[-1][0], other[-1][0])
        if low < high:
            places = np.linspace(low, high, 50)
            heights = [np.interp(places, [x for x, _ in line], [y for _, y in line]) for line in (one, other)]
            found[seed] = float(np.mean(heights[0] - heights[1])), (low, high)
    return found


def _compared(records: Sequence[Mapping[str, Any]], ours: str, theirs: str, by: str) -> str:
    require(bool(records) and by in records[0], "--by", by, "a field of the records, such as weight_sparsity")
    found = leads(records, ours, theirs, by)
    if not found:
        return f"{ours} minus {theirs} at equal {by}: no seed has two runs of each in a common range."
    values = [value for value, _ in found.values()]
    low, high = min(least for _, (least, _) in found.values()), max(most for _, (_, most) in found.values())
    bounds = "" if len(values) < 2 else " [{:+.2f}, {:+.2f}]".format(*judging.bounds(values))
    each = ", ".join(f"{value:+.2f}" for value in values)
    what = f"{ours} minus {theirs} at equal {by} ({low:.2f} to {high:.2f})"
    return f"{what}: {statistics.mean(values):+.2f} points{bounds}; seeds {', '.join(map(str, found))}: {each}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    parser.add_argument("paths", type=command.local, nargs="+", help="record files to print, or workdirs to collect")
    parser.add_argument(
        "--collect", type=command.local, metavar="FILE", help="write the summaries of the workdirs to this file"
    )
    parser.add_argument("--fill", type=command.local, metavar="FILE", help="replace the tables in this file")
    parser.add_argument("--lead", nargs=2, metavar=("OURS", "THEIRS"), help="compare settings that begin with these")
    parser.add_argument("--by", default="weight_sparsity", help="with --lead: at equal values of this field")
    parser.add_argument("--layers", type=command.local, metavar="FILE", help="draw the layers, a PNG or SVG file")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="SETTING", help="with --layers: settings to draw")
    options = parser.parse_args(arguments)
    try:
        if options.collect:
            lines = [json.dumps(record) for record in collect(options.paths)]
            options.collect.write_text("".join(line + "\n" for line in lines))
            command.say(f"{len(lines)} records in {options.collect}")
            return 0
        if options.lead:
            records = [record for path in options.paths for record in read_lines(path)]
            ours, theirs = options.lead
            command.say(_compared(records, ours, theirs, options.by))
            return 0
        if options.layers:
            require(options.layers.suffix in (".png", ".svg"), "--layers", str(options.layers), "a PNG or SVG file")
            records = [record for path in options.paths for record in read_lines(path)]
            chosen = {r["setting"] for r in records if any(fnmatch(r["setting"], only) for only in options.only)}
            curves.layers([r for r in records if not r["weight_sparsity"] or r["setting"] in chosen], options.layers)
            return 0
        for path in options.paths:
            require(path.exists(), "paths", str(path), "files of records")
            table = markdown(read_lines(path))
            if options.fill:
                options.fill.write_text(fill(options.fill.read_text(), path.name, table))
            else:
                command.say(table)
    except UsageError as error:
        return command.fail(str(error), 2)
    return 0


if __name__ == "__main__":
    sys.exit(command.guarded(main))
