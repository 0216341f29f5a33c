# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The arguments of scores of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import demp_jax


class Subject(NamedTuple):
    """A network whose units are scored.

    Attributes:
      fn: the network in evaluation mode, `fn(variables, x) -> logits [B, classes]`.
      variables: its variables.
      graph: its trace, with arrays.
      batches: inputs and labels, `[(x, y [B] int32), ...]`, of one size.
      live: `[num_groups]` bool, the groups that are not masked.
      key: random key of random scores.
      exclude: see `demp_jax.trace`.
    """

    fn: Callable[[Any, Any], Any]
    variables: Any
    graph: demp_jax.Graph
    batches: Sequence[tuple[Any, Any]]
    live: np.ndarray
    key: jax.Array
    exclude: tuple[str, ...] = ()


# The score of every group, `[num_groups]`. Groups with the smallest scores are removed first.
Score = Callable[[Subject], np.ndarray]


def by_site(graph: demp_jax.Graph, values: np.ndarray) -> Mapping[str, np.ndarray]:
    """Returns values of groups, `[num_groups]`, by site, `[width]`; NaN for units that cannot be removed."""
    padded = np.append(np.asarray(values, np.float64), np.nan)
    return {site.name: padded[site.groups] for site in graph.sites}
