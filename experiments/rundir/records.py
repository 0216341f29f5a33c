# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a run writes: JSON lines, TensorBoard events, a summary with where it came from."""

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
    """The growing files of a run: `metrics.jsonl`, `cuts.jsonl` and TensorBoard events; and its tracker.

    A resumed run takes up where its checkpoint stands: lines of later steps are dropped first.
    """

    def __init__(self, workdir: Path, step: int, tracker: Tracker, open_cut: Mapping[str, Any] | None = None):
        """Opens the records of `workdir` for a run that continues at `step`.

        A cut that is written again, `open_cut`, may have been written after the checkpoint.
        """
        self._workdir, self._tracker = workdir, tracker
        for name in ("metrics.jsonl", "cuts.jsonl", "dead.jsonl"):
            _truncate(workdir / name, step, open_cut if name == "cuts.jsonl" else None)
        (workdir / "tensorboard").mkdir(exist_ok=True)
        # `SummaryWriter` writes in a thread. On a full disk the thread dies, and the next calls block forever.
        self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
        session = SessionLog(status=SessionLog.START)  # TensorBoard drops later steps of the sessions before.
        self._events.write_event(Event(wall_time=time.time(), step=step + 1 if step else 0, session_log=session))
        if not step and (workdir / "config.json").exists():
            self._event(0, text("config", f"```\n{(workdir / 'config.json').read_text()}\n```"))

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line of metrics; numbers go to TensorBoard and the tracker, too."""
        _append(self._workdir / "metrics.jsonl", {"step": step, **values})
        numbers = dict(_numbers(values))
        for name, number in numbers.items():
            self._event(step, scalar(tag(name), number))
        self._events.flush()
        self._tracker.log(step, numbers)

    def _event(self, step: int, summary: Summary) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def dead(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line about who is dead."""
        _append(self._workdir / "dead.jsonl", {"step": step, **values})

    def cut(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one cut; what it left goes to the tracker, too."""
        _append(self._workdir / "cuts.jsonl", {"step": step, **values})
        self._tracker.log(step, dict(_numbers({"cut": values})))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Writes what the run came to."""
        write_json(self._workdir / "summary.json", values)
        self._tracker.summary(dict(_numbers(values)))

    def close(self) -> None:
        """Closes the TensorBoard events and the run at the tracker."""
        self._events.close()
        self._tracker.close()


class NoRecords(Records):
    """Those of a process that keeps none."""

    def __init__(self) -> None:
        """Opens nothing."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Drops them."""

    def dead(self, step: int, values: Mapping[str, Any]) -> None:
        """Drops it."""

    def cut(self, step: int, values: Mapping[str, Any]) -> None:
        """Drops it."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Drops it."""

    def close(self) -> None:
        """Closes nothing."""


_GROUPS = {
    "train": ("loss",),
    "schedule": ("learning_rate", "strength", "noise", "strength_factor", "target_left", "epoch"),
    "size": ("neurons", "parameters"),
    "time": ("seconds_per_step",),
}


def tag(name: str) -> str:
    """Returns the tag of a number at TensorBoard, in a group: `train/loss`, `test/accuracy`, `width/SITE`."""
    if "/" in name:
        return name
    before, _, after = name.partition("_")
    if before in ("train", "test"):
        return f"{before}/{after}"
    return f"{next((group for group, names in _GROUPS.items() if name in names), 'other')}/{name}"


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Returns the numbers among values, by path; of a pair from before and after a cut, the second."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
            continue
        number = value[-1] if isinstance(value, list | tuple) and value else value
        if isinstance(number, int | float):
            yield f"{prefix}{name}", number


# What every line of a run's files has.
_FIELDS = {
    "metrics.jsonl": ("step",),
    "cuts.jsonl": ("step", "removed", "neurons", "parameters", "flops"),
    "dead.jsonl": ("step", "dead", "width"),
}


def read_lines(path: Path, damage: list[str] | None = None) -> list[dict[str, Any]]:
    """Returns the complete lines of a JSON-lines file; a line cut short by a kill is left out.

    Args:
      path: of the file.
      damage: told of lines that are none of this program's, which are then left out.

    Raises:
      UsageError: for such a line, where nobody is told of it.
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
    """Returns the last line of a log that says something; "" where there is none.

    JAX adds to an exception, behind its message, that frames were left out of its traceback.
    """
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = [line for line in lines if line.strip("- ") and not line.startswith(_FRAMES_LEFT_OUT)]
    return said[-1].strip() if said else ""


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is never seen half written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file so that it is never seen half written."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def _truncate(path: Path, step: int, without: Mapping[str, Any] | None) -> None:
    kept = [line for line in read_lines(path) if line["step"] <= step] if step else []
    if without is not None:
        again = [line for line in kept if _lasting(line) == _lasting(without)]
        kept = [line for line in kept if not again or line is not again[-1]]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def _lasting(cut: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a cut is known before the step after it has been compiled, but for times."""
    return {name: value for name, value in cut.items() if name not in ("seconds", "step_bytes")}


def _append(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def provenance() -> dict[str, Any]:
    """Returns command, commit, versions and device of this process."""
    device = jax.devices()[0]
    return {
        "command": _command(),
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {_processor() if device.platform == 'cpu' else device.device_kind}",
    }


def _command() -> str:
    """Returns how this process was started, without the folders of this machine."""
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
    """Returns the name of the processor and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip()
    except (OSError, IndexError):
        pass
    return f"cpu ({name}, {processors()} cores)"


def _commit() -> str:
    """Returns the git commit of the code that runs, with `-dirty` when files differ from it; "unknown" outside git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
