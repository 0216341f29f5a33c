# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a score of units is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import demp_jax


class Subject(NamedTuple):
    """A network whose units are to be scored.

    Attributes:
      fn: the network in evaluation mode, `fn(variables, x) -> logits [B, classes]`.
      variables: its variables.
      graph: its trace, with arrays.
      batches: inputs and labels, `[(x, y [B] int32), ...]`, all of one size.
      live: `[K]` bool, which classes of units are still there; the others are held at zero.
      key: random key, for scores that draw.
      exclude: as given to `demp_jax.trace`.
    """

    fn: Callable[[Any, Any], Any]
    variables: Any
    graph: demp_jax.Graph
    batches: Sequence[tuple[Any, Any]]
    live: np.ndarray
    key: jax.Array
    exclude: tuple[str, ...] = ()


# The score of every class of units, `[K]`; what scores least leaves first.
Score = Callable[[Subject], np.ndarray]


def by_site(graph: demp_jax.Graph, values: np.ndarray) -> Mapping[str, np.ndarray]:
    """Returns values of classes, `[K]`, by site, `[width]`; NaN for units that cannot leave."""
    padded = np.append(np.asarray(values, np.float64), np.nan)
    return {site.name: padded[site.groups] for site in graph.sites}
