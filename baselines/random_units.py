# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Random structured pruning: what every score has to beat."""

from __future__ import annotations

import jax
import numpy as np

from baselines.subject import Subject


def score(subject: Subject) -> np.ndarray:
    """Returns uniform random numbers in [0, 1), one for every class, `[K]`."""
    return np.asarray(jax.random.uniform(subject.key, (subject.graph.num_groups,)))
