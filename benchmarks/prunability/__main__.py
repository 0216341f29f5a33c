# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Prunes small versions of many architectures: `python -m benchmarks.prunability [NAMES ...]`.

The record of each architecture is written to a file and replaces an older one. `--fill=docs/prunability.md` measures
nothing and writes the tables of the records into the page. An architecture is skipped if its package is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.prunability.check import EXACT, measure
from benchmarks.prunability.networks import CASES
from experiments.reporting import tables
from experiments.rundir import records as records_lib

RESULTS = Path(__file__).resolve().parents[2] / "results" / "prunability.jsonl"
# An architecture passes if at least this fraction of its expected units is found.
PASS = 0.95


def passes(record: Mapping[str, Any]) -> bool:
    """Returns whether enough units were found, all of these that were killed were removed, and the prune was exact.

    An architecture without expected units passes if the library reports that it has no prunable unit.
    """
    if not record["expected"]:
        return exact(record) or record.get("reason", "").startswith("no prunable unit found")
    return record["found"] >= PASS * record["expected"] and record["removed"] == record.get("killed") and exact(record)


def exact(record: Mapping[str, Any]) -> bool:
    """Returns whether only dead units were removed, and outputs and three steps of training agree up to rounding."""
    differences = [*record.get("difference", {}).values(), record.get("steps", float("nan"))]
    return record["removed"] > 0 and record.get("wrong") == 0 and all(value <= EXACT for value in differences)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of architectures as Markdown."""
    header = (
        "architecture",
        "framework",
        "units",
        "heads",
        "states",
        "removed",
        "difference",
        "steps",
        "trace",
        "note",
    )
    rows = [header]
    for record in records:
        difference = max(record.get("difference", {"": float("nan")}).values())
        rows.append(
            (
                record["name"] + (f" ({record['package']})" if record["package"] else ""),
                record["framework"],
                f"{record['found']} of {record['expected']}",
                *("{} of {}".format(*record[kind]) if record[kind][1] else "" for kind in ("heads", "states")),
                f"{record['removed']} of {record.get('killed', 0)}",
                *(
                    "" if value != value else f"{value:.0e}"
                    for value in (difference, record.get("steps", float("nan")))
                ),
                f"{record['trace_seconds']:.1f} s" if "trace_seconds" in record else "",
                _note(record).replace("|", "\\|"),
            )
        )
    return tables.lines(rows)


def _note(record: Mapping[str, Any]) -> str:
    """Returns the reasons that the library reports for expected units that were not found."""
    if record.get("reason") or record["found"] == record["expected"]:
        return record.get("reason", "")
    missed = dict.fromkeys(path.removeprefix("params/").rpartition("/")[0] or path for path in record["missed"])
    refusals = [refusal.partition(": ") for refusal in record["refusals"]]
    said = dict.fromkeys(why for what, _, why in refusals if what in missed or what.startswith("what meets"))
    return "; ".join(list(said)[:2]) or f"not found, and not reported: {', '.join(missed)}"


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of passed architectures by framework as Markdown."""
    rows = [("framework", "architectures", "passed", "units found", "heads", "states", "pruned exactly")]
    for framework in [*dict.fromkeys(record["framework"] for record in records), "all"]:
        own = [record for record in records if framework in (record["framework"], "all")]
        counted = [(sum(r["found"] for r in own), sum(r["expected"] for r in own))]
        counted += [(sum(r[kind][0] for r in own), sum(r[kind][1] for r in own)) for kind in ("heads", "states")]
        pruned = [record for record in own if record["removed"]]
        rows.append(
            (
                framework,
                str(len(own)),
                str(sum(map(passes, own))),
                *(f"{found} of {expected}" for found, expected in counted),
                f"{sum(map(exact, pruned))} of {len(pruned)}",
            )
        )
    return tables.lines(rows)


def fill(text: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the text of a page with its tables replaced by those of the records."""
    return tables.fill(tables.fill(text, RESULTS.name, table(records)), f"{RESULTS.stem} summary", summary(records))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of architectures, or parts of names; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the records")
    parser.add_argument("--fill", type=Path, help="write the tables of the records into this page; measure nothing")
    options = parser.parse_args(arguments)
    records = {r["name"]: r for r in records_lib.read_lines(options.out)} if options.out.exists() else {}
    order = [case.name for case in CASES]
    if options.fill:
        options.fill.write_text(fill(options.fill.read_text(), list(records.values())))
        return
    # A full name selects one architecture, even if other names contain it.
    asked = {n for name in options.names for n in order if n == name or (name not in order and name in n)}
    chosen = [case for case in CASES if not options.names or case.name in asked]
    if not chosen:
        parser.error(f"{' '.join(options.names)}: no architecture has this in its name. They are: {'; '.join(order)}.")
    warnings.filterwarnings("ignore", module="(?!benchmarks)")
    for case in chosen:
        if case.missing:
            print(f"{case.name}: skipped, because {case.package} is not installed", flush=True)  # noqa: T201
            continue
        started = time.perf_counter()
        record = {**measure(case), **records_lib.provenance(), "xla_flags": os.environ.get("XLA_FLAGS", "")}
        records[case.name] = record
        written = sorted(records.values(), key=lambda r: order.index(r["name"]) if r["name"] in order else len(order))
        options.out.write_text("".join(json.dumps(each) + "\n" for each in written))
        what = "passes" if passes(record) else "fails"
        seconds = time.perf_counter() - started
        print(f"{case.name}: {what}, {record['found']} of {record['expected']} units, {seconds:.0f} s", flush=True)  # noqa: T201
        jax.clear_caches()


if __name__ == "__main__":
    main()
