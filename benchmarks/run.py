# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks of speed: `python -m benchmarks.run SUITE`.

A suite appends its records to `results/benchmarks/SUITE.jsonl`, or `SUITE_gpu.jsonl` on a GPU, one line per case when
it is measured, and prints their table. Ratios are medians over rounds in which all programs are interleaved. The
default scale is `gpu` if there is a GPU, otherwise `cpu`. `tiny` tests a suite in seconds and only keeps records with
`--out`.

`python -m benchmarks.run SUITE --table` prints the table of the stored records, and `--fill=benchmarks/README.md`
writes it into that page. `--only=TEXT` measures the cases that contain a text, such as `train --only=vgg16`.

`python -m benchmarks.run gpu` measures the cases of all suites on one GPU, the most important first. A case is only
started if it is likely to finish within `--minutes`.
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
# Order of the suite `gpu`, most important first: each entry stands for the next case of its suite. Remaining cases of
# these suites follow. `train` is left out, because whole runs take too long.
_TURNS = (
    *["step"] * 4,
    "emptied",
    "overhead",
    "kernels",
    "cut",
    *["step"] * 2,
    *["shortcuts"] * 8,
    "kernels",
    "loop",
)
# Estimated seconds of a case on an H200, mostly to compile. Cases that would not finish in time are not started.
_SECONDS = {"step": 70, "kernels": 40, "shortcuts": 4, "overhead": 40, "cut": 100, "loop": 115, "emptied": 60}
_NO_GPU = "--scale=gpu needs a GPU, but JAX finds none; test a suite with --scale=tiny"
SCALES = ("tiny", "cpu", "gpu")
_RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def chosen(suite: str, scale: str, only: str = "") -> list[Any]:
    """Returns the cases of a suite that contain a text.

    Raises:
      ValueError: if there is none, or the suite has no cases at the scale.
    """
    every = SUITES[suite].CASES.get(scale, ())
    if not every:
        raise ValueError(f"{suite} has no cases at the scale {scale}; use --scale={' or '.join(SUITES[suite].CASES)}")
    cases = [case for case in every if only in str(case)]
    if not cases:
        known = "; ".join(str(case) for case in every)
        raise ValueError(f"--only={only} matches no case of {suite} at the scale {scale}. The cases are: {known}.")
    return cases


def measure(suite: str, scale: str, out: Path, cases: Sequence[Any]) -> list[dict[str, Any]]:
    """Runs cases of a suite and returns its records. Each is appended to a file as soon as it is measured."""
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
    """Returns suite and case of all cases. Each suite in `order` stands for its next case; remaining cases follow."""
    left = {suite: list(of) for suite, of in cases.items()}
    found = [(suite, left[suite].pop(0)) for suite in order if left.get(suite)]
    return found + [(suite, case) for suite in dict.fromkeys(order) for case in left.get(suite, ())]


def measure_all(scale: str, folder: Path, seconds: float) -> bool:
    """Measures cases of all suites, most important first, and prints their tables. A failed case does not stop others.

    Args:
      scale: scale of the cases.
      folder: folder of the record files.
      seconds: time limit. Cases that are not likely to finish within it are not started.

    Returns:
      Whether no case failed.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    well = True
    started = time.perf_counter()
    for suite, case in in_turn({name: module.CASES.get(scale, ()) for name, module in SUITES.items()}, _TURNS):
        passed = time.perf_counter() - started
        if passed + (_SECONDS[suite] if scale == "gpu" else 0) > seconds:
            print(f"{suite}: not started after {passed:.0f} s: {case}", flush=True)  # noqa: T201
            continue
        print(f"{suite}: started after {passed:.0f} s: {case}", flush=True)  # noqa: T201
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
    """Returns the file of a suite's records, which differs for the scale `gpu`."""
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
    parser.add_argument("suite", choices=[*SUITES, "gpu"], help="gpu: the cases of all suites, most important first")
    parser.add_argument("--scale", choices=SCALES, help="default: gpu if there is one, otherwise cpu")
    parser.add_argument("--only", default="", help="only measure cases that contain this text")
    parser.add_argument("--out", type=Path, help="folder of the records; default: results/benchmarks")
    parser.add_argument("--table", action="store_true", help="print the table of the stored records; measure nothing")
    parser.add_argument("--fill", type=Path, help="write the table of the suite into this file")
    parser.add_argument("--minutes", type=float, help="gpu: time limit in minutes; default: 8")
    options = parser.parse_args(arguments)
    # The suite `train` runs other processes on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    found = "cpu" if jax.default_backend() == "cpu" else "gpu"
    scale = options.scale or ("gpu" if options.suite == "gpu" else found)
    trial = scale == "tiny" and not options.table
    folder = options.out or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if trial else _RESULTS)
    if options.suite == "gpu":
        for name in ("only", "table", "fill"):
            if getattr(options, name):
                parser.error(f"--{name} needs a single suite instead of gpu: {', '.join(SUITES)}")
        if scale == "gpu" and found == "cpu":
            parser.error(_NO_GPU)
        minutes = 8.0 if options.minutes is None else options.minutes
        sys.exit(not measure_all(scale, folder, 60 * minutes))
    if options.minutes is not None:
        parser.error("--minutes only applies to the suite gpu; limit another suite with --only=TEXT")
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
