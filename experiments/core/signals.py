# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Signal handling: on Ctrl-C or SIGTERM, a run saves a checkpoint and stops without a traceback.

This module only imports the standard library, so that handlers are installed before the slow imports.
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
    """Makes Ctrl-C end this program immediately, with a one-line message and exit status 130.

    Within `stop_on_signal`, this applies to the second Ctrl-C. The program does not wait for anything, such as a thread
    that compiles. This is safe, because files on disk are complete at any time.
    """
    # A shell may start a background program with Ctrl-C ignored; respect that.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_on_signal() -> None:
    """Makes Ctrl-C and the first SIGTERM raise `KeyboardInterrupt`, for programs that have to stop their own runs."""

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
    """Ends this program and its child processes with an exit status, after a last line on standard error."""
    for process in multiprocessing.active_children():
        process.kill()
    sys.stderr.flush()
    if line:
        # A progress bar hides the cursor; the escape sequence shows it again.
        os.write(2, (("\x1b[?25h\n" if os.isatty(2) else "") + line).encode())
    os._exit(status)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], signal.Signals | None]]:
    """Turns SIGTERM and SIGINT into a request to stop that the loop polls.

    A second Ctrl-C calls the previous handler. Further SIGTERMs have no effect, because a scheduler and the parent
    process may both send one. Signals that the shell ignores stay ignored.

    Yields:
      A function that returns the first signal received, or `None`.
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
    """Blocks SIGINT in processes started within this context, so that their parent ends them.

    A terminal sends Ctrl-C to all processes. Warnings about shared memory left behind are suppressed as well.
    """
    # The resource tracker is started before the signal is blocked: when it starts by itself, it unblocks the signal.
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
