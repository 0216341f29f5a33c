"""The optimizer transformations: one table of contracts, a reference for each, and what they compose with."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import demp_jax
from demp_jax._src.optim import noise as noise_lib
from demp_jax.regularizers import add_decoupled_regularizer, add_group_lasso, add_proximal_lasso, all_params
from tests import helpers
from tests.helpers import assert_same_shapes, assert_trees_close, batch
from tests.reference import demp as reference

PARAMS = {
    "norm": {"scale": batch((5,), 1), "bias": batch((5,), 2)},
    "out": {"kernel": batch((5, 3), 3), "bias": batch((3,), 4)},
}
GRADS = jax.tree.map(lambda p: 0.1 * p + 0.01, PARAMS)
LIVE = jax.tree.map(lambda p: p > 0, PARAMS)
SCHEDULE = demp_jax.one_cycle(0.5, 10)

TRANSFORMS = {
    "lasso": lambda amount=0.1: demp_jax.add_regularizer(amount),
    "l2": lambda amount=0.1: demp_jax.add_regularizer(amount, kind="l2", where=all_params),
    "decay": lambda amount=0.1: add_decoupled_regularizer(amount),
    "proximal": lambda amount=0.1: add_proximal_lasso(amount),
    "noise": lambda amount=0.1: demp_jax.add_weight_noise(amount, key=3),
    "symmetric_noise": lambda amount=0.1: demp_jax.add_weight_noise(amount, key=3, asymmetric=False),
    "demp": lambda amount=0.1: demp_jax.demp(optax.adam(1e-2), strength=amount, noise=amount),
    "demp_decoupled": lambda amount=0.1: demp_jax.demp(optax.sgd(1e-2), strength=amount, noise=amount, decoupled=True),
    "demp_proximal": lambda amount=0.1: demp_jax.demp(optax.sgd(1e-2), strength=amount, noise=amount, kind="proximal"),
}


def _update(tx, grads=GRADS, params=PARAMS, state=None, **extra):
    state = tx.init(params) if state is None else state
    return optax.with_extra_args_support(tx).update(grads, state, params, **extra)


# Contracts: every transformation keeps them.


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keeps_shapes_and_dtypes(name, dtype):
    tx = TRANSFORMS[name]()
    params, grads = (jax.tree.map(lambda a: a.astype(dtype), tree) for tree in (PARAMS, GRADS))
    updates, state = _update(tx, grads, params, live=LIVE)
    assert_same_shapes(updates, params)
    assert_same_shapes(state, tx.init(params))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiles_once(name, caplog):
    tx = TRANSFORMS[name](SCHEDULE)
    step = jax.jit(lambda g, s, p: _update(tx, g, p, s, live=LIVE))
    _, state = step(GRADS, tx.init(PARAMS), PARAMS)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        step(GRADS, state, PARAMS)
    assert not [r for r in caplog.records if "Compiling" in r.getMessage()]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_takes_a_schedule_for_a_number(name):
    constant, scheduled = TRANSFORMS[name](0.2), TRANSFORMS[name](demp_jax.schedules.constant(0.2))
    updates, state = _update(constant, live=LIVE)
    others, other_state = _update(scheduled, live=LIVE)
    assert_trees_close(others, updates, rtol=1e-6)
    updates, _ = _update(constant, state=state, live=LIVE)
    others, _ = _update(scheduled, state=other_state, live=LIVE)
    assert_trees_close(others, updates, rtol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_off_is_the_base(name):
    tx = TRANSFORMS[name](0.0)
    base = {"demp": optax.adam(1e-2), "demp_decoupled": optax.sgd(1e-2), "demp_proximal": optax.sgd(1e-2)}.get(
        name, optax.identity()
    )
    state, base_state = tx.init(PARAMS), base.init(PARAMS)
    for _ in range(3):
        updates, state = _update(tx, state=state, live=LIVE)
        expected, base_state = base.update(GRADS, base_state, PARAMS)
        assert_trees_close(updates, expected, rtol=1e-7)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_composes_with_chain_masked_multisteps_and_vmap(name):
    tx = TRANSFORMS[name]()
    chained = optax.chain(optax.scale(2.0), tx, optax.scale(0.5))
    _update(chained, live=LIVE)

    only = jax.tree.map(lambda _: True, PARAMS) | {"out": {"kernel": False, "bias": False}}
    updates, _ = _update(optax.masked(tx, only), live=LIVE)
    np.testing.assert_array_equal(updates["out"]["kernel"], GRADS["out"]["kernel"])
    alone, _ = _update(tx, live=LIVE)
    if "noise" not in name and "demp" not in name:  # Those draw for the leaves they see.
        np.testing.assert_array_equal(updates["norm"]["scale"], alone["norm"]["scale"])

    steps = optax.MultiSteps(tx, 2)
    accumulated = optax.GradientTransformationExtraArgs(steps.init, steps.update)
    held, state = _update(accumulated, live=LIVE)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(held))
    given, _ = _update(accumulated, state=state, live=LIVE)
    assert_trees_close(given, alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["lasso", "l2", "decay"])
def test_composes_with_injected_hyperparameters(name):
    make = {
        "lasso": (demp_jax.add_regularizer, {}),
        "l2": (demp_jax.add_regularizer, {"kind": "l2", "where": all_params}),
        "decay": (add_decoupled_regularizer, {}),
    }
    factory, options = make[name]
    tx = optax.inject_hyperparams(factory, static_args=("kind", "where"))(strength=0.1, **options)
    state = tx.init(PARAMS)
    updates, _ = _update(tx, state=state)
    assert_trees_close(updates, _update(TRANSFORMS[name](0.1))[0], rtol=1e-6)
    state.hyperparams["strength"] = jnp.asarray(0.3)
    updates, _ = _update(tx, state=state)
    assert_trees_close(updates, _update(TRANSFORMS[name](0.3))[0], rtol=1e-6)


def test_noise_composes_with_injected_hyperparameters():
    static = ("key", "amplitude", "asymmetric")
    tx = optax.inject_hyperparams(demp_jax.add_weight_noise, static_args=static)(amount=SCHEDULE, key=3)
    state = tx.init(PARAMS)
    for _ in range(3):
        updates, state = _update(tx, state=state, live=LIVE)
    plain = demp_jax.add_weight_noise(SCHEDULE, key=3)
    plain_state = plain.init(PARAMS)
    for _ in range(3):
        expected, plain_state = _update(plain, state=plain_state, live=LIVE)
    assert_trees_close(updates, expected, rtol=1e-5)


# Each against its definition.


@pytest.mark.parametrize("kind", ["lasso", "l2"])
@pytest.mark.parametrize(("make", "sign"), [(demp_jax.add_regularizer, 1), (add_decoupled_regularizer, -1)])
def test_regularizer_is_the_derivative_of_its_penalty(kind, make, sign):
    tx = make(SCHEDULE, kind=kind, where=all_params)
    state = tx.init(PARAMS)
    for step in range(5):
        updates, state = _update(tx, state=state)
        for path in (("norm", "scale"), ("out", "kernel")):
            theta = np.asarray(PARAMS[path[0]][path[1]], np.float64)
            added = np.asarray(updates[path[0]][path[1]] - GRADS[path[0]][path[1]])
            expected = sign * reference.regularizer_gradient(kind, reference.one_cycle(step, 0.5, 10), theta)
            np.testing.assert_allclose(added, expected, atol=1e-5)


def test_the_proximal_lasso_solves_its_problem():
    """It minimizes lambda |x| + (x - (theta + u))^2 / 2, against a search over a grid; and zeros are exact."""
    tx = add_proximal_lasso(SCHEDULE, where=all_params)
    state = tx.init(PARAMS)
    grid = np.linspace(-4, 4, 80_001)
    zeros = 0
    for step in range(5):
        updates, state = _update(tx, state=state)
        new = optax.apply_updates(PARAMS, updates)
        amount = reference.one_cycle(step, 0.5, 10)
        for path in (("norm", "scale"), ("out", "kernel")):
            before, update, after = (np.ravel(tree[path[0]][path[1]]) for tree in (PARAMS, GRADS, new))
            for theta, u, x in zip(before, update, after, strict=True):
                best = grid[np.argmin(amount * np.abs(grid) + (grid - theta - u) ** 2 / 2)]
                assert x == pytest.approx(best, abs=1e-4)
            zeros += int((after == 0).sum())
    assert zeros > 5


def test_behind_a_gradient_that_is_too_small_a_parameter_stays_at_zero():
    tx = demp_jax.demp(optax.sgd(0.1), strength=0.05, kind="proximal")
    params = {"scale": jnp.array([0.3, 0.3, -0.3])}
    state = tx.init(params)
    for _ in range(40):
        updates, state = _update(tx, {"scale": jnp.array([-0.4, -0.6, 0.4])}, params, state)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["scale"] == 0, [True, False, True])
    assert float(params["scale"][1]) == pytest.approx(0.3 + 40 * (0.06 - 0.05), abs=1e-5)


def test_numbers_of_a_mask_multiply_the_strength():
    factors = {"norm": {"scale": 3.0, "bias": 0.0}, "out": {"kernel": 0.5, "bias": False}}
    updates, _ = _update(demp_jax.add_regularizer(0.1, where=factors))
    added = jax.tree.map(lambda u, g, p: np.asarray((u - g) / jnp.sign(p)), updates, GRADS, PARAMS)
    np.testing.assert_allclose(added["norm"]["scale"], 0.3, rtol=1e-5)
    np.testing.assert_allclose(added["out"]["kernel"], 0.05, rtol=1e-5)
    assert not added["norm"]["bias"].any()
    assert not added["out"]["bias"].any()


def test_only_scales_are_regularized_by_default():
    updates, _ = _update(demp_jax.add_regularizer(0.1))
    changed = jax.tree.map(lambda u, g: bool((u != g).any()), updates, GRADS)
    assert changed == {"norm": {"scale": True, "bias": False}, "out": {"kernel": False, "bias": False}}


def test_any_mask_will_do():
    tree = jax.tree.map(lambda _: False, PARAMS)
    tree["out"]["bias"] = True
    for where in (tree, lambda params: tree):
        updates, _ = _update(demp_jax.add_regularizer(0.1, where=where))
        changed = jax.tree.map(lambda u, g: bool((u != g).any()), updates, GRADS)
        assert changed == tree


def test_a_scale_at_zero_is_left_there():
    params = {"scale": jnp.zeros(3)}
    updates, _ = _update(demp_jax.add_regularizer(0.1), {"scale": jnp.zeros(3)}, params)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_no_scale_is_an_error():
    with pytest.raises(
        ValueError, match="norm_scales: no parameter is called 'scale'.*where=demp_jax.regularizers.all_params"
    ):
        _update(demp_jax.add_regularizer(0.1), {"w": jnp.ones(2)}, {"w": jnp.ones(2)})


@pytest.mark.parametrize(("amplitude", "std"), [("variance", 0.04**0.5), ("std", 0.04)])
def test_noise_is_the_same_draw_rescaled(amplitude, std):
    """Exactly, not in distribution: against the same key with unit variance."""
    unit, _ = _update(demp_jax.add_weight_noise(1.0, key=7, asymmetric=False), jax.tree.map(jnp.zeros_like, GRADS))
    noisy, _ = _update(demp_jax.add_weight_noise(0.04, key=7, amplitude=amplitude), live=LIVE)
    for part in PARAMS:
        for name in PARAMS[part]:
            expected = reference.noisy(GRADS[part][name], std, unit[part][name], LIVE[part][name])
            np.testing.assert_allclose(noisy[part][name], expected, rtol=1e-5, atol=1e-7)


def test_noise_is_standard_normal_and_independent():
    params = {"a": jnp.zeros((300, 100)), "b": jnp.zeros(30_000)}
    tx = demp_jax.add_weight_noise(1.0, key=0, asymmetric=False)
    first, state = _update(tx, params, params)
    second, _ = _update(tx, params, params, state)
    draws = [np.ravel(first["a"]), np.asarray(first["b"]), np.ravel(second["a"])]
    for draw in draws:
        assert abs(draw.mean()) < 0.03
        assert abs(draw.std() - 1) < 0.02
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("size", [1, 2, 1001])
def test_noise_is_what_jax_draws(kind, size):
    key = jax.random.key(5, impl=kind)
    tx = demp_jax.add_weight_noise(1.0, key=key, asymmetric=False)
    for step in range(2):
        state = tx.init({"w": jnp.zeros(size)})._replace(step=jnp.asarray(step))
        noisy, _ = jax.jit(tx.update)({"w": jnp.zeros(size)}, state)
        expected = jax.random.normal(jax.random.fold_in(key, step), (size,))
        np.testing.assert_allclose(noisy["w"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("old", [False, True])
def test_noise_is_what_jax_draws_with_its_older_numbering(old):
    with jax.threefry_partitionable(not old):
        expected = jax.random.normal(jax.random.fold_in(jax.random.key(5), 0), (9,))
        noisy, _ = _update(demp_jax.add_weight_noise(1.0, key=5, asymmetric=False), {"w": jnp.zeros(9)})
    np.testing.assert_allclose(noisy["w"], expected, rtol=1e-5, atol=1e-6)


def test_noise_is_reproducible_from_its_key():
    tx = lambda key: demp_jax.add_weight_noise(0.1, key=key, asymmetric=False)  # noqa: E731
    assert_trees_close(_update(tx(5))[0], _update(tx(jax.random.key(5)))[0], rtol=0)
    a, b = _update(tx(5))[0], _update(tx(6))[0]
    assert (a["out"]["kernel"] != b["out"]["kernel"]).all()


def test_dead_weights_get_no_noise_and_live_ones_do():
    noisy, _ = _update(demp_jax.add_weight_noise(0.1, key=0), live=LIVE)
    for part in PARAMS:
        for name in PARAMS[part]:
            moved = np.asarray(noisy[part][name] != GRADS[part][name])
            np.testing.assert_array_equal(moved, LIVE[part][name])


def test_noise_of_all_leaves_is_one_draw():
    tx = demp_jax.add_weight_noise(0.1, key=0, asymmetric=False)
    text = jax.jit(tx.update).trace(GRADS, tx.init(PARAMS)).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("erf_inv") == 1


@pytest.mark.parametrize("small", [pytest.param(2**14, marks=pytest.mark.slow), 6])
def test_a_gpu_draws_the_same_noise_without_a_condition_leaf_by_leaf(small, monkeypatch):
    """Its host would wait for the condition, and one vector of all has an order. None is of variance 0."""
    monkeypatch.setattr(noise_lib, "_SMALL", small)
    some = {
        "long": jnp.ones(9),
        "kernel": jnp.ones((3, 2, 4, 5)),
        "none": jnp.ones((2, 0)),
        "scalar": jnp.ones(()),
        "row": jnp.ones((1, 7)),
    }
    amount = lambda step: jnp.where(step == 0, 0.04, 0.0)  # noqa: E731
    tx = demp_jax.add_weight_noise(amount, key=3)

    grads, live = {"net": GRADS, "some": some}, {"net": LIVE, "some": jax.tree.map(lambda leaf: leaf > 0, some)}

    def both():
        text = jax.jit(tx.update).lower(grads, tx.init(grads), live=live).as_text()
        state, found = tx.init(grads), []
        for _ in range(2):
            noisy, state = tx.update(grads, state, live=live)
            found.append(noisy)
        return "stablehlo.case" in text, found

    text = jax.jit(tx.update).trace(grads, tx.init(grads), live=live).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("erf_inv") > 1  # One draw for the vectors, one for each other leaf.
    helpers.resolve_for("cpu", monkeypatch)
    conditional, here = both()
    helpers.resolve_for("cuda", monkeypatch)
    unconditional, there = both()
    jax.clear_caches()
    assert conditional
    assert not unconditional
    assert_trees_close(there, here, rtol=1e-6)
    assert_trees_close(there[1], grads, rtol=0)
    moved = np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (there[0], grads)), strict=True)])
    assert np.unique(moved[moved != 0]).size == np.count_nonzero(moved)  # No number is drawn twice.


def test_asymmetric_noise_needs_to_know_who_lives():
    with pytest.raises(ValueError, match=r"asymmetric noise needs the mask .*live=mask.*or use `demp`"):
        _update(demp_jax.add_weight_noise(0.1, key=0))


def test_demp_is_its_chain_in_order():
    base = optax.adam(1e-2)
    strength, noise = demp_jax.one_cycle(0.3, 20), demp_jax.one_cycle(0.01, 20)
    tx = demp_jax.demp(base, strength=strength, noise=noise, key=9)
    by_hand = optax.chain(demp_jax.add_regularizer(strength), base, demp_jax.add_weight_noise(noise, key=9))
    state, hand_state = tx.init(PARAMS), by_hand.init(PARAMS)
    for _ in range(4):
        updates, state = _update(tx, state=state, live=LIVE)
        expected, hand_state = by_hand.update(GRADS, hand_state, PARAMS, live=LIVE)
        assert_trees_close(updates, expected, rtol=1e-6)


def test_demp_reads_live_weights_off_the_gradient_of_the_data():
    grads = jax.tree.map(lambda g, m: jnp.where(m, g, 0.0), GRADS, LIVE)
    tx = demp_jax.demp(optax.sgd(0.1), strength=0.5, noise=0.1, where=all_params)
    given, _ = _update(tx, grads, live=LIVE)
    read, _ = _update(tx, grads)
    assert_trees_close(read, given, rtol=0)
    # The regularizer moves the dead weights, the noise does not: they move the same way at every step.
    again, _ = _update(demp_jax.demp(optax.sgd(0.1), strength=0.5, noise=0.0, where=all_params), grads)
    dead = ~np.asarray(LIVE["out"]["kernel"])
    np.testing.assert_allclose(read["out"]["kernel"][dead], again["out"]["kernel"][dead], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: demp_jax.add_regularizer(0.1, kind="l3"), "must be one of lasso, l2; got kind='l3'"),
        (lambda: demp_jax.add_regularizer(-0.1), "strength of a regularizer must be a finite number >= 0.*got -0.1"),
        (
            lambda: add_decoupled_regularizer(float("inf")),
            "strength of a regularizer must be .*got inf",
        ),
        (lambda: demp_jax.add_weight_noise(-1.0, key=0), "amount of noise must be a finite number >= 0.*got -1.0"),
        (lambda: demp_jax.add_weight_noise(float("nan"), key=0), "amount of noise must be .*got nan"),
        (lambda: demp_jax.add_weight_noise(0.1, key=0, amplitude="sigma"), "amplitude must be 'variance' or 'std'"),
        (lambda: demp_jax.demp(optax.sgd(1.0), strength=-2.0), "got -2.0"),
        (
            lambda: demp_jax.add_regularizer(0.1).update(GRADS, demp_jax.add_regularizer(0.1).init(PARAMS)),
            r"needs the parameters: call tx.update\(grads, state, params\)",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _network(p, x):
    h = jax.nn.relu((x @ p["first"] + p["bias"][None]) * p["scale"][None])
    return jax.nn.relu(h @ p["second"]) @ p["out"]


def _grouped(first=4, second=3):
    params = {
        "first": batch((5, first), 1),
        "bias": batch((first,), 2),
        "scale": batch((first,), 3),
        "second": batch((first, second), 4),
        "out": batch((second, 2), 5),
    }
    graph = demp_jax.trace(_network, params, batch((6, 5)))
    return params, graph, demp_jax.weight_groups(graph, params)


def _group_lasso_by_hand(params):
    """Returns the groups of incoming weights, with their keys, and for each its gradient at lambda = 1, in NumPy."""
    theta = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    grads = {name: np.zeros_like(leaf) for name, leaf in theta.items()}
    for j in range(theta["bias"].size):
        group = np.concatenate([theta["first"][:, j], theta["bias"][j : j + 1], theta["scale"][j : j + 1]])
        factor = np.sqrt(group.size) / np.linalg.norm(group)
        for name in ("first", "bias", "scale"):
            grads[name][..., j] = factor * theta[name][..., j]
    for j in range(theta["out"].shape[0]):
        group = theta["second"][:, j]
        grads["second"][:, j] = np.sqrt(group.size) / np.linalg.norm(group) * group
    return grads


def test_the_group_lasso_is_that_of_the_weights_that_compute_a_unit():
    params, _, groups = _grouped()
    tx = add_group_lasso(SCHEDULE)
    state = tx.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    expected = _group_lasso_by_hand(params)
    for step in range(4):
        updates, state = tx.update(zero, state, params, groups=groups)
        amount = reference.one_cycle(step, 0.5, 10)
        for name, leaf in updates.items():
            np.testing.assert_allclose(leaf, amount * expected[name], rtol=1e-5, atol=1e-6)


def test_the_group_lasso_is_the_gradient_of_its_penalty():
    params, _, groups = _grouped()

    def penalty(p):
        first = jnp.sqrt(jnp.sum(p["first"] ** 2, 0) + p["bias"] ** 2 + p["scale"] ** 2)
        return 0.3 * (jnp.sqrt(7.0) * first.sum() + 2.0 * jnp.sqrt(jnp.sum(p["second"] ** 2, 0)).sum())

    tx = add_group_lasso(0.3)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params, groups=groups)
    assert_trees_close(updates, jax.grad(penalty)(params), rtol=1e-5, atol=1e-6)


def test_the_proximal_group_lasso_makes_groups_zero_and_dead():
    params, _, groups = _grouped()
    params["first"] = params["first"].at[:, 1].multiply(0.01)
    params = {**params, "bias": params["bias"].at[1].set(0.0), "scale": params["scale"].at[1].set(0.01)}
    tx = demp_jax.demp(optax.sgd(0.0), strength=0.02, kind="proximal_group")
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params, groups=groups)
    new = optax.apply_updates(params, updates)
    assert not new["first"][:, 1].any()
    assert new["scale"][1] == 0
    norm = np.sqrt(np.sum(params["first"][:, 0] ** 2) + params["bias"][0] ** 2 + params["scale"][0] ** 2)
    np.testing.assert_allclose(new["first"][:, 0], params["first"][:, 0] * (1 - 0.02 * np.sqrt(7) / norm), rtol=1e-5)
    np.testing.assert_array_equal(new["out"], params["out"])
    result = demp_jax.prune(_network, new, [batch((6, 5))])
    assert result.variables["first"].shape == (5, 3)
    again = demp_jax.weight_groups(demp_jax.trace(_network, result.variables, batch((6, 5))), result.variables)
    state = tx.init(result.variables)
    tx.update(jax.tree.map(jnp.ones_like, result.variables), state, result.variables, groups=again)


def test_a_group_lasso_of_nothing_is_the_base():
    params, _, groups = _grouped()
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    base = optax.adam(1e-2)
    expected, _ = base.update(grads, base.init(params), params)
    for kind in ("group", "proximal_group"):
        tx = demp_jax.demp(base, strength=0.0, kind=kind)
        updates, _ = tx.update(grads, tx.init(params), params, groups=groups)
        assert_trees_close(updates, expected, rtol=1e-7)


def test_a_group_lasso_without_groups_says_what_to_pass():
    tx = demp_jax.demp(optax.sgd(0.1), strength=0.1, kind="group")
    with pytest.raises(ValueError, match=r"groups=demp_jax.weight_groups\(graph, params\)"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
