# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Training steps to be timed: those of the training program, on made-up images."""

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
    """A training step with its state; called, it takes so many steps as are taken together, on the same batches.

    Attributes:
      net, variables, graph: the network, its variables at the start, and its trace.
      batch: how many examples a step takes.
      task: what a step does.
      compile_seconds: how long it took to trace and compile the step; `None` before that.
      together: how many steps a call takes. One alone takes a batch as it is; several take theirs from a training set,
        in a loop of the compiled program, as the training program takes up to ten of them.
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
        # Placed as the training program does, and as a step leaves its state: the compiled step takes no other.
        which: tuple[Any, ...] = (None,)
        if self.together > 1:
            which = (jnp.arange(examples).reshape(self.together, self.batch), jnp.asarray(self.together))
        self._state, *self._rest = Devices(1).everywhere((state, data, *which, members))

    def __call__(self) -> Any:
        """Takes its steps; returns what can be waited for. Compiles if that was not done."""
        if self._compiled is None:
            self.compile()
        self._state, metrics = self._compiled(self._state, *self._rest)
        return self._state, metrics

    def compile(self) -> None:
        """Traces and compiles the steps, whether or not that was done before."""
        step = train_step if self.together == 1 else train_steps
        started = time.perf_counter()
        self._compiled = compiled(step, self._state, *self._rest, task=self.task)
        self.compile_seconds = time.perf_counter() - started

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the compiled steps, but for the task."""
        return self._state, *self._rest

    @property
    def bytes(self) -> int | None:
        """Memory that a call takes at once, in bytes, its images included; `None` before it is compiled or unknown."""
        return None if self._compiled is None else taken_bytes(self._compiled)

    @property
    def least_bytes(self) -> int:
        """Bytes of a step that its convolutions and products read and write, each array once.

        As FLOPs are, they are three times those of the forward pass: with an input x, weights w and a result y, that
        moves x, w and y; the gradient to x moves y's, w and x's; the gradient to w moves x, y's and w's.
        """
        shape = self.graph.program.avals[self.graph.program.inputs[-1]].shape[1:]
        x = jax.ShapeDtypeStruct((self.batch, *shape), jnp.float32)
        return 3 * _moved(jax.make_jaxpr(self.net)(self.variables, x).jaxpr)

    @property
    def parameters(self) -> int:
        """How many parameters are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    @property
    def step_flops(self) -> float:
        """FLOPs of a step: three times those of the forward pass."""
        return 3.0 * self.graph.flops() * self.batch


def products(jaxpr: Any) -> Iterator[Any]:
    """Yields the convolutions and products of a jaxpr, those within others' too."""
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
    """Returns the step of a network for images of a shape, with parts of DemP, and so many of them in a call.

    With `fast_convolutions=False` convolutions are as XLA has them.
    """
    graph = demp_jax.trace(net, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    base: optax.GradientTransformation = optax.adamw(5e-3, weight_decay=5e-4)
    if strength or noise:
        # At its peak throughout: a schedule's end, where the noise costs nothing, is not what is measured.
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
    """Returns a new network by the `model` section of a config, and its variables."""
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
    """Returns a network with `kept(site, width)` units at each site, rounded up to a multiple, by a real prune.

    It is made on the host's processor, which compiles in less time than an accelerator does.
    """
    variables = jax.device_get(variables)
    with jax.default_device(jax.devices("cpu")[0]):
        graph = demp_jax.trace(net, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
        leave = {
            site.name: np.arange(site.width) >= min(site.width, max(min_units, math.ceil(kept(site.name, site.width))))
            for site in graph.sites
        }
        # Rounding is the cut's: it takes units back in.
        x = jax.random.uniform(jax.random.key(0), (2, *shape))
        options = demp_jax.PruneOptions(multiple=multiple, min_units=min_units, tolerance=math.inf)
        result = demp_jax.prune(net, variables, [x], params=lambda v: v["params"], remove=leave, options=options)
        left = jax.device_get(result.variables)
    assert isinstance(result.fn, network.Network)
    return result.fn, jax.tree.map(jnp.asarray, left)
