# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The tutorial `notebooks/realistic_loop.ipynb`, run with other seeds.

`python -m benchmarks.realistic_loop --seeds 0 1 2` runs the cells of the notebook once per seed, each time in a new
kernel, and appends a record per seed to `results/realistic_loop.jsonl`, or to the file that `--out` names. The folder
TFDS_DATA_DIR holds MNIST. With `--table` it runs nothing and prints the table of the records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from experiments.reporting import tables
from experiments.rundir import records

_ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = _ROOT / "notebooks" / "realistic_loop.ipynb"
OUT = _ROOT / "results" / "realistic_loop.jsonl"

# A last cell, which prints the results of the cells before it.
RECORD = """
import json

prunes = [each for each in history if each["record"].removed]
print(json.dumps({
    "steps": STEPS,
    "target": {"parameters": 0.2},
    "accuracy": {name: each["accuracy"] for name, each in result.items()},
    "dense_parameters": dense_final["parameters"],
    "parameters": final["parameters"],
    "flops_ratio": flops[1] / flops[0],
    "prunes": [
        {
            "step": each["step"],
            "parameters": list(each["record"].parameters),
            "model": [each["before"][0], each["after"][0]],
            "ema": [each["before"][1], each["after"][1]],
            "largest_change": max(each["change"]),
        }
        for each in prunes
    ],
    "largest_change": max(max(each["change"]) for each in prunes),
    "resumed_is_equal": same,
    "tuned": {
        "target": {"parameters": 0.5},
        "steps": TUNE_STEPS,
        "parameters": tune_history[-1]["parameters"],
        "accuracy": tune_history[-1]["after"][0],
    },
}))
"""


def run(seed: int) -> dict[str, Any]:
    """Runs the notebook with a seed and returns its results.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [cell] = [cell for cell in notebook.cells if "\nSEED = 0\n" in cell.source]
    cell.source = cell.source.replace("\nSEED = 0\n", f"\nSEED = {seed}\n")
    last = nbformat.v4.new_code_cell(RECORD)
    notebook.cells.append(last)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    started = time.perf_counter()
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources).execute()
    found = json.loads("".join(output.text for output in last.outputs if output.get("name") == "stdout"))
    return {"seed": seed, **found, "seconds": round(time.perf_counter() - started, 1)}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of records as Markdown, a row per seed and the mean."""
    columns: dict[str, tuple[Callable[[Mapping[str, Any]], float], str]] = {
        "dense": (lambda r: r["accuracy"]["dense"], ".2%"),
        "pruned": (lambda r: r["accuracy"]["pruned"], ".2%"),
        "EMA of pruned": (lambda r: r["accuracy"]["pruned, EMA"], ".2%"),
        "parameters left": (lambda r: r["parameters"] / r["dense_parameters"], ".1%"),
        "FLOPs left": (lambda r: r["flops_ratio"], ".1%"),
        "largest change at a prune": (lambda r: r["largest_change"], ".0e"),
        "fine-tuned": (lambda r: r["tuned"]["accuracy"], ".2%"),
        "its parameters left": (lambda r: r["tuned"]["parameters"] / r["dense_parameters"], ".1%"),
    }
    rows = [("seed", *columns)]
    rows += [(str(r["seed"]), *(format(of(r), form) for of, form in columns.values())) for r in found]
    means = (statistics.mean(map(of, found)) for of, _ in columns.values())
    rows.append(("mean", *(format(mean, form) for mean, (_, form) in zip(means, columns.values(), strict=True))))
    return tables.lines(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=OUT, help="file that the records are appended to")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of the records")
    options = parser.parse_args(arguments)
    for seed in [] if options.table else options.seeds:
        record = {**run(seed), **records.provenance()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(table(records.read_lines(options.out)))  # noqa: T201


if __name__ == "__main__":
    main()
