# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Measuring the units of a network, and deciding which of them are alive.

`observe` runs a network on batches and returns the activity of every site: maxima, minima and sums of its units.
`with_activity` returns the outputs and the activity of one batch, inside a training step. `alive` applies a criterion
to an activity.
"""

from demp_jax._src.pruning.activity import CRITERIA as CRITERIA
from demp_jax._src.pruning.activity import Activity as Activity
from demp_jax._src.pruning.activity import Range as Range
from demp_jax._src.pruning.activity import alive as alive
from demp_jax._src.pruning.activity import summarize as summarize
from demp_jax._src.pruning.activity import with_activity as with_activity
from demp_jax._src.pruning.options import MODES as MODES
from demp_jax._src.pruning.passes import Observation as Observation
from demp_jax._src.pruning.passes import clear_caches as clear_caches
from demp_jax._src.pruning.passes import observe as observe
from demp_jax._src.pruning.passes import outputs as outputs

__all__ = [
    "CRITERIA",
    "MODES",
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
