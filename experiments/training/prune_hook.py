# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The hook that prunes.

With `pruning.ahead=0`, dead units are pruned every `pruning.every` steps, and the step is then compiled for the smaller
network. With `pruning.ahead=N`, a prune is prepared at these steps and made N steps later; the smaller step is compiled
during training, see `prepared_prune`. With `pruning.cut_cost`, prunes are delayed until they pay off, see `cost_rule`.
"""

from __future__ import annotations

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

import demp_jax
from experiments.recipe.network import Network
from experiments.settings import schema
from experiments.training import compiled_step, cost_rule, pruning
from experiments.training.compiled_step import Stepper
from experiments.training.prepared_prune import PreparedPrune
from experiments.training.run import Run

_LOG = logging.getLogger(__name__)

# A longer wait for the smaller step, in seconds, is logged as a warning.
_LONG_WAIT = 10.0


class Prune:
    """Prunes the network and records its prunes."""

    part, doing = "cuts", "pruning"

    def __init__(self, run: Run, settle: Callable[[int], float], pool: ThreadPoolExecutor | None):
        """Initializes the hook.

        Args:
          run: the run.
          settle: waits for the steps before a given step and logs them; returns the seconds per step.
          pool: thread that prepares prunes; with `None`, trials run in the loop and nothing is compiled ahead.
        """
        self._run, self._settle, self._pool = run, settle, pool
        self._prepared: PreparedPrune | None = None
        # The record of the last prune. It is written after the next step, because it includes the time to compile it.
        self._open: dict[str, Any] | None = None
        # Seconds of compiling so far, at the end of the last prune.
        self._compiled = 0.0

    @property
    def preparing(self) -> bool:
        """Whether the thread is preparing a prune."""
        return self._prepared is not None and self._prepared.busy

    def due(self, step: int, *, stopping: bool = False) -> bool:
        """Returns whether the network may be pruned at a step."""
        return self._arrives(step) or pruning.possible(self._run.problem.method, step)

    def _arrives(self, step: int) -> bool:
        return self._prepared is not None and self._prepared.due == step

    def __call__(self, step: int) -> None:
        """Makes the prunes that are due, or starts to prepare them."""
        run = self._run
        method, settings, learner = run.problem.method, run.problem.settings, run.learner
        if self._arrives(step):
            self._arrive(step)
        for prune in pruning.due(method, step, learner.state.opt_state):
            # Some units can never be pruned, such as the last group of a GroupNorm.
            if not learner.graph.prunable:
                continue
            self._settle(step)
            last = step == settings.steps
            # Masking methods first prune units with all outgoing weights masked; such prunes are not prepared.
            alone = prune is pruning.dead and method.updater is None
            if not alone or last or not settings.pruning.ahead:
                least = 0.0 if last else self._least_gain(step)
                self._take(step, *prune(pruning.standing(run, step, least_gain=least)))
            elif self._prepared is None and step + settings.pruning.ahead < settings.steps:
                self._prepare(step)

    def _least_gain(self, step: int) -> float:
        """Returns the fraction of the FLOPs that a prune at a step has to save to pay off."""
        section, steering = self._run.problem.settings.pruning, self._run.steering
        remaining = self._run.problem.settings.steps - step - section.ahead
        period = cost_rule.period(section.every, section.ahead)
        least = cost_rule.least_gain(section.cut_cost, self._run.counters.waited, period, remaining)
        # With a step-time target, a few prunes are made earlier to measure how much time they save.
        return least if steering is None else min(least, steering.gain_to_time())

    def _prepare(self, step: int) -> None:
        run, problem = self._run, self._run.problem
        least = self._least_gain(step)
        # The next step donates the state.
        variables = jax.tree.map(jnp.copy, run.learner.variables)
        at = pruning.standing(run, step, least_gain=least)._replace(variables=variables, opt_state=None)
        state = run.learner.state._replace(variables=None, opt_state=None)
        batches = run.feed.last

        def compiled(result: demp_jax.PruneResult) -> Stepper:
            assert isinstance(result.fn, Network)
            stepper = Stepper(problem, result.fn, result.variables)
            if batches is not None:
                opt_state = jax.eval_shape(problem.method.tx.init, result.variables["params"])
                stepper.compile(compiled_step.abstract(state, result.variables, opt_state), batches)
            return stepper

        due = step + problem.settings.pruning.ahead
        self._prepared = PreparedPrune.start(step, due, least, lambda: pruning.dead(at)[0], compiled, self._pool)

    def _arrive(self, step: int) -> None:
        """Makes the prepared prune, of units that are dead at this step."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        seconds = self._settle(step)
        started = time.perf_counter()
        trial, stepper = prepared.trial(), prepared.compiled()
        waited = round(time.perf_counter() - started, 4)
        if waited > _LONG_WAIT:
            _LOG.warning(
                "step %d: training waited %.0f seconds for the smaller step to be compiled, as long as %d steps; %s",
                *(step, waited, round(waited / seconds), advice(waited / seconds, self._run.problem.settings.pruning)),
            )
        more = {"since": trial.since, "least_gain": trial.least_gain}
        if trial.units is None:
            self._note(step, {**trial.record, "why": "dead", **more})
            return
        result, why = pruning.dead(pruning.standing(self._run, step, at_most=trial.units))
        result.record.seconds["wait"] = waited
        self._take(step, result, {**why, **more}, stepper if trial.fits(result.removed) else None)

    def _take(
        self, step: int, result: demp_jax.PruneResult, more: dict[str, Any], prepared: Stepper | None = None
    ) -> None:
        """Continues training with the pruned network, and with the prepared step if there is one."""
        run = self._run
        run.problem.devices.agree(f"the prune of step {step}", result.record.removed)
        self._note(step, {**dataclasses.asdict(result.record), **more})
        if result.plan is not None:
            run.learner.shrink(result, prepared)
        self._compiled = run.compiling.seconds
        if step == run.problem.settings.steps:
            self.close()

    def _note(self, step: int, record: dict[str, Any]) -> None:
        """Counts a prune and opens its record."""
        self.close()
        counters, section = self._run.counters, self._run.problem.settings.pruning
        counters.cuts += bool(record["removed"])
        if record["refused"]:
            _LOG.warning("step %d: the prune was refused: %s", step, record["refused"])
        if record["waiting"]:
            period = cost_rule.period(section.every, section.ahead)
            counters.waited += cost_rule.time_per_flops() * record["saves"] * period
        elif record["removed"]:
            counters.waited = 0.0
            record["predicted_time"] = round(1 - cost_rule.time_per_flops() * record["saves"], 4)
        self._open = {"step": step, **record}
        self._compiled = self._run.compiling.seconds

    def close(self) -> None:
        """Writes the open record of the last prune, if any; call it after the next step has been compiled."""
        if self._open is not None:
            record, self._open = self._open, None
            record["seconds"]["recompile"] = round(self._run.compiling.seconds - self._compiled, 4)
            record["step_bytes"] = self._run.learner.stepper.bytes
            self._run.records.cut(record.pop("step"), record)

    def abandon(self) -> None:
        """Skips a compilation that has not started, at the end of the run."""
        if self._prepared is not None:
            self._prepared.abandon()

    def as_json(self) -> dict[str, Any]:
        """Returns the state for the checkpoint metadata; waits for a trial to finish."""
        trial = None
        if self._prepared is not None:
            try:
                trial = self._prepared.trial().as_json()
            except Exception as error:  # Raised again when the prune is due. The network itself can be saved.
                _LOG.warning("a prune could not be prepared: %s", error)
        return {"ahead": trial, "open_cut": copy.deepcopy(self._open)}

    def load(self, fields: Mapping[str, Any]) -> None:
        """Restores the state from `as_json`."""
        self._prepared = None if fields["ahead"] is None else PreparedPrune.resumed(fields["ahead"])
        self._open = copy.deepcopy(fields["open_cut"])


def advice(steps: float, section: schema.Pruning) -> str:
    """Returns advice on how to avoid a wait of so many steps for the smaller step."""
    enough = section.ahead + 100 * math.ceil(steps / 100)
    # Only one prune is prepared at a time.
    if enough <= section.every:
        return f"with --config.pruning.ahead={enough} it would not"
    return (
        f"prunes are due every {section.every} steps, which is shorter than that: prune less often by "
        "--config.pruning.every, or at the end alone by --config.pruning.dynamic=false"
    )
