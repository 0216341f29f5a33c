# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What the units of a network did on a set of examples, and which of them are alive."""

from demp_jax._src.pruning.activity import CRITERIA as CRITERIA
from demp_jax._src.pruning.activity import Activity as Activity
from demp_jax._src.pruning.activity import Observation as Observation
from demp_jax._src.pruning.activity import Range as Range
from demp_jax._src.pruning.activity import alive as alive
from demp_jax._src.pruning.activity import clear_caches as clear_caches
from demp_jax._src.pruning.activity import observe as observe
from demp_jax._src.pruning.activity import outputs as outputs
from demp_jax._src.pruning.activity import summarize as summarize
from demp_jax._src.pruning.activity import with_activity as with_activity

__all__ = [
    "CRITERIA",
    "Activity",
    "Observation",
    "Range",
    "alive",
    "clear_caches",
    "observe",
    "outputs",
    "summarize",
    "with_activity",
]
