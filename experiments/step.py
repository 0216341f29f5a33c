# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The training step: one pure compiled function of a state and the numbers of a batch's examples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

import demp_jax
from experiments.data import Preparation
from experiments.network import Network


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      step: number of updates so far, `int32[]`.
      variables: `{"params": ..., "state": ...}` of the network.
      opt_state: of the optimizer chain.
      key: random key of the augmentation; a step uses `fold_in(key, step)`.
    """

    step: jax.Array
    variables: Any
    opt_state: Any
    key: jax.Array


class Data(NamedTuple):
    """The training set on the device: `images` `[N, H, W, C]` uint8 and `labels` `[N]` int32."""

    images: jax.Array
    labels: jax.Array


class StepMetrics(NamedTuple):
    """What one step reports: the loss, how many examples were right, and by site who was alive on the batch."""

    loss: jax.Array
    correct: jax.Array
    alive: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """What does not change during a run, and the network's structure. Hashable: a new one is a new compilation.

    Attributes:
      network: the network at its present widths.
      tx: the optimizer chain.
      preparation: of the images.
      criterion, epsilon: who counts as alive on a batch.
      label_smoothing: in [0, 1).
      watch: whether a step reports who was alive on its batch.
      needs_live: whether the optimizer takes the mask of live weights; needs `watch`.
    """

    network: Network
    tx: optax.GradientTransformation
    preparation: Preparation
    criterion: str
    epsilon: float
    label_smoothing: float
    watch: bool
    needs_live: bool


@functools.partial(jax.jit, static_argnames=("task",), donate_argnames=("state",))
def train_step(
    state: TrainState, data: Data, examples: jax.Array, members: demp_jax.Membership, *, task: Task
) -> tuple[TrainState, StepMetrics]:
    """Takes one step.

    Args:
      state: the state; its memory is reused.
      data: the training set.
      examples: `[B]` int32, which examples the batch holds.
      members: which weights belong to which neurons.
      task: what to do.

    Returns:
      The next state and the metrics of the step.
    """
    images, labels = data.images[examples], data.labels[examples]
    images = task.preparation.augment(jax.random.fold_in(state.key, state.step), images)
    x = task.preparation(images)
    run = demp_jax.with_activity(task.network.train) if task.watch else _unwatched(task.network)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        (logits, new_state), activity = run({**state.variables, "params": params}, x)
        loss = cross_entropy(logits, labels, task.label_smoothing)
        return loss, (logits, new_state, activity)

    params = state.variables["params"]
    (loss, (logits, new_state, activity)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    alive = {n: demp_jax.alive(a, task.criterion, epsilon=task.epsilon) for n, a in activity.items()}
    extra = {"live": demp_jax.weight_mask(members, alive, params)} if task.needs_live else {}
    tx = optax.with_extra_args_support(task.tx)
    updates, opt_state = tx.update(grads, state.opt_state, params, **extra)
    variables = {"params": optax.apply_updates(params, updates), "state": new_state}
    correct = jnp.sum(jnp.argmax(logits, -1) == labels)
    return TrainState(state.step + 1, variables, opt_state, state.key), StepMetrics(loss, correct, alive)


def _unwatched(network: Network) -> Callable[[Any, jax.Array], Any]:
    return lambda variables, x: (network.train(variables, x), {})


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns the mean cross-entropy of `logits` `[B, classes]` against `labels` `[B]`, in nats."""
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing)))


@functools.partial(jax.jit, static_argnames=("preparation",))
def prepare(images: jax.Array, *, preparation: Preparation) -> jax.Array:
    """Returns inputs for uint8 images `[B, H, W, C]`, without augmentation."""
    return preparation(images)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Returns whether no entry of a tree is infinite or NaN, `bool[]`."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def free_compiled() -> None:
    """Drops the compiled steps: those of a wider network are of no more use, and hold memory."""
    cast("Any", train_step).clear_cache()
