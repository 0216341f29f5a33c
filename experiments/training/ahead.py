# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Cuts that pay, prepared while training goes on.

A cut costs time: the smaller step has to be compiled. Whether it pays is decided in steps, by FLOPs alone, so that the
same run always cuts at the same steps. A cut that pays is tried on a copy of the network and its step is compiled,
both in a thread of their own; some steps later as many units leave as were dead then, those first that were. To the
compiled step it is all the same which: others that died leave in the place of those that came back. Where too few are
dead it does not fit, and fewer are tried again.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

import demp_jax

_LOG = logging.getLogger(__name__)

# Of the part of the FLOPs that a cut saves, about so much is saved of a step's time: 0.4 to 1.0 on a CPU, 0.04 to 0.36
# on a GPU at multiples of 8 (benchmarks/README.md, suite `step`).
_TIME_PER_FLOPS, _TIME_PER_FLOPS_GPU = 0.7, 0.2
# After so many trials a cut is made all the same, and its step compiled when it is needed.
TRIALS = 3


def least_gain(cost: float, waited: float, every: int, remaining: int) -> float:
    """Returns which part of the FLOPs a cut has to save, in [0, 1), to be worth its cost.

    It pays when the rest of the run repays it, and when waiting for the next chance would make what waiting has cost
    as much as the cut itself: so the time lost by waiting is never more than that of the cuts, as for one who rents
    until the rent comes to the price.

    Args:
      cost: of a cut, in steps at present widths.
      waited: what dead units that waited have cost since the last cut, in such steps.
      every: steps until the next chance, see `period`.
      remaining: steps until the end of the run.
    """
    if cost <= 0:
        return 0.0
    time = max((cost - waited) / every, cost / max(remaining, 1))
    return min(max(time / time_per_flops(), 0.0), 1 - 1e-9)


def time_per_flops() -> float:
    """Returns about which part of a step's time a cut saves for all of its FLOPs."""
    return _TIME_PER_FLOPS_GPU if jax.default_backend() == "gpu" else _TIME_PER_FLOPS


def period(every: int, ahead: int) -> int:
    """Returns how many steps lie between chances to cut: `every`, or as many as pass while a cut is prepared."""
    return max(1, -(-ahead // every)) * every


@dataclasses.dataclass(frozen=True)
class Planned:
    """A cut to come, or one that waits.

    Attributes:
      since: the step at which it was tried.
      due: the step at which it is made.
      leave: by site or branch, which units were dead and are to leave; `None` for a cut that waits.
      record: what the trial says, of a cut that waits or was refused; empty else.
      trial: how many trials it took, this one included.
      least_gain: which part of the FLOPs it has to save; `None` where a checkpoint does not say.
      spent: seconds that trials before took the loop, at their end.
    """

    since: int
    due: int
    leave: dict[str, np.ndarray] | None
    record: dict[str, Any]
    trial: int = 1
    least_gain: float | None = None
    spent: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Returns it as it stands in a checkpoint."""
        leave = None if self.leave is None else {name: bits.astype(int).tolist() for name, bits in self.leave.items()}
        return {**dataclasses.asdict(self), "leave": leave}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Planned:
        """Returns what `as_json` gave."""
        leave = fields["leave"]
        bits = None if leave is None else {name: np.asarray(values, bool) for name, values in leave.items()}
        return Planned(**{**fields, "leave": bits})

    def fits(self, removed: Mapping[str, np.ndarray]) -> bool:
        """Returns whether as many units left of every site as were to leave, by `Cut.removed`."""
        return _counts(removed) == _counts(self.leave or {})

    def fewer(self, removed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what to try next: what can leave now, and half of it where that is less than was to leave.

        Args:
          removed: by site or branch, what can leave now of what was to leave.
        """
        wanted, found = _counts(self.leave or {}), {}
        for name, bits in removed.items():
            count = int(bits.sum())
            found[name] = bits & (np.cumsum(bits) <= (count if count == wanted.get(name) else count // 2))
        return found


def _counts(bits_of: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: int(bits.sum()) for name, bits in bits_of.items() if bits.any()}


class Ahead:
    """One cut that is being prepared.

    Attributes:
      due: the step at which it is made.
    """

    def __init__(self, due: int, planned: Future[Planned], prepared: Future[Any] | None):
        """Waits for nothing; see `start` and `resumed`."""
        self.due, self._planned, self._prepared = due, planned, prepared
        self._abandoned = threading.Event()

    @staticmethod
    def start(
        since: int,
        due: int,
        cut_copy: Callable[[], demp_jax.PruneResult],
        prepare: Callable[[demp_jax.PruneResult], Any] | None,
        pool: ThreadPoolExecutor | None,
        **more: Any,
    ) -> Ahead:
        """Starts to prepare a cut.

        Args:
          since, due: see `Planned`.
          cut_copy: cuts a copy of the network as it stands.
          prepare: makes what the cut network needs, such as its compiled step.
          pool: its thread does the work; with `None` the trial is done here and now, and nothing is prepared.
          more: further fields of `Planned`.
        """

        def plan() -> tuple[Planned, demp_jax.PruneResult]:
            cut = cut_copy()
            if cut.plan is None:
                return Planned(since, due, None, dataclasses.asdict(cut.record), **more), cut
            return Planned(since, due, cut.removed, {}, **more), cut

        planned: Future[Planned] = Future()
        if pool is None:
            planned.set_result(plan()[0])
            return Ahead(due, planned, None)

        coming = Ahead(due, planned, None)

        def work() -> Any:
            try:
                found, cut = plan()
            except BaseException as error:
                planned.set_exception(error)
                return None
            planned.set_result(found)
            wanted = prepare is not None and cut.plan is not None and not coming._abandoned.is_set()
            return prepare(cut) if wanted and prepare is not None else None

        coming._prepared = pool.submit(work)
        return coming

    @staticmethod
    def resumed(fields: Mapping[str, Any]) -> Ahead:
        """Returns the cut that a checkpoint says is to come."""
        planned: Future[Planned] = Future()
        planned.set_result(Planned.from_json(fields))
        return Ahead(planned.result().due, planned, None)

    def planned(self) -> Planned:
        """Returns what is to be cut; waits for the trial, and raises what it raised."""
        return self._planned.result()

    def prepared(self) -> Any:
        """Returns what was made for the cut network, or `None`, also where that failed; waits for it."""
        try:
            return None if self._prepared is None else self._prepared.result()
        except Exception as error:
            _LOG.warning("the smaller step could not be compiled ahead (%s); it is compiled when needed", error)
            return None

    @property
    def trying(self) -> bool:
        """Whether it is not known yet what is to be cut."""
        return not self._planned.done()

    @property
    def busy(self) -> bool:
        """Whether its thread is at work, beside which a CPU's steps take longer."""
        return self._prepared is not None and not self._prepared.done()

    def abandon(self) -> None:
        """Lets nothing be prepared any more that has not begun."""
        self._abandoned.set()
