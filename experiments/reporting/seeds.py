# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Groups of runs whose configs differ in the seed alone, and statistics over seeds."""

from __future__ import annotations

import collections
import dataclasses
import json
import statistics
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.rundir.reader import Recorded

Point = tuple[float, float]
# If more config options differ between groups, a name lists none of them.
_OPTIONS = 3


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation, which is `None` for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs whose configs differ in the seed alone; often a single run.

    Attributes:
      number: number of the group on the page.
      name: name of a single run, else the options that distinguish the group from others.
      runs: runs with different seeds and the same status.
    """

    number: int
    name: str
    runs: tuple[Recorded, ...]

    @property
    def label(self) -> str:
        """Number and name."""
        return f"{self.number} {self.name}"

    @property
    def numbered(self) -> list[tuple[str, Recorded]]:
        """The runs with their numbers on the page: `"2"` if the group has a single run, else `"2.1"`, `"2.2"`, ..."""
        if len(self.runs) == 1:
            return [(str(self.number), self.runs[0])]
        return [(f"{self.number}.{i}", run) for i, run in enumerate(self.runs, 1)]

    @property
    def config(self) -> dict[str, Any]:
        """The config of the runs, in which the seed is a text that lists the seeds."""
        config = dict(self.runs[0].config)
        return config | ({"seed": ", ".join(str(run.config["seed"]) for run in self.runs)} if config else {})


def grouped(runs: Sequence[Recorded]) -> list[Group]:
    """Returns the groups of runs, in the order of their first runs.

    Finished and unfinished runs are kept apart, and runs of the same config and seed are in different groups.
    """
    found: dict[tuple[str, ...], list[Recorded]] = {}
    seen: collections.Counter[tuple[str, ...]] = collections.Counter()
    for run in runs:
        rest = {field: value for field, value in run.config.items() if field != "seed"}
        key = (json.dumps(rest, sort_keys=True) if rest else f"no config: {run.name}", run.status)
        seeded = (*key, str(run.config.get("seed")))
        found.setdefault((*key, str(seen[seeded])), []).append(run)
        seen[seeded] += 1
    options = [field for field in differing([group[0].config for group in found.values()]) if field != "seed"]
    return [
        Group(i, group[0].name if len(group) == 1 else _name(group[0], options), tuple(group))
        for i, group in enumerate(found.values(), 1)
    ]


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the options in which the configs differ."""
    configs = [config for config in configs if config]
    fields = dict.fromkeys(field for config in configs for field in config)
    values = {field: {json.dumps(config[field]) if field in config else None for config in configs} for field in fields}
    return [field for field, found in values.items() if len(found) > 1]


def _name(run: Recorded, options: Sequence[str]) -> str:
    others = [field for field in options if field != "method.name"]
    shown = others if len(others) <= _OPTIONS else []
    return ", ".join([run.method, *(f"{field} {run.config.get(field)}" for field in shown)])


def averaged(lines: Sequence[Sequence[Point]], *, steps: bool = False) -> tuple[list[Point], list[Point]]:
    """Returns the mean of lines over seeds, and the standard deviations of x (0) and y at each of its points.

    Args:
      lines: for each seed, points in order of x.
      steps: whether values are constant until the next point. The mean then has a point wherever any line has one,
        else only where all lines have one.
    """
    if steps:
        found = sorted({x for line in lines for x, _ in line if x >= max(each[0][0] for each in lines)})
        values = [[line[bisect(line, x, key=lambda point: point[0]) - 1][1] for line in lines] for x in found]
    else:
        known = [dict(line) for line in lines]
        found = sorted(set.intersection(*map(set, known)))
        values = [[line[x] for line in known] for x in found]
    both = [mean_and_std(each) for each in values]
    return (
        [(x, mean) for x, (mean, _) in zip(found, both, strict=True)],
        [(0.0, std or 0.0) for _, std in both],
    )
