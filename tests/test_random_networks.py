"""Whatever the architecture: a cut changes no output and no gradient, and finds everything there is to cut."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np

import demp_jax
from tests import helpers
from tests.random_networks import networks


def _prunable(graph):
    return any((site.groups >= 0).any() for site in graph.sites)


@hypothesis.settings(suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(networks())
def test_cutting_a_random_network(drawn):
    apply, params, x = drawn
    graph = demp_jax.trace(apply, params, x)
    hypothesis.assume(_prunable(graph))
    result = demp_jax.prune(apply, params, [x])
    record = result.record
    assert record.refused is None, record
    assert record.difference <= 1e-4 * max(record.scale, 1)
    assert demp_jax.trace(apply, result.variables, x).flops() == record.flops[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(result.variables)) == record.parameters[1]
    hypothesis.event(f"{len(record.removed)} sites cut")

    # Nothing is left to cut: dead units that stay are protected or needed.
    # The last group of a GroupNorm is normalized as a whole: where only such are left, nothing is prunable any more.
    if demp_jax.trace(apply, result.variables, x).prunable:
        again = demp_jax.prune(apply, result.variables, [x])
        assert again.record.removed == {}, (record, again.record)

    # Where a constant was folded, what could be trained of it went with the unit: `cut` says so.
    if result.plan is not None and not record.folded:
        # Other inputs, and gradients. A unit that was silent on the death set may speak up on others.
        weights = jnp.cos(jnp.arange(3.0))[None]

        def loss(p):
            trained = jax.tree.map(lambda new, old: new if old.dtype == jnp.float32 else old, p, p)
            return jnp.sum(apply(trained, x) * weights)

        gradient = jax.jit(jax.grad(loss, allow_int=True))
        full, small = gradient(params), gradient(result.variables)
        sliced = result.plan.slice(jax.tree.map(_numbers, full))
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(jax.tree.map(_numbers, small)), jax.tree.leaves(sliced), strict=True
        ):
            name = jax.tree_util.keystr(path)
            if "fill" in name:
                continue  # Not trained: it stands where an index takes nothing.
            scale = max(float(np.abs(b).max(initial=0)), 1.0)
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


def _numbers(leaf):
    """Gradients of indices have no numbers: put zeros there."""
    return np.zeros(leaf.shape, np.float32) if leaf.dtype == jax.dtypes.float0 else np.asarray(leaf)


@hypothesis.settings(suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(networks())
def test_any_consistent_set_of_units_can_be_sliced(drawn):
    """Slicing by random classes gives shapes the same code runs with, and the sizes that were predicted."""
    apply, params, x = drawn
    graph = demp_jax.trace(apply, params, x)
    hypothesis.assume(_prunable(graph))
    plan = helpers.random_plan(graph, np.random.default_rng(0))
    smaller = plan.slice_variables(params)
    assert apply(smaller, x).shape == apply(params, x).shape
    again = demp_jax.trace(apply, smaller, x)
    assert again.flops() == graph.flops(plan.removed)
    assert again.parameters() == graph.parameters(removed=plan.removed)
