# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Filter pruning by L1 norm (Li et al., 2017, https://arxiv.org/abs/1608.08710)."""

from __future__ import annotations

import jax
import numpy as np

from baselines.subject import Subject


def score(subject: Subject) -> np.ndarray:
    """Returns the sum of absolute weights of every class, `[K]`: of all kernels that compute its units.

    Raises:
      ValueError: when no kernel can be told to compute a unit.
    """
    return norms(subject)[0]


def norms(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum of absolute weights of every class and how many they are, `[K]` each.

    Weights that read classes which have left are not counted.
    """
    graph, live = subject.graph, subject.live
    leaves = jax.device_get(jax.tree.leaves(subject.variables))
    fed = np.append(graph.fed, -1)
    # The last entry is for units that always stay.
    there = np.append(np.where(fed[:-1] >= 0, live[fed[:-1]], True), True)
    total, count = np.zeros(graph.classes), np.zeros(graph.classes)
    for maker in graph.makers:
        if maker.variable is None:
            continue
        weights = np.abs(np.asarray(leaves[maker.variable], np.float64))
        counted = np.ones(weights.shape)
        for axis, classes in enumerate(graph.axes[maker.variable]):
            if axis != maker.weight_axis and classes is not None:
                counted = counted * there[classes].reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
        others = tuple(i for i in range(weights.ndim) if i != maker.weight_axis)
        units = fed[maker.classes]
        np.add.at(total, units[units >= 0], (weights * counted).sum(others)[units >= 0])
        np.add.at(count, units[units >= 0], counted.sum(others)[units >= 0])
    missing = [s.name for s in graph.sites if not np.append(count > 0, True)[s.classes].all()]
    if missing:
        raise ValueError(f"no kernel can be told to compute the units of {', '.join(missing)}; leave them unranked.")
    return total, count
