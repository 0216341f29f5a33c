# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Makes the cuts of a run, at once or prepared while training goes on, and keeps their records."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import demp_jax
from experiments.core.compile_clock import CompileClock
from experiments.recipe.network import Network
from experiments.recipe.problem import Lengths, Problem
from experiments.rundir.records import Records
from experiments.training import ahead as ahead_lib
from experiments.training import compiled_step as stepper_lib
from experiments.training import pruning
from experiments.training.batches import Batches, Feed
from experiments.training.compiled_step import Stepper
from experiments.training.learner import Learner
from experiments.training.steering import Steering
from experiments.training.totals import Counters

_LOG = logging.getLogger(__name__)

# Training waits for the smaller step no longer than this, in seconds, without a word.
_LONG_WAIT = 10.0


@dataclasses.dataclass(frozen=True)
class Loop:
    """What cutting asks of the training loop.

    Attributes:
      settle: waits for the updates before a step and writes their metrics; returns the seconds that an update takes.
      doing: says on the progress bar what takes long, while its context is open.
    """

    settle: Callable[[int], float]
    doing: Callable[[str], contextlib.AbstractContextManager[Any]]


def advice(steps: float, lengths: Lengths) -> str:
    """Returns what to do so that training does not wait as long as so many steps take for the next smaller step."""
    enough = lengths.ahead + 100 * math.ceil(steps / 100)
    # What is begun earlier than the prune before it would prepare none.
    if enough <= lengths.cut_every:
        return f"with --config.pruning.ahead={enough} it would not"
    return (
        f"prunes are due every {lengths.cut_every} steps, which is shorter than that: prune less often by "
        "--config.pruning.every, or at the end alone by --config.pruning.dynamic=false"
    )


class Cutting:
    """The cuts of one run.

    Attributes:
      coming: the cut that is being prepared; `None` for none.
      open: the record of the last cut, until the step after it has been compiled; `None` once it is written.
    """

    def __init__(
        self,
        problem: Problem,
        feed: Feed,
        records: Records,
        counters: Counters,
        compiling: CompileClock,
        pool: ThreadPoolExecutor | None,
        steering: Steering | None,
        loop: Loop,
        left: Mapping[str, Any],
    ):
        """Goes on with what a checkpoint left.

        Args:
          problem, feed: of the run.
          records: where cuts are written.
          counters: which count them.
          compiling: the clock of the loop's thread.
          pool: whose thread tries cuts and compiles steps; `None` where the loop has to do that itself.
          steering: towards a target, if there is one.
          loop: that trains.
          left: what stands in the checkpoint beside the arrays: `ahead`, by `Planned.as_json`, and `open_cut`; empty
            for a run that begins.
        """
        self.coming = None if left.get("ahead") is None else ahead_lib.Ahead.resumed(left["ahead"])
        self.open: dict[str, Any] | None = copy.deepcopy(left.get("open_cut"))
        self._problem, self._feed, self._records = problem, feed, records
        self._counters, self._compiling, self._pool, self._steering = counters, compiling, pool, steering
        self._loop = loop
        # When the last cut was done: what is compiled from then on is its step.
        self._ended = 0.0

    @property
    def preparing(self) -> bool:
        """Whether a cut is being prepared beside the steps, which then take longer."""
        return self.coming is not None and self.coming.busy

    def possible(self, step: int) -> bool:
        """Returns whether a step may have a cut."""
        return self._arrives(step) or pruning.possible(self._problem.method, step)

    def _arrives(self, step: int) -> bool:
        """Returns whether the cut that was prepared is to be made at a step."""
        return self.coming is not None and self.coming.due == step

    def standing(self, step: int, learner: Learner, **more: Any) -> pruning.Standing:
        """Returns where the run stands, for a cut or a forecast; `more` are its further fields."""
        opt_state = learner.state.opt_state
        return pruning.Standing(
            self._problem, self._feed, step, learner.network, learner.variables, learner.graph, opt_state, **more
        )

    def __call__(self, step: int, learner: Learner, batches: Batches | None, *, stopping: bool) -> None:
        """Cuts what is to be cut at a step, or begins to prepare it.

        Args:
          step: how many updates were made.
          learner: it becomes smaller.
          batches: the last ones, of the shapes of all; `None` before the first, when nothing is compiled ahead.
          stopping: whether the run is about to end early. Then nothing is prepared before it has saved: continued, it
            comes here again, as `last_cut` is of an earlier step.
        """
        method, last = self._problem.method, step == self._problem.lengths.run
        if self._arrives(step):
            with self._loop.doing("cutting"):
                self._carry_out(step, learner, batches)
        for cutter in pruning.due(method, step, learner.state.opt_state):
            # What is left, such as the last group of every GroupNorm, may have to stay.
            if not learner.graph.prunable:
                continue
            self._loop.settle(step)
            # One that masks first cuts what it left without weights.
            alone = cutter is pruning.dead and method.updater is None
            if not alone or last or not self._problem.lengths.ahead:
                with self._loop.doing("cutting"):
                    least = 0.0 if last else self._least_gain(step)
                    self._take(step, learner, *cutter(self.standing(step, learner, least_gain=least)))
            elif self.coming is None and (not stopping or self._counters.last_cut == step):
                self._prepare(step, learner, batches)

    def _least_gain(self, step: int) -> float:
        """Returns which part of the FLOPs a cut at a step has to save to pay."""
        lengths = self._problem.lengths
        remaining = lengths.run - step - lengths.ahead
        period = ahead_lib.period(lengths.cut_every, lengths.ahead)
        least = ahead_lib.least_gain(lengths.cut_cost, self._counters.waited, period, remaining)
        # How much time a cut saves is known once it is made.
        return least if self._steering is None else min(least, self._steering.gain_to_time())

    def _prepare(
        self,
        step: int,
        learner: Learner,
        batches: Batches | None,
        like: dict[str, np.ndarray] | None = None,
        **more: Any,
    ) -> None:
        """Begins to prepare a cut, unless the run ends before it could pay.

        `like` is as `demp_jax.prune` takes it; `more` are further fields of what is planned.
        """
        problem = self._problem
        due = step + problem.lengths.ahead
        if due >= problem.lengths.run:
            return
        # The next step reuses the memory of the state.
        variables = jax.tree.map(jnp.copy, learner.variables)
        more["least_gain"] = self._least_gain(step)
        at = self.standing(step, learner, least_gain=more["least_gain"], at_most=like)
        at = at._replace(variables=variables, opt_state=None)
        state = learner.state._replace(variables=None, opt_state=None)

        def prepare(cut: demp_jax.PruneResult) -> Stepper:
            assert isinstance(cut.fn, Network)
            stepper = Stepper(problem, cut.fn, cut.variables)
            if batches is not None:
                opt_state = jax.eval_shape(problem.method.tx.init, cut.variables["params"])
                stepper.compile(stepper_lib.abstract(state, cut.variables, opt_state), batches)
            return stepper

        self._counters.last_cut = step
        self.coming = ahead_lib.Ahead.start(step, due, lambda: pruning.dead(at)[0], prepare, self._pool, **more)

    def _carry_out(self, step: int, learner: Learner, batches: Batches | None) -> None:
        """Makes the cut that was prepared, of units that are dead now."""
        ahead, self.coming = self.coming, None
        assert ahead is not None
        seconds = self._loop.settle(step)
        started = time.perf_counter()
        planned, stepper = ahead.planned(), ahead.prepared()
        waited = round(time.perf_counter() - started, 4)
        if waited > _LONG_WAIT:
            _LOG.warning(
                "step %d: training waited %.0f seconds for the smaller step to be compiled, as long as %d steps; %s",
                *(step, waited, round(waited / seconds), advice(waited / seconds, self._problem.lengths)),
            )
        more = {"since": planned.since, "trials": planned.trial, "least_gain": planned.least_gain}
        if planned.leave is None:
            record = {**planned.record, "why": "dead", **more}
            if planned.spent:
                record["seconds"] = {**record["seconds"], "trials": planned.spent}
            self._note(step, learner, record)
            return
        result, why = pruning.dead(self.standing(step, learner, at_most=planned.leave))
        result.record.seconds["wait"] = waited
        if planned.spent:
            result.record.seconds["trials"] = planned.spent
        fits = planned.fits(result.removed)
        if not fits and result.plan is not None and planned.trial < ahead_lib.TRIALS:
            spent = round(sum(result.record.seconds.values()), 4)
            fewer = planned.fewer(result.removed)
            self._prepare(step, learner, batches, fewer, trial=planned.trial + 1, spent=spent)
            if self.coming is not None:
                return
        self._take(step, learner, result, {**why, **more}, stepper if fits else None)

    def _take(
        self,
        step: int,
        learner: Learner,
        result: demp_jax.PruneResult,
        more: dict[str, Any],
        prepared: Stepper | None = None,
    ) -> None:
        """Goes on with what a cut left, and with its step if that was prepared."""
        self._problem.devices.agree(f"the cut of step {step}", result.record.removed)
        self._note(step, learner, {**dataclasses.asdict(result.record), **more})
        if result.plan is not None:
            learner.shrink(result, prepared)
        self._ended = self._compiling.seconds
        if step == self._problem.lengths.run:
            self.close(learner)

    def _note(self, step: int, learner: Learner, record: dict[str, Any]) -> None:
        """Counts a cut, and begins its record."""
        self.close(learner)
        self._counters.last_cut = step
        self._counters.cuts += bool(record["removed"])
        if record["refused"]:
            _LOG.warning("step %d: the cut was refused: %s", step, record["refused"])
        if record["waiting"]:
            lengths = self._problem.lengths
            period = ahead_lib.period(lengths.cut_every, lengths.ahead)
            self._counters.waited += ahead_lib.time_per_flops() * record["saves"] * period
        elif record["removed"]:
            self._counters.waited = 0.0
        if record["removed"]:
            # What is thought of it, beside which the times of steps before and after can be laid.
            record["predicted_time"] = round(1 - ahead_lib.time_per_flops() * record["saves"], 4)
        self.open = {"step": step, **record}
        self._ended = self._compiling.seconds

    def close(self, learner: Learner) -> None:
        """Writes the record of the last cut, if it is open; to be called once the step after it has been compiled."""
        if self.open is not None:
            record, self.open = self.open, None
            record["seconds"]["recompile"] = round(self._compiling.seconds - self._ended, 4)
            record["step_bytes"] = learner.stepper.bytes
            self._records.cut(record.pop("step"), record)
