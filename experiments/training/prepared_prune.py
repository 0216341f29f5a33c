# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A prune whose smaller step is compiled during training.

A trial in a thread prunes a copy of the network and compiles the step for its widths. Some steps later, the network
itself is pruned to these widths: each site loses as many units as in the trial, chosen from those that are then dead.
The compiled step only depends on these numbers. If too few units are dead, the step is compiled when it is needed.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

import demp_jax

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Trial:
    """The result of a trial.

    Attributes:
      since, due: the step of the trial and the step of the prune.
      units: by site or branch, a mask of the units to remove; `None` if none is removed.
      record: the record of the trial if no unit is removed, else empty.
      least_gain: fraction of the FLOPs that the prune has to save.
    """

    since: int
    due: int
    units: dict[str, np.ndarray] | None
    record: dict[str, Any]
    least_gain: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Returns the trial for the checkpoint metadata."""
        units = None if self.units is None else {name: bits.astype(int).tolist() for name, bits in self.units.items()}
        return {**dataclasses.asdict(self), "units": units}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Trial:
        """Returns the trial from the output of `as_json`."""
        units = fields["units"]
        bits = None if units is None else {name: np.asarray(values, bool) for name, values in units.items()}
        return Trial(**{**fields, "units": bits})

    def fits(self, removed: Mapping[str, np.ndarray]) -> bool:
        """Returns whether a prune that removed `PruneResult.removed` left the widths of the trial."""
        return _counts(removed) == _counts(self.units or {})


def _counts(units: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: int(bits.sum()) for name, bits in units.items() if bits.any()}


class PreparedPrune:
    """A prune that is being prepared.

    Attributes:
      due: the step at which the network is pruned.
    """

    def __init__(self, trial: Future[Trial], due: int):
        """Use `start` or `resumed` instead."""
        self.due, self._trial = due, trial
        self._compiled: Future[Any] | None = None
        self._abandoned = threading.Event()

    @staticmethod
    def start(
        since: int,
        due: int,
        least_gain: float,
        prune: Callable[[], demp_jax.PruneResult],
        compiled: Callable[[demp_jax.PruneResult], Any],
        pool: ThreadPoolExecutor | None,
    ) -> PreparedPrune:
        """Starts to prepare a prune.

        Args:
          since, due, least_gain: see `Trial`.
          prune: prunes a copy of the network.
          compiled: compiles the smaller step.
          pool: thread that runs both; with `None`, the trial runs immediately and nothing is compiled.
        """
        prepared = PreparedPrune(Future(), due)

        def attempt() -> demp_jax.PruneResult:
            result = prune()
            units = None if result.plan is None else result.removed
            record = dataclasses.asdict(result.record) if units is None else {}
            prepared._trial.set_result(Trial(since, due, units, record, least_gain))
            return result

        def work() -> Any:
            try:
                result = attempt()
            except BaseException as error:
                prepared._trial.set_exception(error)
                return None
            return None if result.plan is None or prepared._abandoned.is_set() else compiled(result)

        if pool is None:
            attempt()
        else:
            prepared._compiled = pool.submit(work)
        return prepared

    @staticmethod
    def resumed(fields: Mapping[str, Any]) -> PreparedPrune:
        """Returns the prune of checkpoint metadata. Its step is compiled when it is needed."""
        trial: Future[Trial] = Future()
        trial.set_result(Trial.from_json(fields))
        return PreparedPrune(trial, trial.result().due)

    def trial(self) -> Trial:
        """Waits for the trial and returns its result, or raises its exception."""
        return self._trial.result()

    def compiled(self) -> Any:
        """Waits for the compiled step and returns it; `None` if there is none."""
        try:
            return None if self._compiled is None else self._compiled.result()
        except Exception as error:
            _LOG.warning("the smaller step could not be compiled ahead (%s); it is compiled when needed", error)
            return None

    @property
    def busy(self) -> bool:
        """Whether the thread is running, which slows the steps on a CPU."""
        return self._compiled is not None and not self._compiled.done()

    def abandon(self) -> None:
        """Skips the compilation if it has not started, at the end of the run."""
        self._abandoned.set()
