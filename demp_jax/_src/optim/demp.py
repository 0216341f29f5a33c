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
from demp_jax._src.optim import regularizers as regularization


def demp(
    base: optax.GradientTransformation,
    *,
    strength: optax.ScalarOrSchedule,
    noise: optax.ScalarOrSchedule = 0.0,
    key: Key[jax.Array, ""] | int = 0,
    kind: str = "lasso",
    where: regularization.Mask = regularization.norm_scales,
    decoupled: bool = False,
    amplitude: str = "variance",
    asymmetric: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that neurons die: a scheduled regulariser before it, noise on live weights after it.

    A step takes the parameters theta to::

        theta_{t+1} = theta_t + base(grad L + grad R(gamma; lambda_t)) + xi_t,   xi_t ~ N(0, sigma_t^2) on live weights

    Weight decay belongs to `base` and stays as it is. Dead neurons are removed by `cut`. Parameters that `base`
    freezes, by `optax.set_to_zero` in an `optax.partition`, get neither noise nor a penalty. Inside `optax.masked` or
    `optax.partition`, `demp` only touches the parameters that these hand to it.

    Which weights are live can be given at each step as `tx.update(grads, state, params, live=mask)`, with a mask from
    `weight_mask`. Without it they are the weights with a gradient other than zero. For activations that are zero when
    saturated (ReLU) no weight of a dead neuron has one; but neither has a weight of a live neuron whose input is zero
    on the whole batch, which then gets no noise at that step, and a penalty in your own loss gives every weight one.
    For other activations, or where that matters, give the mask.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = demp(optax.adam(1e-3), strength=0.01, noise=5e-5)
      >>> params = {"bn": {"scale": jnp.ones(4)}, "out": {"kernel": jnp.ones((4, 2))}}
      >>> grads = jax.tree.map(jnp.ones_like, params)
      >>> updates, state = tx.update(grads, tx.init(params), params)

    Args:
      base: the optimizer.
      strength: lambda, >= 0, a number or a schedule such as `one_cycle(1e-2, span)`.
      noise: variance (or standard deviation, see `amplitude`) of the noise; 0 for none.
      key: random key or seed of the noise.
      kind: of the regulariser, `"lasso"` or `"l2"`.
      where: the regularised parameters; the scales of normalisation layers by default.
      decoupled: whether the regulariser moves the parameters directly, after the optimizer, instead of being part of
        the loss (paper, appendix F.5: the latter prunes more).
      amplitude: whether `noise` is a `"variance"` or a `"std"`.
      asymmetric: whether the noise leaves the weights of dead neurons alone.

    Returns:
      The chain.

    Raises:
      ValueError: for an argument out of its range.
    """
    regularizer = regularization.add_decoupled_regularizer if decoupled else regularization.add_regularizer
    penalty = regularizer(strength, kind=kind, where=where)
    added = noise_lib.add_weight_noise(noise, key=key, amplitude=amplitude, asymmetric=asymmetric)
    parts = (base, penalty, added) if decoupled else (penalty, base, added)
    chain = optax.chain(*parts)
    assert isinstance(chain, optax.GradientTransformationExtraArgs)
    place, support = parts.index(base), optax.with_extra_args_support(base)
    # By structure, shapes and dtypes of the gradients: which parameters the base never updates.
    found: dict[Any, tuple[bool, ...]] = {}

    def update(grads: Any, state: Any, params: Any = None, *, live: Any = None, **extra_args: Any) -> Any:
        if live is None:
            # The gradient of the data's loss alone: the regulariser would make dead scales look alive.
            live = jax.tree.map(lambda g: g != 0, grads)
        updates, new_state = chain.update(grads, state, params, live=live, **extra_args)
        leaves, structure = jax.tree.flatten(updates)
        which = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if which not in found:
            of_base = lambda grads: support.update(grads, state[place], params, live=live, **extra_args)[0]  # noqa: E731
            found[which] = frozen_lib.frozen(of_base, grads)
        # Noise and decoupled penalties come after the base and would move what it freezes.
        kept = [jnp.zeros_like(u) if off else u for u, off in zip(leaves, found[which], strict=True)]
        return jax.tree.unflatten(structure, kept), new_state

    return optax.GradientTransformationExtraArgs(chain.init, update)


def set_strength_factor(opt_state: Any, factor: float) -> Any:
    """Returns the state of an optimizer in which the scheduled strength of its regulariser is multiplied by `factor`.

    A factor below 1 holds for the variance of the noise, too: at 0 nothing shall die any more. It holds from the next
    update on, until it is set again, and nothing is compiled anew. `TargetController` says by what.

    Example:
      >>> tx = demp(optax.sgd(1.0), strength=0.1)
      >>> params = {"scale": jnp.array([2.0])}
      >>> state = set_strength_factor(tx.init(params), 3.0)
      >>> updates, _ = tx.update({"scale": jnp.zeros(1)}, state, params)
      >>> round(float(updates["scale"][0]), 2)
      -0.3

    Args:
      opt_state: with the state of a regulariser anywhere in it.
      factor: >= 0.

    Raises:
      ValueError: for a factor that is negative or not finite, or where there is no regulariser.
    """
    if not (factor >= 0 and math.isfinite(factor)):
        raise ValueError(f"the factor on a strength must be a finite number >= 0; got {factor}.")
    kinds = (regularization.RegularizerState, noise_lib.NoiseState)
    if not any(isinstance(n, kinds[0]) for n in jax.tree.leaves(opt_state, is_leaf=lambda n: isinstance(n, kinds))):
        raise ValueError("the optimizer has no regulariser whose strength could be changed: wrap it in `demp`.")

    def changed(node: Any) -> Any:
        if not isinstance(node, kinds):
            return node
        value = factor if isinstance(node, kinds[0]) else min(factor, 1.0)
        # As the old one is placed, and of its type: for another the step would be compiled anew.
        place = getattr(node.factor, "sharding", None)  # None of what comes from a file.
        return node._replace(factor=jax.device_put(jnp.asarray(value, jnp.float32), place))

    return jax.tree.map(changed, opt_state, is_leaf=lambda node: isinstance(node, kinds))
