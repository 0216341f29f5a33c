# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""SRigL: RigL with constant fan-in and neuron ablation (Lasby et al., 2024, https://arxiv.org/abs/2305.02299)."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
import optax

from baselines.masking import MASK, SparseState, StaticSparse, random_like, restarted, top_count, where
from demp_jax.tracing import leaf_paths


@dataclasses.dataclass(frozen=True, eq=False)
class SRigL(StaticSparse):
    """Moves connections so that all neurons of a kernel that are not ablated have equal fan-in.

    Kernels have their outputs along the last axis, as in Flax. A step that changes masks does, after the update:

    1. Of m connections, `d = floor(m drop(t))` are dropped. Salient are the m - d connections with the largest `|w|`,
       and the d weights with the largest `|dL/dw|` of the whole kernel.
    2. Neurons with fewer salient connections than `ablation` times the initial fan-in are ablated. They can come back.
       Enough neurons are kept that none needs more than a dense fan-in.
    3. The common fan-in of the other neurons is `floor(n (1 - S)) // (number of these neurons)`, for a kernel of n
       weights and sparsity S. Each keeps its largest weights, and grows connections by `|dL/dw|` up to this fan-in.

    The released code trims neurons with too many connections in arbitrary order. If ablation leaves too few
    connections, it adds arbitrary ones. Here neurons are trimmed by magnitude, and connections added by the gradient.

    Attributes:
      drop: by step, the fraction of the connections to drop, in [0, 1].
      ablation: the fraction in step 2, in [0, 1]; 0 for no ablation. The paper uses 0.3 for ResNets and 0.95 for a ViT.
      never_ablated: patterns of paths of parameters without ablation, such as the classifier.
    """

    drop: optax.Schedule = lambda _: 0.3
    ablation: float = 0.3
    never_ablated: tuple[str, ...] = ()
    dense_gradients: bool = dataclasses.field(default=True, init=False)
    after_step: bool = dataclasses.field(default=True, init=False)

    def initial_masks(self, params: Any, sparsities: Any) -> Any:
        """Returns random masks with equal fan-in of all neurons."""

        def one(score: jax.Array, sparsity: Any) -> jax.Array:
            flat = score.reshape(-1, score.shape[-1])
            return _first(flat, _budget(flat, sparsity) // flat.shape[1]).reshape(score.shape)

        return where(one, random_like(params, jax.random.key(self.seed)), sparsities)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state with moved connections and ablated neurons."""
        drop = self.drop(state.count)
        tree = jax.tree.structure(params)
        ablates = jax.tree.unflatten(
            tree,
            [not any(fnmatch.fnmatch(p, each) for each in self.never_ablated) for p in leaf_paths(params)],
        )

        def one(ablate: bool, weight: jax.Array, grad: jax.Array, mask: jax.Array, sparsity: Any) -> jax.Array:
            flat = (-1, weight.shape[-1])
            share = self.ablation if ablate else 0.0
            args = (jnp.abs(weight).reshape(flat), jnp.abs(grad).reshape(flat), mask.reshape(flat))
            return constant_fan_in(*args, sparsity, drop, share).reshape(weight.shape)

        masks = where(one, ablates, params, grads, state.masks, state.target_sparsities)
        grown = where(lambda new, old: (new == 1) & (old == 0), masks, state.masks)
        return state._replace(masks=masks, inner_state=restarted(state.inner_state, params, grown))


def constant_fan_in(
    weight: jax.Array, grad: jax.Array, mask: jax.Array, sparsity: Any, drop: Any, ablation: float
) -> jax.Array:
    """Returns the next mask of one kernel, `[fan-in, neurons]`.

    Args:
      weight, grad: `[fan-in, neurons]`, absolute values.
      mask: `[fan-in, neurons]`, the current mask.
      sparsity: the sparsity of the kernel, in [0, 1).
      drop: the fraction of the connections to drop, in [0, 1].
      ablation: neurons with fewer salient connections than this fraction of their initial fan-in are ablated.
    """
    fan_in, neurons = weight.shape
    budget = _budget(weight, sparsity)
    ones = jnp.sum(mask, dtype=jnp.int32)
    dropped = jnp.floor(ones * drop).astype(jnp.int32)
    kept = ones - dropped
    active = jnp.where(mask == 1, weight, -jnp.inf)
    salient = (top_count(active, kept) & mask) | top_count(grad, dropped)
    counts = jnp.sum(salient, 0, dtype=jnp.int32)
    least = jnp.maximum(jnp.floor(ablation * (budget // neurons)).astype(jnp.int32), 1)
    # The minimum number of neurons that can hold all connections at a dense fan-in.
    needed = jnp.maximum(-(-budget // fan_in), 1)
    least = jnp.minimum(least, jnp.sort(counts)[::-1][needed - 1])
    stays = counts >= least if ablation > 0 else jnp.ones(neurons, bool)
    width = jnp.minimum(budget // jnp.sum(stays), fan_in)
    keeps = (top_count(jnp.where(stays[None], active, -jnp.inf), kept) & mask) == 1
    # Kept connections come first, by weight, followed by others, by gradient.
    order = jnp.where(keeps & stays[None], 1 + weight, grad / (1 + jnp.max(grad)))
    return _first(order, width) * stays[None].astype(MASK)


def _budget(kernel: jax.Array, sparsity: Any) -> jax.Array:
    """Returns the number of connections of a kernel, at least one per neuron."""
    budget = jnp.floor(kernel.size * (1 - jnp.asarray(sparsity, jnp.float32)) + 1e-3).astype(jnp.int32)
    return jnp.maximum(budget, kernel.shape[1])


def _first(scores: jax.Array, count: Any) -> jax.Array:
    """Returns the mask of the `count` largest scores of every column."""
    order = jnp.argsort(-scores, axis=0, stable=True)
    places = jnp.argsort(order, axis=0, stable=True)
    return (places < count).astype(MASK)
