# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Hooks of the training loop; `training.prune_hook` has the one that prunes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

from experiments.rundir import checkpoints, workdir
from experiments.training import evaluation, pruning
from experiments.training.run import Run
from experiments.training.steering import Steering


class Hook(Protocol):
    """An action that runs at some steps, before their update.

    Attributes:
      part: the part of the run that its time is counted for, see `totals.PARTS`.
      doing: text for the progress bar.
    """

    part: str
    doing: str

    def due(self, step: int, *, stopping: bool) -> bool:
        """Returns whether the hook runs at a step; `stopping` tells whether a signal stops the run there."""

    def __call__(self, step: int) -> None:
        """Runs the hook."""


class Watch:
    """Records which units are dead: their number by site, and a packed bit per unit, in hexadecimal."""

    part, doing = "evaluation", "measuring dead units"

    def __init__(self, run: Run, flush: Callable[[int], None]):
        """Initializes the hook; `flush` waits for the steps before a given step and logs them."""
        self._run, self._flush = run, flush

    def due(self, step: int, *, stopping: bool) -> bool:
        """Returns whether dead units are measured at a step."""
        settings = self._run.problem.settings
        every = settings.watch.every
        return every > 0 and (step % every == 0 or step == settings.steps)

    def __call__(self, step: int) -> None:
        """Measures dead units."""
        self._flush(step)
        run, problem = self._run, self._run.problem
        network = (run.learner.graph, run.learner.network, run.learner.variables)
        line = {"width": run.learner.graph.widths, **evaluation.dead(problem, *network, run.feed.death_set(step))}
        if problem.settings.watch.whole:
            line["whole"] = evaluation.dead(problem, *network, run.feed.whole_training_set())
        run.records.dead(step, line)


class Steer:
    """Adjusts the strength of the regularizer to the size that a prune would leave."""

    part, doing = "evaluation", "measuring what a prune would leave"

    def __init__(self, run: Run, flush: Callable[[int], None], steering: Steering):
        """Initializes the hook; `flush` waits for the steps before a given step and logs them."""
        self._run, self._flush, self._steering = run, flush, steering

    def due(self, step: int, *, stopping: bool) -> bool:
        """Returns whether the strength is adjusted at a step."""
        return self._steering.goal.due(step)

    def __call__(self, step: int) -> None:
        """Adjusts the strength."""
        self._flush(step)
        run, steering = self._run, self._steering
        left = steering.look(step, pruning.forecast(pruning.standing(run, step)))
        opt_state = run.problem.method.steered(run.learner.state.opt_state, steering.factor)
        run.learner.state = run.learner.state._replace(opt_state=opt_state)
        run.records.metrics(step, {"target_left": left, "strength_factor": steering.factor})


class Evaluate:
    """Measures accuracy and loss on the whole test set."""

    part, doing = "evaluation", "evaluating"

    def __init__(self, run: Run, flush: Callable[[int], None]):
        """Initializes the hook; `flush` waits for the steps before a given step and logs them."""
        self._run, self._flush = run, flush

    def due(self, step: int, *, stopping: bool) -> bool:
        """Returns whether to evaluate at a step."""
        settings = self._run.problem.settings
        return step == settings.steps or (step > 0 and step % settings.eval_every == 0)

    def __call__(self, step: int) -> None:
        """Evaluates the network.

        Raises:
          NonFiniteLossError: if the loss is infinite or NaN.
        """
        self._flush(step)
        run = self._run
        line = evaluation.on_test_set(run.problem, run.feed, run.learner.network, run.learner.variables)
        run.counters.test_accuracy = line["test_accuracy"]
        if not math.isfinite(line["test_loss"]):
            raise run.non_finite(step, f"the loss became {line['test_loss']}")
        run.records.metrics(step, {**line, **run.state(step)})
        run.progress.update(step, None, run.learner.graph.neurons, run.counters.test_accuracy)


class Save:
    """Saves a checkpoint. Must be the last hook, as a resumed run starts with the update of the step."""

    part, doing = "checkpoints", "saving"

    def __init__(self, run: Run, flush: Callable[[int], None], more: Callable[[], dict[str, Any]]):
        """Initializes the hook.

        Args:
          run: the run.
          flush: waits for the steps before a given step and logs them.
          more: returns further checkpoint metadata; may wait for the trial of a prune.
        """
        self._run, self._flush, self._more = run, flush, more

    def due(self, step: int, *, stopping: bool) -> bool:
        """Returns whether a checkpoint is saved at a step."""
        settings = self._run.problem.settings
        return step == settings.steps or stopping or (step > 0 and step % settings.checkpoint_every == 0)

    def __call__(self, step: int) -> None:
        """Saves a checkpoint.

        Raises:
          NonFiniteLossError: if a parameter is infinite or NaN; nothing is saved.
        """
        self._flush(step)
        run, problem = self._run, self._run.problem
        # The loss is computed before the update, so it does not show whether the last update was finite.
        if not checkpoints.all_finite(run.learner.variables["params"]):
            raise run.non_finite(step, "parameters became infinite or NaN")
        meta = {
            "config": workdir.as_json(problem.config),
            "dataset": problem.dataset.fingerprint(),
            "input_shape": list(problem.input_shape),
            "classes": problem.dataset.classes,
            "steering": None if run.steering is None else run.steering.as_json(),
            **self._more(),
        }
        run.tick(self.part)
        meta["counters"] = dataclasses.asdict(run.counters)
        run.checkpoints.save(step, run.learner.state._asdict(), meta)
