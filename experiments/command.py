# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What the command-line programs share: flags, one-line errors, exit status.

Exit status: 0 when a run has ended, or was stopped by SIGTERM after saving; 130 when stopped by Ctrl-C after saving;
1 when the loss became infinite or NaN; 2 for bad input.
"""

from __future__ import annotations

import difflib
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from experiments.devices import join_processes
from experiments.errors import NonFiniteLossError, UsageError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file: configs/NAME.py or configs/NAME.py:variant.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed", "", "Processes of one run: auto on a cluster that JAX knows, or HOST:PORT,PROCESSES,PROCESS."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all that the run leaves; continued if it holds this run.")


def run(program: Callable[[ml_collections.ConfigDict, str], int]) -> None:
    """Runs `program(config, workdir)` with the flags and exits with the status it returns."""

    def main(argv: Sequence[str]) -> int:
        del argv

        def joined() -> int:
            join_processes(_DISTRIBUTED.value)
            return program(_CONFIG.value, str(_WORKDIR.value))

        return guarded(joined)

    app.run(main, flags_parser=_parse)


def guarded(program: Callable[[], int]) -> int:
    """Returns a program's exit status; what the user can mend becomes one line and an exit."""
    logger = logging.getLogger("experiments")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(sys.stderr))
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        return program()
    except UsageError as error:
        _fail(str(error), 2)
    except NonFiniteLossError as error:
        _fail(str(error), 1)


def status_of(stopped_by: signal.Signals | None) -> int:
    """Returns the exit status of a run that ended by itself (`None`) or was stopped by a signal."""
    return 130 if stopped_by == signal.SIGINT else 0


def say(message: str) -> None:
    """Prints a line on standard output."""
    print(message, flush=True)  # noqa: T201


def _fail(message: str, status: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    sys.exit(status)


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake in it is one line on standard error and exit status 2."""
    # config_flags wants the file before the overrides; users need not know.
    sys.argv = argv = [argv[0], *sorted(argv[1:], key=lambda argument: not argument.startswith("--config="))]
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UsageError(f"unknown argument {rest[1]!r}. Flags are written --config=FILE and --config.key=value.")
        for name, flag, example in (("config", _CONFIG, "configs/quickstart.py"), ("workdir", _WORKDIR, "runs/first")):
            if not flag.value:
                raise UsageError(f"--{name} must be given, as in --{name}={example}.")
        _CONFIG.value.keys()  # Raises when the file could not be loaded.
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _fail(_unknown_key(argv) or _plain(str(error)), 2)


def _unknown_key(argv: list[str]) -> str | None:
    """Returns the message for an override of a key that the config does not have, if there is one."""
    alone = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=alone)
    everything = sys.argv
    try:
        sys.argv = argv[:1]  # Where config_flags looks for overrides.
        alone([argv[0], *(a for a in argv if a.startswith("--config="))])
        known = _paths(holder.value)
    except (flags.Error, AttributeError, KeyError, ValueError, OSError):
        return None
    finally:
        sys.argv = everything
    overrides = [re.split("[=[]", a)[0].removeprefix("--config.") for a in argv if a.startswith("--config.")]
    path = next((o for o in overrides if o not in known), None)
    if path is None:
        return None
    near = difflib.get_close_matches(path, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"--config.{path}: the config has no such key. {hint}configs/base.py lists all keys."


def _paths(config: Any, prefix: str = "") -> list[str]:
    paths: list[str] = []
    for key, value in config.items():
        nested = isinstance(value, ml_collections.ConfigDict)
        paths += _paths(value, f"{prefix}{key}.") if nested else [prefix + key]
    return paths


def _plain(message: str) -> str:
    """Returns a message without the traceback that ml_collections puts into it."""
    if "Traceback" in message:
        last = re.findall(r"\w*(?:Error|Exception): (.+)", message)
        return last[-1] if last else message
    missing = re.search(r"No such file or directory: '(.+?)'", message)
    return f"--config={missing[1]}: there is no such file." if missing else message
