# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Gaussian noise on the weights of alive neurons as an Optax transformation (paper, section 3.2).

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

# Largest size of a vector whose noise is drawn together with that of other vectors, such as scales and biases.
_SMALL = 2**14


class NoiseState(NamedTuple):
    """State of `add_weight_noise`.

    Attributes:
      step: number of updates so far, `int32[]`.
      key: the random key. A step draws with `fold_in(key, step)`.
      factor: factor of the scheduled amount, `float32[]`, at most 1; 1 until `set_strength_factor` changes it.
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
    """Adds noise to the update of every weight. Chain it after the base optimizer, so that the noise is not rescaled.

    One update of the parameters theta is::

        theta_{t+1} = theta_t + update_t + std_t * m * xi,   xi ~ N(0, 1)

    where std_t is the amount of noise at step t, or its square root if the amount is a variance. With asymmetric noise,
    the method of the paper, m is 1 for weights of alive neurons and 0 for weights of dead ones, so that dead neurons
    stay dead. With symmetric noise m is 1 everywhere, and neurons can become alive again (figure 9).

    The paper reports a variance of 5e-5. Its released code uses this number as a standard deviation (a variance of
    2.5e-9), and adds the noise to all weights.

    Example:
      >>> tx = optax.chain(optax.sgd(0.1), add_weight_noise(5e-5, key=0))
      >>> params = {"kernel": jnp.ones((2, 2))}
      >>> live = {"kernel": jnp.array([[True, False]])}  # The second neuron is dead.
      >>> updates, _ = tx.update({"kernel": jnp.zeros((2, 2))}, tx.init(params), params, live=live)
      >>> (updates["kernel"] != 0).tolist()
      [[True, False], [True, False]]

    Args:
      amount: the variance or standard deviation, >= 0, a number or a schedule.
      key: random key or seed.
      amplitude: whether `amount` is a `"variance"` or a standard deviation, `"std"`.
      asymmetric: whether weights of dead neurons get no noise. The update then requires `live`, a tree of bools like
        the parameters that broadcast against them, such as the result of `weight_mask`. `demp` passes it.

    Returns:
      The transformation. On a CPU all leaves share one draw, which compiles several times faster than one draw per
      leaf. Elsewhere the same samples are drawn leaf by leaf.

    Raises:
      ValueError: if the amplitude is unknown, or the amount is negative or not finite; in the update, if `asymmetric`
        is set and `live` is missing.
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
                "add_weight_noise: asymmetric noise needs the mask of the weights of alive neurons. Call "
                "tx.update(..., live=mask) with a mask from `weight_mask`, or use `demp`."
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
    """Returns the updates with noise added, except to weights that are not `live`."""
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(updates), strict=True)
    shapes = [leaf.shape for leaf in leaves]
    whole = sum(map(math.prod, shapes))

    def at_once(std: Float32[jax.Array, ""], key: Key[jax.Array, ""]) -> list[Float32[jax.Array, "..."]]:
        # No noise is drawn once the schedule is at 0. The vector is split outside the `cond`, where XLA fuses the split
        # with the addition.
        flat = jax.lax.cond(std > 0, lambda: std * threefry.normal(key, whole), lambda: jnp.zeros(whole, jnp.float32))
        return _apart(flat, shapes)

    def in_place(std: Float32[jax.Array, ""], key: Key[jax.Array, ""]) -> list[Float32[jax.Array, "..."]]:
        return [std * drawn for drawn in _in_place(key, shapes)]

    if threefry.is_numbered(key, whole):
        noise = jax.lax.platform_dependent(std, key, cpu=at_once, default=in_place)
    else:
        noise = at_once(std, key)
    if live is not None:
        # Matched by path, because `optax.masked` hides leaves of the updates but not of the mask.
        masks = {entries(path): mask for path, mask in jax.tree_util.tree_leaves_with_path(live)}
        noise = [n * masks[entries(path)] for n, path in zip(noise, paths, strict=True)]
    noisy = [leaf + n.astype(leaf.dtype) for leaf, n in zip(leaves, noise, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(updates), noisy)


def _apart(flat: Float32[jax.Array, " size"], shapes: Sequence[tuple[int, ...]]) -> list[Float32[jax.Array, "..."]]:
    """Splits a vector into arrays of the given shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    found = parts(flat, list(zip(starts, sizes, strict=True)))
    return [part.reshape(shape) for part, shape in zip(found, shapes, strict=True)]


def _in_place(key: Key[jax.Array, ""], shapes: Sequence[tuple[int, ...]]) -> list[Float32[jax.Array, "..."]]:
    """Returns `_apart(threefry.normal(key, ...), shapes)`, with each array drawn on its own.

    This is used on a GPU. There, parameters have the layouts of convolutions, and splitting one vector would transpose
    them at every step. The condition of `at_once` would also block the host.
    """
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    small = [n for n, shape in enumerate(shapes) if len(shape) < 2 and math.prod(shape) <= _SMALL]
    found: dict[int, jax.Array] = {}
    if small:
        # Small vectors are drawn together, which compiles faster. Their indices are a constant of the program.
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
