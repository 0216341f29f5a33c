"""Who is alive: criteria against a plain reference, over batches, space and devices."""

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import demp_jax
from demp_jax import models
from tests import helpers
from tests.helpers import batch
from tests.reference import demp as reference

CRITERIA = [c for c in demp_jax.activity.CRITERIA if c != "auto"]

_values = st.one_of(st.just(0.0), st.sampled_from([0.01, -0.01, 0.005]), st.floats(-2, 2, width=32))
_shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))


@pytest.mark.parametrize("criterion", CRITERIA)
@hypothesis.given(data=st.data(), shape=_shapes, batches=st.integers(1, 3))
def test_criteria_against_the_reference(criterion, data, shape, batches):
    parts = [data.draw(hnp.arrays(np.float32, shape, elements=_values)) for _ in range(batches)]
    # The rule of the released code compares a rounded sum with zero: keep away from ties that rounding decides.
    totals = [np.abs(p.astype(np.float64).sum((0, 1))) for p in parts]
    exact = [(p == 0).all((0, 1)) for p in parts]
    hypothesis.assume(criterion != "sum" or all(((t > 1e-5) | e).all() for t, e in zip(totals, exact, strict=True)))
    activity = demp_jax.activity.summarize(jnp.asarray(parts[0]))
    for part in parts[1:]:
        activity = jax.device_get(activity).merge(jax.device_get(demp_jax.activity.summarize(jnp.asarray(part))))
    expected = reference.alive(parts, criterion)
    np.testing.assert_array_equal(demp_jax.alive(activity, criterion), expected)


@pytest.mark.parametrize(("kind", "criterion"), [("zero", "zero"), ("soft", "epsilon"), ("negative", "negative")])
def test_the_default_follows_the_activation(kind, criterion):
    values = jnp.asarray([[0.0, 0.005, -0.5, 1.0], [0.0, 0.0, -0.1, 0.0]])
    activity = demp_jax.activity.summarize(values, kind=kind)
    np.testing.assert_array_equal(demp_jax.alive(activity), demp_jax.alive(activity, criterion))


def test_bad_criteria():
    activity = demp_jax.activity.summarize(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="criterion must be one of auto, zero, epsilon, negative, sum; got"):
        demp_jax.alive(activity, "dead")
    with pytest.raises(ValueError, match="epsilon must be a positive number; got epsilon=-1"):
        demp_jax.alive(activity, epsilon=-1)


def test_the_unit_axis_may_be_any():
    values = batch((4, 5, 6))
    for axis in range(3):
        activity = demp_jax.activity.summarize(values, axis)
        np.testing.assert_allclose(activity.maximum, np.moveaxis(values, axis, -1).max((0, 1)))


@pytest.fixture(scope="module")
def network():
    model = models.ResNet(3, 4, base_width=4, blocks=(1, 1), rngs=nnx.Rngs(0))
    helpers.kill_units(model, np.random.default_rng(1))
    return helpers.split(model)


def _bits(activity):
    return {name: np.asarray(demp_jax.alive(a)) for name, a in activity.items()}


def test_bits_of_many_batches_are_those_of_one(network):
    fn, variables = network
    x = batch((24, 8, 8, 3))
    graph = demp_jax.trace(fn, variables, x[:8])
    parts = demp_jax.activity.observe(fn, variables, [x[:8], x[8:16], x[16:]])
    _, whole = demp_jax.with_activity(fn)(variables, x)
    assert parts.examples == 24
    for site, activity in zip(graph.sites, parts.sites, strict=False):
        np.testing.assert_array_equal(demp_jax.alive(activity), demp_jax.alive(whole[site.name]))


@pytest.mark.parametrize(
    ("criterion", "reads"),
    [("auto", ["nonzero"]), ("epsilon", ["maximum", "minimum"]), ("negative", ["maximum"]), ("sum", ["positive"])],
)
def test_only_what_a_criterion_reads(network, criterion, reads):
    fn, variables = network
    x = batch((16, 8, 8, 3))
    whole = demp_jax.activity.observe(fn, variables, [x[:8], x[8:]]).sites
    found = demp_jax.activity.observe(fn, variables, [x[:8], x[8:]], criterion=criterion).sites
    for part, everything in zip(found, whole, strict=True):
        known = {name for name, value in vars(part).items() if value is not None} - {"kind"}
        assert known == {"magnitude", *reads}
        for name in known:
            np.testing.assert_allclose(getattr(part, name), getattr(everything, name), rtol=1e-5)
        np.testing.assert_array_equal(demp_jax.alive(part, criterion), demp_jax.alive(everything, criterion))
    bits = {site.name: each for site, each in zip(demp_jax.trace(fn, variables, x).sites, whole, strict=False)}
    _, watched = demp_jax.with_activity(fn, criterion=criterion)(variables, x)
    assert set(watched) == set(bits)
    for name, part in watched.items():
        assert {field for field, value in vars(part).items() if value is not None} == {"kind", *reads}
        np.testing.assert_array_equal(demp_jax.alive(part, criterion), demp_jax.alive(bits[name], criterion))
    for call in (
        lambda: demp_jax.activity.observe(fn, variables, [x], criterion="idle"),
        lambda: demp_jax.with_activity(fn, criterion="idle"),
        lambda: demp_jax.activity.summarize(x, criterion="idle"),
    ):
        with pytest.raises(ValueError, match="criterion must be one of .*got criterion='idle'"):
            call()
    with pytest.raises(
        ValueError, match=f"must have the same fields; got .* and {', '.join(sorted(reads))}\\. Compute both"
    ):
        whole[0].merge(next(iter(watched.values())))
    other = "sum" if criterion != "sum" else "zero"
    with pytest.raises(ValueError, match=f"criterion='{other}' reads .*Give this one"):
        demp_jax.alive(found[0], other)


def test_the_pass_that_proves_a_cut_gives_outputs_at_once(network):
    fn, variables = network
    result = demp_jax.prune(fn, variables, [batch((16, 8, 8, 3))])
    assert result.plan is not None
    others = batch((16, 8, 8, 3), seed=1)
    with helpers.compilations() as compiled:
        (found,) = demp_jax.activity.outputs(result.fn, result.variables, [others])
        assert compiled == []
        (seen,) = demp_jax.activity.observe(result.fn, result.variables, [others]).outputs
    assert compiled != []
    np.testing.assert_allclose(found, seen, rtol=1e-5, atol=1e-6)


def test_bits_are_reduced_over_devices(network):
    fn, variables = network
    x = np.array(batch((16, 8, 8, 3)))
    x[1:] = 0.0  # One device alone sees an example that is not blank.
    mesh = jax.make_mesh((8,), ("data",))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    watched = jax.jit(lambda v, x: demp_jax.with_activity(fn)(v, x)[1])
    on_one, on_eight = watched(variables, jnp.asarray(x)), watched(everywhere, spread)
    assert any(bits.sum() for bits in _bits(on_one).values())
    for name, bits in _bits(on_one).items():
        np.testing.assert_array_equal(_bits(on_eight)[name], bits)
    one, eight = (demp_jax.activity.observe(fn, v, [i]) for v, i in ((variables, jnp.asarray(x)), (everywhere, spread)))
    for a, b in zip(one.sites, eight.sites, strict=True):
        np.testing.assert_array_equal(demp_jax.alive(a), demp_jax.alive(b))


def test_a_cut_of_variables_on_many_devices(network):
    fn, variables = network
    mesh = jax.make_mesh((8,), ("data",))
    everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    x = jax.device_put(batch((16, 8, 8, 3)), NamedSharding(mesh, PartitionSpec("data")))
    plain = demp_jax.prune(fn, variables, [batch((16, 8, 8, 3))], params=helpers.params_of)
    result = demp_jax.prune(fn, everywhere, [x], params=helpers.params_of)
    assert result.record.removed == plain.record.removed != {}
    helpers.assert_trees_close(result.variables, plain.variables, rtol=0)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(result.variables))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(result.variables)} == {8}


def test_activity_costs_no_accuracy_and_no_gradient(network):
    fn, variables = network
    x = batch((8, 8, 8, 3))

    def loss(params, watch):
        run = demp_jax.with_activity(fn.train) if watch else lambda v, x: (fn.train(v, x), None)
        (logits, _), activity = run({**variables, "params": params}, x)
        return jnp.sum(logits**2), activity

    # Operation by operation: compiled as a whole, the two are fused differently and round differently.
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, activity), grads = gradient(variables["params"], True)
    (plain, _), expected = gradient(variables["params"], False)
    assert float(value) == pytest.approx(float(plain), rel=1e-6)
    helpers.assert_trees_close(grads, expected, rtol=1e-6, atol=1e-6)
    graph = demp_jax.trace(fn, variables, x)
    assert set(activity) == set(graph.widths)  # The same names in training as in evaluation.
    assert {n: a.maximum.size for n, a in activity.items()} == graph.widths


def test_products_are_taken_at_full_precision():
    """An accelerator's default takes fewer bits of float32, and a cut could not be told from its rounding."""
    seen = []

    def network(params, x):
        seen.append(jax.config.jax_default_matmul_precision)
        return jax.nn.relu(x @ params["hidden"]) @ params["out"]

    params = {"hidden": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    demp_jax.activity.outputs(network, params, [jnp.ones((2, 3))])
    demp_jax.activity.observe(network, params, [jnp.ones((2, 3))])
    assert seen
    assert set(seen) == {"highest"}
