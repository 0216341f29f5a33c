# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Evaluates a network: accuracy and loss on the test set, and dead units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

import demp_jax
from experiments.recipe.network import Network
from experiments.recipe.problem import Problem
from experiments.training.batches import Feed


def on_test_set(problem: Problem, feed: Feed, network: Network, variables: Any) -> dict[str, float]:
    """Returns `test_accuracy`, in [0, 1], and `test_loss`, the mean cross-entropy in nats, over the whole test set."""
    right, loss = 0, 0.0
    for inputs, labels in feed.test_batches():
        # Uses the compiled program that also checks the outputs of a pruned network.
        (logits,) = demp_jax.activity.outputs(network, variables, [inputs])
        logits = logits[: len(labels)].astype(np.float64)
        shifted = logits - logits.max(1, keepdims=True)
        right += int((logits.argmax(1) == labels).sum())
        loss += float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).sum())
    examples = problem.dataset.test_examples
    return {"test_accuracy": right / examples, "test_loss": loss / examples}


def dead(
    problem: Problem, graph: demp_jax.Graph, network: Network, variables: Any, inputs: Iterable[jax.Array]
) -> dict[str, Any]:
    """Returns which units are dead on batches of inputs.

    Returns:
      Two dicts by site: `dead`, the number of dead units, and `bits`, a packed bit per unit, in hexadecimal.
    """
    options = problem.settings.pruning
    units: dict[str, Any] = {"exclude": problem.exclude, "extra_units": problem.extra_units}
    seen = demp_jax.activity.observe(network, variables, inputs, criterion=options.criterion, **units)
    found = {
        site.name: ~np.asarray(demp_jax.alive(activity, options.criterion, epsilon=options.epsilon))
        for site, activity in zip(graph.sites, seen.sites, strict=False)
    }
    bits = {name: np.packbits(units).tobytes().hex() for name, units in found.items()}
    return {"dead": {name: int(units.sum()) for name, units in found.items()}, "bits": bits}
