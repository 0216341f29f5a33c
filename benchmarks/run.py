# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Speed, measured: `python -m benchmarks.run SUITE`.

Each suite adds its records, one line each as soon as it has been measured, to `results/benchmarks/SUITE.jsonl`, and
prints its table. Ratios are medians over rounds in which every program takes its turn. The scale is `gpu` where there
is one, else `cpu`; `tiny` proves in seconds that a suite works. `python -m benchmarks.run SUITE --table` prints the
table of the records there are, and `--fill=benchmarks/README.md` writes it there. `--only=TEXT` measures the cases of
which the line in the suite's `CASES` has that text: `train --only=vgg16`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from benchmarks import convolutions, cut, loop, overhead, paddings, shortcuts, step, train
from experiments import records as records_lib
from experiments import tables

SUITES: dict[str, ModuleType] = {
    "step": step,
    "overhead": overhead,
    "cut": cut,
    "loop": loop,
    "convolutions": convolutions,
    "paddings": paddings,
    "shortcuts": shortcuts,
    "train": train,
}
SCALES = ("tiny", "cpu", "gpu")
_RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def chosen(suite: str, scale: str, only: str = "") -> list[Any]:
    """Returns the cases of a suite that have a text in them.

    Raises:
      ValueError: when none has it.
    """
    cases = [case for case in SUITES[suite].CASES[scale] if only in str(case)]
    if not cases:
        known = "; ".join(str(case) for case in SUITES[suite].CASES[scale])
        raise ValueError(f"--only={only} is in no case of {suite} at the scale {scale}; give a text of one of: {known}")
    return cases


def measure(suite: str, scale: str, out: Path, cases: Sequence[Any]) -> list[dict[str, Any]]:
    """Runs cases of a suite and appends its records to a file as they come; returns them."""
    found = []
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for row in SUITES[suite].rows(scale, cases):
        record = {"benchmark": suite, "scale": scale, **row, **records_lib.provenance()}
        found.append(record)
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{suite}: {len(found)} measured after {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201
    return found


def markdown(suite: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of a suite's records as Markdown."""
    return tables.lines(SUITES[suite].table(records))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures or prints, by the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=[*SUITES, "gpu"], help="gpu: all suites at the scale of a GPU")
    parser.add_argument("--scale", choices=SCALES, help="by default gpu where there is one, else cpu")
    parser.add_argument("--only", default="", help="text of the cases to measure; all by default")
    parser.add_argument("--out", type=Path, help="folder of the records; results/benchmarks by default")
    parser.add_argument("--table", action="store_true", help="measure nothing, show the records there are")
    parser.add_argument("--fill", type=Path, help="file whose table of this suite is replaced")
    options = parser.parse_args(arguments)
    # Runs of the suite `train` are processes of their own, on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.only and options.suite == "gpu":
        parser.error(f"--only={options.only} is for one suite; gpu runs all: name one of {', '.join(SUITES)}")
    scale = options.scale or ("cpu" if jax.default_backend() == "cpu" and options.suite != "gpu" else "gpu")
    for suite in SUITES if options.suite == "gpu" else [options.suite]:
        path = (options.out or _RESULTS) / f"{suite}.jsonl"
        try:
            cases = [] if options.table else chosen(suite, scale, options.only)
        except ValueError as error:
            parser.error(str(error))
        found = records_lib.read_lines(path) if options.table else measure(suite, scale, path, cases)
        text = markdown(suite, found)
        if options.fill:
            options.fill.write_text(tables.fill(options.fill.read_text(), path.name, text))
        else:
            print(text)  # noqa: T201


if __name__ == "__main__":
    main()
