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
from experiments.core.errors import UsageError, require
from experiments.recipe import goal as goal_lib
from experiments.recipe import methods, network, optimizers
from experiments.settings import Settings, device_defaults, options, parse, require_valid, run_steps, schema, section


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything that follows from a config alone.

    Attributes:
      config: the config, which says what it had left to the device.
      settings: its options as typed values.
      dataset: its data.
      preparation: of the images.
      devices: of the run.
      rate: the learning rate by step.
      base: the base optimizer, without what the method adds.
      method: the pruning method with its optimizer.
      dense: the removable units of the network at its initial widths.
      dense_parameters: its number of parameters.
      goal: the size to end at, or `None`.
    """

    config: ml_collections.ConfigDict
    settings: Settings
    dataset: data.Dataset
    preparation: data.Preparation
    devices: devices_lib.Devices
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
        return network.abstract(self.settings.model, self.input_shape, self.dataset.classes)

    def initial(self) -> tuple[network.Network, Any]:
        """Returns the network at its initial widths and its initial variables."""
        return network.initial(self.settings.model, self.settings.seed, self.input_shape, self.dataset.classes)

    def trace(self, net: network.Network, variables: Any) -> demp_jax.Graph:
        """Returns the removable units of a network."""
        return demp_jax.trace(net, variables, self.example(), exclude=self.exclude, heads=self.heads)

    @functools.cached_property
    def routed(self) -> demp_jax.Graph:
        """The removable units of the initial network, with what feeds what: `dense` was traced from shapes alone."""
        return self.trace(*self.initial())

    @property
    def heads(self) -> bool:
        """Whether attention heads are units."""
        return self.settings.pruning.heads

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of sites that are never cut."""
        return self.method.options.get("exclude", ())


def pose(config: ml_collections.ConfigDict) -> Problem:
    """Returns the problem of a config.

    Raises:
      UsageError: for bad input; one line names the option, its value, what is allowed and the remedy.
    """
    require_valid(config)
    dataset = data.load(section(schema.Data, config.data), config.seed)
    examples = dataset.train_examples
    config = device_defaults.settled(config, run_steps(config, examples))
    settings = parse(config, examples)
    rate = optimizers.learning_rate(settings)
    base = optimizers.base_optimizer(settings, rate)
    method = methods.build(settings, base)
    death_set = settings.pruning.examples
    require(death_set <= examples, "config.pruning.examples", death_set, f"between 1 and {examples}")
    devices = devices_lib.Devices(settings.devices)
    devices.require_divides("config.batch_size", settings.batch_size, settings.accumulate)
    devices.require_divides("config.eval_batch_size", settings.eval_batch_size)
    preparation = data.preparation(settings.data, dataset)
    shape = preparation.shape(dataset.image_shape)
    net, variables = network.abstract(settings.model, shape, dataset.classes)
    dense = _fitted(settings, method, net, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    parameters = size(variables["params"])
    goal = goal_lib.goal(settings, dense, parameters)
    if goal is not None:
        _require_pressure(settings, dense, variables["params"])
    return Problem(
        config=config,
        settings=settings,
        dataset=dataset,
        preparation=preparation,
        devices=devices,
        rate=rate,
        base=base,
        method=method,
        dense=dense,
        dense_parameters=parameters,
        goal=goal,
    )


def _fitted(settings: Settings, method: methods.Method, net: Any, variables: Any, x: Any) -> Any:
    """Returns the removable units of a network, once it is known that the method can work on it.

    Raises:
      UsageError: where it cannot.
    """
    try:
        heads = settings.pruning.heads
        dense = demp_jax.trace(net, variables, x, heads=heads)
        if method.name != "dense":
            dense.require_prunable()
        # The optimizer looks at the parameters, too: let it say now what it would say at the first step.
        params = variables["params"]
        state = jax.eval_shape(method.tx.init, params)
        live = {"live": params} if method.needs_live else {}
        if not method.needs_groups:  # Those are known once the network has been traced with its variables.
            jax.eval_shape(optax.with_extra_args_support(method.tx).update, params, state, params, **live)
    except UsageError:
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"this config's network and method do not fit together: {error}") from error
    exclude = method.options.get("exclude", ())
    if exclude:
        dense = _by_patterns(
            "config.pruning.exclude", exclude, lambda: demp_jax.trace(net, variables, x, exclude=exclude, heads=heads)
        )
    if method.ranking is not None:
        unranked = method.ranking.options["unranked"]
        field = "config.ranking.exclude"
        groups = _by_patterns(field, unranked, lambda: structured.unranked_groups(dense, unranked))
        require(not groups.all(), field, unranked, "patterns that leave some site to be ranked")
    never = settings.masking.never_ablated
    if method.name == "srigl" and never != options.base_value("masking.never_ablated"):
        paths = demp_jax.tracing.leaf_paths(params)
        for pattern in never:
            allowed = f"patterns of paths of parameters, such as {paths[0]}"
            require(bool(fnmatch.filter(paths, pattern)), "config.masking.never_ablated", never, allowed)
    if method.name != "dense":
        _require_units(settings, dense)
    return dense


def _by_patterns(field: str, patterns: Sequence[str], make: Callable[[], Any]) -> Any:
    """Returns what `make` makes by patterns; a pattern that matches nothing is the field's fault."""
    try:
        return make()
    except ValueError as error:
        raise UsageError(f"{field}={tuple(patterns)!r}: {error}") from error


def _require_units(settings: Settings, dense: demp_jax.Graph) -> None:
    """Raises `UsageError` where the floors of a cut leave no layer that could get smaller."""
    most = max(dense.widths.values(), default=0)
    least, multiple = settings.pruning.min_units, settings.pruning.multiple
    allowed = f"below {most}, the units of the widest layer: else nothing can be cut"
    require(least < most, "config.pruning.min_units", least, allowed)
    require(multiple <= most, "config.pruning.multiple", multiple, f"at most {most}, the units of the widest layer")


def _require_pressure(settings: Settings, dense: demp_jax.Graph, params: Any) -> None:
    """Raises `UsageError` where the regularizer acts on nothing that a cut could take: no target could be reached."""
    field, name = "config.method.penalised", settings.method.penalised
    penalised = jax.tree.leaves(methods.PENALISED[name](params))
    for variable, chosen in zip(dense.match(params), penalised, strict=True):
        axes = () if variable is None else dense.axes[variable]
        if chosen and any(classes is not None and (classes >= 0).any() for classes in axes):
            return
    raise UsageError(
        f"{field} must choose parameters of neurons that can be cut for config.method.target to be reached, and "
        f"{name!r} chooses none in config.model.name={settings.model.name!r}; try 'all'."
    )


def size(params: Any) -> int:
    """Returns the number of entries of a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
