# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Ends all processes of a run with a one-line message when one of them dies or fails.

Every process keeps a TCP connection to the first one. The operating system closes it when either of the two dies.
JAX's runtime detects this as well, but up to `HEARTBEAT` seconds later, and aborts with a stack trace.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from jax._src import distributed  # There is no public API for the client and the coordinator's address.

from experiments.core import signals
from experiments.core.errors import NonFiniteLossError, UsageError

# Seconds without a heartbeat after which the runtime considers a process dead.
HEARTBEAT = 30
# Exit status of a process that ends because another one died or failed.
PEER_DIED = 3
_KEY = "demp_jax/peers"
_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def ending_together(last_words: Callable[[], str]) -> Iterator[None]:
    """Ends this process with exit status `PEER_DIED` as soon as another process of the run dies or fails.

    Args:
      last_words: returns the message to print.
    """
    if distributed.global_state.num_processes in (None, 1):
        yield
        return
    connections: list[socket.socket] = []

    def watch(connection: socket.socket) -> None:
        connections.append(connection)
        # A host that loses power or network does not close its connections.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        try:
            left = connection.recv(1)
        except OSError:
            left = b""
        if not left:
            signals.end_at_once(f"error: {last_words()}\n", PEER_DIED)

    # If the first process dies, the runtime aborts at once. With `sleep` as the handler of SIGABRT, called with the
    # signal number 6, the abort is delayed by 6 seconds, so that `watch` ends the process first.
    libc = ctypes.CDLL(None)
    libc.signal(int(signal.SIGABRT), libc.sleep)
    _connect(watch)
    try:
        yield
    except (UsageError, NonFiniteLossError):
        raise
    except Exception:
        time.sleep(3)  # A collective also fails when another process dies; `watch` then ends this one.
        raise
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(b".")


def _connect(watch: Callable[[socket.socket], None]) -> None:
    """Connects this process to the first one, or the first one to all others. A thread watches each connection."""
    state: Any = distributed.global_state

    def start(function: Callable[..., None], *args: object) -> None:
        threading.Thread(target=function, args=args, daemon=True).start()

    if state.process_id:
        port, token = state.client.blocking_key_value_get(_KEY, 1000 * HEARTBEAT).split()
        try:
            host = state.coordinator_address.rpartition(":")[0].strip("[]")
            connection = socket.create_connection((host, int(port)), timeout=HEARTBEAT)
        except OSError as error:
            reason = error.strerror or error
            _LOG.warning("no connection to %s:%s (%s): dead processes are detected later", host, port, reason)
            return
        connection.settimeout(None)
        connection.sendall(token.encode())
        start(watch, connection)
        return

    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    server = socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=state.num_processes)
    token = secrets.token_hex(8)
    state.client.key_value_set(_KEY, f"{server.getsockname()[1]} {token}")

    def accept() -> None:
        missing = state.num_processes - 1
        while missing:
            connection = server.accept()[0]
            if connection.recv(len(token), socket.MSG_WAITALL) == token.encode():
                start(watch, connection)
                missing -= 1
        server.close()

    start(accept)


def end_after_failure(status: int) -> NoReturn:
    """Ends this process with an exit status, without waiting for other processes, which may wait for this one."""
    if distributed.global_state.client is not None:
        time.sleep(1)  # Others that fail in the same way print their own line first.
    sys.stdout.flush()
    signals.end_at_once("", status)
