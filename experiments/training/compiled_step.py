# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The compiled step of a network at its current widths, its memory and its time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import demp_jax
from experiments.core import timing
from experiments.recipe.network import Network
from experiments.recipe.problem import Problem
from experiments.training.batches import Batches
from experiments.training.step import StepMetrics, Task, TrainState, compiled, train_steps


class Stepper:
    """Runs compiled training steps.

    Attributes:
      graph: the removable units of the network.
      members: the weights of each unit, replicated over the devices.
      task: static arguments of the step.
    """

    def __init__(self, problem: Problem, network: Network, variables: Any):
        """Traces the network; compiles nothing yet."""
        method = problem.method
        self.graph = problem.trace(network, variables)
        self.members = problem.devices.everywhere(demp_jax.weight_groups(self.graph, variables["params"]))
        self.task = Task(
            network=network,
            tx=method.tx,
            preparation=problem.preparation,
            classes=problem.dataset.classes,
            criterion=method.options.get("criterion", "auto"),
            epsilon=method.options.get("epsilon", 0.01),
            label_smoothing=problem.settings.label_smoothing,
            accumulate=problem.settings.accumulate,
            watch=True,
            needs_live=method.needs_live,
            needs_groups=method.needs_groups,
            extra_units=problem.extra_units,
            fast_convolutions=problem.settings.fast_convolutions,
            updater=method.updater,
            replicated=problem.devices.replicated,
        )
        self._everywhere = problem.devices.everywhere
        self._counts: dict[int, jax.Array] = {}
        self._compiled: Any = None
        self._taken: Any = None

    def compile(self, state: TrainState, batches: Batches) -> None:
        """Compiles the steps for the shapes of the arguments, which are arrays or `jax.ShapeDtypeStruct`s."""
        self._compiled = compiled(train_steps, *self.arguments(state, batches), task=self.task)
        self._taken = _kinds((state, batches[:2]))

    def take_over(self, other: Stepper) -> None:
        """Uses the compiled steps of another stepper if its network has the same structure."""
        ours, theirs = ((stepper.task, _kinds(stepper.members)) for stepper in (self, other))
        structure: Any = jax.tree.structure(self.members)
        if ours == theirs and structure == jax.tree.structure(other.members):
            self._compiled, self._taken = other._compiled, other._taken

    def __call__(self, state: TrainState, batches: Batches) -> tuple[TrainState, StepMetrics]:
        """Runs the steps of `batches`; donates `state`. Compiles first if not compiled for these shapes.

        Returns:
          The next state, and metrics with a leading axis of at least `batches.steps` entries.
        """
        if self._compiled is None or (self._taken is not None and self._taken != _kinds((state, batches[:2]))):
            self.compile(state, batches)
        self._taken = None  # All later calls have the same shapes.
        return self._compiled(*self.arguments(state, batches))

    def arguments(self, state: TrainState, batches: Batches) -> tuple[Any, ...]:
        """Returns the arguments of `train_steps`, without the task."""
        data, examples, count = batches
        if count not in self._counts:
            self._counts[count] = self._everywhere(jnp.asarray(count, jnp.int32))
        return state, data, examples, self._counts[count], self.members

    @property
    def compiled(self) -> bool:
        """Whether the step has been compiled."""
        return self._compiled is not None

    @property
    def bytes(self) -> int | None:
        """Peak memory of the step per device, in bytes; `None` before it is compiled or if unknown."""
        return None if self._compiled is None else taken_bytes(self._compiled)


def taken_bytes(program: Any) -> int | None:
    """Returns the peak memory of a compiled program per device, in bytes; `None` if unknown."""
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    whole = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return int(whole - analysis.alias_size_in_bytes)  # Donated buffers are counted as arguments and as outputs.


def abstract(state: TrainState, variables: Any, opt_state: Any) -> TrainState:
    """Returns the shapes of a state with smaller variables and optimizer state, with the sharding of `state`."""

    def shaped(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=state.step.sharding)

    return state._replace(variables=jax.tree.map(shaped, variables), opt_state=jax.tree.map(shaped, opt_state))


def time_ratio(
    problem: Problem, stepper: Stepper, state: TrainState, batches: Batches, stopped: Callable[[], bool] = lambda: False
) -> float | None:
    """Returns the step time relative to plain dense training, from medians of interleaved repeats.

    Plain dense training has the same batches and base optimizer at the initial widths, and neither measures alive units
    nor adds a regularizer, noise or masks. Each step is timed for `settings.step_time_seconds`, and at least ten times.
    Returns `None` once `stopped` returns true.
    """
    devices = problem.devices
    network, variables = problem.initial()
    opt_state = jax.jit(problem.base.init)(variables["params"])
    dense = devices.everywhere(TrainState(state.step, variables, opt_state, state.key))
    states = {name: jax.tree.map(jnp.copy, each) for name, each in (("dense", dense), ("final", state))}
    plain = {
        "network": network,
        "tx": problem.base,
        "watch": False,
        "needs_live": False,
        "needs_groups": False,
        "updater": None,
    }
    tasks = {"dense": dataclasses.replace(stepper.task, **plain), "final": stepper.task}
    calls = {
        name: compiled(train_steps, *stepper.arguments(states[name], batches), task=task)
        for name, task in tasks.items()
    }

    def take(name: str) -> StepMetrics:
        states[name], metrics = calls[name](*stepper.arguments(states[name], batches))
        return metrics

    steps = {name: functools.partial(take, name) for name in tasks}
    times = timing.median_seconds(steps, problem.settings.step_time_seconds, stopped=stopped, any_process=devices.any)
    return None if times is None else times["final"] / times["dense"]


def _kinds(tree: Any) -> list[tuple[Any, ...]]:
    return [(jnp.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(tree)]
