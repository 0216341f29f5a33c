# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Measures speed: `python -m benchmarks.run SUITE`.

Each suite appends a record per case to `results/benchmarks/SUITE.jsonl` as soon as it is measured, on a GPU to
`SUITE_gpu.jsonl`, and prints a table. Ratios are medians over rounds in which all programs are interleaved. The scale
is `gpu` if there is one, and `cpu` otherwise. `tiny` checks in seconds that a suite works, and needs `--out` to write
records. `python -m benchmarks.run SUITE --table` prints the table of the existing records, and
`--fill=benchmarks/README.md` writes it to that page. `--only=TEXT` measures the cases whose line in `CASES` contains
the text, as in `train --only=vgg16`. `python -m benchmarks.run gpu` measures the most important cases of all suites on
one GPU, in order of importance, and starts no case that is not likely to end within `--minutes`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from benchmarks import convolutions, cut, emptied, kernels, loop, overhead, paddings, shares, shortcuts, step, train
from experiments.reporting import tables
from experiments.rundir import records as records_lib

SUITES: dict[str, ModuleType] = {
    "step": step,
    "shares": shares,
    "kernels": kernels,
    "overhead": overhead,
    "cut": cut,
    "emptied": emptied,
    "loop": loop,
    "convolutions": convolutions,
    "paddings": paddings,
    "shortcuts": shortcuts,
    "train": train,
}
# The order of the suites in `gpu`, which takes the next case of each. Other cases follow. Whole runs are left out,
# since they take longer than all other cases.
_TURNS = (
    *["step"] * 2,
    "kernels",
    "overhead",
    *["step"] * 2,
    *["shortcuts"] * 8,
    "kernels",
    "cut",
    "emptied",
    *["step"] * 2,
    "loop",
)
# Seconds of a case on an H200, most of them for compiling. Some are guesses.
_SECONDS = {"step": 70, "kernels": 40, "shortcuts": 4, "overhead": 40, "cut": 100, "loop": 115, "emptied": 60}
_NO_GPU = "--scale=gpu needs a GPU, and JAX has none here; give --scale=tiny to see that a suite works"
SCALES = ("tiny", "cpu", "gpu")
_RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def chosen(suite: str, scale: str, only: str = "") -> list[Any]:
    """Returns the cases of a suite that contain a text.

    Raises:
      ValueError: if no case contains it, or if the suite has no cases at the scale.
    """
    every = SUITES[suite].CASES.get(scale, ())
    if not every:
        raise ValueError(f"{suite} has no cases at the scale {scale}; give --scale={' or '.join(SUITES[suite].CASES)}")
    cases = [case for case in every if only in str(case)]
    if not cases:
        known = "; ".join(str(case) for case in every)
        raise ValueError(f"--only={only} is in no case of {suite} at the scale {scale}; give a text of one of: {known}")
    return cases


def measure(suite: str, scale: str, out: Path, cases: Sequence[Any]) -> list[dict[str, Any]]:
    """Runs cases of a suite, appends each record to a file when it is measured, and returns the records."""
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


def in_turn(cases: Mapping[str, Sequence[Any]], order: Sequence[str]) -> list[tuple[str, Any]]:
    """Returns all pairs of suite and case. Each entry of the order takes the next case of its suite; others follow."""
    left = {suite: list(of) for suite, of in cases.items()}
    found = [(suite, left[suite].pop(0)) for suite in order if left.get(suite)]
    return found + [(suite, case) for suite in dict.fromkeys(order) for case in left.get(suite, ())]


def measure_all(scale: str, folder: Path, seconds: float) -> bool:
    """Measures cases of all suites and prints their tables. A case that fails does not stop the others.

    Args:
      scale: the scale of the cases.
      folder: the folder of the record files.
      seconds: the time limit. No case is started that is not likely to end before.

    Returns:
      Whether every case that was started succeeded.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    well = True
    started = time.perf_counter()
    for suite, case in in_turn({name: module.CASES.get(scale, ()) for name, module in SUITES.items()}, _TURNS):
        passed = time.perf_counter() - started
        if passed + (_SECONDS[suite] if scale == "gpu" else 0) > seconds:
            print(f"{suite}: not begun after {passed:.0f} s: {case}", flush=True)  # noqa: T201
            continue
        print(f"{suite}: begun after {passed:.0f} s: {case}", flush=True)  # noqa: T201
        try:
            found.setdefault(suite, []).extend(measure(suite, scale, records_file(folder, suite, scale), [case]))
        except Exception:
            well = False
            traceback.print_exc()
    for suite, records in found.items():
        if records:
            print(f"{suite}\n{markdown(suite, records)}\n", flush=True)  # noqa: T201
    return well


def records_file(folder: Path, suite: str, scale: str) -> Path:
    """Returns the file of the records of a suite; records of a GPU have another file."""
    return folder / f"{suite}{'_gpu' * (scale == 'gpu')}.jsonl"


def suite_of(path: Path) -> str:
    """Returns the suite of the records in a file."""
    return path.stem.removesuffix("_gpu")


def markdown(suite: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the records of a suite as Markdown."""
    return tables.lines(SUITES[suite].table(records))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=[*SUITES, "gpu"], help="gpu: what matters of all on a GPU, in turn")
    parser.add_argument("--scale", choices=SCALES, help="by default gpu where there is one, else cpu")
    parser.add_argument("--only", default="", help="text of the cases to measure; all by default")
    parser.add_argument("--out", type=Path, help="folder of the records; results/benchmarks by default")
    parser.add_argument("--table", action="store_true", help="measure nothing, show the records there are")
    parser.add_argument("--fill", type=Path, help="file whose table of this suite is replaced")
    parser.add_argument("--minutes", type=float, help="gpu: how long it may take, 8 by default")
    options = parser.parse_args(arguments)
    # Runs of the suite `train` are processes of their own, on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    found = "cpu" if jax.default_backend() == "cpu" else "gpu"
    scale = options.scale or ("gpu" if options.suite == "gpu" else found)
    trial = scale == "tiny" and not options.table
    folder = options.out or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if trial else _RESULTS)
    if options.suite == "gpu":
        for name in ("only", "table", "fill"):
            if getattr(options, name):
                parser.error(f"--{name} is for one suite; gpu runs all: name one of {', '.join(SUITES)}")
        if scale == "gpu" and found == "cpu":
            parser.error(_NO_GPU)
        minutes = 8.0 if options.minutes is None else options.minutes
        sys.exit(not measure_all(scale, folder, 60 * minutes))
    if options.minutes is not None:
        parser.error("--minutes is for gpu, which runs all suites; of one suite --only=TEXT names the cases")
    path = records_file(folder, options.suite, scale)
    try:
        cases = [] if options.table else chosen(options.suite, scale, options.only)
    except ValueError as error:
        parser.error(str(error))
    if cases and scale == "gpu" and found == "cpu":
        parser.error(_NO_GPU)
    rows = records_lib.read_lines(path) if options.table else measure(options.suite, scale, path, cases)
    text = markdown(options.suite, rows)
    if options.fill:
        options.fill.write_text(tables.fill(options.fill.read_text(), path.name, text))
    else:
        print(text)  # noqa: T201


if __name__ == "__main__":
    main()
