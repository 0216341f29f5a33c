# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""SNAP: scores units by the gradient of their gates (Verdenius et al., 2020, https://arxiv.org/abs/2006.00896)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from baselines import losses
from baselines.subject import Subject


def score(subject: Subject) -> np.ndarray:
    """Returns `|sum_b dL_b / dc|` of every group, `[num_groups]`, as the code of the DemP paper computes it.

    L_b is the mean cross-entropy of batch b. The gate c, at c = 1, multiplies the value before the activation.
    """
    grads, _ = _sums(subject, "preactivation", losses.cross_entropy)
    return np.abs(grads)


def released(subject: Subject) -> np.ndarray:
    """Returns `|sum_b dL_b / dc| / |sum_b L_b|` of every group, `[num_groups]`, as the released code of SNAP does.

    L_b is the mean of the negated logits of the labels, because that code applies the negative log-likelihood to logits
    instead of log-probabilities. The gate c, at c = 1, multiplies the output of a kernel, before the normalization.
    """
    grads, total = _sums(subject, "product", losses.negative_logit)
    return np.abs(grads) / np.abs(total)


def _sums(subject: Subject, position: str, loss: losses.Loss) -> tuple[np.ndarray, np.ndarray]:
    fn, variables, graph, batches, live, _, exclude = subject
    found = [_gradient(variables, x, y, live, fn, graph, exclude, position, loss) for x, y in batches]
    totals, grads = zip(*jax.device_get(found), strict=True)
    return np.sum(grads, 0), np.sum(totals)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7, 8))
def _gradient(variables: Any, x: Any, y: Any, live: Any, *static: Any) -> tuple[jax.Array, jax.Array]:
    of = losses.gated(*static)
    ones = jnp.ones(live.shape, jnp.result_type(float))
    return jax.value_and_grad(of)(ones, jnp.zeros_like(ones), variables, x, y, live)
