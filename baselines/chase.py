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
    """Returns the mean absolute weight of every group, `[num_groups]`, including masked weights.

    It is 0 for groups that no kernel computes: units of sums, which are removed together with the units that feed them.
    """
    total, count = l1_norm.norms(subject)
    return total / np.maximum(count, 1)


def channels(sparsity: float, *, end: int) -> Callable[[int], float]:
    """Returns the channel sparsity by step t: `S (1 - (1 - t / end)^3)`, and S after `end`."""
    return lambda step: sparsity * (1 - (1 - min(step / end, 1.0)) ** 3)


def floors(graph: demp_jax.Graph, sparsity: float, beta: float) -> Mapping[str, int]:
    """Returns the minimum number of units of each site: `int(width * (1 - S) * beta)`, at least 1."""
    return {name: max(int(width * (1 - sparsity) * beta), 1) for name, width in graph.widths.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Chase(DynamicSparse):
    """Drops connections by `|w|` down to the target sparsity, and grows connections by `|dL/dw|` beyond it.

    After the step `switch`, as many connections are grown as dropped.

    Attributes:
      extra: by step, the fraction of every parameter that is connected beyond the target, in [0, 1].
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
