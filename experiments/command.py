# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What the command-line programs share: help, flags, one-line errors, exit status."""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from experiments import keys, signals
from experiments.errors import NonFiniteLossError, UsageError

EXIT_STATUS = """\
Exit status:
  0    done; also a run that SIGTERM stopped, after it saved
  1    a run failed: its loss became infinite or NaN, or one of several ended in an error
  2    bad input; one line says which field, what was given, what is allowed and what to do
  130  stopped by Ctrl-C, after saving; Ctrl-C before the training or twice ends at once
"""

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config: configs/NAME.py or configs/NAME.py:VARIANT.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all that the run leaves; continued if it holds this run.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed", "", "Processes of one run: auto on a cluster that JAX knows, or HOST:PORT,PROCESSES,PROCESS."
)
_MISTAKES = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show what would be done and what it takes; train nothing.")
_COMPILE = flags.DEFINE_bool("compile", False, "With --dry_run: compile the step, to know the memory that it takes.")
_HELP = ("--help", "-help", "-h", "-?", "--?")


def run(program: Callable[[ml_collections.ConfigDict, str], int], plan: Callable[..., int]) -> None:
    """Runs `program(config, workdir)` with the flags and exits with the status it returns.

    With `--dry_run` that is `plan(config, compiles=...)`.
    """
    signals.end_at_once_on_interrupt()

    def main(argv: Sequence[str]) -> int:
        del argv

        def joined() -> int:
            from experiments.devices import join_processes  # Importing JAX takes a while, which help does not need.

            join_processes(_DISTRIBUTED.value)
            if _DRY_RUN.value:
                return plan(_CONFIG.value, compiles=_COMPILE.value)
            return program(_CONFIG.value, str(_WORKDIR.value))

        return guarded(joined)

    app.run(main, flags_parser=_parse)


class Parser(argparse.ArgumentParser):
    """Arguments of a program without a config: help that begins with what it does, mistakes in one line."""

    def __init__(self, about: str | None):
        """Takes the docstring of the program."""
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(description=about, epilog=EXIT_STATUS, formatter_class=kind, usage=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit status 2."""
        sys.exit(fail(f"{message}; --help says more.", 2))


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to standard error as it is now: a progress bar puts lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        self.stream = sys.stderr
        super().emit(record)


def guarded(program: Callable[[], int]) -> int:
    """Returns a program's exit status; what the user can mend becomes one line."""
    logger = logging.getLogger("experiments")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Stderr())
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        return program()
    except UsageError as error:
        return fail(str(error), 2)
    except NonFiniteLossError as error:
        return fail(str(error), 1)


def status_of(stopped_by: signal.Signals | None) -> int:
    """Returns the exit status of a run that ended by itself (`None`) or was stopped by a signal."""
    return 130 if stopped_by == signal.SIGINT else 0


def say(message: str) -> None:
    """Prints a line on standard output."""
    print(message, flush=True)  # noqa: T201


def fail(message: str, status: int) -> int:
    """Prints what is wrong as one line on standard error; returns the exit status."""
    print("error: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    return status


def config_of(words: Sequence[str]) -> ml_collections.ConfigDict:
    """Returns the config that `--config=FILE` and overrides such as `--config.seed=1` ask for.

    Raises:
      UsageError: for a file or a key that does not exist, or a value of another kind.
    """
    alone, argv = flags.FlagValues(), ["", *words]
    holder = config_flags.DEFINE_config_file("config", None, flag_values=alone, sys_argv=argv)
    try:
        alone(argv)
        holder.value.keys()  # Raises when the file could not be loaded.
        return holder.value
    except _MISTAKES as error:
        raise UsageError(_unknown_key(words) or _plain(str(error))) from error


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake in it is one line on standard error and exit status 2."""
    asks = [word for word in argv[1:] if word in _HELP]
    # config_flags wants the file before the overrides; users need not know.
    words = sorted((w for w in argv[1:] if w not in _HELP), key=lambda word: not word.startswith("--config="))
    sys.argv = argv = [argv[0], *words]
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value:
            _CONFIG.value.keys()  # Raises when the file could not be loaded.
        if asks:
            say(_help())
            sys.exit(0)
        if len(rest) > 1:
            raise UsageError(f"unknown argument {rest[1]!r}. Flags are written --config=FILE and --config.key=value.")
        for name, flag, example in (("config", _CONFIG, "configs/quickstart.py"), ("workdir", _WORKDIR, "runs/first")):
            if not flag.value and not (name == "workdir" and _DRY_RUN.value):
                raise UsageError(f"--{name} must be given, as in --{name}={example}; --help says more.")
        return rest
    except _MISTAKES as error:
        sys.exit(fail(_unknown_key(words) or _plain(str(error)), 2))


def _help() -> str:
    """Returns what a program says of itself, and of its config if one is given."""
    own = (_CONFIG, _WORKDIR, _DRY_RUN, _COMPILE, _DISTRIBUTED)
    lines = [sys.modules["__main__"].__doc__ or "", "Flags:"]
    lines += [f"  --{flag.name}: {flags.FLAGS[flag.name].help}" for flag in own]
    lines += ["  --config.KEY=VALUE: Overrides a key of the config.", "", EXIT_STATUS]
    if not _CONFIG.value:
        return "\n".join([*lines, "The keys of a config, with what they mean: --config=configs/NAME.py --help."])
    wide = min(max(shutil.get_terminal_size().columns, 80), 120) if sys.stdout.isatty() else None
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    return "\n".join([*lines, keys.listing(_CONFIG.value, file, wide)])


def _unknown_key(words: Sequence[str]) -> str | None:
    """Returns the message for an override of a key that the config does not have, if there is one."""
    overrides = [re.split("[=[]", word)[0].removeprefix("--config.") for word in words if word.startswith("--config.")]
    if not overrides:
        return None
    try:
        known = list(keys.flat(config_of([word for word in words if word.startswith("--config=")])))
    except UsageError:
        return None
    path = next((o for o in overrides if o not in known), None)
    if path is None:
        return None
    near = difflib.get_close_matches(path, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"--config.{path}: the config has no such key. {hint}--help with a --config lists all keys."


def _plain(message: str) -> str:
    """Returns a message without the traceback that ml_collections puts into it."""
    if "Traceback" in message:
        last = re.findall(r"\w*(?:Error|Exception): (.+)", message)
        return last[-1] if last else message
    missing = re.search(r"No such file or directory: '(.+?)'", message)
    return f"--config={missing[1]}: there is no such file." if missing else message
