# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Gaussian noise on the weights of live neurons as an Optax transformation (paper, section 3.2).

Dimension names: size, that of a vector of one draw for every weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float32, Int32, Key

from demp_jax._src.optim import threefry
from demp_jax._src.optim.parts import parts
from demp_jax._src.optim.regularizers import check_amount, value_at
from demp_jax._src.tracing.paths import entries

AMPLITUDES = ("variance", "std")

# So large vectors of parameters are those of scales and biases.
_SMALL = 2**14


class NoiseState(NamedTuple):
    """State of `add_weight_noise`.

    Attributes:
      step: number of updates so far, `int32[]`.
      key: the random key; the draw of a step uses `fold_in(key, step)`, so the state never has to be split.
      factor: what the scheduled amount is multiplied by, `float32[]`; 1, or 0 where `set_strength_factor` stopped it.
    """

    step: Int32[jax.Array, ""]
    key: Key[jax.Array, ""]
    factor: Float32[jax.Array, ""]


def add_weight_noise(
    amount: optax.ScalarOrSchedule,
    *,
    key: Key[jax.Array, ""] | int,
    amplitude: str = "variance",
    asymmetric: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Adds noise to the update of every weight; stands after the base optimizer, so it is not scaled or averaged.

    A step takes the parameters theta to::

        theta_{t+1} = theta_t + update_t + std_t * m * xi,   xi ~ N(0, 1)

    Asymmetric noise (the paper's) moves the weights of live neurons only: m is 1 for them and 0 for dead ones, which
    therefore stay dead. Symmetric noise has m = 1 everywhere and can revive neurons (figure 9).

    The paper gives a variance of 5e-5; its released code multiplies the normal by that number, which makes it a
    standard deviation (a variance of 2.5e-9), and its mask lets noise through everywhere.

    Args:
      amount: the variance or standard deviation, >= 0, a number or a schedule; a schedule gives the quantity that
        `amplitude` names, so the paper's one-cycle of the variance is `amplitude="variance"`.
      key: random key or seed; the same key gives the same noise.
      amplitude: `"variance"` (std = sqrt(amount)) or `"std"` (std = amount).
      asymmetric: whether dead neurons' weights are left alone. The update then needs `live=`, a tree of bools like
        the parameters that broadcasts against them, such as `weight_mask` gives; `demp` fills it in.

    Returns:
      The transformation. On a CPU all leaves share one draw of normals, which compiles several times faster than one
      draw per leaf; elsewhere each has its part of the same numbers drawn where it is added.

    Raises:
      ValueError: for an unknown amplitude or an amount that is negative or not finite; from its update when
        `asymmetric` and no `live` is given.
    """
    if amplitude not in AMPLITUDES:
        raise ValueError(f"add_weight_noise: amplitude must be 'variance' or 'std'; got {amplitude=}.")
    check_amount("the amount of noise", amount)

    def init(params: Any) -> NoiseState:
        del params
        made = jax.random.key(key) if isinstance(key, int) else key
        return NoiseState(jnp.zeros([], jnp.int32), made, jnp.ones([], jnp.float32))

    def update(
        updates: Any, state: NoiseState, params: Any = None, *, live: Any = None, **extra_args: Any
    ) -> tuple[Any, NoiseState]:
        del params, extra_args
        if asymmetric and live is None:
            raise ValueError(
                "asymmetric noise needs to know the weights of live neurons: call tx.update(..., live=mask), "
                "with a mask from `weight_mask`, or use `demp`, which reads it off the gradient."
            )
        spread = state.factor * value_at(amount, state.step)
        std = jnp.sqrt(spread) if amplitude == "variance" else spread
        noisy = _add(updates, std, jax.random.fold_in(state.key, state.step), live if asymmetric else None)
        return noisy, state._replace(step=optax.safe_increment(state.step))

    def skip(updates: Any, state: NoiseState, params: Any = None, **extra_args: Any) -> tuple[Any, NoiseState]:
        del params, extra_args
        return updates, state._replace(step=optax.safe_increment(state.step))

    is_off = isinstance(amount, int | float) and amount == 0
    return optax.GradientTransformationExtraArgs(init, skip if is_off else update)


def _add(updates: Any, std: Float32[jax.Array, ""], key: Key[jax.Array, ""], live: Any) -> Any:
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(updates), strict=True)
    shapes = [leaf.shape for leaf in leaves]
    whole = sum(map(math.prod, shapes))

    def at_once(std: Float32[jax.Array, ""], key: Key[jax.Array, ""]) -> list[Float32[jax.Array, "..."]]:
        # Past its span the noise is 0 and costs nothing. It is split outside, where XLA fuses that with the addition.
        flat = jax.lax.cond(std > 0, lambda: std * threefry.normal(key, whole), lambda: jnp.zeros(whole, jnp.float32))
        return _apart(flat, shapes)

    def in_place(std: Float32[jax.Array, ""], key: Key[jax.Array, ""]) -> list[Float32[jax.Array, "..."]]:
        return [std * drawn for drawn in _in_place(key, shapes)]

    if threefry.is_numbered(key, whole):
        noise = jax.lax.platform_dependent(std, key, cpu=at_once, default=in_place)
    else:
        noise = at_once(std, key)
    if live is not None:
        # By path, so that `optax.masked`, which hides leaves of the updates, composes with a full mask.
        masks = {entries(path): mask for path, mask in jax.tree_util.tree_leaves_with_path(live)}
        noise = [n * masks[entries(path)] for n, path in zip(noise, paths, strict=True)]
    noisy = [leaf + n.astype(leaf.dtype) for leaf, n in zip(leaves, noise, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(updates), noisy)


def _apart(flat: Float32[jax.Array, " size"], shapes: Sequence[tuple[int, ...]]) -> list[Float32[jax.Array, "..."]]:
    """Returns parts of a vector in shapes, one after the other."""
    sizes = [math.prod(shape) for shape in shapes]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    found = parts(flat, list(zip(starts, sizes, strict=True)))
    return [part.reshape(shape) for part, shape in zip(found, shapes, strict=True)]


def _in_place(key: Key[jax.Array, ""], shapes: Sequence[tuple[int, ...]]) -> list[Float32[jax.Array, "..."]]:
    """Returns the normals `_apart(threefry.normal(key, ...), shapes)`, each drawn where it is needed.

    For a GPU: a vector of all has an order, into which the parameters, their moments and their updates would have to be
    brought from that of the convolutions at every step; and before it goes on past a condition, the host waits for what
    it comes to.
    """
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    small = [n for n, shape in enumerate(shapes) if len(shape) < 2 and math.prod(shape) <= _SMALL]
    found: dict[int, jax.Array] = {}
    if small:
        # Those of vectors at once, which compiles faster; their numbers are a constant of the program.
        numbers = np.concatenate([np.arange(starts[n], starts[n + 1], dtype=np.uint32) for n in small])
        vectors = _apart(threefry.normal_at(key, jnp.asarray(numbers)), [shapes[n] for n in small])
        found = dict(zip(small, vectors, strict=True))
    for n, shape in enumerate(shapes):
        if n not in found:
            strides = np.cumprod([1, *shape[:0:-1]])[::-1]
            axes = [jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in range(len(shape))]
            within = jax.lax.full(shape, np.uint32(starts[n]))
            for along, stride in zip(axes, strides, strict=True):
                within = jax.lax.add(within, jax.lax.mul(along, np.uint32(stride)))
            found[n] = threefry.normal_at(key, within)
    return [found[n] for n in range(len(shapes))]
