# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The training program: a network trains, and gets smaller while it does."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from baselines import sparsity
from experiments.core import compile_clock, progress, signals
from experiments.core.errors import NonFiniteLossError, UsageError
from experiments.recipe import network as network_lib
from experiments.recipe.problem import Problem, pose
from experiments.reporting import curves
from experiments.rundir import checkpoints as checkpoints_lib
from experiments.rundir import reader, records, trackers, workdir
from experiments.training import ahead as ahead_lib
from experiments.training import compiled_step as stepper_lib
from experiments.training import evaluation
from experiments.training import pruning as cuts_lib
from experiments.training import summary as summary_lib
from experiments.training.batches import Batches, Feed
from experiments.training.learner import Learner
from experiments.training.steering import Steering
from experiments.training.step import StepMetrics, TrainState
from experiments.training.totals import Counters, Stopwatch
from experiments.training.when import Cutting, Loop

_LOG = logging.getLogger(__name__)

# Steps that are taken together take no longer, so that a signal need not wait.
_CALL_SECONDS = 2.0


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
    """Trains a network by a config; continues where the folder's newest checkpoint stands.

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
    with contextlib.ExitStack() as claimed:
        refused: UsageError | None = None
        try:
            if problem.devices.first:  # One process keeps the records of all.
                claimed.enter_context(workdir.claim(Path(folder), problem.config))
        except UsageError as error:
            refused = error
        if problem.devices.any(refused is not None):
            raise refused or UsageError(f"--workdir={folder} was refused by the first process, which says why.")
        place = problem.devices.replicated
        trusts = config.resume == "anyway"
        checkpoints = checkpoints_lib.Checkpoints(
            Path(folder) / "checkpoints", config.checkpoints_kept, place, trusts=trusts
        )
        try:
            with compile_clock.CompileClock() as compiling:
                with progress.waiting("making the network", mode):
                    run = _Run(problem, Path(folder), checkpoints, compiling)
                return run.go(mode)
        finally:
            checkpoints.close()


class _Run:
    """One run: where it stands, and the loop."""

    def __init__(
        self,
        problem: Problem,
        folder: Path,
        checkpoints: checkpoints_lib.Checkpoints,
        compiling: compile_clock.CompileClock,
    ):
        self.problem = problem
        self.config = problem.config
        self.method = problem.method
        self.devices = problem.devices
        self.folder = folder
        self.checkpoints = checkpoints
        self.compiling = compiling
        self.counters = Counters()
        # From which step on how many were taken together, and their metrics.
        self.pending: list[tuple[int, int, StepMetrics]] = []
        # The last ones, of the shapes of all.
        self.batches: Batches | None = None
        # Of a step, as last timed.
        self.seconds = math.inf
        self.stopwatch = Stopwatch(compiling)
        # Whether steps were dispatched before any had been timed: one per call, which takes longer than those to come.
        self.singly = self.config.steps_per_call > 1
        # Whether a cut was being prepared when the timing of steps began.
        self.beside = False
        # Where it was continued: what belongs to that step is on record already.
        self.continued = checkpoints.latest()
        # What that checkpoint says beside the arrays.
        self.meta: dict[str, Any] = {} if self.continued is None else checkpoints.meta(self.continued)
        # A checkpoint that waits for what a trial finds: its step, arrays, what belongs to them, and the trial.
        self.unsaved: tuple[int, dict[str, Any], dict[str, Any], ahead_lib.Ahead] | None = None
        self.steering: Steering | None = None
        if problem.goal is not None:
            self.steering = Steering(
                problem.goal, problem.dense, problem.dense_parameters, guesses=self.config.method.strength == 0
            )
        # Tries cuts and compiles steps while training goes on; where several devices or processes work together, what
        # they compute has to be in one order.
        alone = self.devices.count == 1 and self.devices.processes == 1
        self.pool = ThreadPoolExecutor(1, "cut") if alone else None
        network, state = self._initial() if self.continued is None else self._restored(self.continued)
        self.learner = Learner(problem, network, state)

    def _initial(self) -> tuple[network_lib.Network, TrainState]:
        network, variables = self.problem.initial()
        opt_state = self.method.steered(jax.jit(self.method.tx.init)(variables["params"]))
        if self.method.updater is not None:
            params = jax.jit(self.method.updater.post_gradient_update)(variables["params"], opt_state)
            variables = {**variables, "params": params}
            _LOG.info(
                "%s holds weights at zero, which makes nothing smaller or faster; weight sparsity counts what is "
                "held at zero, and FLOPs are those of hardware that could leave it out",
                self.method.name,
            )
        key = jax.random.key(self.config.seed + 1)
        return network, self.devices.everywhere(TrainState(jnp.zeros([], jnp.int32), variables, opt_state, key))

    def _restored(self, step: int) -> tuple[network_lib.Network, TrainState]:
        meta = self.meta
        if self.config.resume == "strict":
            where = str(self.folder / "checkpoints" / str(step))
            workdir.require_same_run(where, meta, self.config, self.problem.dataset.fingerprint())
        network, variables = self.problem.abstract()
        variables = checkpoints_lib.shaped_like(variables, meta["shapes"], "variables/")
        opt_state = jax.eval_shape(self.method.tx.init, variables["params"])
        key = jax.eval_shape(lambda: jax.random.key(0))
        abstract = {"step": jax.ShapeDtypeStruct((), jnp.int32), "variables": variables}
        state = TrainState(**self.checkpoints.restore(step, {**abstract, "opt_state": opt_state, "key": key}))
        self.counters = Counters(**meta["counters"])
        if self.steering is not None:
            self.steering.load(meta["steering"])
        _LOG.info("continuing from step %d", step)
        return network.resized(state.variables), state

    def _remasked(self, step: int) -> bool:
        """Returns whether the masks may have changed at a step."""
        if self.method.updater is None:
            return False
        schedule = getattr(self.method.updater, "schedule", None)
        if isinstance(schedule, sparsity.Schedule):
            return bool(schedule.changes(step))
        # Of an updater of another library the schedule is not known.
        return (step + 1) % self.problem.lengths.log == 0

    def go(self, mode: str) -> Result:
        """Runs to the end, or until a signal; `mode` is that of the progress bar."""
        summary_path = self.folder / "summary.json"
        first, last = int(self.learner.state.step), self.problem.lengths.run
        if first == last and summary_path.exists():
            _LOG.info("%s holds the finished run; nothing to do", self.folder)
            return Result(json.loads(summary_path.read_text()), self.learner.network, self.learner.variables, None)
        self.feed = Feed(self.problem)
        self.records = self._opened_records(first) if self.devices.first else records.NoRecords()
        self.progress = progress.Progress(last, first, self.problem.dense.neurons, mode)
        self.cutting = Cutting(
            self.problem,
            self.feed,
            self.records,
            self.counters,
            self.compiling,
            self.pool,
            self.steering,
            loop=Loop(settle=self._settled, doing=self.progress.doing),
            left=self.meta,
        )
        self._start_timing()
        closing = contextlib.closing(self.records)
        with signals.stop_on_signal() as stop, self.pool or contextlib.nullcontext(), closing, self.progress:
            try:
                with contextlib.closing(self.feed.batches(first, last, self._together)) as feed:
                    stopped_by = self._loop(first, last, feed, stop)
            finally:
                self._save_waiting()
                if self.cutting.coming is not None:
                    self.cutting.coming.abandon()
            self._tick("other")
            summary = self._summary(None if stopped_by else self._step_time_ratio(stop))
            if summary["step_time_ratio"] is None:  # Also when stopped while it was measured: it is when continued.
                stopped_by = stopped_by or stop() or signal.SIGTERM
            if self.devices.first:
                curves.curves(reader.read(self.folder, self.folder.name), self.folder / "curves.png")
                if not stopped_by:
                    self.records.summary(summary)
        return Result(summary, self.learner.network, self.learner.variables, stopped_by)

    def _opened_records(self, first: int) -> records.Records:
        tracker = trackers.Tracker(self.config.tracker, self.folder, workdir.as_json(self.config))
        return records.Records(self.folder, first, tracker, self.meta.get("open_cut"))

    def _loop(
        self,
        first: int,
        last: int,
        feed: Iterator[Batches],
        stop: Callable[[], signal.Signals | None],
    ) -> signal.Signals | None:
        """Takes the steps from `first` to `last`; returns the signal that stopped it, if any.

        At each step: look who is dead, steer, cut, evaluate, save, then update. So a checkpoint holds the network after
        a cut of its step, and a run that continues from it does not cut again; one that was stopped begins there to
        prepare what it had not.
        """
        lengths, batch = self.problem.lengths, self.config.batch_size
        self._tick("other")
        step = first
        while True:
            stopped_by = self._stopped(step, stop)
            if lengths.watch and step != self.continued and (step % lengths.watch == 0 or step == last):
                with self._spending("evaluation", "looking at who is dead"):
                    self._watch(step)
            if self.steering is not None and step != self.continued and self.steering.goal.due(step):
                with self._spending("evaluation", "looking at what a cut would leave"):
                    self._steer(step, self.steering)
            if self.counters.last_cut != step:
                self.cutting(step, self.learner, self.batches, stopping=stopped_by is not None)
                self._tick("cuts")
            if step != self.continued and (step == last or (step > 0 and step % lengths.evaluate == 0)):
                with self._spending("evaluation", "evaluating"):
                    self._evaluate(step)
                self.progress.update(step, None, self.learner.graph.neurons, self.counters.test_accuracy)
            if self.unsaved is not None and not self.unsaved[-1].trying:
                with self._spending("checkpoints", "saving"):
                    self._save_waiting()
            if step != self.continued and (step == last or stopped_by or (step > 0 and step % lengths.checkpoint == 0)):
                with self._spending("checkpoints", "saving"):
                    self._save(step, at_once=step == last or stopped_by is not None)
            if step == last or stopped_by:
                return None if step == last else stopped_by
            if not self.pending:
                self._start_timing()
            self.batches = next(feed)
            self._tick("data")
            compiled = self.learner.stepper.compiled
            with contextlib.nullcontext() if compiled else self.progress.doing("compiling the step"):
                metrics = self.learner.take(self.batches)
            self.cutting.close(self.learner)
            self.pending.append((step, self.batches.steps, metrics))
            self.counters.train_flops += 3.0 * self.learner.flops * batch * self.batches.steps
            if len(self.pending) > 1 and step % lengths.log == 0:
                # Of the steps before, while those that have just been dispatched keep the device busy.
                self._flush(step, newest=False)
            step += self.batches.steps
            if self._remasked(step - 1):
                if getattr(self.method.updater, "dense_gradients", False):
                    # Weights that are zero need their gradients this once (Evci et al., 2020, appendix H).
                    self.counters.train_flops += (self.learner.graph.flops() - self.learner.flops) * batch
                self.learner.count()
            self._tick("steps")

    def _together(self, step: int) -> int:
        """Returns how many steps to take in one call: as many as there are until something else is due."""
        count, most = 1, self._most_together()
        while count < most and not self._due(step + count):
            count += 1
        return count

    def _most_together(self) -> int:
        """Returns how many steps a call takes at most."""
        most = self.config.steps_per_call
        if self.devices.processes > 1:  # Each has a clock of its own, and all are to do alike.
            return most
        return max(1, min(most, int(_CALL_SECONDS / self.seconds)))

    def _due(self, step: int) -> bool:
        """Returns whether anything but the next update may be due at a step."""
        lengths, goal = self.problem.lengths, self.problem.goal
        every = (lengths.log, lengths.evaluate, lengths.checkpoint, lengths.watch)
        return (
            step == lengths.run
            or any(length and step % length == 0 for length in every)
            or (goal is not None and goal.due(step))
            or self.cutting.possible(step)
            or self._remasked(step - 1)
        )

    def _stopped(self, step: int, stop: Callable[[], signal.Signals | None]) -> signal.Signals | None:
        """Returns the signal that stops the run at this step; several processes agree on it when they log."""
        if self.devices.processes == 1:
            return stop()
        if step % self.problem.lengths.log or not self.devices.any(stop() is not None):
            return None
        return stop() or signal.SIGTERM

    # Measuring, before an update.

    def _settled(self, step: int) -> float:
        """Waits for the steps taken; returns the seconds of one."""
        self._flush(step)
        return self.seconds

    def _evaluate(self, step: int) -> None:
        """Measures accuracy and loss on every test example, once."""
        self._flush(step)
        line = evaluation.on_test_set(self.problem, self.feed, self.learner.network, self.learner.variables)
        self.counters.test_accuracy = line["test_accuracy"]
        if not math.isfinite(line["test_loss"]):
            raise NonFiniteLossError(self._non_finite(step, f"the loss became {line['test_loss']}"))
        self.records.metrics(step, {**line, **self._progress(step)})

    def _watch(self, step: int) -> None:
        """Writes who is dead: their number by site, and each unit as a bit, packed, in hexadecimal."""
        self._flush(step)
        network = (self.learner.graph, self.learner.network, self.learner.variables)
        line = {
            "width": self.learner.graph.widths,
            **evaluation.dead(self.problem, *network, self.feed.death_set(step)),
        }
        if self.config.watch.whole:
            line["whole"] = evaluation.dead(self.problem, *network, self.feed.whole_training_set())
        self.records.dead(step, line)

    def _steer(self, step: int, steering: Steering) -> None:
        """Sets the strength of the regularizer by what a cut would leave."""
        self._flush(step)
        left = steering.look(step, cuts_lib.forecast(self.cutting.standing(step, self.learner)))
        opt_state = self.method.steered(self.learner.state.opt_state, steering.factor)
        self.learner.state = self.learner.state._replace(opt_state=opt_state)
        self.records.metrics(step, {"target_left": left, "strength_factor": steering.factor})

    def _flush(self, step: int, *, newest: bool = True) -> None:
        """Waits for the steps taken before a step, checks their losses, and writes a line of metrics.

        Args:
          step: where they ended.
          newest: whether the last call is one of them; otherwise it is left for the next line, and training goes on.
        """
        if not self.pending:
            return
        self.pending, waiting = ([], self.pending) if newest else (self.pending[-1:], self.pending[:-1])
        pending = jax.device_get(waiting)
        now = (time.perf_counter(), self.compiling.seconds)
        self._tick("steps")
        for first, count, metrics in pending:
            for number, loss in enumerate(metrics.loss[:count], first + 1):
                if not np.isfinite(loss):
                    raise NonFiniteLossError(self._non_finite(number, f"the loss became {loss}"))
        seconds = now[0] - self.timed[0] - (now[1] - self.timed[1])
        losses = np.concatenate([metrics.loss[:count] for _, count, metrics in pending])
        correct = np.concatenate([metrics.correct[:count] for _, count, metrics in pending])
        _, count, last = pending[-1]
        singly, self.singly = self.singly, self.singly and math.isinf(self.seconds) and not newest
        self.seconds = max(seconds, 1e-9) / len(losses)
        line = {
            "loss": float(np.mean(losses)),
            "train_accuracy": float(np.mean(correct)) / self.config.batch_size,
            "seconds_per_step": self.seconds,
            "active": {name: int(bits[count - 1].sum()) for name, bits in last.alive.by_site().items()},
            **self._progress(step),
        }
        undisturbed = not (self.beside or self.cutting.preparing or singly)
        if self.steering is not None and self.steering.by_time and undisturbed:
            # Each process has a clock, and all are to steer alike; where they are several nothing is prepared.
            self.steering.timed(self.learner.flops, self.devices.firsts(line["seconds_per_step"]))
        # What is done with metrics is part of the next steps' time, as they go on.
        self._start_timing(now)
        self.records.metrics(step, line)
        self.progress.update(step, line["loss"], self.learner.graph.neurons, self.counters.test_accuracy)

    def _start_timing(self, now: tuple[float, float] | None = None) -> None:
        """Begins to time steps: cuts, evaluations and compiling are no part of a step's time."""
        self.timed = now or (time.perf_counter(), self.compiling.seconds)
        self.beside = self.cutting.preparing

    def _progress(self, step: int) -> dict[str, Any]:
        """Returns where the schedules and the network stand before the update of a step."""
        factor = 1.0 if self.steering is None else self.steering.factor
        return {
            "epoch": step / self.problem.lengths.epoch,
            "learning_rate": float(self.problem.rate(step)),
            "strength": float(self.method.strength(step)) * factor,
            "noise": float(self.method.noise(step)) * min(factor, 1.0),
            "neurons": self.learner.graph.neurons,
            "parameters": self.learner.parameters,
            "width": self.learner.graph.widths,
        }

    def _non_finite(self, step: int, what: str) -> str:
        self._save_waiting()  # It is of a step before that.
        last = self.checkpoints.latest()
        kept = f"the checkpoint of step {last} is kept" if last is not None else "no checkpoint had been written yet"
        return (
            f"{what} at step {step}; {kept} in {self.folder}. Lower config.optimizer.learning_rate or "
            "config.method.noise, and start in another --workdir."
        )

    # Saving, and the end.

    def _save(self, step: int, *, at_once: bool) -> None:
        """Saves, `at_once` or as soon as a trial that is going on has found what is to be cut."""
        self._flush(step)
        # The loss of a step is that before its update: what the last update made shows in the parameters.
        if not checkpoints_lib.all_finite(self.learner.variables["params"]):
            raise NonFiniteLossError(self._non_finite(step, "parameters became infinite or NaN"))
        self._tick("checkpoints")
        self._save_waiting()
        meta = {
            "config": workdir.as_json(self.config),
            "dataset": self.problem.dataset.fingerprint(),
            "input_shape": list(self.problem.input_shape),
            "classes": self.problem.dataset.classes,
            "counters": dataclasses.asdict(self.counters),
            "open_cut": copy.deepcopy(self.cutting.open),
            "steering": None if self.steering is None else self.steering.as_json(),
        }
        arrays = self.learner.state._asdict()
        ahead = self.cutting.coming
        if at_once or ahead is None or not ahead.trying:
            self._write(step, arrays, meta, ahead)
        else:
            # The next step reuses the memory of the state.
            self.unsaved = (step, jax.tree.map(jnp.copy, arrays), meta, ahead)

    def _save_waiting(self) -> None:
        """Writes the checkpoint that waits for a trial, if any."""
        if self.unsaved is not None:
            unsaved, self.unsaved = self.unsaved, None
            self._write(*unsaved)

    def _write(self, step: int, arrays: dict[str, Any], meta: dict[str, Any], ahead: ahead_lib.Ahead | None) -> None:
        planned, failure = None, None
        try:
            planned = None if ahead is None else ahead.planned().as_json()
        except Exception as error:
            failure = error  # What training came to is sound, and is saved before the run ends.
        self.checkpoints.save(step, arrays, {**meta, "ahead": planned})
        if failure is not None:
            raise failure

    @contextlib.contextmanager
    def _spending(self, part: str, doing: str) -> Iterator[None]:
        """Within it the bar says what takes long; its time goes to one part of the run's."""
        with self.progress.doing(doing):
            yield
        self._tick(part)

    def _tick(self, part: str) -> None:
        """Adds the time since the last tick to one part of the run's."""
        self.counters.spent(part, *self.stopwatch.take())

    def _step_time_ratio(self, stop: Callable[[], signal.Signals | None]) -> float | None:
        """Returns time per step of the run's end over that of plain dense training; `None` if the run is stopped."""
        if self.method.name == "dense":
            return 1.0
        with contextlib.closing(self.feed.batches(0, 1)) as feed:
            batches = next(feed)
        with self.progress.doing("timing the step"):
            return stepper_lib.time_ratio(
                self.problem, self.learner.stepper, self.learner.state, batches, lambda: stop() is not None
            )

    def _summary(self, step_time_ratio: float | None) -> dict[str, Any]:
        self.learner.count()
        graph, steering = self.learner.graph, self.steering
        return summary_lib.of_run(
            self.problem,
            self.counters,
            graph,
            steps=int(self.learner.state.step),
            parameters=self.learner.parameters,
            flops=self.learner.flops,
            step_time_ratio=step_time_ratio,
            target=None if steering is None else steering.summary(self.learner.parameters, graph, step_time_ratio),
        )
