# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Training neural networks that get smaller while they train: Demon Pruning (DemP) for JAX."""

from demp_jax._src.activations import neurons as neurons
from demp_jax._src.activity import CRITERIA as CRITERIA
from demp_jax._src.activity import Activity as Activity
from demp_jax._src.activity import alive as alive
from demp_jax._src.activity import clear_caches as clear_caches
from demp_jax._src.activity import observe as observe
from demp_jax._src.activity import outputs as outputs
from demp_jax._src.activity import summarise as summarise
from demp_jax._src.activity import with_activity as with_activity
from demp_jax._src.cutting import Cut as Cut
from demp_jax._src.cutting import CutRecord as CutRecord
from demp_jax._src.cutting import Forecast as Forecast
from demp_jax._src.cutting import cut as cut
from demp_jax._src.cutting import forecast as forecast
from demp_jax._src.demp import demp as demp
from demp_jax._src.demp import with_strength_factor as with_strength_factor
from demp_jax._src.gates import with_gates as with_gates
from demp_jax._src.graph import Graph as Graph
from demp_jax._src.masks import Membership as Membership
from demp_jax._src.masks import membership as membership
from demp_jax._src.masks import weight_mask as weight_mask
from demp_jax._src.noise import add_weight_noise as add_weight_noise
from demp_jax._src.paths import leaf_paths as leaf_paths
from demp_jax._src.regularization import add_regularizer as add_regularizer
from demp_jax._src.regularization import decay_toward_zero as decay_toward_zero
from demp_jax._src.regularization import everything as everything
from demp_jax._src.regularization import norm_scales as norm_scales
from demp_jax._src.schedules import SCHEDULES as SCHEDULES
from demp_jax._src.schedules import constant as constant
from demp_jax._src.schedules import cosine_decay as cosine_decay
from demp_jax._src.schedules import one_cycle as one_cycle
from demp_jax._src.schedules import warmup_hold as warmup_hold
from demp_jax._src.select import select as select
from demp_jax._src.target import TargetController as TargetController
from demp_jax._src.tracing import trace as trace

__version__ = "0.1.0"
