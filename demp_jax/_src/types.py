# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Array types, named after the meaning of their entries. The tests check dtypes and shapes.

The tests load this package through jaxtyping's import hook (`tests/conftest.py`). It checks the arguments and results
of every call and the fields of every dataclass. Outside the tests, annotations are never evaluated.

Dimension names:

* `groups`: the groups of units of a graph, `Graph.num_groups` of them;
* `units`: the units of one site, consumer or producer;
* `positions`: the positions of one axis of a value, whether they are units or not;
* `labels`: the labels of a program, one per position of every axis of every variable;
* `components`: sets of labels that can only be removed together.

A name has one size per call. Arrays of different sizes, such as those of several sites in a list, have the anonymous
dimension `_`. A size in braces, such as `{graph.num_groups}`, is read from an argument. Pytrees are declared with
`typing.no_type_check`, because JAX also builds them with leaves that are not arrays, such as shapes or shardings.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool, Int, Num

# On the device or on the host.
AnyArray = jax.Array | np.ndarray

GroupMask = Bool[np.ndarray, " groups"]
UnitMask = Bool[np.ndarray, " units"]
# The group of each unit, -1 for none.
UnitGroups = Int[np.ndarray, " units"]
UnitValues = Num[AnyArray, " units"]

# The label of each position of an axis, or `-1 - k` if the position is fixed for the reason k.
AxisLabels = Int[np.ndarray, "*positions"]
AxisMask = Bool[np.ndarray, " positions"]
# The component of each label, and the reason why each component is frozen, -1 for none.
LabelComponents = Int[np.ndarray, " labels"]
ComponentReasons = Int[np.ndarray, " components"]

# For lists of arrays of different sizes. Axes of stacked weights have a group per layer and position.
SomeMask = Bool[np.ndarray, " _"]
SomeGroups = Int[np.ndarray, "..."]
# `[positions]`, or `[layers, positions]` for weights that are stacked for a `scan`.
SomeLabels = Int[np.ndarray, "..."]
SomePositions = Int[np.ndarray, "..."]
