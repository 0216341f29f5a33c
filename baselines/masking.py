# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that mask weights. Masks are in the state of the optimizer, with the protocol of jaxpruner.

The updaters work in a loop written for jaxpruner (Lee et al., 2023, https://arxiv.org/abs/2304.14082), and updaters of
jaxpruner work in the training program::

    tx = updater.wrap_optax(optax.adam(1e-3))
    opt_state = tx.init(params)
    params = updater.post_gradient_update(params, opt_state)
    for batch in batches:
        grads = jax.grad(loss)(updater.pre_forward_update(params, opt_state), batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = updater.post_gradient_update(optax.apply_updates(params, updates), opt_state)

Masking does not make a network smaller or faster. `idle_units` finds units that only masked weights read, which can be
pruned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

import demp_jax
from baselines.sparsity import Distribution, Schedule

MASK = jnp.uint8


class SparseState(NamedTuple):
    """State of an optimizer wrapped by an updater.

    Attributes:
      masks: a tree like the parameters: uint8 arrays, 0 for masked weights, else 1; `None` for dense parameters.
      inner_state: the state of the wrapped optimizer.
      target_sparsities: a tree like the parameters: numbers in [0, 1); `None` for dense parameters.
      count: number of steps so far, `int32[]`.
    """

    masks: Any
    inner_state: Any = None
    target_sparsities: Any = None
    count: Any = None


class Updater(Protocol):
    """The methods of an updater that a training loop calls, for updaters of this package and of jaxpruner."""

    def wrap_optax(self, inner: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns the optimizer with masks in its state."""

    def pre_forward_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters for the forward pass."""

    def post_gradient_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters after a step, masked."""


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """The base class of updaters: recomputes masks from scores at the steps of a schedule.

    Attributes:
      distribution: the distribution of the target sparsity over the parameters, see `baselines.sparsity`.
      schedule: the steps at which the masks change, and the sparsity at these steps.
      seed: the seed of random masks and scores.
    """

    distribution: Distribution
    schedule: Schedule
    seed: int = 0
    # Whether the optimizer makes no update at steps that change the masks.
    skip_gradients: bool = dataclasses.field(default=False, init=False)
    # Whether the gradients of masked weights are zero for the optimizer.
    sparse_gradients: bool = dataclasses.field(default=False, init=False)
    # Whether a step that changes the masks reads the gradients of masked weights.
    dense_gradients: bool = dataclasses.field(default=False, init=False)
    # Whether masks are computed from the weights after the optimizer's update instead of before it.
    after_step: bool = dataclasses.field(default=False, init=False)

    def scores(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns a tree of scores like the parameters. Weights with the smallest scores are masked."""
        raise NotImplementedError

    def initial_masks(self, params: Any, sparsities: Any) -> Any:
        """Returns the masks before the first step; by default without masked weights."""
        return where(lambda p, _: jnp.ones(p.shape, MASK), params, sparsities)

    def new_masks(self, state: SparseState, params: Any, grads: Any) -> Any:
        """Returns the masks for a step that changes them."""
        sparsities = self.schedule.sparsities(state.target_sparsities, state.count)
        return where(top_mask, self.scores(params, grads, state.count), sparsities)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state with new masks."""
        return state._replace(masks=self.new_masks(state, params, grads))

    def init_state(self, params: Any) -> SparseState:
        """Returns the state before the first step, without the state of an optimizer."""
        sparsities = self.distribution(params)
        return SparseState(self.initial_masks(params, sparsities), None, sparsities, jnp.zeros([], jnp.int32))

    def wrap_optax(self, inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        """Returns the optimizer with masks in its state, a `SparseState`. Extra arguments are passed to `inner`.

        Its update raises `ValueError` without parameters.
        """
        chain = optax.with_extra_args_support(inner)

        def init(params: Any) -> SparseState:
            return self.init_state(params)._replace(inner_state=chain.init(params))

        def update(grads: Any, state: SparseState, params: Any = None, **extra_args: Any) -> Any:
            if params is None:
                raise ValueError("masking needs the parameters: call tx.update(grads, state, params).")
            changes = self.schedule.changes(state.count)

            def moved(state: SparseState, params: Any) -> SparseState:
                return jax.lax.cond(changes, self.update_state, lambda s, *_: s, state, params, grads)

            if not self.after_step:
                state = moved(state, params)
            seen = apply_masks(grads, state.masks) if self.sparse_gradients else grads

            def step(inner_state: Any) -> Any:
                return chain.update(seen, inner_state, params, **extra_args)

            def skip(inner_state: Any) -> Any:
                return jax.tree.map(jnp.zeros_like, params), inner_state

            if self.skip_gradients:
                updates, inner_state = jax.lax.cond(changes, skip, step, state.inner_state)
            else:
                updates, inner_state = step(state.inner_state)
            state = state._replace(inner_state=inner_state)
            if self.after_step:
                # Dropped connections may have nonzero moments.
                updates = apply_masks(updates, state.masks)
                state = moved(state, optax.apply_updates(params, updates))
            return updates, state._replace(count=state.count + 1)

        return optax.GradientTransformationExtraArgs(init, update)

    def pre_forward_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters unchanged, since `post_gradient_update` masks them."""
        del opt_state
        return params

    def post_gradient_update(self, params: Any, opt_state: SparseState) -> Any:
        """Returns the parameters with their masks applied."""
        return apply_masks(params, opt_state.masks)

    def instant_sparsify(self, params: Any, grads: Any = None) -> tuple[Any, Any]:
        """Returns the parameters at their target sparsity, and the masks."""
        masks = where(top_mask, self.scores(params, grads, jnp.zeros([], jnp.int32)), self.distribution(params))
        return apply_masks(params, masks), masks


@dataclasses.dataclass(frozen=True, eq=False)
class StaticSparse(Masking):
    """Trains with random masks that never change."""

    sparse_gradients: bool = dataclasses.field(default=True, init=False)

    def initial_masks(self, params: Any, sparsities: Any) -> Any:
        """Returns random masks at the target sparsity."""
        return where(top_mask, random_like(params, jax.random.key(self.seed)), sparsities)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state unchanged."""
        del params, grads
        return state

    def instant_sparsify(self, params: Any, grads: Any = None) -> tuple[Any, Any]:
        """Raises `TypeError`: methods that train sparse have no scores of trained weights."""
        raise TypeError(f"{type(self).__name__} trains sparse from the start; it cannot sparsify trained parameters.")


@dataclasses.dataclass(frozen=True, eq=False)
class DynamicSparse(StaticSparse):
    """Trains sparse and moves connections: drops those with the smallest weights, and grows as many others.

    Every parameter keeps its number of connections. A connection that has just been dropped can be grown again. New
    connections start at zero, with moments of zero. At a step that moves connections, the optimizer makes no update.

    Attributes:
      drop: by step, the fraction of the connections to drop, in [0, 1].
    """

    drop: optax.Schedule = lambda _: 0.3
    skip_gradients: bool = dataclasses.field(default=True, init=False)

    def growth(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns a tree of scores like the parameters. Connections with the largest scores are grown."""
        raise NotImplementedError

    def new_masks(self, state: SparseState, params: Any, grads: Any) -> Any:
        """Returns masks with moved connections."""
        drop = self.drop(state.count)
        growth = self.growth(params, grads, state.count)
        return where(lambda g, p, mask: moved(mask, jnp.abs(p), g, drop), growth, params, state.masks)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state with moved connections. The moments of new connections are zero."""
        masks = self.new_masks(state, params, grads)
        grown = where(lambda new, old: (new == 1) & (old == 0), masks, state.masks)
        inner = restarted(state.inner_state, params, grown)
        return state._replace(masks=masks, inner_state=inner)


def top_mask(scores: jax.Array, sparsity: Any) -> jax.Array:
    """Returns the mask of the `max(1, round(n (1 - sparsity)))` largest of n scores; the first of equal scores.

    Args:
      scores: an array of any shape.
      sparsity: in [0, 1], a number or a scalar array.
    """
    size = scores.size
    return top_count(scores, jnp.maximum(jnp.round(size * (1 - jnp.asarray(sparsity, jnp.float32))).astype(int), 1))


def top_count(scores: jax.Array, count: Any) -> jax.Array:
    """Returns the mask of the `count` largest scores; the first of equal scores."""
    order = jnp.argsort(-scores.reshape(-1), stable=True)
    return (
        jnp.zeros(scores.size, MASK).at[order].set((jnp.arange(scores.size) < count).astype(MASK)).reshape(scores.shape)
    )


def moved(mask: jax.Array, weight: jax.Array, growth: jax.Array, drop: Any) -> jax.Array:
    """Returns a mask with the same number of ones, of which a fraction has moved.

    Args:
      mask: the connections, 1 or 0.
      weight: an array like the mask. Connections with the smallest values are dropped; at least one is kept.
      growth: an array like the mask. Connections with the largest values are grown.
      drop: the fraction to move, in [0, 1].
    """
    ones = jnp.sum(mask, dtype=jnp.int32)
    # Rounded to the nearest integer, as in jaxpruner.
    kept = jnp.maximum(jnp.round(ones * (1 - drop)).astype(jnp.int32), jnp.minimum(ones, 1))
    stays = top_count(jnp.where(mask == 1, weight, -jnp.inf), kept)
    return top_count(jnp.where(stays == 1, jnp.inf, growth), ones)


def restarted(inner_state: Any, params: Any, grown: Any) -> Any:
    """Returns the state of an optimizer in which values of the connections in `grown` are zero.

    A part of the state mirrors the parameters if it is a tree of their structure and shapes, such as the moments of
    optax optimizers without factored moments.
    """
    structure: Any = jax.tree.structure(params)
    shapes = [p.shape for p in jax.tree.leaves(params)]

    def mirrors(node: Any) -> bool:
        return jax.tree.structure(node) == structure and [jnp.shape(p) for p in jax.tree.leaves(node)] == shapes

    def restart(node: Any) -> Any:
        if not mirrors(node):
            return node
        return jax.tree.map(lambda g, a: a if g is None else jnp.where(g, 0, a), grown, node, is_leaf=_is_none)

    return jax.tree.map(restart, inner_state, is_leaf=mirrors)


def where(fn: Callable[..., Any], tree: Any, *trees: Any) -> Any:
    """Maps `fn` over trees. The result is `None` where a leaf is `None`."""

    def one(*leaves: Any) -> Any:
        return None if any(leaf is None for leaf in leaves) else fn(*leaves)

    return jax.tree.map(one, tree, *trees, is_leaf=_is_none)


def apply_masks(tree: Any, masks: Any) -> Any:
    """Returns a tree multiplied by its masks."""
    return jax.tree.map(lambda m, a: a if m is None else a * m.astype(a.dtype), masks, tree, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def random_like(params: Any, key: jax.Array) -> Any:
    """Returns uniform random numbers in [0, 1), a tree like the parameters."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [jax.random.uniform(k, p.shape) for k, p in zip(keys, leaves, strict=True)])


def idle_units(graph: demp_jax.Graph, variables: Any) -> Mapping[str, np.ndarray]:
    """Returns the units that consumers only read with weights of zero, `[width]` bool by site.

    The result can be passed to `demp_jax.prune` as `remove`.
    """
    leaves = jax.tree.leaves(variables)
    read = np.zeros(graph.num_groups + 1, bool)
    for use in graph.consumers:
        if use.variable is None:
            read[use.groups] = True
            continue
        weights = np.asarray(leaves[use.variable])
        weights = weights if use.layer is None else weights[use.layer]
        any_weight = (weights != 0).any(tuple(i for i in range(weights.ndim) if i != use.weight_axis))
        # After a flatten, or with feature groups, there are more positions than weights. All then count as read.
        read[use.groups[any_weight if len(any_weight) == len(use.groups) else slice(None)]] = True
    read[-1] = True
    return {site.name: ~read[site.groups] for site in graph.sites}


def densities(params: Any, opt_state: Any) -> dict[str, float]:
    """Returns the fraction of weights that are not masked, by path of a masked parameter.

    Args:
      params: the masked parameters.
      opt_state: the state of an optimizer wrapped by an updater.
    """
    masks = jax.tree.leaves(opt_state.masks, is_leaf=_is_none)
    # Masks are counted, because new connections have zero weights. If jaxpruner packs its masks, nonzero weights are.
    counted = {
        path: mask if jnp.shape(mask) == leaf.shape else leaf
        for path, leaf, mask in zip(demp_jax.tracing.leaf_paths(params), jax.tree.leaves(params), masks, strict=True)
        if mask is not None
    }
    sizes = {path: max(leaf.size, 1) for path, leaf in counted.items()}
    return {path: int(ones) / sizes[path] for path, ones in jax.device_get(_nonzeros(counted)).items()}


@jax.jit
def _nonzeros(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: jnp.count_nonzero(leaf) for path, leaf in leaves.items()}
