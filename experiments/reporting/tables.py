# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Tables in Markdown of the summaries of runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.core.errors import UsageError
from experiments.reporting.seeds import mean_and_std

COLUMNS = ("setting", "seeds", "test accuracy", "neuron sparsity", "weight sparsity", "FLOPs", "training FLOPs", "step")


def collect(workdirs: Sequence[Path], labels: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Returns the summaries of finished runs, with a label as `setting`.

    Args:
      workdirs: the workdirs of the runs.
      labels: a label per run; by default, the name of the workdir up to `--`.

    Raises:
      UsageError: if a run has no summary.
    """
    found = []
    for i, workdir in enumerate(workdirs):
        path = workdir / "summary.json"
        if not path.exists():
            raise UsageError(f"{workdir} must hold a finished run; there is no summary.json.")
        label = labels[i] if labels else workdir.name.split("--")[0]
        found.append({"setting": label, **json.loads(path.read_text())})
    return found


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the records as a Markdown table, with a row per setting in order of appearance."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["setting"], []).append(record)
    rows: list[tuple[str, ...]] = [COLUMNS]
    for setting, group in groups.items():
        rows.append(
            (
                setting,
                str(len(group)),
                percent([r["test_accuracy"] for r in group]),
                percent([r["neuron_sparsity"] for r in group]),
                percent([r["weight_sparsity"] for r in group]),
                ratio([statistics.mean(r["inference_flops_ratio"] for r in group)]),
                ratio([statistics.mean(r["train_flops_ratio"] for r in group)]),
                ratio([statistics.mean(r["step_time_ratio"] for r in group)]),
            )
        )
    return lines(rows)


def lines(rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; the first row is the header."""
    header, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([header, "|" + " --- |" * len(rows[0]), *others])


def fill(text: str, name: str, table: str) -> str:
    """Returns a text in which the table after the line `<!-- table NAME -->` is replaced.

    Raises:
      UsageError: if the text has no such line.
    """
    mark = f"<!-- table {name} -->\n"
    if mark not in text:
        raise UsageError(f"--fill must be a file with the line {mark.strip()!r}; there is none. Add it.")
    before, _, after = text.partition(mark)
    rest = after.split("\n")
    while rest and rest[0].startswith("|"):
        rest.pop(0)
    return before + mark + table + "\n" + "\n".join(rest)


def percent(values: Sequence[float]) -> str:
    """Formats the mean of fractions in percent, with the standard deviation if there are several."""
    return _over_seeds([100 * value for value in values], ".1f", "%")


def ratio(values: Sequence[float]) -> str:
    """Formats the mean of ratios, with the standard deviation if there are several."""
    return "x " + _over_seeds(values, ".2f")


def count(values: Sequence[float]) -> str:
    """Formats the mean of counts, with the standard deviation if there are several."""
    return _over_seeds(values, ".0f" if len(values) == 1 else ".1f")


def seconds(values: Sequence[float]) -> str:
    """Formats the mean of seconds, with the standard deviation if there are several."""
    return _over_seeds(values, ",.1f")


def _over_seeds(values: Sequence[float], form: str, unit: str = "") -> str:
    mean, std = mean_and_std(values)
    return f"{mean:{form}}{unit}" + (f" ± {std:{form}}" if std is not None else "")
