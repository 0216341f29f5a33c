# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Chase: channels and connections leave together (Yin et al., 2023, https://arxiv.org/abs/2305.19454).

Channels are cut for good, at a growing rate; what is left trains sparse, for most of the run with more connections than
asked for (a soft memory bound). The released code masks the channels and removes them at the end; here they are cut
when they leave.
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
    """Returns the mean absolute weight of every class, `[K]`, of weights held at zero, too.

    It is 0 for classes that no kernel computes: units of sums, which leave with the units that feed them.
    """
    total, count = l1_norm.norms(subject)
    return total / np.maximum(count, 1)


def channels(sparsity: float, *, end: int) -> Callable[[int], float]:
    """Returns the channel sparsity by step: `S (1 - (1 - t / end)^3)`, S from `end` on."""
    return lambda step: sparsity * (1 - (1 - min(step / end, 1.0)) ** 3)


def floors(graph: demp_jax.Graph, sparsity: float, beta: float) -> Mapping[str, int]:
    """Returns how many units every site keeps at least: `int(width * (1 - S) * beta)`, and at least one."""
    return {name: max(int(width * (1 - sparsity) * beta), 1) for name, width in graph.widths.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Chase(DynamicSparse):
    """Moves connections: back to the target sparsity by `|w|`, then beyond it by `|dL/dw|`, until `switch`.

    After that as many are grown as dropped.

    Attributes:
      extra: by step, how much of every parameter may be open beyond the target.
      switch: the step after which nothing is beyond the target.
    """

    extra: optax.Schedule = lambda _: 0.05
    switch: int = 0
    skip_gradients: bool = dataclasses.field(default=False, init=False)
    dense_gradients: bool = dataclasses.field(default=True, init=False)
    after_step: bool = dataclasses.field(default=True, init=False)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state with connections moved, and the moments of new ones at zero."""
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
