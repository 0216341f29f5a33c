# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Collects records of runs and prints them as tables.

    python -m experiments.tables --collect=results/NAME.jsonl WORKDIR...
    python -m experiments.tables results/NAME.jsonl
    python -m experiments.tables results/NAME.jsonl --fill=README.md

The first command writes the summaries of finished runs to a record file. The second prints its table in Markdown, with
a row per setting and the mean over seeds. The third writes the table after the line `<!-- table NAME.jsonl -->` of a
file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from experiments.cli import command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

from experiments.core.errors import UsageError, require
from experiments.reporting.tables import collect, fill, markdown
from experiments.rundir.records import read_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    parser.add_argument("paths", type=command.local, nargs="+", help="record files to print, or workdirs to collect")
    parser.add_argument(
        "--collect", type=command.local, metavar="FILE", help="write the summaries of the workdirs to this file"
    )
    parser.add_argument("--fill", type=command.local, metavar="FILE", help="replace the tables in this file")
    options = parser.parse_args(arguments)
    try:
        if options.collect:
            lines = [json.dumps(record) for record in collect(options.paths)]
            options.collect.write_text("".join(line + "\n" for line in lines))
            command.say(f"{len(lines)} records in {options.collect}")
            return 0
        for path in options.paths:
            require(path.exists(), "paths", str(path), "files of records")
            table = markdown(read_lines(path))
            if options.fill:
                options.fill.write_text(fill(options.fill.read_text(), path.name, table))
            else:
                command.say(table)
    except UsageError as error:
        return command.fail(str(error), 2)
    return 0


if __name__ == "__main__":
    sys.exit(command.guarded(main))
