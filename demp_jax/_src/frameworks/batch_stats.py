# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Averages of the batch statistics of BatchNorm layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def batch_averages(statistics: Callable[[Any, Any], Any], variables: Any, batches: Iterable[Any]) -> Any:
    """Returns the average over batches of the statistics of one batch.

    Args:
      statistics: `statistics(variables, x)` returns a tree of the statistics of one batch. It is compiled once for all
        batches of one shape.
      variables: the first argument of `statistics`.
      batches: batches of inputs, with equal weights.

    Returns:
      The tree of averages, in the dtypes of the statistics. They are accumulated in float32 or wider.

    Raises:
      ValueError: if there is no batch.
    """

    @jax.jit
    def step(average: Any, count: jax.Array, variables: Any, x: Any) -> Any:
        # This form is exact if all statistics are equal.
        return jax.tree.map(lambda a, s: a + (s - a) / count, average, statistics(variables, x))

    average = dtypes = None
    for count, x in enumerate(batches, start=1):
        if average is None:
            shapes = jax.eval_shape(lambda v, x: statistics(v, x), variables, x)
            dtypes = jax.tree.map(lambda leaf: leaf.dtype, shapes)
            average = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)), shapes)
        average = step(average, jnp.asarray(count, jnp.float32), variables, x)
    if average is None:
        raise ValueError("reestimate_batch_stats: batches is empty; give at least one batch of training inputs.")
    return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), average, dtypes)
