# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a config asks for, checked as a whole before anything is compiled."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import demp_jax
from baselines import structured
from experiments import data
from experiments.core import devices as devices_lib
from experiments.core import progress
from experiments.core.durations import to_steps
from experiments.core.errors import UsageError, require, require_choice
from experiments.recipe import device_defaults, fields, limits, methods, network, optimizers
from experiments.recipe import goal as goal_lib


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Durations of a run in steps.

    Attributes:
      epoch: of the training set; not rounded.
      run: the whole run.
      log, evaluate, checkpoint: how often.
      cut_every: steps between chances to cut.
      cut_cost: what a cut costs.
      ahead: for how long a cut is prepared.
      watch: steps between looks at who is dead; 0 for none.
    """

    epoch: float
    run: int
    log: int
    evaluate: int
    checkpoint: int
    cut_every: int
    cut_cost: int
    ahead: int
    watch: int


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything that follows from a config alone.

    Attributes:
      config: the config, which says what it had left to the device.
      dataset: its data.
      preparation: of the images.
      devices: of the run.
      lengths: durations in steps.
      rate: the learning rate by step.
      base: the base optimizer, without what the method adds.
      method: the pruning method with its optimizer.
      dense: the removable units of the network at its initial widths.
      dense_parameters: its number of parameters.
      goal: the size to end at, or `None`.
    """

    config: ml_collections.ConfigDict
    dataset: data.Dataset
    preparation: data.Preparation
    devices: devices_lib.Devices
    lengths: Lengths
    rate: optax.Schedule
    base: optax.GradientTransformation
    method: methods.Method
    dense: demp_jax.Graph
    dense_parameters: int
    goal: goal_lib.Goal | None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, `[H, W, C]`."""
        return self.preparation.shape(self.dataset.image_shape)

    def example(self) -> jax.ShapeDtypeStruct:
        """Returns the shape of a small batch, to trace with."""
        return jax.ShapeDtypeStruct((2, *self.input_shape), jnp.float32)

    def abstract(self) -> tuple[network.Network, Any]:
        """Returns the network at its initial widths and the shapes of its variables."""
        return network.abstract(self.config, self.input_shape, self.dataset.classes)

    def initial(self) -> tuple[network.Network, Any]:
        """Returns the network at its initial widths and its initial variables."""
        return network.initial(self.config, self.input_shape, self.dataset.classes)

    def trace(self, net: network.Network, variables: Any) -> demp_jax.Graph:
        """Returns the removable units of a network."""
        return demp_jax.trace(net, variables, self.example(), exclude=self.exclude)

    @functools.cached_property
    def routed(self) -> demp_jax.Graph:
        """The removable units of the initial network, with what feeds what: `dense` was traced from shapes alone."""
        return self.trace(*self.initial())

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of sites that are never cut."""
        return self.method.options.get("exclude", ())


def pose(config: ml_collections.ConfigDict) -> Problem:
    """Returns the problem of a config.

    Raises:
      UsageError: for bad input; one line names the field, its value, what is allowed and the remedy.
    """
    require(0 <= config.seed < 2**31, "config.seed", config.seed, "between 0 and 2147483647")
    limits.require_sizes(config)
    require_choice("config.progress", config.progress, progress.MODES)
    require_choice("config.resume", config.resume, ("strict", "anyway"))
    dataset = data.load(config)
    examples = dataset.train_examples
    config, lengths = _settled(config, examples)
    rate = optimizers.learning_rate(config, epoch=lengths.epoch, run=lengths.run)
    base = optimizers.base_optimizer(config, rate)
    method = methods.build(config, base, epoch=lengths.epoch, run=lengths.run)
    field = "config.pruning.examples"
    require(1 <= config.pruning.examples <= examples, field, config.pruning.examples, f"between 1 and {examples}")
    require(config.eval_batch_size >= 1, "config.eval_batch_size", config.eval_batch_size, "at least 1")
    optimizers.require_positive("config.step_time_seconds", config.step_time_seconds)
    smoothing = config.label_smoothing
    require(0 <= smoothing < 1, "config.label_smoothing", smoothing, "in [0, 1)")
    devices = devices_lib.Devices(config.devices)
    require(config.steps_per_call >= 1, "config.steps_per_call", config.steps_per_call, "at least 1")
    require(config.accumulate >= 1, "config.accumulate", config.accumulate, "at least 1")
    devices.require_divides("config.batch_size", config.batch_size, config.accumulate)
    devices.require_divides("config.eval_batch_size", config.eval_batch_size)
    preparation = data.preparation(config, dataset)
    shape = preparation.shape(dataset.image_shape)
    net, variables = network.abstract(config, shape, dataset.classes)
    dense = _fitted(config, method, net, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    parameters = size(variables["params"])
    goal = goal_lib.goal(config, dense, parameters, epoch=lengths.epoch, run=lengths.run)
    if goal is not None:
        _require_pressure(config, dense, variables["params"])
    limits.require_all(config, epoch=lengths.epoch, run=lengths.run)
    return Problem(
        config=config,
        dataset=dataset,
        preparation=preparation,
        devices=devices,
        lengths=lengths,
        rate=rate,
        base=base,
        method=method,
        dense=dense,
        dense_parameters=parameters,
        goal=goal,
    )


def _fitted(config: ml_collections.ConfigDict, method: methods.Method, net: Any, variables: Any, x: Any) -> Any:
    """Returns the removable units of a network, once it is known that the method can work on it.

    Raises:
      UsageError: where it cannot.
    """
    try:
        dense = demp_jax.trace(net, variables, x)
        if method.name != "dense":
            dense.require_prunable()
        # The optimizer looks at the parameters, too: let it say now what it would say at the first step.
        params = variables["params"]
        state = jax.eval_shape(method.tx.init, params)
        live = {"live": params} if method.needs_live else {}
        jax.eval_shape(optax.with_extra_args_support(method.tx).update, params, state, params, **live)
    except UsageError:
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"this config's network and method do not fit together: {error}") from error
    exclude = method.options.get("exclude", ())
    if exclude:
        dense = _by_patterns(
            "config.pruning.exclude", exclude, lambda: demp_jax.trace(net, variables, x, exclude=exclude)
        )
    if method.ranking is not None:
        unranked = method.ranking.options["unranked"]
        field = "config.ranking.exclude"
        groups = _by_patterns(field, unranked, lambda: structured.unranked_groups(dense, unranked))
        require(not groups.all(), field, unranked, "patterns that leave some site to be ranked")
    never = tuple(config.masking.never_ablated)
    if config.method.name == "srigl" and never != tuple(fields.base_value("masking.never_ablated")):
        paths = demp_jax.tracing.leaf_paths(params)
        for pattern in never:
            allowed = f"patterns of paths of parameters, such as {paths[0]}"
            require(bool(fnmatch.filter(paths, pattern)), "config.masking.never_ablated", never, allowed)
    if method.name != "dense":
        _require_units(config, dense)
    return dense


def _by_patterns(field: str, patterns: Sequence[str], make: Callable[[], Any]) -> Any:
    """Returns what `make` makes by patterns; a pattern that matches nothing is the field's fault."""
    try:
        return make()
    except ValueError as error:
        raise UsageError(f"{field}={tuple(patterns)!r}: {error}") from error


def _require_units(config: ml_collections.ConfigDict, dense: demp_jax.Graph) -> None:
    """Raises `UsageError` where the floors of a cut leave no layer that could get smaller."""
    most = max(dense.widths.values(), default=0)
    least, multiple = config.pruning.min_units, config.pruning.multiple
    allowed = f"below {most}, the units of the widest layer: else nothing can be cut"
    require(least < most, "config.pruning.min_units", least, allowed)
    require(multiple <= most, "config.pruning.multiple", multiple, f"at most {most}, the units of the widest layer")


def _require_pressure(config: ml_collections.ConfigDict, dense: demp_jax.Graph, params: Any) -> None:
    """Raises `UsageError` where the regularizer acts on nothing that a cut could take: no target could be reached."""
    field, name = "config.method.penalised", config.method.penalised
    penalised = jax.tree.leaves(methods.PENALISED[name](params))
    for variable, chosen in zip(dense.match(params), penalised, strict=True):
        axes = () if variable is None else dense.axes[variable]
        if chosen and any(classes is not None and (classes >= 0).any() for classes in axes):
            return
    raise UsageError(
        f"{field} must choose parameters of neurons that can be cut for config.method.target to be reached, and "
        f"{name!r} chooses none in config.model.name={config.model.name!r}; try 'all'."
    )


def _settled(config: ml_collections.ConfigDict, examples: int) -> tuple[ml_collections.ConfigDict, Lengths]:
    """Returns a config that leaves nothing to the device, and its durations."""
    require(1 <= config.batch_size <= examples, "config.batch_size", config.batch_size, f"between 1 and {examples}")
    epoch = examples / config.batch_size
    run = to_steps("config.steps", config.steps, epoch=epoch)
    require(
        1 <= run < 2**31, "config.steps", config.steps, "at least one step" if run < 1 else "fewer than 2**31 steps"
    )
    config = device_defaults.settled(config, run)
    every = {}
    for name in ("log_every", "eval_every", "checkpoint_every"):
        every[name] = to_steps(f"config.{name}", config[name], epoch=epoch, run=run)
        require(every[name] >= 1, f"config.{name}", config[name], "at least one step")
    require(config.checkpoints_kept >= 1, "config.checkpoints_kept", config.checkpoints_kept, "at least 1")
    tau = to_steps("config.pruning.every", config.pruning.every, epoch=epoch, run=run)
    cut_cost, ahead = (
        to_steps(f"config.pruning.{name}", config.pruning[name], epoch=epoch, run=run) for name in ("cut_cost", "ahead")
    )
    watch = to_steps("config.watch.every", config.watch.every, epoch=epoch, run=run)
    intervals = (every["log_every"], every["eval_every"], every["checkpoint_every"])
    return config, Lengths(epoch, run, *intervals, tau, cut_cost, ahead, watch)


def size(params: Any) -> int:
    """Returns the number of entries of a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
