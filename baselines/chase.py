# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Chase: prunes channels of a sparse network (Yin et al., 2023, https://arxiv.org/abs/2305.19454).

Channels are removed for good, at a growing rate. The remaining network trains sparse. For most of the run it has more
connections than the target (a soft memory bound). The released code masks channels and removes them at the end. Here
they are removed immediately.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import demp_jax
from baselines import l1_norm
from baselines.masking import DynamicSparse, SparseState, moved, restarted, top_count, where
from baselines.subject import Subject


def score(subject: Subject) -> np.ndarray:
    """Returns the mean of `|w|` over the kernels that compute a group, `[num_groups]`. Masked weights count as zeros.

    Weights of a branch of a residual sum count for the group of the sum (`Graph.fed`). Groups of branches score 0.

    Raises:
      ValueError: if no kernel is known to compute a unit.
    """
    total, count = l1_norm.norms(subject)
    return total / np.maximum(count, 1)


def channels(sparsity: float, *, end: int) -> Callable[[int], float]:
    """Returns the channel sparsity at step t: `S (1 - (1 - min(t / end, 1))^3)`, with S in [0, 1) and `end` > 0."""
    return lambda step: sparsity * (1 - (1 - min(step / end, 1.0)) ** 3)


def floors(graph: demp_jax.Graph, sparsity: float, beta: float) -> Mapping[str, int]:
    """Returns the minimum number of units of each site: `max(int(width * (1 - S) * beta), 1)`."""
    return {name: max(int(width * (1 - sparsity) * beta), 1) for name, width in graph.widths.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Chase(DynamicSparse):
    """Keeps connections by `|w|`, and grows more of them than the target sparsity allows by `|dL/dw|`.

    At step t, a parameter with n weights and target sparsity s keeps the `k = max(round(n (1 - s)), 1)` connections
    with the largest `|w|`. Until the step `switch`, `round(n extra(t))` connections with the largest `|dL/dw|` of the
    step's batch are added. After it, the mask has k connections, and a fraction `drop(t)` of them moves as in RigL.
    Masks change after the update of the optimizer.

    Attributes:
      extra: by step, the number of connections beyond the target as a fraction of n, in [0, 1].
      switch: the last step with connections beyond the target.
    """

    extra: optax.Schedule = lambda _: 0.05
    switch: int = 0
    skip_gradients: bool = dataclasses.field(default=False, init=False)
    dense_gradients: bool = dataclasses.field(default=True, init=False)
    after_step: bool = dataclasses.field(default=True, init=False)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state with moved connections. The moments of new connections are zero."""
        drop, extra = self.drop(state.count), self.extra(state.count)
        beyond = state.count <= self.switch

        def one(weight: jax.Array, grad: jax.Array, mask: jax.Array, sparsity: Any) -> jax.Array:
            target = jnp.maximum(jnp.round(mask.size * (1 - jnp.asarray(sparsity, jnp.float32))).astype(jnp.int32), 1)
            weight, grad = jnp.abs(weight), jnp.abs(grad)
            base = top_count(jnp.where(mask == 1, weight, -jnp.inf), target)
            more = jnp.minimum(target + jnp.round(extra * mask.size).astype(jnp.int32), mask.size)
            grown = top_count(jnp.where(base == 1, jnp.inf, grad), more)
            return jnp.where(beyond, grown, moved(base, weight, grad, drop))

        masks = where(one, params, grads, state.masks, state.target_sparsities)
        grown = where(lambda new, old: (new == 1) & (old == 0), masks, state.masks)
        return state._replace(masks=masks, inner_state=restarted(state.inner_state, params, grown))
