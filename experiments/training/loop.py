# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The training program: a network is trained, and pruned meanwhile.

Before each update the hooks of the run are asked in order: measure dead units, steer, prune, evaluate, save. A
checkpoint is therefore of the network after the prune of its step, and a run that continues from it begins with the
update.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from experiments.core import compile_clock, progress, signals
from experiments.core.errors import UsageError
from experiments.recipe import network as network_lib
from experiments.recipe.problem import Problem, pose
from experiments.reporting import curves
from experiments.rundir import checkpoints as checkpoints_lib
from experiments.rundir import reader, trackers, workdir
from experiments.rundir import records as records_lib
from experiments.training import compiled_step, hooks
from experiments.training import summary as summary_lib
from experiments.training.batches import Batches, Feed
from experiments.training.learner import Learner
from experiments.training.prune_hook import Prune
from experiments.training.run import Run
from experiments.training.steering import Steering
from experiments.training.step import TrainState
from experiments.training.step_log import StepLog
from experiments.training.totals import Counters, Stopwatch

_LOG = logging.getLogger(__name__)

# Upper bound on the seconds of one compiled call, so that signals are handled promptly.
_CALL_SECONDS = 2.0
# From a moment in a run: the signal that it got, if any.
Stop = Callable[[], signal.Signals | None]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      summary: as in `summary.json`; of an interrupted run, what is known so far.
      network: the network at its final widths.
      variables: its variables.
      stopped_by: the signal that stopped the run before its end, or `None`.
    """

    summary: dict[str, Any]
    network: network_lib.Network
    variables: Any
    stopped_by: signal.Signals | None


def train_and_evaluate(config: ml_collections.ConfigDict, folder: str | Path) -> Result:
    """Trains a network by a config; continues from the newest checkpoint in the folder, if there is one.

    Args:
      config: as `configs/base.py` describes.
      folder: the workdir, for everything the run leaves; made if missing.

    Returns:
      The result. Of a run that had ended already, what it left.

    Raises:
      UsageError: for bad input, before anything is compiled.
      NonFiniteLossError: when the loss becomes infinite or NaN.
    """
    compile_clock.use_compile_cache(config.compile_cache)
    trackers.require_usable(config.tracker)
    mode = config.progress if jax.process_index() == 0 else "off"
    with progress.waiting("reading the dataset", mode):
        problem = pose(workdir.continued(Path(folder), config))
    with contextlib.ExitStack() as stack:
        refused: UsageError | None = None
        try:
            if problem.devices.first:  # One process keeps the records of all.
                stack.enter_context(workdir.claim(Path(folder), problem.config))
        except UsageError as error:
            refused = error
        if problem.devices.any(refused is not None):
            raise refused or UsageError(f"--workdir={folder} was refused by the first process, which says why.")
        settings = problem.settings
        checkpoints = checkpoints_lib.Checkpoints(
            Path(folder) / "checkpoints",
            settings.checkpoints_kept,
            problem.devices.replicated,
            trusts=settings.resume == "anyway",
        )
        stack.callback(checkpoints.close)
        compiling = stack.enter_context(compile_clock.CompileClock())
        with progress.waiting("making the network", mode):
            step = checkpoints.latest()
            meta = {} if step is None else checkpoints.meta(step)
            learner = _initial(problem) if step is None else _restored(problem, checkpoints, step, meta)
        done = Path(folder) / "summary.json"
        if step == settings.steps and done.exists():
            _LOG.info("%s holds the finished run; nothing to do", folder)
            return Result(json.loads(done.read_text()), learner.network, learner.variables, None)
        run = _opened(problem, Path(folder), checkpoints, learner, meta, compiling, mode, stack)
        return _train(run, meta)


def _initial(problem: Problem) -> Learner:
    network, variables = problem.initial()
    method = problem.method
    opt_state = method.steered(jax.jit(method.tx.init)(variables["params"]))
    if method.updater is not None:
        params = jax.jit(method.updater.post_gradient_update)(variables["params"], opt_state)
        variables = {**variables, "params": params}
        _LOG.info(
            "%s masks weights, which makes nothing smaller or faster; weight sparsity counts masked weights, and FLOPs "
            "are those of hardware that could skip them",
            method.name,
        )
    key = jax.random.key(problem.settings.seed + 1)
    state = TrainState(jnp.zeros([], jnp.int32), variables, opt_state, key)
    return Learner(problem, network, problem.devices.everywhere(state))


def _restored(problem: Problem, checkpoints: checkpoints_lib.Checkpoints, step: int, meta: dict[str, Any]) -> Learner:
    if problem.settings.resume == "strict":
        where = checkpoints.where(step)
        workdir.require_same_run(where, meta, problem.config, problem.dataset.fingerprint())
    network, variables = problem.abstract()
    variables = checkpoints_lib.shaped_like(variables, meta["shapes"], "variables/")
    opt_state = jax.eval_shape(problem.method.tx.init, variables["params"])
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = {"step": jax.ShapeDtypeStruct((), jnp.int32), "variables": variables, "opt_state": opt_state, "key": key}
    state = TrainState(**checkpoints.restore(step, abstract))
    _LOG.info("continuing from step %d", step)
    return Learner(problem, network.resized(state.variables), state)


def _opened(
    problem: Problem,
    folder: Path,
    checkpoints: checkpoints_lib.Checkpoints,
    learner: Learner,
    meta: dict[str, Any],
    compiling: compile_clock.CompileClock,
    mode: str,
    stack: contextlib.ExitStack,
) -> Run:
    """Returns a run whose records and progress bar are open until the stack ends."""
    settings, first = problem.settings, int(learner.state.step)
    records: records_lib.Records = records_lib.NoRecords()
    if problem.devices.first:
        tracker = trackers.Tracker(settings.tracker, folder, workdir.as_json(problem.config))
        records = records_lib.Records(folder, first, tracker, meta.get("open_cut"))
    stack.enter_context(contextlib.closing(records))
    steering = None
    if problem.goal is not None:
        guesses = settings.method.strength == 0
        steering = Steering(problem.goal, problem.dense, problem.dense_parameters, guesses=guesses)
        if meta:
            steering.load(meta["steering"])
    return Run(
        problem=problem,
        workdir=folder,
        checkpoints=checkpoints,
        records=records,
        learner=learner,
        feed=Feed(problem),
        progress=stack.enter_context(progress.Progress(settings.steps, first, problem.dense.neurons, mode)),
        counters=Counters(**meta["counters"]) if meta else Counters(),
        compiling=compiling,
        stopwatch=Stopwatch(compiling),
        steering=steering,
    )


def _train(run: Run, meta: dict[str, Any]) -> Result:
    """Runs the steps that are left, and what follows the last."""
    problem = run.problem
    # Where several devices or processes work together, what they compute has to be in one order.
    alone = problem.devices.count == 1 and problem.devices.processes == 1
    pool = ThreadPoolExecutor(1, "prune") if alone and problem.settings.pruning.ahead else None

    def settle(step: int) -> float:
        log.flush(step)
        return log.seconds

    prune = Prune(run, settle, pool)
    if meta:
        prune.load(meta)
    log = StepLog(run, lambda: prune.preparing)
    hooked: list[hooks.Hook] = [hooks.Watch(run, log.flush)]
    hooked += [] if run.steering is None else [hooks.Steer(run, log.flush, run.steering)]
    hooked += [prune, hooks.Evaluate(run, log.flush), hooks.Save(run, log.flush, prune.as_json)]
    with signals.stop_on_signal() as stop, pool or contextlib.nullcontext():
        try:
            stopped_by = _steps(run, hooked, prune, log, stop)
        finally:
            prune.abandon()
        run.tick("other")
        ratio = None if stopped_by else _step_time_ratio(run, stop)
        summary = _summary(run, ratio)
        if ratio is None:  # Also when stopped while it was measured: it is when continued.
            stopped_by = stopped_by or stop() or signal.SIGTERM
        if problem.devices.first:
            curves.curves(reader.read(run.workdir, run.workdir.name), run.workdir / "curves.png")
            if not stopped_by:
                run.records.summary(summary)
    return Result(summary, run.learner.network, run.learner.variables, stopped_by)


def _steps(run: Run, hooked: Sequence[hooks.Hook], prune: Prune, log: StepLog, stop: Stop) -> signal.Signals | None:
    """Runs the steps that are left; returns the signal that stopped it, if any."""
    first, last = int(run.learner.state.step), run.problem.settings.steps
    continued = run.checkpoints.latest() is not None

    def together(step: int) -> int:
        """Returns how many steps to run in one call: as many as there are until something else may be due."""
        count, most = 1, _most_together(run, log.seconds)
        while count < most and not _interrupts(run, hooked, step + count):
            count += 1
        return count

    step = first
    run.tick("other")
    with contextlib.closing(run.feed.batches(first, last, together)) as feed:
        while True:
            stopped_by = _stopped(run, step, stop)
            # What the step of a checkpoint had to do was done before it was saved.
            for hook in () if step == first and continued else hooked:
                if hook.due(step, stopping=stopped_by is not None):
                    with run.spending(hook.part, hook.doing):
                        hook(step)
            if step == last or stopped_by:
                return None if step == last else stopped_by
            log.before()
            batches = next(feed)
            run.tick("data")
            _update(run, prune, log, step, batches)
            step += batches.steps
            run.tick("steps")


def _update(run: Run, prune: Prune, log: StepLog, step: int, batches: Batches) -> None:
    """Runs the steps of `batches`."""
    learner, batch = run.learner, run.problem.settings.batch_size
    compiled = learner.stepper.compiled
    with contextlib.nullcontext() if compiled else run.progress.doing("compiling the step"):
        metrics = learner.take(batches)
    prune.close()
    run.counters.train_flops += 3.0 * learner.flops * batch * batches.steps
    log.took(step, batches.steps, metrics)
    if learner.remasks(step + batches.steps - 1):
        if getattr(run.problem.method.updater, "dense_gradients", False):
            # Masked weights need their gradients this once (Evci et al., 2020, appendix H).
            run.counters.train_flops += (learner.graph.flops() - learner.flops) * batch
        learner.count()


def _most_together(run: Run, seconds: float) -> int:
    """Returns how many steps a call runs at most, given the seconds of one."""
    most = run.problem.settings.steps_per_call
    if run.problem.devices.processes > 1:  # Each has a clock of its own, and all have to do alike.
        return most
    return max(1, min(most, int(_CALL_SECONDS / seconds)))


def _interrupts(run: Run, hooked: Sequence[hooks.Hook], step: int) -> bool:
    """Returns whether anything but the next update may be due at a step."""
    due = any(hook.due(step, stopping=False) for hook in hooked)
    return due or step % run.problem.settings.log_every == 0 or run.learner.remasks(step - 1)


def _stopped(run: Run, step: int, stop: Stop) -> signal.Signals | None:
    """Returns the signal that stops the run at this step; several processes agree on it when they log."""
    if run.problem.devices.processes == 1:
        return stop()
    if step % run.problem.settings.log_every or not run.problem.devices.any(stop() is not None):
        return None
    return stop() or signal.SIGTERM


def _step_time_ratio(run: Run, stop: Stop) -> float | None:
    """Returns time per step of the run's end over that of plain dense training; `None` if the run is stopped."""
    if run.problem.method.name == "dense":
        return 1.0
    with contextlib.closing(run.feed.batches(0, 1)) as feed:
        batches = next(feed)
    learner = run.learner
    with run.progress.doing("timing the step"):
        return compiled_step.time_ratio(
            run.problem, learner.stepper, learner.state, batches, lambda: stop() is not None
        )


def _summary(run: Run, step_time_ratio: float | None) -> dict[str, Any]:
    learner, steering = run.learner, run.steering
    learner.count()
    target = None if steering is None else steering.summary(learner.parameters, learner.graph, step_time_ratio)
    return summary_lib.of_run(
        run.problem,
        run.counters,
        learner.graph,
        steps=int(learner.state.step),
        parameters=learner.parameters,
        flops=learner.flops,
        step_time_ratio=step_time_ratio,
        target=target,
    )
