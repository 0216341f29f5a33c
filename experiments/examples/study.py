# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What the examples share: a comparison of networks over seeds, with its records, tables, claims and command line."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli import command
from experiments.core.errors import UsageError, require
from experiments.figures import judging
from experiments.reporting import tables
from experiments.rundir import records

Record = Mapping[str, Any]


class Study(NamedTuple):
    """A comparison of networks.

    Attributes:
      name: of the files of records and tables.
      length: the option that says how long to train, such as `"steps"`.
      default, multiple: its default, and what it must be a multiple of.
      compare: `compare(seed, length)` trains all networks of a seed and yields a record for each, with the fields
        `setting` and `seed`.
      claims: returns what is claimed, with the effects of one seed, given its records by setting.
      tables: functions that return a table of the records, by their mark in a page; see `filled`.
      page: returns the page of the results.
      summary: returns what to say of a record in one line.
    """

    name: str
    length: str
    default: int
    multiple: int
    compare: Callable[[int, int], Iterator[Record]]
    claims: Callable[[Mapping[str, Record]], list[judging.Claim]]
    tables: Mapping[str, Callable[[Sequence[Record]], str]]
    page: Callable[[Sequence[Record]], str]
    summary: Callable[[Record], str]


def verdicts(study: Study, found: Sequence[Record]) -> list[judging.Verdict]:
    """Returns the verdicts on the claims of a study, over the seeds."""
    numbers = dict.fromkeys(record["seed"] for record in found)
    of_seeds = [study.claims({r["setting"]: r for r in found if r["seed"] == number}) for number in numbers]
    return [judging.decide(same) for same in zip(*of_seeds, strict=True)]


def verdicts_table(study: Study, found: Sequence[Record]) -> str:
    """Returns a table with a row per claim: the mean of its paired differences, their bounds, and whether it holds."""
    rows = [("claim", "measured", "90% bounds", "required", "outcome")]
    for verdict in verdicts(study, found):
        [decision] = verdict.decisions
        measured = f"{decision.what}: {decision.measured}"
        rows.append((verdict.claim, measured, decision.bounds, decision.required, verdict.outcome))
    return tables.lines(rows)


def mean(found: Sequence[Record], field: str) -> float:
    """Returns the mean of a field."""
    return statistics.mean(record[field] for record in found)


def mean_and_spread(found: Sequence[Record], field: str, digits: int) -> str:
    """Returns the mean of a field, and its standard deviation if there are several values."""
    values = [record[field] for record in found]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def settings(found: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns the records of each setting, in the order of their first records."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        groups.setdefault(record["setting"], []).append(record)
    return groups


def filled(study: Study, page: str, found: Sequence[Record]) -> str:
    """Returns a page with the tables of the records after their marks, such as `table char_gpt.jsonl claims`."""
    for mark, table in study.tables.items():
        page = tables.fill(page, f"{study.name}.jsonl {mark}", table(found))
    return tables.fill(page, f"{study.name}.jsonl claims", verdicts_table(study, found))


def main(study: Study, usage: str, arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of a study, described by `usage`; returns the exit status.

    Records are written once all networks of a seed are trained. Seeds that are recorded are not run again.
    """
    parser, flag = command.Parser(usage), f"--{study.length}"
    add = parser.add_argument
    add("--seeds", type=int, default=3, metavar="N", help="number of seeds; %(default)s by default")
    add(flag, type=int, default=study.default, metavar="N", help="of each network; %(default)s by default")
    add("--out", type=command.local, default=Path("runs/examples"), metavar="DIR", help="%(default)s by default")
    add("--fill", type=command.local, metavar="FILE", help="only write the tables of the records into this page")
    options = parser.parse_args(arguments)
    try:
        _run(study, options)
    except UsageError as error:
        return command.fail(str(error), 2)
    return 0


def _run(study: Study, options: argparse.Namespace) -> None:
    path, length = options.out / f"{study.name}.jsonl", getattr(options, study.length)
    if options.fill:
        require(path.is_file(), "--out", str(options.out), f"a folder with {path.name}")
        require(options.fill.is_file(), "--fill", str(options.fill), "a page")
        options.fill.write_text(filled(study, options.fill.read_text(), records.read_lines(path)))
        return
    require(options.seeds >= 1, "--seeds", options.seeds, "at least 1")
    require(
        length >= study.multiple and length % study.multiple == 0,
        f"--{study.length}",
        length,
        f"a positive multiple of {study.multiple}, the number of prunes",
    )
    options.out.mkdir(parents=True, exist_ok=True)
    found = [record for record in records.read_lines(path) if record[study.length] == length] if path.is_file() else []
    done = {record["seed"] for record in found}
    for seed in range(options.seeds):
        new = []
        for record in study.compare(seed, length) if seed not in done else ():
            new.append({**record, **records.provenance()})
            command.say(f"seed {seed}, {record['setting']}: {study.summary(record)}")
        found += new
        records.write_text(path, "".join(json.dumps(each) + "\n" for each in found))
    records.write_text(path.with_suffix(".md"), study.page(found))
    command.say(f"{path}, {path.with_suffix('.md').name}")
