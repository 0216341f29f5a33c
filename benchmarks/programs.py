# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Training steps to be timed: those of the training program, on random images."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import demp_jax
from configs.base import variants
from experiments.core.devices import Devices
from experiments.data import Preparation
from experiments.recipe import network
from experiments.settings import schema, section
from experiments.training.compiled_step import taken_bytes
from experiments.training.step import Data, Task, TrainState, compiled, train_step, train_steps


@dataclasses.dataclass
class Program:
    """A training step with its state. Each call runs `together` steps, on the same batches.

    Attributes:
      net, variables, graph: the network, its initial variables, and its trace.
      batch: examples per step.
      task: what a step computes.
      compile_seconds: time to trace and compile the step; `None` before that.
      together: steps per call. A single step has its batch as an argument. Several steps run in a compiled loop, and
        gather their batches from a dataset on the device, as in the training program.
    """

    net: network.Network
    variables: Any
    graph: demp_jax.Graph
    batch: int
    task: Task
    together: int = 1

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        shape = self.graph.program.avals[self.graph.program.inputs[-1]].shape[1:]
        examples = self.batch * self.together
        images = jnp.asarray(rng.integers(0, 255, (examples, *shape)), jnp.uint8)
        data = Data(images, jnp.asarray(rng.integers(0, 10, examples), jnp.int32))
        opt_state = jax.jit(self.task.tx.init)(self.variables["params"])
        copied = jax.tree.map(jnp.copy, self.variables)
        state = TrainState(jnp.zeros([], jnp.int32), copied, opt_state, jax.random.key(0))
        members = demp_jax.weight_groups(self.graph, self.variables["params"])
        self._compiled: Any = None
        self.compile_seconds: float | None = None
        # The compiled step requires the sharding of its outputs, which is that of the training program.
        which: tuple[Any, ...] = (None,)
        if self.together > 1:
            which = (jnp.arange(examples).reshape(self.together, self.batch), jnp.asarray(self.together))
        self._state, *self._rest = Devices(1).everywhere((state, data, *which, members))

    def __call__(self) -> Any:
        """Runs the steps and returns arrays to wait for. The first call compiles, unless `compile` was called."""
        if self._compiled is None:
            self.compile()
        self._state, metrics = self._compiled(self._state, *self._rest)
        return self._state, metrics

    def compile(self) -> None:
        """Traces and compiles the steps, again if they were compiled before."""
        step = train_step if self.together == 1 else train_steps
        started = time.perf_counter()
        self._compiled = compiled(step, self._state, *self._rest, task=self.task)
        self.compile_seconds = time.perf_counter() - started

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the compiled steps, without the task."""
        return self._state, *self._rest

    @property
    def bytes(self) -> int | None:
        """Peak memory of a call in bytes, including its images; `None` if unknown or not compiled."""
        return None if self._compiled is None else taken_bytes(self._compiled)

    @property
    def least_bytes(self) -> int:
        """Minimum number of bytes that the convolutions and products of a step move, with each array moved once.

        Like FLOPs, it is three times that of the forward pass. The forward pass `y = f(x, w)` moves x, w and y. The
        gradient of x moves dy, w and dx, and the gradient of w moves x, dy and dw.
        """
        shape = self.graph.program.avals[self.graph.program.inputs[-1]].shape[1:]
        x = jax.ShapeDtypeStruct((self.batch, *shape), jnp.float32)
        return 3 * _moved(jax.make_jaxpr(self.net)(self.variables, x).jaxpr)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    @property
    def step_flops(self) -> float:
        """FLOPs of a step: three times those of the forward pass."""
        return 3.0 * self.graph.flops() * self.batch


def products(jaxpr: Any) -> Iterator[Any]:
    """Yields the convolutions and products of a jaxpr, including those of inner jaxprs."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            yield eqn
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from products(getattr(inner, "jaxpr", inner))


def _moved(jaxpr: Any) -> int:
    """Returns the bytes of the operands and results of the convolutions and products of a jaxpr."""
    arrays = [v.aval for op in products(jaxpr) for v in (*op.invars, *op.outvars)]
    return sum(aval.size * aval.dtype.itemsize for aval in arrays)


def built(
    net: network.Network,
    variables: Any,
    shape: tuple[int, int, int],
    batch: int,
    *,
    watch: bool = True,
    strength: float = 0.0,
    noise: float = 0.0,
    updater: Any = None,
    together: int = 1,
    fast_convolutions: bool = True,
) -> Program:
    """Returns the training step of a network.

    Args:
      net, variables: the network and its variables.
      shape: shape of an image.
      batch: examples per step.
      watch: whether the step tracks which units are alive.
      strength, noise: constant strength of the Lasso and variance of the noise; 0 for none.
      updater: an updater of a masking method, see `baselines.masking`.
      together: steps per call.
      fast_convolutions: whether convolutions that XLA compiles badly are rewritten.
    """
    graph = demp_jax.trace(net, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    base: optax.GradientTransformation = optax.adamw(5e-3, weight_decay=5e-4)
    if strength or noise:
        # Constant schedules: where a schedule is zero, the noise costs nothing.
        schedules = [demp_jax.schedules.constant(amount, 10**6) if amount else 0.0 for amount in (strength, noise)]
        base = demp_jax.demp(base, strength=schedules[0], noise=schedules[1], key=0)
    task = Task(
        network=net,
        tx=base,
        preparation=Preparation((0.0,) * shape[-1], (255.0,) * shape[-1], crop=4, flip=True),
        classes=10,
        criterion="auto",
        epsilon=0.01,
        label_smoothing=0.0,
        accumulate=1,
        watch=watch,
        needs_live=bool(noise),
        needs_groups=False,
        extra_units=(),
        fast_convolutions=fast_convolutions,
        updater=updater,
        replicated=Devices(1).replicated,
    )
    return Program(net, variables, graph, batch, task, together)


def initial(model: Mapping[str, Any], shape: tuple[int, int, int]) -> tuple[network.Network, Any]:
    """Returns a network as in the `model` section of a config, and its initial variables."""
    config = variants("benchmarks", "", {"": {f"model.{name}": value for name, value in model.items()}})
    return network.initial(section(schema.Model, config.model), config.seed, shape, 10)


def narrowed(
    net: network.Network,
    variables: Any,
    shape: tuple[int, int, int],
    kept: Callable[[str, int], float],
    multiple: int = 1,
    min_units: int = 1,
) -> tuple[network.Network, Any]:
    """Returns the network pruned to `kept(site, width)` units at each site, rounded up to a multiple.

    The prune runs on the CPU, which compiles faster than an accelerator.
    """
    variables = jax.device_get(variables)
    with jax.default_device(jax.devices("cpu")[0]):
        graph = demp_jax.trace(net, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
        leave = {
            site.name: np.arange(site.width) >= min(site.width, max(min_units, math.ceil(kept(site.name, site.width))))
            for site in graph.sites
        }
        # The prune rounds widths up by keeping units.
        x = jax.random.uniform(jax.random.key(0), (2, *shape))
        options = demp_jax.PruneOptions(multiple=multiple, min_units=min_units, tolerance=math.inf)
        result = demp_jax.prune(net, variables, [x], params=lambda v: v["params"], remove=leave, options=options)
        left = jax.device_get(result.variables)
    assert isinstance(result.fn, network.Network)
    return result.fn, jax.tree.map(jnp.asarray, left)
