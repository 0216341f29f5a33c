# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Schedules of the strength of a regularizer and of the variance of noise.

Each function returns an `optax.Schedule`, and any other `optax.Schedule` can be used in its place. `one_cycle` is the
schedule of the paper. `SCHEDULES` holds the functions by name.
"""

from demp_jax._src.optim.schedules import SCHEDULES as SCHEDULES
from demp_jax._src.optim.schedules import constant as constant
from demp_jax._src.optim.schedules import cosine_decay as cosine_decay
from demp_jax._src.optim.schedules import one_cycle as one_cycle
from demp_jax._src.optim.schedules import warmup_hold as warmup_hold

__all__ = [
    "SCHEDULES",
    "constant",
    "cosine_decay",
    "one_cycle",
    "warmup_hold",
]
