# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""An architecture to be pruned: how to build it, its inputs, and the units that a person expects to be removable."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The arrays of a module whose entries along the axis of units make a unit zero once they are zero.
_LEAVES = ("kernel", "bias", "scale", "weight", "offset", "w", "b")

_PART = re.compile(
    r"(?P<glob>[^@\[]+)(@(?P<axis>-?\d+))?(\[(?P<start>\d*):(?P<stop>\d*)\])?((?<=[\d\]])/(?P<size>\d+))?"
)

# `inputs(rng, examples)` returns a batch.
Inputs = Callable[[np.random.Generator, int], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """An architecture.

    Each entry of `units` names modules or arrays by their paths, and stands for the units along their outputs. What one
    entry names is removed together: unit `j` of `"stem + blocks/*/norm2"` is unit `j` of the stem and of every second
    norm. A `*` matches any text. A `#` matches any name, the same one throughout the entry, and each name gives units
    of its own: `"layers/#"` are the layers one by one. Units lie along the last axis of an array, in Equinox along the
    first, and elsewhere along the axis behind an `@`, as in `"experts/up@2"`. A range takes a part of them:
    `"gates[8:16]"`. Behind a slash after either stands how many positions belong to a unit: `"query/kernel@1/16"`. A
    unit is zero once all its entries are zero. `"stack: blocks/up"` names arrays that stack layers along their first
    axis, with units in each layer.

    `heads` and `states` name arrays and axes along which attention heads and recurrent states lie.

    Attributes:
      name: the architecture.
      framework: a key of `subjects.SUBJECTS`.
      make: builds it. In plain JAX `make()` returns `(fn, variables)` or `(fn, variables, train_fn)`, in Linen a module
        or a pair of a module and its options, in Flax NNX `make(rngs)` a model, and in Equinox `make(key)` a model or a
        pair of a model and its state.
      inputs: returns a batch.
      units: the units that are expected to be removable.
      heads: attention heads.
      states: recurrent states.
      call: how the model is called, `call(model, x)`, in Equinox `call(model, x, state)`; by default on a batch alone.
      package: the distribution that defines the architecture, if it is not one of the requirements.
    """

    name: str
    framework: str
    make: Callable[..., Any]
    inputs: Inputs
    units: Sequence[str]
    heads: Sequence[str] = ()
    states: Sequence[str] = ()
    call: Callable[..., Any] | None = None
    package: str | None = None

    @property
    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.package is not None and not any(importlib.metadata.distributions(name=self.package))


class Axis(NamedTuple):
    """Positions of an axis of a variable, or of one layer of it where it stacks layers along its first axis."""

    variable: int
    axis: int
    part: slice
    layer: int | None = None

    def along(self, array: np.ndarray) -> np.ndarray:
        """Returns the entries of an array shaped as the variable, positions first; a view."""
        moved = np.moveaxis(array, self.axis, 0)
        return (moved if self.layer is None else moved[:, self.layer])[self.part]

    def groups(self, axes: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """Returns the group of each position, given those along the axes of the variable."""
        groups = axes[self.axis]
        return None if groups is None else (groups if self.layer is None else groups[self.layer])[self.part]


class Units(NamedTuple):
    """Units that lie along the same positions of some axes: `width` of them, each of `size` positions."""

    axes: tuple[Axis, ...]
    width: int
    size: int = 1

    def members(self, positions: np.ndarray) -> np.ndarray:
        """Returns `[width]`: whether all positions of a unit are among `positions`, `[width * size]` bool."""
        return np.all(positions.reshape(self.width, self.size), axis=1)

    def positions(self, units: np.ndarray) -> np.ndarray:
        """Returns the positions of some units, `[width * size]` bool."""
        return np.repeat(units, self.size)


def find(entries: Sequence[str], paths: Sequence[str], shapes: Sequence[tuple[int, ...]], axis: int) -> list[Units]:
    """Returns the units that entries of `Case.units` stand for.

    Args:
      entries: the patterns.
      paths: of all variables.
      shapes: of all variables.
      axis: the axis of units where an entry names none.

    Raises:
      ValueError: when a pattern matches nothing, or the axes that it couples have different sizes.
    """
    found = []
    for entry in entries:
        coupled: dict[str, list[tuple[Axis, int]]] = {}
        size = 1
        stacked = entry.startswith("stack: ")
        for part in entry.removeprefix("stack: ").split(" + "):
            parsed = _PART.fullmatch(part)
            matched = _matched(parsed["glob"], paths) if parsed else []
            if not parsed or not matched:
                raise ValueError(f"units: {part!r} names no variable; the variables are {', '.join(paths)}.")
            size = int(parsed["size"] or 1)
            for index, name in matched:
                shape = shapes[index]
                along = range(len(shape))[int(parsed["axis"] or axis)] if len(shape) > 1 + stacked else int(stacked)
                positions = slice(int(parsed["start"] or 0), int(parsed["stop"] or shape[along]))
                count = len(range(*positions.indices(shape[along])))
                for layer in range(shape[0]) if stacked else [None]:
                    each = coupled.setdefault(name if layer is None else f"{name}[{layer}]", [])
                    each.append((Axis(index, along, positions, layer), count))
        for axes in coupled.values():
            counts = {count for _, count in axes}
            if len(counts) != 1 or min(counts) % size:
                raise ValueError(f"units: {entry!r} names axes of {sorted(counts)} positions, in units of {size}.")
            found.append(Units(tuple(axis for axis, _ in axes), min(counts) // size, size))
    return found


def _matched(glob: str, paths: Sequence[str]) -> list[tuple[int, str]]:
    """Returns the variables that a pattern names, and the text of `#`."""
    pattern = re.compile(re.escape(glob).replace(r"\*", ".*").replace(r"\#", "([^/]+)"))
    found = []
    for index, path in enumerate(paths):
        path = path.removeprefix("params/")
        module, _, leaf = path.rpartition("/")
        match = pattern.fullmatch(path) or (pattern.fullmatch(module) if leaf in _LEAVES else None)
        if match and len(set(match.groups())) < 2:
            found.append((index, "".join(match.groups()[:1])))
    return found


def features(*shape: int) -> Inputs:
    """Returns inputs of normal numbers, `[examples, *shape]`."""
    return lambda rng, examples: jnp.asarray(rng.normal(size=(examples, *shape)), jnp.float32)


def tokens(length: int, vocabulary: int) -> Inputs:
    """Returns inputs of token numbers, `[examples, length]`."""
    return lambda rng, examples: jnp.asarray(rng.integers(0, vocabulary, (examples, length)), jnp.int32)


def several(**inputs: Inputs) -> Inputs:
    """Returns inputs that are dicts of inputs."""
    return lambda rng, examples: {name: each(rng, examples) for name, each in inputs.items()}


def normal(seed: int, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Returns weights, scaled by the size of all axes but the last."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    scales = [max(float(np.prod(shape[:-1])), 1.0) ** -0.5 for shape in shapes.values()]
    return {
        name: jax.random.normal(key, shape) * scale
        for key, scale, (name, shape) in zip(keys, scales, shapes.items(), strict=True)
    }
