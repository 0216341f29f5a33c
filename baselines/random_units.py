# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Random structured pruning, a lower bound for scores."""

from __future__ import annotations

import jax
import numpy as np

from baselines.subject import Subject


def score(subject: Subject) -> np.ndarray:
    """Returns a uniform random number in [0, 1) for every group, `[num_groups]`."""
    return np.asarray(jax.random.uniform(subject.key, (subject.graph.num_groups,)))
