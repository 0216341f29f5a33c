# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Demon Pruning (DemP) for JAX: networks that get smaller while they train.

A regularizer on normalization scales and noise on weights make units (channels, features) die: their activation is zero
on every example. Dead units are removed from parameters, statistics and optimizer state, and training continues with a
smaller network. Units are found by tracing the network, so nothing has to be declared.

* `demp` wraps an Optax optimizer so that units die.
* `trace` finds the units that can be removed, and reports those that cannot.
* `prune` removes dead units from a network and from the state of its optimizer, and compares the outputs.
* `preview` returns the sizes that the network would have after a prune.
* `Pruner` prunes in a training loop, and can adapt the strength of the regularizer to reach a given size.

Example:
  >>> import demp_jax, jax, optax
  >>> import jax.numpy as jnp
  >>> def network(params, x):
  ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
  >>> params = {"hidden": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
  >>> x = jnp.array([[1.0], [2.0]])
  >>> where = demp_jax.regularizers.all_params  # By default, the scales of normalization layers.
  >>> tx = demp_jax.demp(optax.sgd(0.1), strength=demp_jax.one_cycle(0.01, 1000), where=where)
  >>> opt_state = tx.init(params)
  >>> demp_jax.trace(network, params, x).neurons
  3
  >>> demp_jax.preview(network, params, [x]).neurons  # Before and after.
  (3, 2)
  >>> result = demp_jax.prune(network, params, [x], opt_state=opt_state, tx=tx)
  >>> result.variables["hidden"].shape
  (1, 2)

`demp_jax.nnx`, `demp_jax.linen` and `demp_jax.equinox` do the same for models of Flax NNX, Flax Linen and Equinox, and
`demp_jax.export` saves pruned networks. `import demp_jax` does not import these modules.
"""

from demp_jax import activity as activity
from demp_jax import masks as masks
from demp_jax import regularizers as regularizers
from demp_jax import schedules as schedules
from demp_jax import targets as targets
from demp_jax import tracing as tracing
from demp_jax._src.optim.demp import demp as demp
from demp_jax._src.optim.demp import set_strength_factor as set_strength_factor
from demp_jax._src.optim.masks import weight_groups as weight_groups
from demp_jax._src.optim.masks import weight_mask as weight_mask
from demp_jax._src.optim.noise import add_weight_noise as add_weight_noise
from demp_jax._src.optim.regularizers import add_regularizer as add_regularizer
from demp_jax._src.optim.regularizers import norm_scales as norm_scales
from demp_jax._src.optim.schedules import one_cycle as one_cycle
from demp_jax._src.pruning.activity import alive as alive
from demp_jax._src.pruning.activity import with_activity as with_activity
from demp_jax._src.pruning.options import PruneOptions as PruneOptions
from demp_jax._src.pruning.prune import Preview as Preview
from demp_jax._src.pruning.prune import PruneResult as PruneResult
from demp_jax._src.pruning.prune import preview as preview
from demp_jax._src.pruning.prune import prune as prune
from demp_jax._src.pruning.pruner import Pruner as Pruner
from demp_jax._src.pruning.record import PruneRecord as PruneRecord
from demp_jax._src.pruning.slicing import Plan as Plan
from demp_jax._src.tracing.activations import mark_units as mark_units
from demp_jax._src.tracing.graph import Graph as Graph
from demp_jax._src.tracing.select import select as select
from demp_jax._src.tracing.trace import trace as trace

__version__ = "0.2.0"

__all__ = [
    "Graph",
    "Plan",
    "Preview",
    "PruneOptions",
    "PruneRecord",
    "PruneResult",
    "Pruner",
    "activity",
    "add_regularizer",
    "add_weight_noise",
    "alive",
    "demp",
    "mark_units",
    "masks",
    "norm_scales",
    "one_cycle",
    "preview",
    "prune",
    "regularizers",
    "schedules",
    "select",
    "set_strength_factor",
    "targets",
    "trace",
    "tracing",
    "weight_groups",
    "weight_mask",
    "with_activity",
]
