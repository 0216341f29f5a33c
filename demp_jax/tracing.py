# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Finding the units of a network that can be removed, by tracing it.

`trace` returns a `Graph`: the sites (activations) of the network, the groups of units that can only be removed
together, their producers and consumers, and a `Refusal` for everything that cannot be pruned. `with_gates` multiplies
every unit by a variable, for scores that differentiate with respect to units.
"""

from demp_jax._src.tracing.activations import mark_units as mark_units
from demp_jax._src.tracing.gates import with_gates as with_gates
from demp_jax._src.tracing.graph import Consumer as Consumer
from demp_jax._src.tracing.graph import Graph as Graph
from demp_jax._src.tracing.graph import Producer as Producer
from demp_jax._src.tracing.graph import Product as Product
from demp_jax._src.tracing.graph import Refusal as Refusal
from demp_jax._src.tracing.graph import Site as Site
from demp_jax._src.tracing.graph import per_unit as per_unit
from demp_jax._src.tracing.paths import leaf_paths as leaf_paths
from demp_jax._src.tracing.select import select as select
from demp_jax._src.tracing.trace import trace as trace

__all__ = [
    "Consumer",
    "Graph",
    "Producer",
    "Product",
    "Refusal",
    "Site",
    "leaf_paths",
    "mark_units",
    "per_unit",
    "select",
    "trace",
    "with_gates",
]
