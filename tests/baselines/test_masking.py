"""Masking updaters against plain NumPy, and what must hold whatever the numbers."""

import json
from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import demp_jax
from baselines import chase, magnitude, masking, random_growth, rigl, saliency, sparsity, srigl
from tests.reference import masks as reference

UPDATES = json.loads((Path(__file__).resolve().parents[1] / "reference" / "parity" / "updates.json").read_text())
ALWAYS = sparsity.Schedule("periodic", 0, 10**6, 1)


def _uniform(target):
    return sparsity.distribution("uniform", target)


def _tree(seed, shape=(6, 10)):
    rng = np.random.default_rng(seed)
    # Of few different values, so that there are ties.
    numbers = rng.integers(-4, 5, size=shape) / 4
    return {"a": {"kernel": jnp.asarray(numbers, jnp.float32), "bias": jnp.asarray(numbers[0], jnp.float32)}}


@pytest.mark.parametrize("name", UPDATES["erk"])
def test_erdos_renyi_kernel_is_that_of_the_reference(name):
    network, target = name.split("/")
    found = sparsity.erk(UPDATES["shapes"][network], float(target))
    expected = UPDATES["erk"][name]["sparsity"]
    for layer, value in expected.items():
        assert abs(found[layer] - value) < 1e-12, layer


def test_schedules_are_those_of_the_reference():
    for case in (UPDATES["polynomial"], UPDATES["polynomial_imagenet_default"]):
        schedule = sparsity.Schedule("polynomial", case["start"], case["end"], 500)
        found = [float(schedule.part(jnp.asarray(t))) * case["target"] for t in case["steps"]]
        np.testing.assert_allclose(found, case["values"], rtol=2e-5, atol=1e-7)
    schedule = sparsity.Schedule("polynomial", 7, 21, 5)
    assert [t for t in range(30) if schedule.changes(t)] == [10, 15, 20, 21]
    assert [t for t in range(30) if sparsity.Schedule("one_shot", 7).changes(t)] == [7]
    case = UPDATES["chase_channel_schedule"]
    wanted = chase.channels(case["final"], end=case["t1"])
    np.testing.assert_allclose([wanted(t) for t in case["steps"]], case["values"], rtol=1e-12)


@hypothesis.given(st.integers(0, 2**31), st.floats(0, 0.95))
def test_masks_are_the_largest_scores(seed, target):
    params, grads = _tree(seed), _tree(seed + 1)
    for kind, scores in (
        (magnitude.Magnitude, lambda p, g: np.abs(p)),
        (saliency.Saliency, lambda p, g: np.abs(p * g)),
    ):
        masked, masks = kind(_uniform(target), ALWAYS).instant_sparsify(params, grads)
        kernel, grad = np.asarray(params["a"]["kernel"]), np.asarray(grads["a"]["kernel"])
        expected = reference.top(scores(kernel, grad), max(1, round(kernel.size * (1 - target))))
        np.testing.assert_array_equal(masks["a"]["kernel"], expected)
        np.testing.assert_array_equal(masked["a"]["kernel"], kernel * expected)
        assert masks["a"]["bias"] is None
        np.testing.assert_array_equal(masked["a"]["bias"], params["a"]["bias"])


@hypothesis.given(st.integers(0, 2**31), st.floats(0, 0.95), st.floats(0, 1))
def test_rigl_moves_the_connections_that_the_reference_moves(seed, target, drop):
    params, grads = _tree(seed), _tree(seed + 1)
    updater = rigl.RigL(_uniform(target), ALWAYS, seed, drop=lambda _: drop)
    tx = updater.wrap_optax(optax.adam(0.1))
    state = tx.init(params)
    params = updater.post_gradient_update(params, state)
    before = np.asarray(state.masks["a"]["kernel"])
    kernel, grad = np.asarray(params["a"]["kernel"]), np.asarray(grads["a"]["kernel"])
    updates, state = tx.update(grads, state, params)
    after = np.asarray(state.masks["a"]["kernel"])
    np.testing.assert_array_equal(after, reference.rigl(before, np.abs(kernel), np.abs(grad), np.float32(drop)))
    random = random_growth.SET(_uniform(target), ALWAYS, seed, drop=lambda _: drop)
    growth = np.asarray(random.growth(params, grads, jnp.asarray(5))["a"]["kernel"])
    found = random.new_masks(random.init_state(params)._replace(count=jnp.asarray(5)), params, grads)["a"]["kernel"]
    np.testing.assert_array_equal(found, reference.rigl(before, np.abs(kernel), growth, np.float32(drop)))
    assert after.sum() == before.sum()
    # The step that moves connections is none of the optimizer's.
    assert all(not u.any() for u in jax.tree.leaves(updates))


@hypothesis.settings(max_examples=60)  # The paths are many, and one takes milliseconds.
@hypothesis.example(0, 0.1, 0.3, 1.0)
@hypothesis.given(st.integers(0, 2**31), st.floats(0, 0.9), st.floats(0, 1), st.floats(0, 1))
def test_constant_fan_in(seed, target, drop, ablation):
    rng = np.random.default_rng(seed)
    weight, grad = (np.abs(rng.normal(size=(9, 7))).astype(np.float32) for _ in range(2))
    mask = (rng.random((9, 7)) < 1 - target).astype(np.uint8)
    weight = weight * mask
    found = np.asarray(srigl.constant_fan_in(*map(jnp.asarray, (weight, grad, mask)), target, drop, ablation))
    np.testing.assert_array_equal(found, reference.srigl(weight, grad, mask, target, drop, ablation))
    fan_ins = set(found.sum(0).tolist())
    assert len(fan_ins - {0}) == 1
    if ablation == 0:
        assert 0 not in fan_ins
    assert found.sum() <= max(int(63 * (1 - target) + 1e-3), 7)


def _chase(*args):
    return chase.Chase(*args, switch=20)


@pytest.mark.parametrize(
    "kind", [magnitude.Magnitude, saliency.Saliency, random_growth.SET, rigl.RigL, srigl.SRigL, _chase]
)
@pytest.mark.parametrize("base", [optax.adamw(0.05, weight_decay=0.01), optax.sgd(0.05, momentum=0.9)])
def test_training_keeps_weights_within_their_masks(kind, base):
    """Densities are exact, nothing is active outside its mask, and what is grown starts without moments."""
    params = {"a": _tree(3, (12, 8))["a"], "b": _tree(4, (8, 10))["a"]}
    schedule = sparsity.Schedule(
        "polynomial" if kind in (magnitude.Magnitude, saliency.Saliency) else "periodic", 4, 28, 4
    )
    updater = kind(_uniform(0.7), schedule)
    tx = updater.wrap_optax(base)
    state = tx.init(params)
    params = updater.post_gradient_update(params, state)

    def loss(p, x):
        return jnp.mean((jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"] - 1) ** 2)

    @jax.jit
    def step(params, state, x):
        grads = jax.grad(loss)(updater.pre_forward_update(params, state), x)
        updates, state = tx.update(grads, state, params)
        return updater.post_gradient_update(optax.apply_updates(params, updates), state), state

    for t in range(30):
        before = state
        params, state = step(params, state, jax.random.normal(jax.random.key(t), (16, 12)))
        for name in ("a", "b"):
            mask, kernel = np.asarray(state.masks[name]["kernel"]), np.asarray(params[name]["kernel"])
            assert not kernel[mask == 0].any()
            moments = [leaf for leaf in jax.tree.leaves(state.inner_state) if leaf.shape == mask.shape]
            if t == 0 and updater.sparse_gradients:
                assert not any(np.asarray(leaf)[mask == 0].any() for leaf in moments)
            grown = (mask == 1) & (np.asarray(before.masks[name]["kernel"]) == 0)
            assert not kernel[grown].any() or kind in (magnitude.Magnitude, saliency.Saliency)
            assert not any(np.asarray(leaf)[grown].any() for leaf in moments)
            target = round(mask.size * 0.3)
            if kind in (random_growth.SET, rigl.RigL) or (kind in (magnitude.Magnitude, saliency.Saliency) and t >= 28):
                assert mask.sum() == target
            if kind is srigl.SRigL:
                [width] = set(mask.sum(0).tolist()) - {0}
                # A fan-in is a whole number.
                assert target - mask.shape[1] < mask.any(0).sum() * width <= target
            if kind is _chase and t >= 4:
                extra = round(0.05 * mask.size) if t < 24 else 0
                assert mask.sum() == target + extra, t
    assert any((np.asarray(state.masks[n]["kernel"]) == 0).any() for n in "ab")


def test_a_closed_updater_changes_nothing():
    """At sparsity 0 and with no change of masks, an updater is the optimizer it wraps."""
    params, grads = _tree(0), _tree(1)
    base = optax.adam(0.1)
    tx = magnitude.Magnitude(_uniform(0.0), sparsity.Schedule("one_shot", 10**6)).wrap_optax(base)
    updates, _ = tx.update(grads, tx.init(params), params)
    expected, _ = base.update(grads, base.init(params), params)
    np.testing.assert_array_equal(updates["a"]["kernel"], expected["a"]["kernel"])


def _network(params, x):
    hidden = jax.nn.relu(x @ params["first"])
    return jax.nn.relu(hidden @ params["second"]) @ params["head"]


def test_a_cut_keeps_masks_and_leaves_units_without_weights():
    """Masks leave with their weights: the cut network with cut masks is the masked network."""
    rng = np.random.default_rng(0)
    shapes = {"first": (5, 8), "second": (8, 6), "head": (6, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(20, 5)), jnp.float32)
    updater = rigl.RigL(_uniform(0.5), ALWAYS)
    tx = updater.wrap_optax(optax.adam(0.1))
    state = tx.init(params)
    # Nothing reads unit 3 of the first layer; unit 2 of the second is dead.
    masks = {**state.masks, "second": state.masks["second"].at[3].set(0)}
    state = state._replace(masks=masks)
    params = updater.post_gradient_update({**params, "second": params["second"].at[:, 2].set(-5.0)}, state)
    state = state._replace(masks={**masks, "second": masks["second"].at[:, 2].set(1)})
    graph = demp_jax.trace(_network, params, x)
    idle = masking.idle_units(graph, params)
    assert [bits.nonzero()[0].tolist() for bits in idle.values()] == [[3], []]
    result = demp_jax.prune(_network, params, [x], remove=idle, opt_state=state, tx=tx)
    assert result.record.removed == {"first": 1}
    np.testing.assert_allclose(_network(result.variables, x), _network(params, x), atol=1e-5)
    kept = np.arange(8) != 3
    np.testing.assert_array_equal(result.opt_state.masks["first"], state.masks["first"][:, kept])
    np.testing.assert_array_equal(result.opt_state.masks["second"], state.masks["second"][kept])
    ones = [int(m.sum()) for m in jax.tree.leaves(result.opt_state.masks)]
    _, after = tx.update(result.variables, result.opt_state, result.variables)
    assert [int(m.sum()) for m in jax.tree.leaves(after.masks)] == ones
    assert masking.densities(result.variables, result.opt_state)["first"] == ones[0] / 35


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sparsity.distribution("all", 0.5), "distribution must be one of"),
        (lambda: sparsity.distribution("erk", 1.0), r"sparsity must be in \[0, 1\)"),
        (lambda: sparsity.distribution("erk", 0.5, exclude=("stem",))(_tree(0)), "no parameter's path matches 'stem'"),
        (lambda: sparsity.distribution("erk", 0.5, exclude=("a/*",))(_tree(0)), "no parameter with two or more axes"),
        (lambda: sparsity.Schedule("often"), "schedule must be one of"),
        (lambda: sparsity.Schedule("polynomial", 5, 4), "0 <= start <= end"),
        (lambda: saliency.Saliency(_uniform(0.5), ALWAYS).instant_sparsify(_tree(0)), "needs gradients"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
