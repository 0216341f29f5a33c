# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Reads the records of a run from its workdir, finished or not."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.core.errors import UsageError
from experiments.rundir.records import last_line, read_lines
from experiments.settings.options import flat

# Options that every config has.
_NEEDED = ("seed", "steps", "model.name", "data.name", "method.name")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The records of a run.

    Attributes:
      name: the name of the run.
      config: config options by dotted name; empty if the run failed before it started.
      summary: content of `summary.json`; empty for an unfinished run.
      metrics, cuts, dead: lines of `metrics.jsonl`, `cuts.jsonl` and `dead.jsonl`.
      counters: the counters of the newest checkpoint; empty if there is none.
      log: the last line of `log.txt`, which sweeps write; empty if there is none.
      damage: descriptions of what could not be read.
    """

    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    cuts: Sequence[Mapping[str, Any]]
    dead: Sequence[Mapping[str, Any]]
    counters: Mapping[str, Any]
    log: str
    damage: Sequence[str] = ()

    @property
    def status(self) -> str:
        """`"finished"`, `"failed"` if the log ends with an error, or `"unfinished"` if the run continues or stopped."""
        if self.summary:
            return "finished"
        first = self.log.split(":")[0]
        return "failed" if first.endswith(("error", "Error", "Exception")) else "unfinished"

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.config.get("method.name", "unknown"))

    @property
    def task(self) -> str:
        """The network and the dataset, such as `"mlp on digits"`; `"unknown task"` without a config."""
        return f"{self.config['model.name']} on {self.config['data.name']}" if self.config else "unknown task"

    @property
    def title(self) -> str:
        """Method, task and seed."""
        seed = f", seed {self.config['seed']}" if self.config else ""
        return f"{self.method}: {self.task}{seed}"

    @property
    def step(self) -> int:
        """Number of recorded steps."""
        return self.summary.get("steps", self.metrics[-1]["step"] if self.metrics else 0)

    @property
    def test_accuracy(self) -> float | None:
        """The last measured test accuracy, in [0, 1]; `None` if not measured."""
        lines = (line["test_accuracy"] for line in reversed(self.metrics) if "test_accuracy" in line)
        return next(lines, self.summary.get("test_accuracy"))

    @functools.cached_property
    def dense_widths(self) -> dict[str, int]:
        """Number of units of each site before the first prune, in the order of the network."""
        lines = (line for line in reversed(self.metrics) if "width" in line)
        width: dict[str, int] = self.summary.get("widths") or next(lines, {"width": {}})["width"]
        neurons = sum(width.values())
        # A line of the same step as a prune may be from before or after it; the number of neurons tells which.
        made = [cut["removed"] for cut in self.cuts if cut["neurons"][1] >= neurons]
        return {name: units + sum(removed.get(name, 0) for removed in made) for name, units in width.items()}

    @functools.cached_property
    def history(self) -> list[tuple[int, dict[str, int]]]:
        """Pairs of a step and the widths from it on: for step 0, each prune, and the last recorded step."""
        widths = self.dense_widths
        found = [(0, widths)]
        for cut in self.cuts:
            widths = {name: units - cut["removed"].get(name, 0) for name, units in widths.items()}
            found.append((cut["step"], widths))
        return [*found, (max(self.step, found[-1][0]), widths)]

    @property
    def widths(self) -> dict[str, int]:
        """Number of units of each site after the last prune."""
        return self.history[-1][1]

    @property
    def dense_parameters(self) -> int | None:
        """Number of parameters before the first prune; `None` if not yet recorded."""
        return self.summary.get("dense_parameters", self.cuts[0]["parameters"][0] if self.cuts else None)

    @property
    def neuron_sparsity(self) -> float | None:
        """Fraction of the neurons that was pruned; `None` if unknown."""
        dense = sum(self.dense_widths.values())
        return self.summary.get("neuron_sparsity", 1 - sum(self.widths.values()) / dense if dense else None)

    @property
    def weight_sparsity(self) -> float | None:
        """Fraction of the weights that was pruned or is masked; `None` if unknown."""
        if self.summary:
            return self.summary["weight_sparsity"]
        left = next((line["parameters"] for line in reversed(self.metrics) if "parameters" in line), None)
        return None if left is None or self.dense_parameters is None else 1 - left / self.dense_parameters

    @property
    def seconds_total(self) -> float | None:
        """Time until the end of the run or its newest checkpoint; `None` if unknown."""
        return self.summary.get("seconds_total", self.counters.get("seconds_total"))

    @property
    def seconds(self) -> dict[str, float]:
        """The parts of `seconds_total`; `unknown` is time that older versions of the program did not attribute."""
        parts = {
            name.removeprefix("seconds_"): value
            for name, value in (self.summary or self.counters).items()
            if name.startswith("seconds_") and name != "seconds_total"
        }
        parts |= self.counters.get("seconds", {}) if not self.summary else {}
        rest = (self.seconds_total or 0.0) - sum(parts.values())
        # A smaller rest is due to rounding.
        return {**parts, "unknown": rest} if rest > 0.1 else parts


def outcome(cut: Mapping[str, Any]) -> str:
    """Returns the outcome of a line of `cuts.jsonl`: `"refused"`, `"cut"`, `"waiting"`, or "" if no unit was dead."""
    if cut["refused"]:
        return "refused"
    return "cut" if cut["removed"] else "waiting" if cut["waiting"] else ""


def read(workdir: Path, name: str) -> Recorded:
    """Returns the records of a run, which may still be running. Damaged records are left out and reported in `damage`.

    Args:
      workdir: the workdir of the run.
      name: name for the run.

    Raises:
      UsageError: if the folder holds no run.
    """
    if not any((workdir / file).is_file() for file in ("config.json", "log.txt")):
        what = "has no config.json" if workdir.is_dir() else "is no folder"
        raise UsageError(
            f"WORKDIR must be a run directory written by experiments.run; {workdir} {what}. "
            "To name several runs, use a pattern such as runs/sweep/*/."
        )
    damage: list[str] = []
    metrics, cuts, dead = (_lines(workdir / f"{file}.jsonl", damage) for file in ("metrics", "cuts", "dead"))
    config, summary = (_json(workdir / file, damage) for file in ("config.json", "summary.json"))
    values = flat(config)
    missing = [field for field in _NEEDED if field not in values] if values else []
    if missing:
        damage.append(f"{workdir / 'config.json'} has no {missing[0]}")
        values = {}
    made = sum(bool(cut["removed"]) for cut in cuts)
    if summary and not damage:
        if not metrics:
            damage.append(f"{workdir / 'metrics.jsonl'} has no lines")
        if made < summary.get("cuts", made):
            damage.append(f"{workdir / 'cuts.jsonl'} has {made} of {summary['cuts']} cuts")
    try:
        log = last_line(workdir / "log.txt")
    except OSError as error:
        damage.append(f"{workdir / 'log.txt'} cannot be read ({error.strerror})")
        log = ""
    if damage and not (values or summary or metrics or log):
        raise UsageError(f"{workdir} holds no run, or a damaged one ({damage[0]}). Leave it out.")
    return Recorded(name, values, summary, metrics, cuts, dead, _counters(workdir), log, damage)


def _lines(path: Path, damage: list[str]) -> list[dict[str, Any]]:
    try:
        return read_lines(path, damage)
    except OSError as error:
        damage.append(f"{path} cannot be read ({error.strerror})")
        return []


def _json(path: Path, damage: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {}
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        return found
    except (OSError, ValueError) as error:
        damage.append(f"{path} cannot be read ({error})")
        return {}


def _counters(workdir: Path) -> dict[str, Any]:
    """Returns the counters of the newest readable checkpoint; the run may delete checkpoints at the same time."""
    found = sorted((workdir / "checkpoints").glob("[0-9]*/meta/metadata"), key=lambda path: path.parts[-3].zfill(20))
    for path in reversed(found):
        try:
            return dict(json.loads(path.read_bytes())["counters"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}
