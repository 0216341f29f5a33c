# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C and SIGTERM: a run saves and stops, and nobody sees a traceback.

Only the standard library is imported, so that a program can be ended while it imports the rest.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, NoReturn

_LOG = logging.getLogger(__name__)
_ENDED = "interrupted: ended at once; the same command continues from the newest checkpoint, if there is one\n"


def end_at_once_on_interrupt() -> None:
    """Lets Ctrl-C end this program at once, in one line, with exit status 130; within `stop_on_signal` the second one.

    At once means that nothing is waited for, such as a thread that compiles: what is on disk is whole at any time.
    """
    # A shell that starts a program in the background may want it to ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_on_signal() -> None:
    """Lets Ctrl-C and the first SIGTERM raise `KeyboardInterrupt`, for programs that have runs of their own to stop."""

    def once(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        signal.default_int_handler(number, frame)

    for s, handler in ((signal.SIGTERM, once), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(s) != signal.SIG_IGN:
            signal.signal(s, handler)


def _end(number: int, frame: Any) -> None:
    del number, frame
    end_at_once(_ENDED, 130)


def end_at_once(line: str, status: int) -> NoReturn:
    """Ends this program and the processes that it started, with a last line on standard error and an exit status."""
    for process in multiprocessing.active_children():
        process.kill()
    # A progress bar hides the cursor.
    sys.stderr.flush()
    if line:
        os.write(2, (("\x1b[?25h\n" if os.isatty(2) else "") + line).encode())
    os._exit(status)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], signal.Signals | None]]:
    """Turns SIGTERM and SIGINT into a request to stop as soon as the loop asks; a second Ctrl-C acts as usual.

    A second SIGTERM asks for the same again: a scheduler sends one to every process, and so does what started this one.
    What a shell wants ignored is.

    Yields:
      A function that returns the signal received, or `None`.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    before = {s: handler for s, handler in before.items() if handler != signal.SIG_IGN}

    def request(number: int, frame: Any) -> None:
        del frame
        received.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        again = "; Ctrl-C again ends it at once" if number == signal.SIGINT else ""
        _LOG.info("%s: the run stops once it has finished what it is doing and saved%s", received[-1].name, again)

    for s in before:
        signal.signal(s, request)
    try:
        yield lambda: received[0] if received else None
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def quiet_processes() -> Iterator[None]:
    """Processes that start within never learn of Ctrl-C, which a terminal sends to all: who started them ends them.

    Nor is it reported that shared memory of theirs had to be cleaned up.
    """
    # Where it starts itself, it would unblock the signal.
    asked = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = f"{asked},ignore::UserWarning:multiprocessing.resource_tracker".lstrip(",")
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ["PYTHONWARNINGS"] = asked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
