# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The records that a run writes: JSON lines, TensorBoard events, and a summary with its provenance."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text

from experiments.core.devices import processors
from experiments.core.errors import UsageError
from experiments.rundir.trackers import Tracker

_FRAMES_LEFT_OUT = "For simplicity, JAX has removed its internal frames"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Records:
    """Writes `metrics.jsonl`, `cuts.jsonl`, `dead.jsonl`, TensorBoard events, the summary, and the tracker of a run."""

    def __init__(self, workdir: Path, step: int, tracker: Tracker, open_cut: Mapping[str, Any] | None = None):
        """Opens the records, and removes lines after the checkpoint from which the run resumes.

        Args:
          workdir: the run directory.
          step: the step of the checkpoint, or 0.
          tracker: also receives metrics, prunes and the summary.
          open_cut: record of a prune that the resumed run will write again. Its line is removed, too.
        """
        self._workdir, self._tracker = workdir, tracker
        for name in ("metrics.jsonl", "cuts.jsonl", "dead.jsonl"):
            _truncate(workdir / name, step, open_cut if name == "cuts.jsonl" else None)
        (workdir / "tensorboard").mkdir(exist_ok=True)
        # Not `SummaryWriter`: its thread dies on a full disk, after which calls block forever.
        self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
        session = SessionLog(status=SessionLog.START)  # Makes TensorBoard drop later steps of previous sessions.
        self._events.write_event(Event(wall_time=time.time(), step=step + 1 if step else 0, session_log=session))
        if not step and (workdir / "config.json").exists():
            self._event(0, text("config", f"```\n{(workdir / 'config.json').read_text()}\n```"))

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line of metrics, and logs its numbers to TensorBoard and the tracker."""
        _append(self._workdir / "metrics.jsonl", {"step": step, **values})
        numbers = dict(_numbers(values))
        for name, number in numbers.items():
            self._event(step, scalar(tag(name), number))
        self._events.flush()
        self._tracker.log(step, numbers)

    def _event(self, step: int, summary: Summary) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def dead(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line about dead units."""
        _append(self._workdir / "dead.jsonl", {"step": step, **values})

    def cut(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the record of a prune, and logs its numbers to the tracker."""
        _append(self._workdir / "cuts.jsonl", {"step": step, **values})
        self._tracker.log(step, dict(_numbers({"cut": values})))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Writes the summary of the finished run."""
        write_json(self._workdir / "summary.json", values)
        self._tracker.summary(dict(_numbers(values)))

    def close(self) -> None:
        """Closes the TensorBoard events and the tracker."""
        self._events.close()
        self._tracker.close()


class NoRecords(Records):
    """Writes nothing, for all processes of a run but the first."""

    def __init__(self) -> None:
        """Does nothing."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def dead(self, step: int, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def cut(self, step: int, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


_GROUPS = {
    "train": ("loss",),
    "schedule": ("learning_rate", "strength", "noise", "strength_factor", "target_left", "epoch"),
    "size": ("neurons", "parameters"),
    "time": ("seconds_per_step",),
}


def tag(name: str) -> str:
    """Returns the TensorBoard tag of a number, such as `train/loss`, `test/accuracy` or `width/SITE`."""
    if "/" in name:
        return name
    before, _, after = name.partition("_")
    if before in ("train", "test"):
        return f"{before}/{after}"
    return f"{next((group for group, names in _GROUPS.items() if name in names), 'other')}/{name}"


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers among nested values, by path; of a pair from before and after a prune, the second."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
            continue
        number = value[-1] if isinstance(value, list | tuple) and value else value
        if isinstance(number, int | float):
            yield f"{prefix}{name}", number


# Fields that every line of a file must have.
_FIELDS = {
    "metrics.jsonl": ("step",),
    "cuts.jsonl": ("step", "removed", "neurons", "parameters", "flops"),
    "dead.jsonl": ("step", "dead", "width"),
}


def read_lines(path: Path, damage: list[str] | None = None) -> list[dict[str, Any]]:
    """Returns the complete lines of a JSON-lines file; an incomplete last line is left out.

    Args:
      path: the file; may be missing.
      damage: if given, invalid lines are left out and described in this list.

    Raises:
      UsageError: for an invalid line, without `damage`.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        if not line:
            continue
        try:
            values = json.loads(line)
            missing = [field for field in _FIELDS.get(path.name, ()) if field not in values]
            if missing or not isinstance(values, dict):
                raise ValueError(f"it has no {missing[0]}" if missing else "it is no object")
            if not isinstance(values.get("step", 0), int):
                raise ValueError(f"its step is {values['step']!r}")
        except (ValueError, TypeError) as error:
            what = f"{path}, line {number}, was not written by this program ({error})"
            if damage is None:
                raise UsageError(f"{what}. Delete the line to go on without it.") from None
            damage.append(what)
        else:
            found.append(values)
    return found


def last_line(log: Path) -> str:
    """Returns the last line of a log with content; "" if there is none.

    Skips the note about removed frames that JAX appends to exceptions.
    """
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = [line for line in lines if line.strip("- ") and not line.startswith(_FRAMES_LEFT_OUT)]
    return said[-1].strip() if said else ""


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def _truncate(path: Path, step: int, without: Mapping[str, Any] | None) -> None:
    kept = [line for line in read_lines(path) if line["step"] <= step] if step else []
    if without is not None:
        again = [line for line in kept if _lasting(line) == _lasting(without)]
        kept = [line for line in kept if not again or line is not again[-1]]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def _lasting(cut: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a prune that are equal if it is recorded again; times and the step's memory may differ."""
    return {name: value for name, value in cut.items() if name not in ("seconds", "step_bytes")}


def _append(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def provenance() -> dict[str, Any]:
    """Returns command, commit, versions and devices of this process."""
    device = jax.devices()[0]
    return {
        "command": _command(),
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {_processor() if device.platform == 'cpu' else device.device_kind}",
    }


def _command() -> str:
    """Returns the command line of this process, without flags whose values are folders."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec else "python"
    places = ("--workdir", "--config.data.dir", "--config.compile_cache", "--out", "--dir", "--imagenet")
    words = []
    given = iter(sys.argv[1:])
    for word in given:
        if not word.startswith(places):
            words.append(shlex.quote(word))
        elif "=" not in word:
            next(given, None)  # `--workdir DIR`: its value is the next word.
    return " ".join([program, *words])


def _processor() -> str:
    """Returns the name of the processor and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip()
    except (OSError, IndexError):
        pass
    return f"cpu ({name}, {processors()} cores)"


def _commit() -> str:
    """Returns the git commit of the code, with `-dirty` if tracked files differ from it; "unknown" outside git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
