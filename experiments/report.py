# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Writes a self-contained HTML page about runs.

    python -m experiments.report runs/first
    python -m experiments.report runs/quickstart/dense runs/quickstart/demp --out=both.html
    python -m experiments.report runs/sweep/*/ --out=sweep.html
    python -m experiments.report runs/quickstart/demp runs/quickstart/dense --picture=shrinking.png

The page shows the runs, accuracy against sparsity, where the time went, and the config options that differ. For each
run, it shows accuracy and neurons over time, the prunes, and the pruned network. Runs whose configs differ in the seed
alone share a row and a line, with mean and standard deviation. Unfinished and failed runs are included. Damaged records
are left out and named. The same records give the same page. With `--picture`, it draws how the layers of the first run
shrink, beside the accuracy of all runs, and writes no page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments.core.errors import UsageError
from experiments.reporting import curves
from experiments.reporting.page import counted, page, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    parser.add_argument("workdirs", metavar="WORKDIR", type=command.local, nargs="+", help="the workdir of a run")
    parser.add_argument(
        "--out", type=command.local, default=Path("report.html"), metavar="FILE", help="%(default)s by default"
    )
    parser.add_argument("--picture", type=command.local, metavar="FILE", help="a PNG or SVG file in place of the page")
    options = parser.parse_intermixed_args(arguments)
    runs = read(options.workdirs)
    if options.picture is not None:
        if options.picture.suffix not in (".png", ".svg"):
            raise UsageError(f"--picture={options.picture} must end in .png or .svg.")
        curves.shrinking(runs, options.picture)
        command.say(f"{options.picture}: {counted(runs)}")
        return 0
    try:
        # Folder names may contain bytes that are not valid Unicode.
        options.out.write_text(page(runs), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"--out={options.out} must be a file that can be written ({error.strerror}).") from error
    command.say(f"{options.out}: {counted(runs)}")
    return 0


if __name__ == "__main__":
    sys.exit(command.guarded(main))
