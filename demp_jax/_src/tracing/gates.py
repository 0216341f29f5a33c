# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Gates: one factor for each unit, so that a loss can be differentiated with respect to units.

Dimension names: groups and units as in `types`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, Num, Shaped

from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing import trace as tracing
from demp_jax._src.tracing.graph import Graph, per_unit
from demp_jax._src.types import UnitGroups

POSITIONS = ("preactivation", "activation", "product")


def with_gates(
    fn: Callable[..., Any],
    graph: Graph,
    *,
    position: str = "preactivation",
    exclude: Sequence[str] | str = (),
    batch_axis: int = 0,
) -> Callable[..., Any]:
    """Returns `fn` with a gate c and a threshold b for each unit. With c = 1 and b = 0 it computes the same as `fn`.

    Positions of the gate:

    * `"preactivation"`: `act(c * x - b)`, after the normalization (the baselines in the code of the DemP paper);
    * `"activation"`: `c * act(x) - b`. For ReLU and Leaky ReLU with b = 0 and c > 0 this equals `"preactivation"`;
    * `"product"`: `c * (W x + bias) - b`, before the normalization (the released code of SNAP and CroP). If several
      products are added, as at the end of a residual block, the gate multiplies all products of its unit.

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
      graph: the trace of the network, with arrays.
      position: position of the gates, `"preactivation"`, `"activation"` or `"product"`.
      exclude, batch_axis: as given to `trace`.

    Returns:
      A function `gated(variables, x, gates, thresholds=None, live=None)`. `gates` and `thresholds` are
      `[graph.num_groups]`, one number per group; `live` is `[graph.num_groups]` bool, and the activations of other
      groups are masked. The number of examples in `x` may differ from the trace. The function can be used under
      `jax.jit`, `jax.grad` and `jax.jvp`.

    Raises:
      ValueError: if the position is unknown; at a call, if the value that a gate would multiply has another consumer
        than the activation.
    """
    if position not in POSITIONS:
        raise ValueError(f"position must be one of {', '.join(POSITIONS)}; got {position=}.")
    fed = graph.fed if position == "product" else None

    def gated(
        variables: Any,
        x: Any,
        gates: Num[jax.Array, " groups"],
        thresholds: Num[jax.Array, " groups"] | None = None,
        live: Bool[jax.Array, " groups"] | None = None,
    ) -> Any:
        own = tracing.trace(fn, variables, x, batch_axis=batch_axis, exclude=exclude, extra_units=graph.extra_units)
        replace: dict[int, Callable[[Any], Any]] = {}

        def put(value: int, change: Callable[[Any], Any]) -> None:
            first = replace.get(value)
            replace[value] = change if first is None else functools.partial(_after, first, change)

        for value, axis, groups in _places(own, position, fed):
            put(value, functools.partial(_gate, gates, thresholds, axis, groups))
        if live is not None:
            for site in own.sites:
                put(site.value, functools.partial(_mask, live, site.axis, site.groups))
        results, _ = program_lib.evaluate(own.program, jax.tree.leaves((variables, x)), [], replace)
        return jax.tree.unflatten(own.program.out_tree, results)

    return gated


def _places(
    graph: Graph, position: str, fed: Int[np.ndarray, " {graph.num_groups}"] | None
) -> Iterator[tuple[int, int, UnitGroups]]:
    """Yields the values that gates multiply, their axis of units, and the group of each unit."""
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
                f"with_gates: the input of {site.name} has another consumer than the activation, so that "
                "position='preactivation' is not possible. Use position='activation'."
            )


def _gate(
    gates: Num[jax.Array, " groups"],
    thresholds: Num[jax.Array, " groups"] | None,
    axis: int,
    groups: UnitGroups,
    x: Num[jax.Array, "*shape"],
) -> Num[jax.Array, "*shape"]:
    x = _along(gates, 1, axis, groups, x).astype(x.dtype) * x
    return x if thresholds is None else x - _along(thresholds, 0, axis, groups, x).astype(x.dtype)


def _mask(
    live: Bool[jax.Array, " groups"], axis: int, groups: UnitGroups, x: Num[jax.Array, "*shape"]
) -> Num[jax.Array, "*shape"]:
    return jnp.where(_along(live, True, axis, groups, x), x, jnp.zeros_like(x))


def _along(
    values: Shaped[jax.Array, " groups"], default: Any, axis: int, groups: UnitGroups, x: Num[jax.Array, "*shape"]
) -> Shaped[jax.Array, "*#shape"]:
    """Returns the value of each unit's group, in a shape that broadcasts against `x`; `default` for no group."""
    grouped = groups >= 0
    found = jnp.where(grouped, values[np.where(grouped, groups, 0)], default)
    return found.reshape(tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim)))


def _after(first: Callable[[Any], Any], then: Callable[[Any], Any], x: Any) -> Any:
    return then(first(x))
