# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Cases of the benchmark: how to build an architecture, its inputs, and the units that should be removable."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Arrays of a module that compute its units. A unit is zero if all its entries in these arrays are zero.
_LEAVES = ("kernel", "bias", "scale", "weight", "offset", "w", "b")

_PART = re.compile(
    r"(?P<glob>[^@\[]+)(@(?P<axis>-?\d+))?(\[(?P<start>\d*):(?P<stop>\d*)\])?((?<=[\d\]])/(?P<size>\d+))?"
)

# `inputs(rng, examples)` returns a batch.
Inputs = Callable[[np.random.Generator, int], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """An architecture.

    Each entry of `units` names modules or arrays whose units are removed together, separated by ` + `. Unit `j` of
    `"stem + blocks/*/norm2"` is unit `j` of the stem and of every `norm2`. The syntax of a name is:

    * `*` matches any text;
    * `#` matches any name, the same one throughout the entry. Each match is a site of its own: `"layers/#"` are the
      layers one by one;
    * `@` is followed by the axis of the units, as in `"experts/up@2"`. The default is the last axis, in Equinox the
      first;
    * a range selects some of the units: `"gates[8:16]"`;
    * `/` after an axis or a range is followed by the number of positions per unit: `"query/kernel@1/16"`;
    * an entry that begins with `"stack: "` names arrays that stack layers along their first axis. Each layer has units
      of its own.

    `heads` and `states` name the axes of attention heads and recurrent states in the same syntax.

    Attributes:
      name: the architecture.
      framework: a name in `subjects.SUBJECTS`.
      make: builds the architecture. In plain JAX, `make()` returns `(fn, variables)` or `(fn, variables, train_fn)`; in
        Linen, a module or `(module, options)`. In Flax NNX, `make(rngs)` returns a model. In Equinox, `make(key)`
        returns a model or `(model, state)`.
      inputs: returns a batch.
      units: the units that are expected to be removable.
      heads: attention heads.
      states: recurrent states.
      call: calls the model, as `call(model, x)`, in Equinox `call(model, x, state)`; by default `model(x)`.
      package: the distribution that defines the architecture, if it is not a requirement of this project.
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
        """Whether the package of the architecture is missing."""
        return self.package is not None and not any(importlib.metadata.distributions(name=self.package))


class Axis(NamedTuple):
    """Positions along an axis of a variable, or of one layer of a variable that stacks layers along its first axis."""

    variable: int
    axis: int
    part: slice
    layer: int | None = None

    def along(self, array: np.ndarray) -> np.ndarray:
        """Returns a view of the entries at the positions, with the axis of the positions first.

        Args:
          array: an array of the shape of the variable.
        """
        moved = np.moveaxis(array, self.axis, 0)
        return (moved if self.layer is None else moved[:, self.layer])[self.part]

    def groups(self, axes: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """Returns the group of each position.

        Args:
          axes: for each axis of the variable, the groups along it.
        """
        groups = axes[self.axis]
        return None if groups is None else (groups if self.layer is None else groups[self.layer])[self.part]


class Units(NamedTuple):
    """Units of a site: `width` units of `size` positions each, along all of `axes`."""

    axes: tuple[Axis, ...]
    width: int
    size: int = 1

    def members(self, positions: np.ndarray) -> np.ndarray:
        """Returns whether a unit has all of its positions in `positions`, `[width * size]` bool; `[width]` bool."""
        return np.all(positions.reshape(self.width, self.size), axis=1)

    def positions(self, units: np.ndarray) -> np.ndarray:
        """Returns the positions of `units`, `[width]` bool, as `[width * size]` bool."""
        return np.repeat(units, self.size)


def find(entries: Sequence[str], paths: Sequence[str], shapes: Sequence[tuple[int, ...]], axis: int) -> list[Units]:
    """Returns the units that entries of `Case.units` name.

    Args:
      entries: the entries.
      paths: the paths of all variables.
      shapes: the shapes of all variables.
      axis: the default axis of units.

    Raises:
      ValueError: if a name matches no variable, or an entry couples axes of different sizes.
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
                raise ValueError(f"units: {part!r} names no variable. The variables are {', '.join(paths)}.")
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
                raise ValueError(f"units: {entry!r} names axes of {sorted(counts)} positions, with {size} per unit.")
            found.append(Units(tuple(axis for axis, _ in axes), min(counts) // size, size))
    return found


def _matched(glob: str, paths: Sequence[str]) -> list[tuple[int, str]]:
    """Returns the index of each variable that a pattern matches, and the text that `#` matches."""
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
    """Returns standard normal inputs, `[examples, *shape]`."""
    return lambda rng, examples: jnp.asarray(rng.normal(size=(examples, *shape)), jnp.float32)


def tokens(length: int, vocabulary: int) -> Inputs:
    """Returns inputs of random tokens, `[examples, length]`."""
    return lambda rng, examples: jnp.asarray(rng.integers(0, vocabulary, (examples, length)), jnp.int32)


def several(**inputs: Inputs) -> Inputs:
    """Returns dicts of inputs."""
    return lambda rng, examples: {name: each(rng, examples) for name, each in inputs.items()}


def normal(seed: int, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Returns random weights with a variance of one over their fan-in, the product of all axes but the last."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    scales = [max(float(np.prod(shape[:-1])), 1.0) ** -0.5 for shape in shapes.values()]
    return {
        name: jax.random.normal(key, shape) * scale
        for key, scale, (name, shape) in zip(keys, scales, shapes.items(), strict=True)
    }
