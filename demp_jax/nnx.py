# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Flax NNX: trace and prune models and their optimizers in place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from demp_jax._src.frameworks.nnx_models import Forward as Forward
from demp_jax._src.frameworks.nnx_models import forward as forward
from demp_jax._src.frameworks.nnx_models import reestimate_batch_stats as reestimate_batch_stats
from demp_jax._src.frameworks.nnx_models import resize as resize
from demp_jax._src.frameworks.nnx_pruner import Pruner as Pruner
from demp_jax._src.frameworks.nnx_pruning import preview as preview
from demp_jax._src.frameworks.nnx_pruning import prune as prune
from demp_jax._src.frameworks.nnx_pruning import set_strength_factor as set_strength_factor
from demp_jax._src.frameworks.nnx_pruning import trace as trace
from demp_jax._src.frameworks.refit import refit as refit
from demp_jax._src.tracing.select import select

__all__ = [
    "ChannelSum",
    "Forward",
    "Pruner",
    "Routing",
    "forward",
    "preview",
    "prune",
    "reestimate_batch_stats",
    "refit",
    "resize",
    "set_strength_factor",
    "trace",
]


class Routing(nnx.Variable):
    """An index or a fill value of `ChannelSum`. It is not trained; prunes rewrite it."""


class ChannelSum(nnx.Module):
    """A residual sum `x_1 + x_2 + ...` whose operands can lose channels independently.

    A plain sum couples its operands: a channel can only be removed from all of them. Here each operand is routed by an
    index (`demp_jax.select`), so that a channel can be dead after one block and alive after the next, as the paper
    counts channels. With a value `fill_i` for each removed channel of operand i::

        y[..., o] = sum_i x_i[..., index_i[o]], with fill_i[o] in place of a removed channel

    Until a prune makes the operands differ, the sum costs as much as a plain one.

    Example:
      >>> add = ChannelSum(3)
      >>> add(jnp.ones((2, 3)), jnp.ones((2, 3))).tolist()
      [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """

    def __init__(self, channels: int, operands: int = 2):
        """Initializes the sum.

        Args:
          channels: number of channels of each operand and of the sum, before any prune.
          operands: number of operands.
        """
        for i in range(operands):
            setattr(self, f"index_{i}", Routing(jnp.arange(channels, dtype=jnp.int32)))
            setattr(self, f"fill_{i}", Routing(jnp.zeros(channels)))
        self.ordered = (True,) * operands

    def __call__(self, *xs: jax.Array) -> jax.Array:
        """Returns the sum, `[..., channels]`.

        Args:
          *xs: the operands, each `[..., channels]` with its own remaining channels.

        Raises:
          ValueError: if the number of operands is not that of the constructor.
        """
        total = None
        for i, (x, ordered) in enumerate(zip(xs, self.ordered, strict=True)):
            index, fill = getattr(self, f"index_{i}")[...], getattr(self, f"fill_{i}")[...]
            identity = ordered and x.shape[-1] == index.shape[0]
            routed = select(x, index, fill, identity=identity, unique_indices=True)
            total = routed if total is None else total + routed
        assert total is not None
        return total

    def refit(self) -> None:
        """Updates the static attribute `ordered`: whether the index of each operand is `arange`."""
        indices = [np.asarray(getattr(self, f"index_{i}")[...]) for i in range(len(self.ordered))]
        self.ordered = tuple(bool((index == np.arange(index.size)).all()) for index in indices)
