# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The problem that a config describes, validated as a whole before anything is compiled."""

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
    """Everything that is determined by a config.

    Attributes:
      config: the config, with device-dependent options set.
      settings: its options as typed values.
      dataset: the dataset.
      preparation: preprocessing of the images.
      devices: devices of the run.
      rate: learning rate schedule.
      base: base optimizer, without the additions of the method.
      method: pruning method with its optimizer.
      dense: graph of the network at its initial widths.
      dense_parameters: number of its parameters.
      goal: target size, or `None`.
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
        """Shape of one input, `(H, W, C)`."""
        return self.preparation.shape(self.dataset.image_shape)

    def example(self) -> jax.ShapeDtypeStruct:
        """Returns the shape of a small batch for tracing."""
        return jax.ShapeDtypeStruct((2, *self.input_shape), jnp.float32)

    def abstract(self) -> tuple[network.Network, Any]:
        """Returns the network at its initial widths and the shapes of its variables."""
        return network.abstract(self.settings.model, self.input_shape, self.dataset.classes)

    def initial(self) -> tuple[network.Network, Any]:
        """Returns the network at its initial widths and its initial variables."""
        return network.initial(self.settings.model, self.settings.seed, self.input_shape, self.dataset.classes)

    def trace(self, net: network.Network, variables: Any) -> demp_jax.Graph:
        """Returns the graph of a network."""
        return demp_jax.trace(net, variables, self.example(), exclude=self.exclude, extra_units=self.extra_units)

    @functools.cached_property
    def routed(self) -> demp_jax.Graph:
        """Graph of the initial network, traced with values. It tells which units feed which; `dense` does not."""
        return self.trace(*self.initial())

    @property
    def extra_units(self) -> tuple[str, ...]:
        """Further units, as given to `demp_jax.trace`."""
        return self.settings.pruning.extra_units

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of sites that are never pruned."""
        return self.method.options.get("exclude", ())


def pose(config: ml_collections.ConfigDict) -> Problem:
    """Returns the problem that a config describes.

    Raises:
      UsageError: for an invalid config.
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
    if method.of_graph is not None:
        method = dataclasses.replace(method, tx=method.of_graph(dense, variables["params"]))
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
    """Returns the graph of a network, after checking that the method applies to it.

    Raises:
      UsageError: if the method does not apply to the network.
    """
    try:
        extra_units = settings.pruning.extra_units
        dense = demp_jax.trace(net, variables, x, extra_units=extra_units)
        if method.name != "dense":
            dense.require_prunable()
        # Trace the optimizer as well, so that its errors are raised here and not at the first step.
        params = variables["params"]
        state = jax.eval_shape(method.tx.init, params)
        live = {"live": params} if method.needs_live else {}
        if not method.needs_groups:  # Groups require a graph that is traced with values.
            jax.eval_shape(optax.with_extra_args_support(method.tx).update, params, state, params, **live)
    except UsageError:
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"this config's network and method do not fit together: {error}") from error
    exclude = method.options.get("exclude", ())
    if exclude:
        given = {"exclude": exclude, "extra_units": extra_units}
        dense = _by_patterns("config.pruning.exclude", exclude, lambda: demp_jax.trace(net, variables, x, **given))
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
    """Returns `make()`, with a `ValueError` for a pattern that matches nothing turned into a `UsageError`."""
    try:
        return make()
    except ValueError as error:
        raise UsageError(f"{field}={tuple(patterns)!r}: {error}") from error


def _require_units(settings: Settings, dense: demp_jax.Graph) -> None:
    """Raises `UsageError` if `min_units` or `multiple` prevents every layer from being pruned."""
    most = max(dense.widths.values(), default=0)
    least, multiple = settings.pruning.min_units, settings.pruning.multiple
    allowed = f"below {most}, the units of the widest layer, or nothing can be pruned"
    require(least < most, "config.pruning.min_units", least, allowed)
    require(multiple <= most, "config.pruning.multiple", multiple, f"at most {most}, the units of the widest layer")


def _require_pressure(settings: Settings, dense: demp_jax.Graph, params: Any) -> None:
    """Raises `UsageError` if the regularizer acts on no parameter of a removable unit: no target is reachable then."""
    field, name = "config.method.penalized", settings.method.penalized
    penalized = jax.tree.leaves(methods.PENALIZED[name](params))
    for variable, chosen in zip(dense.match(params), penalized, strict=True):
        axes = () if variable is None else dense.axes[variable]
        if chosen and any(groups is not None and (groups >= 0).any() for groups in axes):
            return
    raise UsageError(
        f"{field} must choose parameters of neurons that can be pruned, to reach config.method.target; got {name!r}, "
        f"and {name!r} chooses none in config.model.name={settings.model.name!r}. Try 'all'."
    )


def size(params: Any) -> int:
    """Returns the total number of elements of a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
