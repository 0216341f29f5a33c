# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Estimates the memory of a run on a device."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

import demp_jax
from experiments.core.compile_clock import use_compile_cache
from experiments.data.arrays import Arrays
from experiments.recipe.problem import Problem
from experiments.training.batches import Feed
from experiments.training.compiled_step import Stepper
from experiments.training.step import TrainState, cross_entropy


def from_shapes(problem: Problem) -> dict[str, int]:
    """Returns the approximate memory of the first step per device, in bytes, by purpose. Computes nothing.

    The residuals of the backward pass are an overestimate, as XLA fuses operations and then keeps fewer of them.
    """
    _, variables = problem.abstract()
    params = variables["params"]
    parameters = _bytes(params)
    dataset, devices = problem.dataset, problem.devices.count
    example = jax.ShapeDtypeStruct((*dataset.image_shape,), jnp.uint8).size + 4  # Image and label.
    resident = isinstance(dataset, Arrays)
    return {
        "parameters": parameters,
        "optimizer state": _bytes(jax.eval_shape(problem.method.tx.init, params)),
        "statistics": _bytes(variables["state"]),
        "gradients": parameters,
        "kept for the backward pass": _kept(problem),
        "training set" if resident else "batch": example
        * (dataset.train_examples if resident else problem.settings.batch_size // devices),
    }


def compiled(problem: Problem) -> int | None:
    """Returns the peak memory of the first step per device, in bytes; `None` if unknown.

    Compiles the step as the run would, which can then load it from the compilation cache.
    """
    use_compile_cache(problem.settings.compile_cache)
    network, variables = problem.initial()
    stepper = Stepper(problem, network, variables)
    opt_state = jax.jit(problem.method.tx.init)(variables["params"])
    state = TrainState(jnp.zeros([], jnp.int32), variables, opt_state, jax.random.key(0))
    with contextlib.closing(Feed(problem).batches(0, 1)) as feed:
        stepper.compile(problem.devices.everywhere(state), next(feed))
    return stepper.bytes


def _kept(problem: Problem) -> int:
    """Returns the size of the residuals of the backward pass, in bytes, without the variables."""
    network, variables = problem.abstract()
    settings, classes = problem.settings, problem.dataset.classes
    size = max(settings.batch_size // settings.accumulate // problem.devices.count, 1)
    x = jax.ShapeDtypeStruct((size, *problem.input_shape), jnp.float32)
    targets = jax.ShapeDtypeStruct((size, classes), jnp.float32)

    def backward(variables: Any, x: jax.Array, targets: jax.Array) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            (logits, state), activity = demp_jax.with_activity(network.train)({**variables, "params": params}, x)
            return cross_entropy(logits, targets, settings.label_smoothing), (state, activity)

        _, pullback, _ = jax.vjp(loss, variables["params"], has_aux=True)
        return jax.tree.leaves(pullback)

    jaxpr = jax.make_jaxpr(backward)(variables, x, targets).jaxpr
    kept = {value for value in jaxpr.outvars if not isinstance(value, Literal)}
    kept -= set(jaxpr.invars[: len(jax.tree.leaves(variables))])
    return _bytes([value.aval for value in kept])


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
