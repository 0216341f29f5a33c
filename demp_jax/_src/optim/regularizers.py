# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Scheduled regularization as Optax transformations (paper, sections 3.1 and F.5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float32, Int32, Num

from demp_jax._src.optim.masks import WeightGroups, broadcastable
from demp_jax._src.tracing.paths import path_name

KINDS = ("lasso", "l2")

# The regularized parameters: a tree of bools or of factors of the strength, or a function from parameters to one.
Mask = Any | Callable[[Any], Any]


class RegularizerState(NamedTuple):
    """State of a scheduled regularizer.

    Attributes:
      step: number of updates so far, `int32[]`.
      factor: factor of the scheduled strength, `float32[]`; 1 until `set_strength_factor` changes it.
    """

    step: Int32[jax.Array, ""]
    factor: Float32[jax.Array, ""]


def norm_scales(params: Any) -> Any:
    """Returns the mask of the scale parameters (gamma) of normalization layers.

    These are the parameters named `scale`, as in the BatchNorm, LayerNorm, GroupNorm and RMSNorm of Flax. For Equinox,
    use `demp_jax.equinox.norm_weights`. For other names, use a mask of your own: a tree of bools like the parameters,
    or a function that returns one.

    Example:
      >>> norm_scales({"norm": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}})
      {'norm': {'bias': False, 'scale': True}}

    Args:
      params: the parameters.

    Returns:
      A tree of bools like `params`.

    Raises:
      ValueError: if no parameter is named `scale`.
    """

    def is_scale(path: Any, leaf: Any) -> bool:
        return path_name(path).split("/")[-1] == "scale" and jnp.ndim(leaf) >= 1

    mask = jax.tree_util.tree_map_with_path(is_scale, params)
    if not any(jax.tree.leaves(mask)):
        raise ValueError(
            "norm_scales: no parameter is called 'scale', so no normalization layer was found. Pass "
            "where=demp_jax.regularizers.all_params, a mask of your own, or for Equinox "
            "where=demp_jax.equinox.norm_weights."
        )
    return mask


def all_params(params: Any) -> Any:
    """Returns the mask of all parameters: a tree like `params` with `True` at every leaf."""
    return jax.tree.map(lambda _: True, params)


def add_regularizer(
    strength: optax.ScalarOrSchedule, *, kind: str = "lasso", where: Mask = norm_scales
) -> optax.GradientTransformation:
    """Adds the gradient of a regularizer to the gradient of the loss. Chain it before the base optimizer.

    With the scheduled strength lambda_t and the regularized parameters theta::

        lasso:  R = lambda_t * sum |theta|          gradient lambda_t * sign(theta)
        l2:     R = lambda_t / 2 * sum theta^2      gradient lambda_t * theta

    The gradient passes through the moments of an adaptive optimizer. The paper finds that this prunes more than
    decoupled decay (appendix F.5), which is `add_decoupled_regularizer`.

    Example:
      >>> tx = add_regularizer(0.1, where=all_params)
      >>> params = {"scale": jnp.array([2.0, -1.0, 0.0])}
      >>> updates, _ = tx.update({"scale": jnp.zeros(3)}, tx.init(params), params)
      >>> [round(float(u), 2) for u in updates["scale"]]
      [0.1, -0.1, 0.0]

    Args:
      strength: lambda, >= 0, a number or a schedule.
      kind: `"lasso"` or `"l2"`.
      where: the regularized parameters, as a tree of bools or a function from parameters to such a tree. Numbers
        instead of bools multiply the strength.

    Returns:
      The transformation. Its update needs `params`.

    Raises:
      ValueError: for an unknown kind, or a strength that is negative or not finite; in the update, if `params` is
        missing.

    References:
      Liu et al., 2017, Learning Efficient Convolutional Networks through Network Slimming.
    """
    return _regularizer(strength, kind, where, 1.0)


def add_decoupled_regularizer(
    strength: optax.ScalarOrSchedule, *, kind: str = "lasso", where: Mask = norm_scales
) -> optax.GradientTransformation:
    """Shrinks parameters directly, like the weight decay of AdamW. Chain it after the base optimizer.

    With the scheduled strength lambda_t and the parameters theta before the update::

        lasso:  update - lambda_t * sign(theta)
        l2:     update - lambda_t * theta

    To scale it with the learning rate as AdamW does, pass the product of both schedules as the strength.

    Example:
      >>> tx = optax.chain(optax.sgd(0.5), add_decoupled_regularizer(0.1, where=all_params))
      >>> params = {"scale": jnp.array([2.0, -1.0])}
      >>> updates, _ = tx.update({"scale": jnp.ones(2)}, tx.init(params), params)
      >>> [round(float(u), 2) for u in updates["scale"]]
      [-0.6, -0.4]

    Args:
      strength: lambda, >= 0, in units of the parameters per step, a number or a schedule.
      kind: `"lasso"` or `"l2"`.
      where: the regularized parameters, as for `add_regularizer`.

    Returns:
      The transformation. Its update needs `params`.

    Raises:
      ValueError: for an unknown kind, or a strength that is negative or not finite; in the update, if `params` is
        missing.
    """
    return _regularizer(strength, kind, where, -1.0)


def add_proximal_lasso(strength: optax.ScalarOrSchedule, *, where: Mask = norm_scales) -> optax.GradientTransformation:
    """Applies the proximal operator of the Lasso after the update: soft thresholding. Chain it last.

    With the updated parameters theta + u and the scheduled strength lambda_t::

        theta <- sign(theta + u) * max(|theta + u| - lambda_t, 0)

    A parameter becomes zero if `|theta + u| <= lambda_t`, and stays zero while `|u| <= lambda_t`. With the other
    regularizers it oscillates around zero with the step size of the optimizer.

    To scale the threshold with the learning rate, as in proximal gradient descent, pass the product of both schedules.
    An update of Adam is about the learning rate times the ratio of the mean of the gradient to its root mean square. A
    parameter then stays zero while this ratio is below lambda.

    Example:
      >>> tx = optax.chain(optax.sgd(0.5), add_proximal_lasso(0.1, where=all_params))
      >>> params = {"scale": jnp.array([2.0, -0.05])}
      >>> updates, _ = tx.update({"scale": jnp.zeros(2)}, tx.init(params), params)
      >>> [round(float(p), 2) for p in optax.apply_updates(params, updates)["scale"]]
      [1.9, 0.0]

    Args:
      strength: lambda, >= 0, in units of the parameters per step, a number or a schedule.
      where: the regularized parameters, as for `add_regularizer`.

    Returns:
      The transformation. Its update needs `params`.

    Raises:
      ValueError: for a strength that is negative or not finite; in the update, if `params` is missing.

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.5.2.
    """

    def shrink(u: Any, p: Any, amount: Any) -> Any:
        moved, amount = p + u, amount.astype(p.dtype)
        # Below the threshold the update is exactly -p, so that p + u is zero. Without a threshold it is unchanged.
        shrunk = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - amount, 0) - p
        return jnp.where(amount > 0, shrunk, u).astype(u.dtype)

    return _transformation(strength, where, shrink)


def add_group_lasso(
    strength: optax.ScalarOrSchedule, *, proximal: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Adds a group Lasso over the weights that compute each unit, for networks without a scale per unit.

    The group theta_g of a unit holds its n_g incoming weights, its bias, and its scale and bias in a normalization
    layer. If all of them are zero, the unit is zero. With the scheduled strength lambda_t::

        R = lambda_t * sum_g sqrt(n_g) * ||theta_g||      gradient lambda_t * sqrt(n_g) * theta_g / ||theta_g||

    Pass the groups at each step: `tx.update(grads, state, params, groups=groups)` with
    `groups = weight_groups(graph, params)`. Compute them again after a prune. Pruned inputs do not count in n_g, so a
    prune lowers the strength of units that read them.

    Example:
      >>> from demp_jax import trace, weight_groups
      >>> params = {"w": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "v": jnp.ones((2, 1))}
      >>> network = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
      >>> groups = weight_groups(trace(network, params, jnp.ones((2, 2))), params)
      >>> tx = add_group_lasso(0.5)
      >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params, groups=groups)
      >>> [round(float(u), 2) for u in updates["w"][:, 0]]  # 0.5 * sqrt(2) * (3, 4) / 5
      [0.42, 0.57]

    Args:
      strength: lambda, >= 0, a number or a schedule.
      proximal: whether to apply the proximal operator to the updated parameters instead of adding the gradient:
        `theta_g <- theta_g * max(1 - lambda_t * sqrt(n_g) / ||theta_g||, 0)`. Groups then become exactly zero. Chain
        the transformation last, with the product of lambda and the learning rate as the strength.

    Returns:
      The transformation. Its update needs `params` and `groups`.

    Raises:
      ValueError: for a strength that is negative or not finite; in the update, if `params` or `groups` is missing.

    References:
      Yuan and Lin, 2006, Model Selection and Estimation in Regression with Grouped Variables.
      Lym et al., 2019, PruneTrain: Fast Neural Network Training by Dynamic Sparse Model Reconfiguration.
      Chen et al., 2021, Only Train Once: A One-Shot Neural Network Training and Pruning Framework.
    """
    check_amount("the strength of a regularizer", strength)

    def init(params: Any) -> RegularizerState:
        del params
        return RegularizerState(jnp.zeros([], jnp.int32), jnp.ones([], jnp.float32))

    def update(
        updates: Any, state: RegularizerState, params: Any = None, *, groups: WeightGroups | None = None, **extra: Any
    ) -> tuple[Any, RegularizerState]:
        del extra
        if params is None or groups is None:
            raise ValueError(
                "a group Lasso needs parameters and groups: call tx.update(grads, state, params, "
                "groups=demp_jax.weight_groups(graph, params))."
            )
        amount = state.factor * value_at(strength, state.step)
        leaves, structure = jax.tree.flatten(params)
        moves = jax.tree.leaves(updates)
        values = [p + u if proximal else p for p, u in zip(leaves, moves, strict=True)]
        norms, roots = _group_norms(values, groups)
        ratio = amount * roots / jnp.where(norms > 0, norms, 1)
        factor = jnp.maximum(1 - ratio, 0) if proximal else jnp.where(norms > 0, ratio, 0)
        changed = []
        for p, u, value, axes, axis in zip(leaves, moves, values, groups.axes, groups.producing, strict=True):
            if axis is None:
                changed.append(u)
                continue
            of_units = factor[_groups_along(groups, axes[axis])].astype(p.dtype)
            of_units = of_units.reshape(broadcastable(p.shape, axis, of_units.size))
            # If the factor is zero, the update is exactly -p.
            new = jnp.where(amount > 0, value * of_units - p, u) if proximal else u + of_units * p
            changed.append(new.astype(u.dtype))
        return jax.tree.unflatten(structure, changed), state._replace(step=optax.safe_increment(state.step))

    return optax.GradientTransformationExtraArgs(init, update)


def _groups_along(groups: WeightGroups, place: tuple[int, int] | None) -> Int32[jax.Array, " positions"]:
    assert place is not None
    return groups.positions[place[0] : place[0] + place[1]]


def _group_norms(
    leaves: Sequence[Any], groups: WeightGroups
) -> tuple[Float32[jax.Array, " entries"], Float32[jax.Array, " entries"]]:
    """Returns the norm of each group's producing weights, and the root of their number; 0 for groups without units."""
    squares = jnp.zeros(groups.bare.shape, jnp.float32)
    counts = jnp.zeros(groups.bare.shape, jnp.float32)
    for leaf, axes, axis in zip(leaves, groups.axes, groups.producing, strict=True):
        if axis is not None:
            of = _groups_along(groups, axes[axis])
            kept = broadcastable(leaf.shape, axis, of.size)
            others = tuple(i for i in range(leaf.ndim) if i != axis and kept[i] == 1)
            squares = squares.at[of].add(jnp.sum(jnp.square(leaf.astype(jnp.float32)), others).reshape(-1))
            counts = counts.at[of].add(leaf.size / max(of.size, 1))
    units = jnp.zeros(groups.bare.shape, jnp.float32).at[groups.units].set(1.0).at[-1].set(0.0)
    return jnp.sqrt(squares), jnp.sqrt(counts) * units


def _regularizer(strength: optax.ScalarOrSchedule, kind: str, where: Mask, sign: float) -> optax.GradientTransformation:
    if kind not in KINDS:
        raise ValueError(f"the kind of a regularizer must be one of {', '.join(KINDS)}; got {kind=}.")

    def add(u: Any, p: Any, amount: Any) -> Any:
        return u + (sign * amount * (jnp.sign(p) if kind == "lasso" else p)).astype(u.dtype)

    return _transformation(strength, where, add)


def _transformation(
    strength: optax.ScalarOrSchedule, where: Mask, change: Callable[[Any, Any, Any], Any]
) -> optax.GradientTransformation:
    """Returns a transformation that replaces the updates of the parameters in `where`.

    `change(update, parameter, strength)` returns the new update.
    """
    check_amount("the strength of a regularizer", strength)

    def init(params: Any) -> RegularizerState:
        del params
        return RegularizerState(jnp.zeros([], jnp.int32), jnp.ones([], jnp.float32))

    def update(updates: Any, state: RegularizerState, params: Any = None) -> tuple[Any, RegularizerState]:
        if params is None:
            raise ValueError("a regularizer needs the parameters: call tx.update(grads, state, params).")
        amount = state.factor * value_at(strength, state.step)

        def changed(
            u: Num[jax.Array, "*shape"], p: Num[jax.Array, "*shape"], factor: bool | float
        ) -> Num[jax.Array, "*shape"]:
            return change(u, p, amount * factor) if factor else u

        mask = where(params) if callable(where) else where
        return jax.tree.map(changed, updates, params, mask), state._replace(step=optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


def value_at(amount: optax.ScalarOrSchedule, step: Int32[jax.Array, ""]) -> Float32[jax.Array, ""]:
    """Returns the value of a number or schedule at a step, in float32."""
    return jnp.asarray(amount(step) if callable(amount) else amount, jnp.float32)


def check_amount(what: str, amount: optax.ScalarOrSchedule) -> None:
    """Raises `ValueError` for a Python number that is negative or not finite."""
    if isinstance(amount, int | float) and not (amount >= 0 and math.isfinite(amount)):
        raise ValueError(f"{what} must be a finite number >= 0, or a schedule; got {amount}.")
