# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Distributions of a sparsity over parameters, and schedules of masks."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import demp_jax

DISTRIBUTIONS = ("uniform", "erk")

# From a tree of parameters to a tree of sparsities in [0, 1); `None` for dense parameters.
Distribution = Callable[[Any], Any]


def distribution(kind: str, sparsity: float, *, exclude: Sequence[str] = ()) -> Distribution:
    """Returns a distribution of a sparsity over parameters.

    Parameters with one axis are dense, and so are those whose path matches a pattern of `exclude`.

    * `"uniform"`: equal sparsities;
    * `"erk"`: Erdos-Renyi-Kernel, see `erk`.

    Args:
      kind: one of `DISTRIBUTIONS`.
      sparsity: the fraction of zeros in all parameters that are not dense, counted together, in [0, 1).
      exclude: patterns as in `fnmatch`, such as `"stem*"`.

    Raises:
      ValueError: for an unknown kind, or a sparsity out of its range. The returned function raises `ValueError` if a
        pattern matches no parameter, or if all parameters are dense.
    """
    if kind not in DISTRIBUTIONS:
        raise ValueError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}; got {kind!r}.")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1); got {sparsity=}.")

    def distribute(params: Any) -> Any:
        paths = demp_jax.tracing.leaf_paths(params)
        leaves = jax.tree.leaves(params)
        for pattern in exclude:
            if not fnmatch.filter(paths, pattern):
                raise ValueError(f"no parameter's path matches {pattern!r}. An example of a path is {paths[0]!r}.")
        shapes = {
            path: leaf.shape
            for path, leaf in zip(paths, leaves, strict=True)
            if leaf.ndim > 1 and not any(fnmatch.fnmatch(path, pattern) for pattern in exclude)
        }
        if not shapes:
            raise ValueError("no parameter with two or more axes is left to sparsify.")
        chosen = erk(shapes, sparsity) if kind == "erk" else dict.fromkeys(shapes, sparsity)
        return jax.tree.unflatten(jax.tree.structure(params), [chosen.get(path) for path in paths])

    return distribute


def erk(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, float]:
    """Returns sparsities by Erdos-Renyi-Kernel (Evci et al., 2020, https://arxiv.org/abs/1911.11134).

    The density of a kernel is `min(eps * sum(shape) / prod(shape), 1)`. The factor eps is chosen so that the fraction
    `1 - sparsity` of all weights is kept.

    Example:
      >>> {name: round(s, 3) for name, s in erk({"a": (4, 4), "b": (16, 16)}, 0.5).items()}
      {'a': 0.0, 'b': 0.531}

    Args:
      shapes: the shapes of the kernels by name.
      sparsity: in [0, 1).
    """
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    ratio = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in dense]
        # Zeros are rounded per kernel, as in the reference implementations.
        ones = sum(sizes[n] - int(np.floor(sparsity * sizes[n])) for n in rest)
        ones -= sum(int(np.floor(sparsity * sizes[n])) for n in dense)
        eps = ones / sum(ratio[n] * sizes[n] for n in rest) if rest else 0.0
        largest = max((ratio[n] for n in rest), default=0.0)
        if eps * largest <= 1:
            return {name: 0.0 if name in dense else 1 - eps * ratio[name] for name in shapes}
        dense |= {n for n in rest if ratio[n] == largest}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps at which masks change, and the sparsity at these steps.

    * `"polynomial"`: the sparsity grows as `s (1 - (1 - p)^3)` with `p = (t + 1 - start) / (end - start)` (Zhu and
      Gupta, 2017, https://arxiv.org/abs/1710.01878), and is s at `end`;
    * `"one_shot"`: masks change once, at `start`;
    * `"periodic"`: the sparsity is always s, for methods that move connections.

    Attributes:
      kind: one of the three.
      start, end: first and last step at which masks change, 0 <= start <= end.
      every: masks change at multiples of this number of steps, >= 1, and for `"polynomial"` also at `end`.
    """

    kind: str = "periodic"
    start: int = 0
    end: int = 0
    every: int = 1

    KINDS = ("polynomial", "one_shot", "periodic")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"schedule must be one of {', '.join(self.KINDS)}; got {self.kind!r}.")
        if not (0 <= self.start <= self.end or self.kind == "one_shot") or self.every < 1:
            raise ValueError(f"a schedule needs 0 <= start <= end and every >= 1; got {self}.")

    def changes(self, step: Any) -> Any:
        """Returns whether masks change at a step, `bool[]`."""
        if self.kind == "one_shot":
            return step == self.start
        periodic = (step % self.every == 0) & (step >= self.start) & (step <= self.end)
        return periodic | (step == self.end) if self.kind == "polynomial" else periodic

    def part(self, step: Any) -> Any:
        """Returns the fraction of the target sparsity at a step, in [0, 1]."""
        if self.kind != "polynomial":
            return jnp.ones([], jnp.float32)
        length = self.end - self.start
        p = jnp.clip((step + 1 - self.start) / max(length, 1), 0.0, 1.0) if length else 1.0
        return 1 - (1 - jnp.asarray(p, jnp.float32)) ** 3

    def sparsities(self, targets: Any, step: Any) -> Any:
        """Returns the sparsities at a step, a tree like `targets`."""
        part = self.part(step)
        return jax.tree.map(lambda target: target * part, targets)
