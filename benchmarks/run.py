# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Speed, measured: `python -m benchmarks.run SUITE`.

Each suite adds its records, one line each as soon as it has been measured, to `results/benchmarks/SUITE.jsonl`, those
of a GPU to `SUITE_gpu.jsonl`, and prints its table. Ratios are medians over rounds in which every program takes its
turn. The scale is `gpu` where there is one, else `cpu`; `tiny` proves in seconds that a suite works.
`python -m benchmarks.run SUITE --table` prints the table of the records there are, and `--fill=benchmarks/README.md`
writes it there. `--only=TEXT` measures the cases of which the line in the suite's `CASES` has that text:
`train --only=vgg16`. `python -m benchmarks.run gpu` measures on one GPU what matters of all suites, the first case of
each before the second of any, and begins none after `--minutes`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from benchmarks import convolutions, cut, loop, overhead, paddings, shortcuts, step, train
from experiments import records as records_lib
from experiments import tables

# On a GPU in this order: what matters most first, what takes longest last.
SUITES: dict[str, ModuleType] = {
    "step": step,
    "overhead": overhead,
    "shortcuts": shortcuts,
    "loop": loop,
    "cut": cut,
    "train": train,
    "convolutions": convolutions,
    "paddings": paddings,
}
SCALES = ("tiny", "cpu", "gpu")
_RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def chosen(suite: str, scale: str, only: str = "") -> list[Any]:
    """Returns the cases of a suite that have a text in them.

    Raises:
      ValueError: when none has it.
    """
    every = SUITES[suite].CASES.get(scale, ())
    cases = [case for case in every if only in str(case)]
    if not cases:
        known = "; ".join(str(case) for case in every)
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


def turns(cases: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any]]:
    """Returns suite and case, the first case of every suite before the second of any."""
    most = max(map(len, cases.values()), default=0)
    return [(suite, of[i]) for i in range(most) for suite, of in cases.items() if i < len(of)]


def measure_all(scale: str, folder: Path, seconds: float) -> list[str]:
    """Measures the cases of all suites by turns, and prints their tables; a case that fails stops no other.

    Args:
      scale: of the cases.
      folder: of the record files.
      seconds: no case is begun later than this.

    Returns:
      What went wrong, and what was not begun, a line each.
    """
    cases = {suite: list(module.CASES.get(scale, ())) for suite, module in SUITES.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    wrong = []
    started = time.perf_counter()
    for suite, case in turns(cases):
        passed = time.perf_counter() - started
        if passed > seconds:
            wrong.append(f"{suite}: not begun after {passed:.0f} s: {case}")
            continue
        print(f"{suite}: {case}, begun after {passed:.0f} s", flush=True)  # noqa: T201
        try:
            found.setdefault(suite, []).extend(measure(suite, scale, records_file(folder, suite, scale), [case]))
        except Exception as error:
            traceback.print_exc()
            wrong.append(f"{suite}: {type(error).__name__}: {error}: {case}")
    for suite, records in found.items():
        if records:
            print(f"{suite}\n{markdown(suite, records)}\n", flush=True)  # noqa: T201
    return wrong


def records_file(folder: Path, suite: str, scale: str) -> Path:
    """Returns the file of a suite's records; those of a GPU have one of their own."""
    return folder / f"{suite}{'_gpu' * (scale == 'gpu')}.jsonl"


def suite_of(path: Path) -> str:
    """Returns the suite whose records a file holds."""
    return path.stem.removesuffix("_gpu")


def markdown(suite: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of a suite's records as Markdown."""
    return tables.lines(SUITES[suite].table(records))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures or prints, by the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=[*SUITES, "gpu"], help="gpu: what matters of all on a GPU, by turns")
    parser.add_argument("--scale", choices=SCALES, help="by default gpu where there is one, else cpu")
    parser.add_argument("--only", default="", help="text of the cases to measure; all by default")
    parser.add_argument("--out", type=Path, help="folder of the records; results/benchmarks by default")
    parser.add_argument("--table", action="store_true", help="measure nothing, show the records there are")
    parser.add_argument("--fill", type=Path, help="file whose table of this suite is replaced")
    parser.add_argument("--minutes", type=float, default=7.0, help="gpu: no case is begun later than this")
    options = parser.parse_args(arguments)
    # Runs of the suite `train` are processes of their own, on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    folder = options.out or _RESULTS
    if options.suite == "gpu":
        for name in ("only", "table", "fill"):
            if getattr(options, name):
                parser.error(f"--{name} is for one suite; gpu runs all: name one of {', '.join(SUITES)}")
        wrong = measure_all(options.scale or "gpu", folder, 60 * options.minutes)
        print("\n".join(wrong))  # noqa: T201
        sys.exit(bool(wrong))
    scale = options.scale or ("cpu" if jax.default_backend() == "cpu" else "gpu")
    path = records_file(folder, options.suite, scale)
    try:
        cases = [] if options.table else chosen(options.suite, scale, options.only)
    except ValueError as error:
        parser.error(str(error))
    found = records_lib.read_lines(path) if options.table else measure(options.suite, scale, path, cases)
    text = markdown(options.suite, found)
    if options.fill:
        options.fill.write_text(tables.fill(options.fill.read_text(), path.name, text))
    else:
        print(text)  # noqa: T201


if __name__ == "__main__":
    main()
