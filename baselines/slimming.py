# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Network slimming (Liu et al., 2017, https://arxiv.org/abs/1708.06519), on which DemP builds.

The network is trained with an L1 penalty on the scales gamma of its normalization layers. Then units with the smallest
scales are removed, and training continues.
"""

from __future__ import annotations

import jax
import numpy as np

import demp_jax
from baselines.subject import Subject


def score(subject: Subject) -> np.ndarray:
    """Returns the sum of `|gamma|` of every group, `[num_groups]`, over the normalization layers of its units.

    Raises:
      ValueError: if a unit has no scale.
    """
    graph = subject.graph
    scales = jax.tree.leaves(demp_jax.norm_scales(subject.variables))
    leaves = jax.device_get(jax.tree.leaves(subject.variables))
    fed = np.append(graph.fed, -1)
    total, held = np.zeros(graph.num_groups), np.zeros(graph.num_groups, bool)
    for leaf, is_scale, axes in zip(leaves, scales, graph.axes, strict=True):
        if not is_scale or axes[-1] is None:
            continue
        units = fed[axes[-1]]
        np.add.at(total, units[units >= 0], np.abs(np.asarray(leaf, np.float64))[units >= 0])
        held[units[units >= 0]] = True
    missing = [s.name for s in graph.sites if not demp_jax.tracing.per_unit(held, s.groups, True).all()]
    if missing:
        raise ValueError(f"slimming: the units of {', '.join(missing)} have no scale; exclude them.")
    return total
