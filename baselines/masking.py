# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Methods that hold weights at zero: masks in the state of the optimizer, by jaxpruner's protocol.

An updater here drops into a loop written for jaxpruner (Lee et al., 2023, https://arxiv.org/abs/2304.14082), and one of
jaxpruner's into the training program::

    tx = updater.wrap_optax(optax.adam(1e-3))
    opt_state = tx.init(params)
    params = updater.post_gradient_update(params, opt_state)
    for batch in batches:
        grads = jax.grad(loss)(updater.pre_forward_update(params, opt_state), batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = updater.post_gradient_update(optax.apply_updates(params, updates), opt_state)

Masking does not make a network smaller or faster; `idle_units` finds the units that came to have no weights, for a cut.
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
      masks: a tree like the parameters of uint8 arrays, 1 where a weight may be other than zero; `None` for parameters
        that stay dense.
      inner_state: of the optimizer.
      target_sparsities: a tree like the parameters of numbers, `None` for parameters that stay dense.
      count: number of steps so far, `int32[]`.
    """

    masks: Any
    inner_state: Any = None
    target_sparsities: Any = None
    count: Any = None


class Updater(Protocol):
    """What a training loop uses of an updater, this package's or jaxpruner's."""

    def wrap_optax(self, inner: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns the optimizer with masks in its state."""

    def pre_forward_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters to compute with."""

    def post_gradient_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters after a step, masked."""


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """An updater that recomputes its masks from scores at the steps of a schedule; base of the others.

    Attributes:
      distribution: of the target sparsity over the parameters, see `baselines.sparsity`.
      schedule: at which steps the masks change, and how sparse they are then.
      seed: of what is random.
    """

    distribution: Distribution
    schedule: Schedule
    seed: int = 0
    # Whether the optimizer does nothing at the steps that change the masks.
    skip_gradients: bool = dataclasses.field(default=False, init=False)
    # Whether the optimizer does not see the gradients of weights that are held at zero.
    sparse_gradients: bool = dataclasses.field(default=False, init=False)
    # Whether a step that changes the masks reads the gradients of weights that are held at zero.
    dense_gradients: bool = dataclasses.field(default=False, init=False)
    # Whether masks change after the optimizer's step, by its new weights, instead of before it.
    after_step: bool = dataclasses.field(default=False, init=False)

    def scores(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns a tree of scores like the parameters: what scores least is held at zero."""
        raise NotImplementedError

    def initial_masks(self, params: Any, sparsities: Any) -> Any:
        """Returns the masks before the first step; by default everything is open."""
        return where(lambda p, _: jnp.ones(p.shape, MASK), params, sparsities)

    def new_masks(self, state: SparseState, params: Any, grads: Any) -> Any:
        """Returns the masks for a step that changes them."""
        sparsities = self.schedule.sparsities(state.target_sparsities, state.count)
        return where(top_mask, self.scores(params, grads, state.count), sparsities)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state with new masks."""
        return state._replace(masks=self.new_masks(state, params, grads))

    def init_state(self, params: Any) -> SparseState:
        """Returns the state before the first step, without that of an optimizer."""
        sparsities = self.distribution(params)
        return SparseState(self.initial_masks(params, sparsities), None, sparsities, jnp.zeros([], jnp.int32))

    def wrap_optax(self, inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        """Returns the optimizer with masks in its state, `SparseState`; further arguments go to `inner`."""
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
                # What was dropped may still have moments.
                updates = apply_masks(updates, state.masks)
                state = moved(state, optax.apply_updates(params, updates))
            return updates, state._replace(count=state.count + 1)

        return optax.GradientTransformationExtraArgs(init, update)

    def pre_forward_update(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters as they are: they are masked already."""
        del opt_state
        return params

    def post_gradient_update(self, params: Any, opt_state: SparseState) -> Any:
        """Returns the parameters with their masks applied."""
        return apply_masks(params, opt_state.masks)

    def instant_sparsify(self, params: Any, grads: Any = None) -> tuple[Any, Any]:
        """Returns the parameters at their target sparsity at once, and the masks."""
        masks = where(top_mask, self.scores(params, grads, jnp.zeros([], jnp.int32)), self.distribution(params))
        return apply_masks(params, masks), masks


@dataclasses.dataclass(frozen=True, eq=False)
class StaticSparse(Masking):
    """Trains at a random sparsity that never changes."""

    sparse_gradients: bool = dataclasses.field(default=True, init=False)

    def initial_masks(self, params: Any, sparsities: Any) -> Any:
        """Returns random masks at the target sparsity."""
        return where(top_mask, random_like(params, jax.random.key(self.seed)), sparsities)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state as it is."""
        del params, grads
        return state

    def instant_sparsify(self, params: Any, grads: Any = None) -> tuple[Any, Any]:
        """Raises `TypeError`: a method that trains sparse has no scores of its own."""
        raise TypeError(f"{type(self).__name__} trains sparse from the start; it cannot sparsify trained parameters.")


@dataclasses.dataclass(frozen=True, eq=False)
class DynamicSparse(StaticSparse):
    """Trains sparse, and moves connections: those with the smallest weights are dropped, and as many are grown.

    Every parameter keeps its number of connections. What has just been dropped may be grown again. New connections
    begin at zero, with moments of zero; at a step that moves connections the optimizer does nothing.

    Attributes:
      drop: which part of the connections is dropped, by step.
    """

    drop: optax.Schedule = lambda _: 0.3
    skip_gradients: bool = dataclasses.field(default=True, init=False)

    def growth(self, params: Any, grads: Any, count: Any) -> Any:
        """Returns a tree of scores like the parameters: what scores most is grown."""
        raise NotImplementedError

    def new_masks(self, state: SparseState, params: Any, grads: Any) -> Any:
        """Returns masks with connections moved."""
        drop = self.drop(state.count)
        growth = self.growth(params, grads, state.count)
        return where(lambda g, p, mask: moved(mask, jnp.abs(p), g, drop), growth, params, state.masks)

    def update_state(self, state: SparseState, params: Any, grads: Any) -> SparseState:
        """Returns the state with connections moved, and the moments of new ones at zero."""
        masks = self.new_masks(state, params, grads)
        grown = where(lambda new, old: (new == 1) & (old == 0), masks, state.masks)
        inner = restarted(state.inner_state, params, grown)
        return state._replace(masks=masks, inner_state=inner)


def top_mask(scores: jax.Array, sparsity: Any) -> jax.Array:
    """Returns the mask of the `max(1, round(n (1 - sparsity)))` largest of n scores; of equal ones the first.

    Args:
      scores: of any shape.
      sparsity: in [0, 1], a number or an array of one.
    """
    size = scores.size
    return top_count(scores, jnp.maximum(jnp.round(size * (1 - jnp.asarray(sparsity, jnp.float32))).astype(int), 1))


def top_count(scores: jax.Array, count: Any) -> jax.Array:
    """Returns the mask of the `count` largest scores; of equal ones the first."""
    order = jnp.argsort(-scores.reshape(-1), stable=True)
    return (
        jnp.zeros(scores.size, MASK).at[order].set((jnp.arange(scores.size) < count).astype(MASK)).reshape(scores.shape)
    )


def moved(mask: jax.Array, weight: jax.Array, growth: jax.Array, drop: Any) -> jax.Array:
    """Returns a mask with as many ones, a part `drop` of which has moved.

    Args:
      mask: the connections.
      weight: what scores least among them is dropped; at least one stays.
      growth: what scores most among the others is grown.
      drop: in [0, 1].
    """
    ones = jnp.sum(mask, dtype=jnp.int32)
    # As jaxpruner rounds: by densities of the parameter.
    kept = jnp.maximum(jnp.round(ones * (1 - drop)).astype(jnp.int32), jnp.minimum(ones, 1))
    stays = top_count(jnp.where(mask == 1, weight, -jnp.inf), kept)
    return top_count(jnp.where(stays == 1, jnp.inf, growth), ones)


def restarted(inner_state: Any, params: Any, grown: Any) -> Any:
    """Returns the state of an optimizer with zero wherever it mirrors a connection in `grown`.

    A part of the state mirrors the parameters where it is a tree of their structure and shapes: so are the moments of
    every optax optimizer but the factored ones.
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
    """Maps `fn` over trees of which some leaves are `None`: those give `None`."""

    def one(*leaves: Any) -> Any:
        return None if any(leaf is None for leaf in leaves) else fn(*leaves)

    return jax.tree.map(one, tree, *trees, is_leaf=_is_none)


def apply_masks(tree: Any, masks: Any) -> Any:
    """Returns a tree with zero where its mask is."""
    return jax.tree.map(lambda m, a: a if m is None else a * m.astype(a.dtype), masks, tree, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def random_like(params: Any, key: jax.Array) -> Any:
    """Returns uniform random numbers in [0, 1), a tree like the parameters."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [jax.random.uniform(k, p.shape) for k, p in zip(keys, leaves, strict=True)])


def idle_units(graph: demp_jax.Graph, variables: Any) -> Mapping[str, np.ndarray]:
    """Returns which units are only read with weights of zero, `[width]` bool by site: what `demp_jax.prune` removes."""
    leaves = jax.tree.leaves(variables)
    read = np.zeros(graph.num_groups + 1, bool)
    for use in graph.consumers:
        if use.variable is None:
            read[use.groups] = True
            continue
        weights = np.asarray(leaves[use.variable])
        weights = weights if use.layer is None else weights[use.layer]
        any_weight = (weights != 0).any(tuple(i for i in range(weights.ndim) if i != use.weight_axis))
        # A flattened or grouped axis may be longer than that of the weights: then nothing is concluded.
        read[use.groups[any_weight if len(any_weight) == len(use.groups) else slice(None)]] = True
    read[-1] = True
    return {site.name: ~read[site.groups] for site in graph.sites}


def densities(params: Any, opt_state: Any) -> dict[str, float]:
    """Returns which part of every masked parameter is open, by path.

    Args:
      params: the parameters, masked.
      opt_state: the state of an optimizer wrapped by an updater.
    """
    masks = jax.tree.leaves(opt_state.masks, is_leaf=_is_none)
    # A connection that has just been grown is open, and zero. (jaxpruner can pack its masks: then zeros are counted.)
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
