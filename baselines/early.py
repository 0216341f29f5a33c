# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""When to prune early in training: when the distance of the weights from the start grows slowly (EarlyCroP).

Rachwan et al., 2022, https://arxiv.org/abs/2206.10451, section 4.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

RULES = ("paper", "released")


class EarlyState(NamedTuple):
    """State of `watch_distance`.

    Attributes:
      inner: the state of the wrapped optimizer.
      reference: the parameters from which distances are measured.
      size: the norm of the reference, `float32[]`.
      distance: the relative distance from the reference at the end of the last epoch, `float32[]`.
      threshold: the threshold of the rule, `float32[]`.
      step: number of updates so far, `int32[]`.
      fired_at: the number of updates after which the rule fired, `int32[]`; -1 before.
    """

    inner: Any
    reference: Any
    size: jax.Array
    distance: jax.Array
    threshold: jax.Array
    step: jax.Array
    fired_at: jax.Array


def watch_distance(
    inner: optax.GradientTransformation, *, epoch: float, sparsity: float, rule: str = "paper"
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that its state says when to prune. The updates are those of `inner`.

    At the end of epoch e = 1, 2, ..., with parameters theta_e, the rule fires for the first time when::

        paper:     0 < |d_e - d_{e-1}| < 1 - rho,                d_e = ||theta_e - theta_0|| / ||theta_0||
        released:  |d_e - d_{e-1}| < d_2 * min(1 - rho - 0.1, 0.99),   d_e = ||theta_e - theta_1|| / ||theta_1||, e > 1

    The second rule never fires for rho >= 0.9, so callers should also set a latest step. The reference has the
    structure of the parameters, so `demp_jax.prune` slices it with them.

    Args:
      inner: the optimizer.
      epoch: steps per epoch, > 0, not rounded.
      sparsity: rho, the fraction of neurons to remove, in [0, 1).
      rule: one of `RULES`.

    Raises:
      ValueError: for an unknown rule, or an argument out of its range.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule=}.")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1); got {sparsity=}.")
    if not epoch > 0:
        raise ValueError(f"epoch must be a number of steps > 0; got {epoch=}.")
    chain = optax.with_extra_args_support(inner)

    def init(params: Any) -> EarlyState:
        zero = jnp.zeros([], jnp.float32)
        threshold = jnp.full([], 1 - sparsity if rule == "paper" else 0.0, jnp.float32)
        count, never = jnp.zeros([], jnp.int32), jnp.full([], -1, jnp.int32)
        # A copy, since the training step donates the memory of the parameters.
        reference = jax.tree.map(jnp.copy, params)
        return EarlyState(chain.init(params), reference, optax.tree.norm(params), zero, threshold, count, never)

    def at_end_of_epoch(state: EarlyState, params: Any, number: jax.Array) -> EarlyState:
        if rule == "released":
            first = number == 1
            reference = jax.tree.map(lambda new, old: jnp.where(first, new, old), params, state.reference)
            state = state._replace(reference=reference, size=jnp.where(first, optax.tree.norm(params), state.size))
        traveled = optax.tree.norm(jax.tree.map(jnp.subtract, params, state.reference))
        distance = traveled / (state.size + (1e-6 if rule == "paper" else 0.0))
        change = jnp.abs(distance - state.distance)
        threshold = state.threshold
        if rule == "released":
            threshold = jnp.where(number == 2, distance * min(1 - sparsity - 0.1, 0.99), threshold)
            fires = (number > 1) & (change < threshold)
        else:
            fires = (change > 0) & (change < threshold)
        fired_at = jnp.where(fires & (state.fired_at < 0), state.step, state.fired_at)
        return state._replace(distance=distance, threshold=threshold, fired_at=fired_at)

    def update(grads: Any, state: EarlyState, params: Any = None, **extra_args: Any) -> Any:
        if params is None:
            raise ValueError("watch_distance needs the parameters: call tx.update(grads, state, params).")
        updates, inner_state = chain.update(grads, state.inner, params, **extra_args)
        state = state._replace(inner=inner_state, step=state.step + 1)
        number = jnp.floor(state.step / epoch)
        # `epoch` need not be an integer. An epoch ends at the first step at or after its multiple.
        ends = number > jnp.floor((state.step - 1) / epoch)
        after = optax.apply_updates(params, updates)
        state = jax.lax.cond(ends & (state.fired_at < 0), at_end_of_epoch, lambda s, *_: s, state, after, number)
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def fired_at(opt_state: Any) -> int:
    """Returns the number of updates after which the rule fired, or -1.

    Args:
      opt_state: the state of an optimizer that contains one `watch_distance`.

    Raises:
      ValueError: if the state does not contain one `watch_distance`.
    """
    found = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_early) if _is_early(s)]
    if len(found) != 1:
        raise ValueError(f"the optimizer's state must hold one watch_distance; it holds {len(found)}.")
    return int(found[0].fired_at)


def restarted(opt_state: Any, fresh: Any) -> Any:
    """Returns the state `fresh` of an optimizer, with the rule's state of `opt_state` if that is an `EarlyState`."""
    if not _is_early(opt_state):
        return fresh
    return opt_state._replace(inner=fresh.inner)


def _is_early(state: Any) -> bool:
    return isinstance(state, EarlyState)
