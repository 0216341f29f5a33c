"""Strengths in proportion to what a unit costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
from demp_jax import models
from demp_jax.regularizers import by_cost
from tests.helpers import batch


def _network(p, x):
    h = jax.nn.relu((x @ p["first"]) * p["norm1"]["scale"][None])
    return jax.nn.relu((h @ p["second"]) * p["norm2"]["scale"][None]) @ p["out"]


def _params():
    params = {"first": batch((2, 8)), "second": batch((8, 4), 1), "out": batch((4, 1), 2)}
    return params | {"norm1": {"scale": jnp.ones(8)}, "norm2": {"scale": jnp.ones(4)}}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_factors_are_powers_of_the_parameters_of_a_unit(power):
    params = _params()
    factors = by_cost(demp_jax.trace(_network, params, batch((3, 2))), params, power=power)(params)
    costs = np.array([2 + 1 + 4] * 8 + [8 + 1 + 1] * 4) ** power
    expected = costs / costs.mean()
    np.testing.assert_allclose([factors["norm1"]["scale"], factors["norm2"]["scale"]], expected[[0, -1]], rtol=1e-6)
    assert factors["first"] is False


def test_factors_of_a_resnet_count_what_a_prune_removes():
    model = models.ResNet(3, 10, base_width=4, rngs=nnx.Rngs(0))
    model.eval()
    fn, variables = demp_jax.nnx.forward(model)
    graph, params = demp_jax.trace(fn, variables, batch((2, 8, 8, 3))), nnx.as_pure(nnx.state(model, nnx.Param))
    of_params = set(demp_jax.tracing.leaf_paths(params))
    factors = by_cost(graph, params, power=1.0)(params)
    rows, sizes = {}, {}
    for (path, leaf), factor, variable in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(factors), graph.match(params), strict=True
    ):
        if factor is not False:
            name = jax.tree_util.keystr(path)
            removed = np.zeros(graph.num_groups, bool)
            removed[graph.axes[variable][0][0]] = True
            is_param = of_params.__contains__
            rows[name] = (factor, graph.parameters(is_param) - graph.parameters(is_param, removed))
            sizes[name] = leaf.size
    ratios = [factor / cost for factor, cost in rows.values()]
    assert len(rows) == 20
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
    mean = sum(rows[name][0] * sizes[name] for name in rows) / sum(sizes.values())
    assert mean == pytest.approx(1.0)


def test_factors_stay_after_a_prune_and_scale_the_strength():
    params, x = _params(), batch((16, 2))
    mask = by_cost(demp_jax.trace(_network, params, x), params, power=1.0)
    tx = demp_jax.demp(optax.sgd(1.0), strength=0.1, where=mask)
    state = tx.init(params)
    result = demp_jax.prune(_network, params, [x], remove={"norm1": np.arange(8) < 5}, opt_state=state, tx=tx)
    small = result.variables
    assert mask(small) == mask(params)
    zeros = jax.tree.map(jnp.zeros_like, small)
    updates, _ = tx.update(zeros, result.opt_state, small)
    np.testing.assert_allclose(updates["norm1"]["scale"], -0.1 * 0.875, rtol=1e-5)
    np.testing.assert_allclose(updates["norm2"]["scale"], -0.1 * 1.25, rtol=1e-5)
    assert not updates["first"].any()


def test_a_negative_power_is_refused():
    params = _params()
    with pytest.raises(ValueError, match="power must be at least 0; got power=-1"):
        by_cost(demp_jax.trace(_network, params, batch((3, 2))), params, power=-1)
