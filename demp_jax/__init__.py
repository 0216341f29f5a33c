# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Training neural networks that get smaller while they train: Demon Pruning (DemP) for JAX."""

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
