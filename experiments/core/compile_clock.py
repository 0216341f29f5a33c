# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The persistent compilation cache, and a clock that measures compile time."""

from __future__ import annotations

import os
import threading

import jax
from jax import monitoring


def use_compile_cache(folder: str) -> None:
    """Enables JAX's persistent compilation cache in `folder`, so that resumed and repeated runs skip compilation."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))  # May be a gs:// URL.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class CompileClock:
    """Measures the time JAX spends tracing, lowering and compiling in the thread that entered the clock.

    Attributes:
      seconds: total so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._taken = 0.0
        self._thread = 0

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event.startswith("/jax/core/compile/") and threading.get_ident() == self._thread:
            self.seconds += duration_secs

    def take(self) -> float:
        """Returns the seconds since the last call."""
        taken, self._taken = self.seconds - self._taken, self.seconds
        return taken

    def __enter__(self) -> CompileClock:
        self._thread = threading.get_ident()
        monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        monitoring.unregister_event_duration_listener(self._listen)
