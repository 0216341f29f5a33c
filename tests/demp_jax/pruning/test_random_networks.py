"""Whatever the architecture, the names and the optimizer: all that is dead is removed, and nothing else changes."""

import hypothesis
import jax
import numpy as np
import pytest

import demp_jax
from tests import helpers, random_networks

SAMPLE = 12
# Shrinking takes minutes, and the networks are small already.
SETTINGS = {"suppress_health_check": list(hypothesis.HealthCheck), "phases": [hypothesis.Phase.generate]}


@hypothesis.settings(**SETTINGS)
@hypothesis.given(random_networks.networks())
def test_pruning_a_drawn_network(drawn):
    for event in random_networks.check(drawn):
        hypothesis.event(event)


@pytest.mark.parametrize("seed", range(SAMPLE))
def test_pruning_a_random_network(seed):
    """A sample of `python -m tests.random_networks`."""
    random_networks.check(random_networks.random_network(seed))


@hypothesis.settings(**SETTINGS)
@hypothesis.given(random_networks.networks())
def test_any_consistent_set_of_units_can_be_sliced(drawn):
    """Slicing by random groups gives shapes the same code runs with, and the sizes that were predicted."""
    apply, variables, x = drawn.network, drawn.variables, drawn.batches[0]
    graph = demp_jax.trace(apply, variables, x)
    hypothesis.assume(any((site.groups >= 0).any() for site in graph.sites))
    plan = helpers.random_plan(graph, np.random.default_rng(0))
    smaller = plan.slice_variables(variables)
    assert jax.eval_shape(apply, smaller, x).shape == jax.eval_shape(apply, variables, x).shape
    again = demp_jax.trace(apply, smaller, x)
    assert again.flops() == graph.flops(plan.removed)
    assert again.parameters() == graph.parameters(removed=plan.removed)
