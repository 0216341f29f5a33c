# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The training loop: trains a network and prunes it during training.

Before each update, the hooks that are due run in this order: measure dead units, steer, prune, evaluate, save. A
checkpoint therefore holds the network after the prune of its step, and a resumed run starts with the update.
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
# Returns the signal that was received, if any.
Stop = Callable[[], signal.Signals | None]


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
      summary: content of `summary.json`; for an interrupted run, the values so far.
      network: the network at its final widths.
      variables: variables of `network`.
      stopped_by: the signal that stopped the run early, or `None`.
    """

    summary: dict[str, Any]
    network: network_lib.Network
    variables: Any
    stopped_by: signal.Signals | None


def train_and_evaluate(config: ml_collections.ConfigDict, folder: str | Path) -> Result:
    """Trains a network; resumes from the newest checkpoint in the workdir, if there is one.

    Args:
      config: the config, see `configs/base.py`.
      folder: the workdir; created if missing.

    Returns:
      The result. If the run had already finished, its saved result.

    Raises:
      UsageError: for invalid input, before anything is compiled.
      NonFiniteLossError: if the loss or a parameter becomes infinite or NaN.
    """
    compile_clock.use_compile_cache(config.compile_cache)
    trackers.require_usable(config.tracker)
    mode = config.progress if jax.process_index() == 0 else "off"
    with progress.waiting("reading the dataset", mode):
        problem = pose(workdir.continued(Path(folder), config))
    with contextlib.ExitStack() as stack:
        refused: UsageError | None = None
        try:
            if problem.devices.first:  # Only the first process writes records.
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
    """Returns a run whose records and progress bar are closed by `stack`."""
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
    """Runs the remaining steps, then measures the step time and writes the summary."""
    problem = run.problem
    # Several devices or processes must run their computations in the same order, which a thread would not guarantee.
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
        if ratio is None:  # If stopped during the measurement, the resumed run repeats it.
            stopped_by = stopped_by or stop() or signal.SIGTERM
        if problem.devices.first:
            curves.curves(reader.read(run.workdir, run.workdir.name), run.workdir / "curves.png")
            if not stopped_by:
                run.records.summary(summary)
    return Result(summary, run.learner.network, run.learner.variables, stopped_by)


def _steps(run: Run, hooked: Sequence[hooks.Hook], prune: Prune, log: StepLog, stop: Stop) -> signal.Signals | None:
    """Runs the remaining steps; returns the signal that stopped the run, if any."""
    first, last = int(run.learner.state.step), run.problem.settings.steps
    continued = run.checkpoints.latest() is not None

    def together(step: int) -> int:
        """Returns how many steps to run in one call: those before anything else may be due, up to the maximum."""
        count, most = 1, _most_together(run, log.seconds)
        while count < most and not _interrupts(run, hooked, step + count):
            count += 1
        return count

    step = first
    run.tick("other")
    with contextlib.closing(run.feed.batches(first, last, together)) as feed:
        while True:
            stopped_by = _stopped(run, step, stop)
            # The hooks of this step already ran before its checkpoint was saved.
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
            # Steps that change the masks also need the gradients of masked weights (Evci et al., 2020, appendix H).
            run.counters.train_flops += (learner.graph.flops() - learner.flops) * batch
        learner.count()


def _most_together(run: Run, seconds: float) -> int:
    """Returns the maximum number of steps per call, given the seconds of one step."""
    most = run.problem.settings.steps_per_call
    if run.problem.devices.processes > 1:  # Processes measure different times, but must run the same number of steps.
        return most
    return max(1, min(most, int(_CALL_SECONDS / seconds)))


def _interrupts(run: Run, hooked: Sequence[hooks.Hook], step: int) -> bool:
    """Returns whether a hook, a log line or a mask update may be due at a step."""
    due = any(hook.due(step, stopping=False) for hook in hooked)
    return due or step % run.problem.settings.log_every == 0 or run.learner.remasks(step - 1)


def _stopped(run: Run, step: int, stop: Stop) -> signal.Signals | None:
    """Returns the signal that stops the run at this step; several processes only agree on it at logging steps."""
    if run.problem.devices.processes == 1:
        return stop()
    if step % run.problem.settings.log_every or not run.problem.devices.any(stop() is not None):
        return None
    return stop() or signal.SIGTERM


def _step_time_ratio(run: Run, stop: Stop) -> float | None:
    """Returns the step time of the final network relative to plain dense training; `None` if stopped by a signal."""
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
