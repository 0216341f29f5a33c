# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Demon Pruning as an optimizer chain (paper, algorithm 1)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Key

from demp_jax._src.optim import frozen as frozen_lib
from demp_jax._src.optim import noise as noise_lib
from demp_jax._src.optim import regularizers as regularizers_lib


def demp(
    base: optax.GradientTransformation,
    *,
    strength: optax.ScalarOrSchedule,
    noise: optax.ScalarOrSchedule = 0.0,
    key: Key[jax.Array, ""] | int = 0,
    kind: str = "lasso",
    where: regularizers_lib.Mask = regularizers_lib.norm_scales,
    decoupled: bool = False,
    amplitude: str = "variance",
    asymmetric: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that neurons die: adds a regularizer to the gradient and noise to the update.

    One update of the parameters theta, which contain the scales gamma of normalization layers, is (paper,
    algorithm 1)::

        theta_{t+1} = theta_t + base(grad L + grad R(gamma; lambda_t)) + xi_t
        xi_t ~ N(0, sigma_t^2) for weights of alive neurons, 0 for weights of dead neurons

    with `R = lambda_t * sum |gamma|` by default (`add_regularizer`). Use `prune` to remove dead neurons. Constant
    weight decay belongs in `base`. Parameters that `base` freezes with `optax.set_to_zero` in an `optax.partition` are
    neither regularized nor perturbed. Inside `optax.masked` or `optax.partition`, `demp` only changes the parameters
    that these pass on.

    `weight_mask` returns the mask of the weights of alive neurons. Pass it at each step,
    `tx.update(grads, state, params, live=mask)`. By default, a weight counts as alive if its gradient is nonzero. This
    is right for ReLU, with two exceptions: a weight whose input is zero on the whole batch gets no noise at that step,
    and a penalty in your own loss gives every weight a gradient. Other activations always need the mask.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = demp(optax.adam(1e-3), strength=0.01, noise=5e-5)
      >>> params = {"bn": {"scale": jnp.ones(4)}, "out": {"kernel": jnp.ones((4, 2))}}
      >>> grads = jax.tree.map(jnp.ones_like, params)
      >>> updates, state = tx.update(grads, tx.init(params), params)

    Args:
      base: the optimizer.
      strength: lambda, >= 0, in units of the loss per unit of scale; a number or a schedule such as
        `one_cycle(1e-2, 10_000)`.
      noise: variance (or standard deviation, see `amplitude`) of the noise, >= 0, a number or a schedule.
      key: random key or seed of the noise.
      kind: the regularizer. `"lasso"` and `"l2"` are those of `add_regularizer`. `"proximal"` is `add_proximal_lasso`,
        applied last. `"group"` and `"proximal_group"` are `add_group_lasso`; they ignore `where` and need
        `tx.update(..., groups=weight_groups(graph, params))` at each step.
      where: mask of the regularized parameters, or a function that returns it; by default the scales of normalization
        layers. Numbers instead of bools multiply the strength.
      decoupled: whether `"lasso"` and `"l2"` change the parameters directly, after `base`, instead of adding to the
        gradient. Decoupled regularization prunes less (paper, appendix F.5).
      amplitude: whether `noise` is a `"variance"` or a standard deviation, `"std"`.
      asymmetric: whether the weights of dead neurons get no noise.

    Returns:
      The optimizer. Its `update` needs `params` and takes the optional argument `live`, a tree of bools like the
      parameters that broadcast against them.

    Raises:
      ValueError: for an unknown `kind` or `amplitude`, or a negative or non-finite `strength` or `noise`; in `update`,
        if `params` is missing or if the default `where` finds no scale.
    """
    if not hasattr(base, "init"):
        raise ValueError(f"demp: base must be an optimizer, such as optax.adam(1e-3); got {base!r}.")
    added = noise_lib.add_weight_noise(noise, key=key, amplitude=amplitude, asymmetric=asymmetric)
    parts: tuple[optax.GradientTransformation, ...]
    if kind == "group":
        parts = (regularizers_lib.add_group_lasso(strength), base, added)
    elif kind == "proximal_group":
        parts = (base, added, regularizers_lib.add_group_lasso(strength, proximal=True))
    elif kind == "proximal":
        parts = (base, added, regularizers_lib.add_proximal_lasso(strength, where=where))
    elif decoupled:
        parts = (base, regularizers_lib.add_decoupled_regularizer(strength, kind=kind, where=where), added)
    else:
        parts = (regularizers_lib.add_regularizer(strength, kind=kind, where=where), base, added)
    chain = optax.chain(*parts)
    assert isinstance(chain, optax.GradientTransformationExtraArgs)
    place, support = parts.index(base), optax.with_extra_args_support(base)
    # Whether `base` never updates each parameter, by structure, shapes and dtypes of the gradients.
    found: dict[Any, tuple[bool, ...]] = {}

    def update(grads: Any, state: Any, params: Any = None, *, live: Any = None, **extra_args: Any) -> Any:
        if live is None:
            # Taken before the regularizer is added, which would make the scales of dead neurons look alive.
            live = jax.tree.map(lambda g: g != 0, grads)
        updates, new_state = chain.update(grads, state, params, live=live, **extra_args)
        leaves, structure = jax.tree.flatten(updates)
        which = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if which not in found:
            of_base = lambda grads: support.update(grads, state[place], params, live=live, **extra_args)[0]  # noqa: E731
            found[which] = frozen_lib.frozen(of_base, grads)
        # Noise and decoupled regularization come after `base` and would change frozen parameters.
        kept = [jnp.zeros_like(u) if off else u for u, off in zip(leaves, found[which], strict=True)]
        return jax.tree.unflatten(structure, kept), new_state

    return optax.GradientTransformationExtraArgs(chain.init, update)


def set_strength_factor(opt_state: Any, factor: float, *, noise: float | None = None) -> Any:
    """Returns an optimizer state that multiplies the scheduled strength of the regularizer by `factor`.

    By default, a factor below 1 also multiplies the amount of noise, so that no neurons die at a factor of 0. The
    factors apply until they are set again. They are arrays in the state, so nothing is recompiled.
    `demp_jax.targets.TargetController` computes factors that lead to a given size.

    Example:
      >>> tx = demp(optax.sgd(1.0), strength=0.1)
      >>> params = {"scale": jnp.array([2.0])}
      >>> state = set_strength_factor(tx.init(params), 3.0)
      >>> updates, _ = tx.update({"scale": jnp.zeros(1)}, state, params)
      >>> round(float(updates["scale"][0]), 2)
      -0.3

    Args:
      opt_state: an optimizer state that contains the state of a regularizer.
      factor: the factor, >= 0.
      noise: the factor of the noise, >= 0; by default `min(factor, 1)`.

    Returns:
      The new state.

    Raises:
      ValueError: if a factor is negative or not finite, or if the state contains no regularizer.
    """
    for name, each in (("factor", factor), ("noise", 0.0 if noise is None else noise)):
        if not (each >= 0 and math.isfinite(each)):
            raise ValueError(f"set_strength_factor: {name} must be a finite number >= 0; got {name}={each}.")
    kinds = (regularizers_lib.RegularizerState, noise_lib.NoiseState)
    if not any(isinstance(n, kinds[0]) for n in jax.tree.leaves(opt_state, is_leaf=lambda n: isinstance(n, kinds))):
        raise ValueError("set_strength_factor: opt_state must contain a regularizer. Wrap the optimizer in `demp`.")

    def changed(node: Any) -> Any:
        if not isinstance(node, kinds):
            return node
        value = factor if isinstance(node, kinds[0]) else min(factor, 1.0) if noise is None else noise
        # With the dtype and sharding of the old factor, so that the step is not recompiled. A factor restored from a
        # file may be a NumPy array, without a sharding.
        place = getattr(node.factor, "sharding", None)
        return node._replace(factor=jax.device_put(jnp.asarray(value, jnp.float32), place))

    return jax.tree.map(changed, opt_state, is_leaf=lambda node: isinstance(node, kinds))
