# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Shared code of the command-line programs: help, flags, one-line errors, exit status."""

from __future__ import annotations

import argparse
import difflib
import errno
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from experiments.cli import field_help
from experiments.core import signals
from experiments.core.errors import NonFiniteLossError, UsageError
from experiments.settings import options

EXIT_STATUS = """\
Exit status:
  0    success; also a run that was stopped by SIGTERM and saved
  1    failure: the loss became infinite or NaN, or one of several runs failed
  2    invalid input; one line names the option, the value given, what is allowed and the remedy
  3    another process of the same run failed
  130  stopped by Ctrl-C after saving; before training, or on a second Ctrl-C, without saving
"""

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config: configs/NAME.py or configs/NAME.py:VARIANT.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all files of the run; a run that it holds is resumed.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed", "", "Several processes per run: auto on clusters that JAX detects, or HOST:PORT,PROCESSES,PROCESS."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show the network, schedules and cost of the run; do not train.")
_DEBUG = flags.DEFINE_bool("debug", False, "Print the traceback of an error.")
_COMPILE = flags.DEFINE_bool("compile", False, "With --dry_run: compile the step and show its memory.")
# Full disk, exceeded quota, exceeded file size limit.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HELP = ("--help", "-help", "-h", "-?", "--?")


def run(program: Callable[[ml_collections.ConfigDict, str], int], plan: Callable[..., int]) -> None:
    """Calls `program(config, workdir)` with the flags and exits with the status that it returns.

    With `--dry_run`, calls `plan(config, compiles=...)` instead.
    """
    signals.end_at_once_on_interrupt()

    def main(argv: Sequence[str]) -> int:
        del argv

        def joined() -> int:
            # Imports JAX, which is slow and not needed for --help.
            from experiments.core import devices, peers

            devices.join_processes(_DISTRIBUTED.value)
            if _DRY_RUN.value:
                return plan(_CONFIG.value, compiles=_COMPILE.value)
            with peers.ending_together(lambda: _peer_died(Path(str(_WORKDIR.value)))):
                return program(_CONFIG.value, str(_WORKDIR.value))

        status = guarded(joined, lambda: _WORKDIR.value)
        if status not in (0, 130):
            from experiments.core import peers

            peers.end_after_failure(status)
        return status

    app.run(main, flags_parser=_parse)


def _peer_died(workdir: Path) -> str:
    # `experiments.compare` has one folder per run; the newest is that of the current run.
    folders = [*workdir.glob("checkpoints"), *workdir.glob("*/checkpoints")]
    folder = max(folders, key=lambda path: path.stat().st_mtime, default=workdir)
    step = max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=None)
    kept = "step 0, as no checkpoint had been written yet" if step is None else f"step {step} in {folder}"
    return (
        "another process of this run has died or failed, and so this one ends. The same command in every process "
        f"continues from {kept}."
    )


class Parser(argparse.ArgumentParser):
    """Argument parser of a program without a config, with the program's docstring as help and one-line errors."""

    def __init__(self, about: str | None):
        """Initializes the parser; `about` is the docstring of the program."""
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(description=about, epilog=EXIT_STATUS, formatter_class=kind, usage=argparse.SUPPRESS)
        self.add_argument("--debug", action="store_true", help="print the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit status 2."""
        sys.exit(fail(f"{message}; --help says more.", 2))


def local(text: str) -> Path:
    """Returns a path on this machine, with `~` expanded.

    Raises:
      argparse.ArgumentTypeError: for an address such as `gs://bucket/folder`.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"must be a folder or file of this machine; got {text!r}. Mount it, as with gcsfuse or s3fs, or copy"
        )
    return Path(os.path.expanduser(text))


class _Stderr(logging.StreamHandler[TextIO]):
    """Logs to the current `sys.stderr`, which the progress bar replaces to print lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Logs a record."""
        self.stream = sys.stderr
        super().emit(record)


def guarded(program: Callable[[], int], folder: Callable[[], str | None] = lambda: None) -> int:
    """Runs a program, prints its errors as one line, and returns its exit status.

    Args:
      program: the program; returns its exit status.
      folder: returns the folder for the tracebacks of unexpected errors; a temporary folder by default.
    """
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
    except Exception as error:
        return fail(_unforeseen(error, folder()), 1)


def _unforeseen(error: Exception, folder: str | None) -> str:
    """Returns an unexpected error as one line and writes its traceback to a file; `--debug` also prints it."""
    text = traceback.format_exc()
    if "--debug" in sys.argv:
        sys.stderr.write(text)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        if error.errno in _NO_SPACE:
            return f"{what}. Free space or raise the limit; the same command then continues from the newest checkpoint."
    for place in filter(None, (folder, tempfile.gettempdir())):
        path = Path(place) / f"traceback-{os.getpid()}.txt"
        try:
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return f"{what} (the traceback is in {path})"
    return what


def status_of(stopped_by: signal.Signals | None) -> int:
    """Returns the exit status of a run that finished (`None`) or was stopped by a signal."""
    return 130 if stopped_by == signal.SIGINT else 0


def say(message: str) -> None:
    """Prints a line on standard output."""
    print(message, flush=True)  # noqa: T201


def fail(message: str, status: int) -> int:
    """Prints an error as one line on standard error; returns the exit status."""
    print("error: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    return status


def config_of(words: Sequence[str]) -> ml_collections.ConfigDict:
    """Returns the config for `--config=FILE` and overrides such as `--config.seed=1`.

    Raises:
      UsageError: for an unknown file or option, or a value of the wrong type.
    """
    words, unset = _split(words)
    alone, argv = flags.FlagValues(), ["", *words]
    holder = config_flags.DEFINE_config_file("config", None, flag_values=alone, sys_argv=argv)
    try:
        alone(argv)
        holder.value.keys()  # Raises if the file could not be loaded.
    except Exception as error:
        raise UsageError(_mistake(words, error)) from error
    return _settled(holder.value, unset, words)


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; for invalid arguments, prints one line and exits with status 2."""
    asks = [word for word in argv[1:] if word in _HELP]
    # config_flags requires the file before the overrides.
    words = sorted((w for w in argv[1:] if w not in _HELP), key=lambda word: not word.startswith("--config="))
    words, unset = _split(words)
    sys.argv = argv = [argv[0], *words]
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value:
            _CONFIG.value.keys()  # Raises if the file could not be loaded.
            _settled(_CONFIG.value, unset, words)
        if asks:
            say(_help())
            sys.exit(0)
        if len(rest) > 1:
            raise UsageError(f"unknown argument {rest[1]!r}. Write flags as --config=FILE and --config.OPTION=VALUE.")
        for name, flag, example in (("config", _CONFIG, "configs/quickstart.py"), ("workdir", _WORKDIR, "runs/first")):
            if not flag.value and not (name == "workdir" and _DRY_RUN.value):
                raise UsageError(f"--{name} must be given, as in --{name}={example}; --help says more.")
        if _WORKDIR.value:
            try:
                flags.FLAGS["workdir"].value = str(local(_WORKDIR.value))
            except argparse.ArgumentTypeError as error:
                raise UsageError(f"--workdir {error}.") from None
        return rest
    except Exception as error:
        sys.exit(fail(_mistake(words, error), 2))


def _help() -> str:
    """Returns the help of the program, and of its config if one is given."""
    own = (_CONFIG, _WORKDIR, _DRY_RUN, _COMPILE, _DISTRIBUTED, _DEBUG)
    lines = [sys.modules["__main__"].__doc__ or "", "Flags:"]
    lines += [f"  --{flag.name}: {flags.FLAGS[flag.name].help}" for flag in own]
    lines += ["  --config.OPTION=VALUE: Override a config option.", "", EXIT_STATUS]
    if not _CONFIG.value:
        return "\n".join([*lines, "To list the options of a config: --config=configs/NAME.py --help."])
    wide = min(max(shutil.get_terminal_size().columns, 80), 120) if sys.stdout.isatty() else None
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    return "\n".join([*lines, field_help.listing(_CONFIG.value, file, wide)])


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits off the words that unset an option, such as `--config.pruning.constant=None`; returns rest and options."""
    ends = {f"--config.{key}={value}": key for key in options.OPTIONAL for value in ("", "None")}
    return [word for word in words if word not in ends], [ends[word] for word in words if word in ends]


def _settled(
    config: ml_collections.ConfigDict, unset: Sequence[str], words: Sequence[str]
) -> ml_collections.ConfigDict:
    """Unsets the options `unset` of a config and returns it; raises `UsageError` if an option or section is missing."""
    options.require_whole(config, f"--config={_file(words)}")
    config.update_from_flattened_dict(dict.fromkeys(unset))
    return config


def _mistake(words: Sequence[str], error: Exception) -> str:
    """Returns the one-line error for a command line from which no config could be made."""
    if isinstance(error, UsageError):
        return str(error)
    file = _file(words)
    if file and any(word != f"--config={file}" and word.startswith("--config") for word in words):
        try:
            known = options.flat(config_of([f"--config={file}"]))
        except UsageError as fault:
            return str(fault)  # The file itself is invalid.
        return _bad_override(words, known, file, error)
    return _bad_file(file, error) if file else " ".join(str(error).split())


def _file(words: Sequence[str]) -> str:
    """Returns the value of `--config`, or "" if missing."""
    return next((word.removeprefix("--config=") for word in words if word.startswith("--config=")), "")


def _bad_file(file: str, error: Exception) -> str:
    """Returns the one-line error for a config file that cannot be used."""
    name = file.partition(":")[0]
    try:
        source = Path(name).read_text()
        compile(source, name, "exec")
    except FileNotFoundError:
        return f"--config={file}: there is no file {name}. Configs are files such as configs/quickstart.py."
    except (SyntaxError, ValueError) as fault:
        line = f", line {fault.lineno}" if isinstance(fault, SyntaxError) and fault.lineno else ""
        reason = f"it cannot be parsed ({fault.args[0]}{line}). Fix it."
        return f"--config={file} must be a Python file with get_config(); {reason}"
    except OSError as fault:
        return f"--config={file} cannot be read ({fault.strerror}). Give a file such as configs/quickstart.py."
    found = _last_error(str(error)) or f"{type(error).__name__}: {error}"
    if unknown := re.search(r"Unknown command line flag '([^']+)'", str(error)):
        return f"--{unknown[1]} is no flag. Options of the config are --config.NAME=VALUE; --help lists the flags."
    if isinstance(error, ValueError) and str(error).startswith("--config="):
        return str(error)  # An unknown variant, which the configs report themselves.
    return f"--config={file}: get_config() failed ({found.rstrip(': ')}). Fix the file."


def _last_error(text: str) -> str:
    """Returns the last error of a traceback in a message of ml_collections, or "" if there is none."""
    found = re.findall(r"^(\w[\w.]*(?:Error|Exception)\b.*)$", text, re.MULTILINE)
    return found[-1] if "Traceback" in text and found else ""


def _bad_override(words: Sequence[str], known: Mapping[str, Any], file: str, error: Exception) -> str:
    """Returns the one-line error for an invalid override; tries each override alone to find it."""
    for word in words:
        if not word.startswith("--config."):
            continue
        path, _, value = word.removeprefix("--config.").partition("=")
        if path not in known:
            whole = path.partition("[")[0]
            if whole in known:
                shown = options.as_text(known[whole])
                return f"config.{whole} must be given as a whole, as in --config.{whole}={shown}; got {word}."
            near = _near(path, known) or difflib.get_close_matches(path, known, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            return f"--config.{path}: the config has no such option. {hint}--help with a --config lists all options."
        alone, argv = flags.FlagValues(), ["", f"--config={file}", word]
        config_flags.DEFINE_config_file("config", None, flag_values=alone, sys_argv=argv)
        try:
            alone(argv)
        except Exception:
            return f"config.{path} must be {options.kind_of(path, known[path])}; got {value!r}."
    return " ".join(str(error).split())


def _near(path: str, known: Mapping[str, Any]) -> list[str]:
    """Returns options whose last word abbreviates to that of `path`: `optimizer.learning_rate` for `optimizer.lr`."""
    section, _, short = path.rpartition(".")
    of_words = [key for key in known if "".join(word[:1] for word in key.rpartition(".")[2].split("_")) == short]
    return [key for key in of_words if key.rpartition(".")[0] == section] or of_words
