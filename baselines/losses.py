# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Losses of a network with gates, whose derivatives are scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import demp_jax

# The loss of a batch, from logits `[B, classes]` and labels `[B]`.
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of a batch, in nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def negative_logit(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean of the negated logits of the labels, as in released code that omits the log-softmax."""
    return -jnp.mean(jnp.take_along_axis(logits, labels[:, None], 1))


def gated(
    fn: Callable[[Any, Any], Any], graph: demp_jax.Graph, exclude: tuple[str, ...], position: str, loss: Loss
) -> Callable[..., jax.Array]:
    """Returns the loss of a batch as a function of gates.

    Args:
      fn: the network in evaluation mode, `fn(variables, x) -> logits [B, classes]`.
      graph: its trace.
      exclude: see `demp_jax.trace`.
      position: where the gates are, see `demp_jax.tracing.with_gates`.
      loss: the loss of logits and labels.

    Returns:
      `loss(gates, thresholds, variables, x, y, live) -> float[]`. Gates, thresholds and `live`, which is False for
      masked groups, are `[num_groups]`.
    """
    run = demp_jax.tracing.with_gates(fn, graph, position=position, exclude=exclude)

    def of(gates: jax.Array, thresholds: jax.Array, variables: Any, x: Any, y: Any, live: Any) -> jax.Array:
        return loss(run(variables, x, gates, thresholds, live), y)

    return of
