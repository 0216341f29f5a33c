# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The compiled training step, and a loop of several steps in one call.

Dimension letters: N examples, B batch, A parts of a batch, H W C image, K classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

import demp_jax
from baselines.masking import Updater
from experiments.data import Preparation
from experiments.fast_convolutions import compiler_options, with_fast_convolutions
from experiments.recipe.network import Network


class TrainState(NamedTuple):
    """The training state.

    Attributes:
      step: number of updates so far, `int32[]`.
      variables: `{"params": ..., "state": ...}` of the network.
      opt_state: state of the optimizer chain.
      key: PRNG key of the augmentation; a step uses `fold_in(key, step)`.
    """

    step: jax.Array
    variables: Any
    opt_state: Any
    key: jax.Array


class Data(NamedTuple):
    """Images `[N, H, W, C]` uint8 and labels `[N]` int32 on the devices: a training set, or one batch of it."""

    images: jax.Array
    labels: jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["bits"], meta_fields=["sites"])
@dataclasses.dataclass(frozen=True)
class Alive:
    """Which units are alive on a batch.

    All sites share one array, because an array per site would add a kernel per site.

    Attributes:
      bits: `[..., U]` bool, the units of all sites, concatenated.
      sites: name and number of units of each site, in the same order.
    """

    bits: Any
    sites: tuple[tuple[str, int], ...]

    @classmethod
    def packed(cls, by_site: Mapping[str, jax.Array]) -> Alive:
        """Concatenates the bits `[N]` of each site."""
        bits = [by_site[name] for name in sorted(by_site)]
        sites = tuple((name, by_site[name].size) for name in sorted(by_site))
        return cls(jnp.concatenate(bits) if bits else jnp.zeros(0, bool), sites)

    def by_site(self) -> dict[str, Any]:
        """Returns the bits `[..., N]` of each site by name."""
        ends = np.cumsum([size for _, size in self.sites])[:-1]
        parts = np.split(np.asarray(self.bits), ends, axis=-1) if self.sites else []
        return {name: part for (name, _), part in zip(self.sites, parts, strict=True)}


class StepMetrics(NamedTuple):
    """Loss, number of correctly classified examples, and alive units of a batch.

    The metrics of several steps have a leading axis.
    """

    loss: jax.Array
    correct: jax.Array
    alive: Alive


@dataclasses.dataclass(frozen=True)
class Task:
    """Static arguments of the step. Hashable; the step is compiled once per `Task`.

    Attributes:
      network: the network at its current widths.
      tx: the optimizer chain.
      preparation: preprocessing and augmentation of the images.
      classes: number of classes.
      criterion, epsilon: decide which units are alive on a batch, see `demp_jax.alive`.
      label_smoothing: in [0, 1).
      accumulate: number of parts that a batch is split into and processed sequentially. Gradients are averaged over
        the parts; a unit is alive on the batch if it is alive on any part.
      watch: whether the step reports alive units.
      needs_live: whether the optimizer takes the mask of weights of alive units; requires `watch`.
      needs_groups: whether the optimizer takes the groups of the weights.
      extra_units: further units, as given to `demp_jax.trace`.
      fast_convolutions: whether slow convolutions are rewritten, see `with_fast_convolutions`.
      updater: masks weights, with its masks in the optimizer state; `None` for no masking.
      replicated: sharding of arrays that are replicated over all devices.
    """

    network: Network
    tx: optax.GradientTransformation
    preparation: Preparation
    classes: int
    criterion: str
    epsilon: float
    label_smoothing: float
    accumulate: int
    watch: bool
    needs_live: bool
    needs_groups: bool
    extra_units: tuple[str, ...]
    fast_convolutions: bool
    updater: Updater | None
    replicated: NamedSharding


@functools.partial(jax.jit, static_argnames=("task",), donate_argnames=("state",))
def train_step(
    state: TrainState, data: Data, examples: jax.Array | None, members: demp_jax.masks.WeightGroups, *, task: Task
) -> tuple[TrainState, StepMetrics]:
    """Runs one training step.

    Args:
      state: the training state; donated.
      data: the training set, or a batch.
      examples: `[B]` int32, indices of the batch in the training set; `None` if `data` is the batch.
      members: the weights of each unit.
      task: static arguments.

    Returns:
      The next state and the metrics of the step.
    """
    batch = data if examples is None else Data(data.images[examples], data.labels[examples])
    key = jax.random.fold_in(state.key, state.step)
    params = state.variables["params"]
    used = params if task.updater is None else task.updater.pre_forward_update(params, state.opt_state)
    part = functools.partial(_part, task)
    if task.accumulate == 1:
        loss, correct, new_state, alive, grads = part(used, state.variables["state"], key, batch)
    else:
        # Part i has the examples i, i + parts, ..., so that each part stays sharded over all devices.
        split = jax.tree.map(lambda leaf: jnp.moveaxis(_apart(leaf, task.accumulate), 1, 0), batch)

        def add(carry: tuple[Any, Any], xs: tuple[jax.Array, Data]) -> tuple[tuple[Any, Any], Any]:
            new_state, total = carry
            number, piece = xs
            loss, correct, new_state, alive, grads = part(used, new_state, jax.random.fold_in(key, number), piece)
            return (new_state, jax.tree.map(jnp.add, total, grads)), (loss, correct, alive)

        first = (state.variables["state"], jax.tree.map(jnp.zeros_like, params))
        (new_state, total), (losses, corrects, alives) = jax.lax.scan(add, first, (jnp.arange(task.accumulate), split))
        loss, correct = jnp.mean(losses), jnp.sum(corrects)
        alive = jax.tree.map(lambda bits: jnp.any(bits, 0), alives)
        grads = jax.tree.map(lambda leaf: leaf / task.accumulate, total)
    extra: dict[str, Any] = {"groups": members} if task.needs_groups else {}
    if task.needs_live:
        extra["live"] = demp_jax.weight_mask(members, alive, params)
    tx = optax.with_extra_args_support(task.tx)
    updates, opt_state = tx.update(grads, state.opt_state, params, **extra)
    params = optax.apply_updates(params, updates)
    if task.updater is not None:
        params = task.updater.post_gradient_update(params, opt_state)
    variables = {"params": params, "state": new_state}
    result = (
        TrainState(state.step + 1, variables, opt_state, state.key),
        StepMetrics(loss, correct, Alive.packed(alive)),
    )
    return jax.lax.with_sharding_constraint(result, task.replicated)


@functools.partial(jax.jit, static_argnames=("task",), donate_argnames=("state",))
def train_steps(
    state: TrainState,
    data: Data,
    examples: jax.Array | None,
    count: jax.Array,
    members: demp_jax.masks.WeightGroups,
    *,
    task: Task,
) -> tuple[TrainState, StepMetrics]:
    """Runs several training steps in one call.

    This amortizes the cost of a call, which for small networks equals that of several steps: dispatch on the host and,
    on CPU, memory allocation. The number of steps is an argument, so that the program is compiled once and a step
    computes the same result for every `count`.

    Args:
      state, data, members, task: see `train_step`.
      examples: `[S, B]` int32, indices of the batch of each step; `None` for a single step if `data` is the batch.
      count: `int32[]` in [1, S], number of steps to run.

    Returns:
      The next state, and metrics `[S, ...]`, which are zero from index `count` on.
    """
    if examples is None or len(examples) == 1:
        state, metrics = train_step(state, data, None if examples is None else examples[0], members, task=task)
        return state, jax.tree.map(lambda leaf: leaf[None], metrics)

    def take(number: jax.Array, carry: tuple[TrainState, StepMetrics]) -> tuple[TrainState, StepMetrics]:
        state, all_metrics = carry
        state, metrics = train_step(state, data, examples[number], members, task=task)
        return state, jax.tree.map(lambda every, one: every.at[number].set(one), all_metrics, metrics)

    _, one = jax.eval_shape(functools.partial(train_step, task=task), state, data, examples[0], members)
    none = jax.tree.map(lambda leaf: jnp.zeros((len(examples), *leaf.shape), leaf.dtype), one)
    result = jax.lax.fori_loop(0, count, take, (state, none))
    return jax.lax.with_sharding_constraint(result, task.replicated)


def _apart(leaf: jax.Array, parts: int) -> jax.Array:
    return leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:])


def _part(task: Task, params: Any, state: Any, key: jax.Array, batch: Data) -> tuple[Any, ...]:
    """Returns loss, number of correct predictions, next network state, alive units and gradients on a batch."""
    targets = jax.nn.one_hot(batch.labels, task.classes, dtype=jnp.float32)
    x, targets = task.preparation.train(key, batch.images, targets)
    watched = (
        functools.partial(demp_jax.with_activity, criterion=task.criterion, extra_units=task.extra_units)
        if task.watch
        else _unwatched
    )
    run = watched(task.network.train)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        (logits, new_state), activity = run({"params": params, "state": state}, x)
        return cross_entropy(logits, targets, task.label_smoothing), (logits, new_state, activity)

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if task.fast_convolutions:
        gradient = with_fast_convolutions(gradient, platform=jax.default_backend())
    (loss, (logits, new_state, activity)), grads = gradient(params)
    alive = {n: demp_jax.alive(a, task.criterion, epsilon=task.epsilon) for n, a in activity.items()}
    return loss, jnp.sum(jnp.argmax(logits, -1) == batch.labels), new_state, alive, grads


def _unwatched(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda variables, x: (fn(variables, x), {})


def cross_entropy(logits: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns the mean cross-entropy of `logits` `[B, K]` with target probabilities `targets` `[B, K]`, in nats."""
    return jnp.mean(optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing)))


@functools.partial(jax.jit, static_argnames=("preparation",))
def prepare(images: jax.Array, *, preparation: Preparation) -> jax.Array:
    """Returns the preprocessed inputs for uint8 images `[B, H, W, C]`, without augmentation."""
    return preparation(images)


def compiled(step: Callable[..., Any], *args: Any, task: Task) -> Any:
    """Returns `train_step` or `train_steps` compiled for arrays or `jax.ShapeDtypeStruct`s `args`."""
    options = compiler_options(jax.default_backend()) if task.fast_convolutions else {}
    return cast("Any", step).lower(*args, task=task).compile(compiler_options=options)


def free_compiled() -> None:
    """Frees the memory of all compiled steps. After a prune, those of the wider network are no longer needed."""
    for step in (train_step, train_steps):
        cast("Any", step).clear_cache()
