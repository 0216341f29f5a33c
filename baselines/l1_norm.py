# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Filter pruning by L1 norm (Li et al., 2017, https://arxiv.org/abs/1608.08710)."""

from __future__ import annotations

import jax
import numpy as np

from baselines.subject import Subject
from demp_jax.tracing import per_unit


def score(subject: Subject) -> np.ndarray:
    """Returns `sum |w|` of every group, `[num_groups]`, over the weights of all kernels that compute its units.

    Raises:
      ValueError: if no kernel is known to compute a unit.
    """
    return norms(subject)[0]


def norms(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum of `|w|` of every group and the number of these weights, `[num_groups]` each.

    Weights that read masked groups are left out.

    Raises:
      ValueError: if no kernel is known to compute a unit.
    """
    graph, live = subject.graph, subject.live
    leaves = jax.device_get(jax.tree.leaves(subject.variables))
    fed = np.append(graph.fed, -1)
    # Units that cannot be removed have group -1, the last entry.
    there = np.append(np.where(fed[:-1] >= 0, live[fed[:-1]], True), True)
    total, count = np.zeros(graph.num_groups), np.zeros(graph.num_groups)
    for producer in graph.producers:
        if producer.variable is None:
            continue
        weights = np.abs(np.asarray(leaves[producer.variable], np.float64))
        along = graph.axes[producer.variable]
        if producer.layer is not None:
            weights = weights[producer.layer]
            along = tuple(None if groups is None else groups[producer.layer] for groups in along[1:])
        counted = np.ones(weights.shape)
        for axis, groups in enumerate(along):
            if axis != producer.weight_axis and groups is not None:
                counted = counted * there[groups].reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
        others = tuple(i for i in range(weights.ndim) if i != producer.weight_axis)
        units = fed[producer.groups]
        np.add.at(total, units[units >= 0], (weights * counted).sum(others)[units >= 0])
        np.add.at(count, units[units >= 0], counted.sum(others)[units >= 0])
    missing = [s.name for s in graph.sites if not per_unit(count > 0, s.groups, True).all()]
    if missing:
        raise ValueError(f"no kernel is known to compute the units of {', '.join(missing)}; leave them unranked.")
    return total, count
