# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A number that multiplies each unit, so that a loss can be differentiated with respect to the unit.

Dimension letters: K groups of units, as in `Graph`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing import trace as tracing
from demp_jax._src.tracing.graph import Graph, per_unit

POSITIONS = ("preactivation", "activation", "product")


def with_gates(
    fn: Callable[..., Any],
    graph: Graph,
    *,
    position: str = "preactivation",
    exclude: Sequence[str] | str = (),
    batch_axis: int = 0,
) -> Callable[..., Any]:
    """Returns `fn` with a gate c and a threshold b for each unit, at c = 1 and b = 0 the same function as `fn`.

    Where the gate stands:

    * `"preactivation"`: `act(c * x - b)`, after the normalization (the code of the DemP paper's baselines);
    * `"activation"`: `c * act(x) - b`; for ReLU and Leaky ReLU the same where b = 0 and c > 0;
    * `"product"`: `c * (W x + bias) - b`, before the normalization (the released code of SNAP and CroP). Where products
      are added up, as at the end of a residual block, the unit's gate multiplies all that are its own.

    Example:
      >>> import demp_jax
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.eye(2), "out": jnp.array([[1.0], [10.0]])}
      >>> x = jnp.ones((2, 2))
      >>> gated = with_gates(network, demp_jax.trace(network, params, x))
      >>> gated(params, x, jnp.array([1.0, 0.5]))[0].tolist()
      [6.0]

    Args:
      fn: the network, `fn(variables, x)`.
      graph: its trace with arrays.
      position: one of `POSITIONS`.
      exclude, batch_axis: as given to `trace`.

    Returns:
      A function `(variables, x, gates, thresholds=None, live=None)` of arrays `[K]`, to be called under `jax.jit`,
      `jax.grad` and `jax.jvp`; `x` may hold any number of examples. The activations of groups that are not `live` are
      held at zero, as if they had been cut.

    Raises:
      ValueError: for an unknown position, or where something other than the activation reads what the gate multiplies.
    """
    if position not in POSITIONS:
        raise ValueError(f"position must be one of {', '.join(POSITIONS)}; got {position=}.")
    fed = graph.fed if position == "product" else None

    def gated(
        variables: Any, x: Any, gates: jax.Array, thresholds: jax.Array | None = None, live: jax.Array | None = None
    ) -> Any:
        own = tracing.trace(fn, variables, x, batch_axis=batch_axis, exclude=exclude)
        replace: dict[int, Callable[[Any], Any]] = {}

        def put(value: int, change: Callable[[Any], Any]) -> None:
            first = replace.get(value)
            replace[value] = change if first is None else functools.partial(_after, first, change)

        for value, axis, groups in _places(own, position, fed):
            put(value, functools.partial(_gate, gates, thresholds, axis, groups))
        if live is not None:
            for site in own.sites:
                put(site.value, functools.partial(_hold, live, site.axis, site.groups))
        results, _ = program_lib.evaluate(own.program, jax.tree.leaves((variables, x)), [], replace)
        return jax.tree.unflatten(own.program.out_tree, results)

    return gated


def _places(graph: Graph, position: str, fed: np.ndarray | None) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields the values that gates multiply, with their axis of units and the group of each unit."""
    if fed is not None:
        for producer in graph.producers:
            yield producer.value, producer.axis, per_unit(fed, producer.groups, -1)
        return
    for site in graph.sites:
        if position == "activation":
            yield site.value, site.axis, site.groups
        elif site.alone and site.root not in graph.program.unreadable:
            yield site.root, site.axis, site.groups
        else:
            raise ValueError(
                f"the activation {site.name} cannot have gates at position='preactivation': what it is a function of "
                "is read elsewhere, too. Use position='activation'."
            )


def _gate(gates: jax.Array, thresholds: jax.Array | None, axis: int, groups: np.ndarray, x: jax.Array) -> jax.Array:
    x = _along(gates, 1, axis, groups, x).astype(x.dtype) * x
    return x if thresholds is None else x - _along(thresholds, 0, axis, groups, x).astype(x.dtype)


def _hold(live: jax.Array, axis: int, groups: np.ndarray, x: jax.Array) -> jax.Array:
    return jnp.where(_along(live, True, axis, groups, x), x, jnp.zeros_like(x))


def _along(values: jax.Array, default: Any, axis: int, groups: np.ndarray, x: jax.Array) -> jax.Array:
    """Returns the value of each unit's group, `default` where it has none, to broadcast against `x`."""
    ours = groups >= 0
    found = jnp.where(ours, values[np.where(ours, groups, 0)], default)
    return found.reshape(tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim)))


def _after(first: Callable[[Any], Any], then: Callable[[Any], Any], x: Any) -> Any:
    return then(first(x))
