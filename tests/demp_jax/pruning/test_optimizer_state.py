"""The state of an optimizer is matched by full paths, whatever parameters are called, and copies take up constants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
from demp_jax._src.tracing import mirror


@pytest.fixture(autouse=True)
def _rank_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


X = jax.random.normal(jax.random.key(0), (16, 5))


def _params(dead, width=8, key=1):
    """Of a layer with `dead` dead units, read through `shift`, which makes them constants."""
    k = jax.random.split(jax.random.key(key), 2)
    bias = jnp.full(width, 0.5).at[jnp.asarray(dead, int)].set(-99.0)
    return {"a": jax.random.normal(k[0], (5, width)), "b": bias, "c": jax.random.normal(k[1], (width, 3))}


def _layer(p, x, names="abc"):
    a, b, c = (p[name] for name in names)
    return jax.nn.relu(x @ a + b) @ c


def _constants(variables, x):
    """Dead units are read as ones, which are not trained."""
    p = variables["params"]
    return (jax.nn.relu(x @ p["a"] + p["b"]) + variables["ones"]) @ p["c"] + p["d"]


def _cut_constants(params, state, tx, x=X):
    variables = {"params": params, "ones": jnp.ones(8, x.dtype)}
    return demp_jax.prune(_constants, variables, [x], opt_state=state, tx=tx, params=lambda v: v["params"])


def _numbered(tree):
    """Each leaf with distinct entries, so that a slice of the wrong leaf or of wrong positions shows."""
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])
    made = [jnp.arange(e - leaf.size, e, dtype=jnp.float32).reshape(leaf.shape) for e, leaf in zip(ends, leaves)]  # noqa: B905
    return jax.tree.unflatten(structure, made)


def _adam(params):
    """A state of Adam with known moments."""
    adam, *rest = optax.adam(0.1).init(params)
    numbers = _numbered(params)
    return (adam._replace(mu=numbers, nu=jax.tree.map(lambda n: n + 0.5, numbers)), *rest)


@pytest.mark.parametrize("tx", [optax.adam(0.1), None])
@pytest.mark.parametrize(
    "names", [("value", "raw_value", "w"), ("mu", "nu", "count"), ("0", "1", "2"), (0, 1, 2), ("a/b", "b", "a")]
)
def test_names_mean_nothing(names, tx):
    params = dict(zip(names, _params([0, 3]).values(), strict=True))
    state = _adam(params)
    result = demp_jax.prune(lambda p, x: _layer(p, x, names), params, [X], opt_state=state, tx=tx)
    kept = np.array([1, 2, 4, 5, 6, 7])
    a, b, c = names
    for field in ("mu", "nu"):
        before, after = (getattr(s[0], field) for s in (state, result.opt_state))
        np.testing.assert_array_equal(after[a], before[a][:, kept])
        np.testing.assert_array_equal(after[b], before[b][kept])
        np.testing.assert_array_equal(after[c], before[c][kept])
    assert result.record.reset == []


def _two(first, second, x):
    return _layer(first, x) + _layer(second, x)


def _check_moments(result, state, expected):
    """`expected(tree)`, by hand, is what is left of a tree like the parameters."""
    for field in ("mu", "nu"):
        before, after = (getattr(s[0], field) for s in (state, result.opt_state))
        for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(expected(before)), strict=True):
            np.testing.assert_array_equal(one, other)


def _without(layer, dead):
    kept = np.setdiff1d(np.arange(8), dead)
    return {"a": layer["a"][:, kept], "b": layer["b"][kept], "c": layer["c"][kept]}


@pytest.mark.parametrize("tx", [optax.adam(0.1), None])
def test_a_parameter_called_like_a_field_of_the_state(tx):
    """`0/mu/a` ends with the full paths of two parameters; what is beside it tells which it is."""
    params = {"mu": _params([0]), **_params([1, 2])}
    state = _adam(params)
    result = demp_jax.prune(lambda p, x: _two(p["mu"], p, x), params, [X], opt_state=state, tx=tx)
    _check_moments(result, state, lambda tree: {"mu": _without(tree["mu"], [0]), **_without(tree, [1, 2])})


def test_the_longest_path_wins():
    params = {"inner": _params([0]), **_params([1, 2])}
    state = _adam(params)
    result = demp_jax.prune(lambda p, x: _two(p["inner"], p, x), params, [X], opt_state=state)
    _check_moments(result, state, lambda tree: {"inner": _without(tree["inner"], [0]), **_without(tree, [1, 2])})


def test_the_end_of_a_path_is_not_enough():
    """Without `tx`: a leaf that only shares its name with a parameter is left as it is."""
    params = {"one": _params([0]), "two": _params([1, 2])}
    plan = demp_jax.prune(lambda p, x: _two(p["one"], p["two"], x), params, [X]).plan
    tree = {"log": {"b": jnp.arange(8.0)}, "mu": params}
    sliced = plan.slice(tree)
    np.testing.assert_array_equal(sliced["log"]["b"], tree["log"]["b"])
    np.testing.assert_array_equal(sliced["mu"]["two"]["b"], params["two"]["b"][np.array([0, 3, 4, 5, 6, 7])])


def test_state_of_other_parameters_stays():
    """`params=` says what the optimizer trains: here one network of two, and something that is no variable."""
    mine, other = _params([0]), _params([])
    state = _adam({"mine": mine, "other": other})
    for tx in (optax.adam(0.1), None):
        result = demp_jax.prune(_layer, mine, [X], opt_state=state, tx=tx, params=lambda v: {"mine": v, "other": other})
        _check_moments(result, state, lambda tree: {"mine": _without(tree["mine"], [0]), "other": tree["other"]})
        assert result.record.parameters[1] == result.record.parameters[0] - 9


def test_a_tie_of_differently_cut_variables_is_an_error():
    params = {"params": _params([0]), **_params([1, 2])}
    trained = lambda v: v["params"]  # noqa: E731
    plan = demp_jax.prune(lambda p, x: _two(p["params"], p, x), params, [X], params=trained).plan
    with pytest.raises(ValueError, match="leaf 'a' mirrors several variables equally well that are sliced differ.*"):
        plan.slice({"a": params["a"]})


def test_a_state_that_mirrors_nothing_is_an_error_without_its_optimizer():
    variables = {"params": _params([0])}
    state = _adam(variables["params"])
    network = lambda v, x: _layer(v["params"], x)  # noqa: E731
    with pytest.raises(ValueError, match="opt_state: no leaf of it mirrors a parameter. Give params=.*or tx="):
        demp_jax.prune(network, variables, [X], opt_state=state)
    result = demp_jax.prune(network, variables, [X], opt_state=state, params=lambda v: v["params"])
    _check_moments(result, state, lambda tree: _without(tree, [0]))


def test_params_picks_leaves_as_they_are():
    with pytest.raises(ValueError, match="params: must return leaves of the variables unchanged"):
        mirror.trained_leaves(lambda v: jax.tree.map(lambda leaf: leaf * 2, v), _params([]))


def test_lists_are_as_dicts_with_numbers():
    """As of a checkpoint that was read without its structure, with the optimizer and without."""
    params = {"layers": [_params([0]), _params([1, 2])]}
    network = lambda p, x: _two(*p["layers"], x)  # noqa: E731
    adam, *_ = _adam(params)
    moments = {f: {"layers": dict(zip("01", getattr(adam, f)["layers"], strict=True))} for f in ("mu", "nu")}
    raw = {"0": {"count": adam.count, **moments}}
    for tx in (optax.adam(0.1), None):
        result = demp_jax.prune(network, params, [X], opt_state=raw, tx=tx)
        for field in ("mu", "nu"):
            for n, dead in (("0", [0]), ("1", [1, 2])):
                expected = _without(raw["0"][field]["layers"][n], dead)
                for name, leaf in expected.items():
                    np.testing.assert_array_equal(result.opt_state["0"][field]["layers"][n][name], leaf)


def test_variables_of_nnx_within_a_state():
    """Their leaves end in an attribute `.value`; a parameter that is called so is not meant."""
    params = {"value": _params([0])["a"], "b": _params([0])["b"], "c": _params([0])["c"]}
    plan = demp_jax.prune(lambda p, x: _layer(p, x, ("value", "b", "c")), params, [X]).plan
    state = nnx.State({"ema": nnx.State({name: nnx.Param(leaf) for name, leaf in params.items()})})
    sliced = plan.slice(state)
    shapes = [leaf.shape for leaf in jax.tree.leaves(sliced)]
    assert shapes == [(7,), (7, 3), (5, 7)]


def _trained(tx, steps=3):
    params = {**_params([0, 1, 2]), "d": jnp.zeros(3)}

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean(_constants({"params": p, "ones": jnp.ones(8)}, X) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_a_copy_takes_up_constants_with_its_own_weights():
    params, state = _trained(optax.contrib.schedule_free_sgd(0.1))
    assert jnp.abs(state.z["c"] - params["c"]).max() > 1e-3
    result = _cut_constants(params, state, optax.contrib.schedule_free_sgd(0.1))
    assert result.record.folded == 3
    np.testing.assert_allclose(result.opt_state.z["d"], state.z["d"] + state.z["c"][:3].sum(0), rtol=1e-6)
    # The copy computes what it computed.
    wide, small = ({"params": s.z, "ones": jnp.ones(s.z["b"].size)} for s in (state, result.opt_state))
    np.testing.assert_allclose(_constants(small, X), _constants(wide, X), rtol=1e-4, atol=1e-5)


def test_without_its_optimizer_nothing_is_folded_into_a_state():
    params, state = _trained(optax.contrib.schedule_free_sgd(0.1))
    result = _cut_constants(params, state, None)
    np.testing.assert_array_equal(result.opt_state.z["d"], state.z["d"])
    assert result.opt_state.z["c"].shape == (5, 3)


def test_copies_in_one_vector_take_up_constants():
    tx = optax.flatten(optax.contrib.schedule_free_sgd(0.1))
    params, state = _trained(tx)
    result = _cut_constants(params, state, tx)
    assert not result.record.reset
    sizes = np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])[:-1]
    a, b, c, d = np.split(np.asarray(state.z), sizes)
    c = c.reshape(8, 3)
    expected = [a.reshape(5, 8)[:, 3:], b[3:], c[3:], d + c[:3].sum(0)]
    np.testing.assert_allclose(result.opt_state.z, np.concatenate([np.ravel(e) for e in expected]), rtol=1e-5)


def _master(rate):
    """SGD with float32 copies of bfloat16 parameters."""

    def init(params):
        return {"master": jax.tree.map(lambda p: p.astype(jnp.float32), params)}

    def update(grads, state, params):
        master = jax.tree.map(lambda m, g: m - rate * g.astype(jnp.float32), state["master"], grads)
        return jax.tree.map(lambda m, p: m.astype(p.dtype) - p, master, params), {"master": master}

    return optax.GradientTransformation(init, update)


def test_master_weights_take_up_constants_in_their_own_precision():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), {**_params([0, 1, 2]), "d": jnp.zeros(3)})
    tx = _master(0.1)
    state = jax.tree.map(lambda m: m + 1e-3, tx.init(params))
    result = _cut_constants(params, state, tx, X.astype(jnp.bfloat16))
    assert result.record.folded == 3
    master, before = result.opt_state["master"], state["master"]
    assert master["d"].dtype == jnp.float32
    np.testing.assert_allclose(master["d"], before["d"] + before["c"][:3].sum(0), rtol=1e-6)


def test_lookahead():
    """Fast weights are those of the network; the slow ones are a copy that the user holds."""
    params = _params([0])
    tx = optax.lookahead(optax.adam(0.1), 5, 0.5)
    state = tx.init(optax.LookaheadParams.init_synced(params))
    result = demp_jax.prune(_layer, params, [X], opt_state=state, tx=tx, params=lambda v: optax.LookaheadParams(v, v))
    small = optax.LookaheadParams(result.variables, result.plan.slice_variables(params))
    grads = jax.tree.map(jnp.ones_like, result.variables)
    updates, _ = tx.update(grads, result.opt_state, small)
    assert jax.tree.map(jnp.shape, updates.slow) == jax.tree.map(jnp.shape, result.variables)
    assert not result.record.reset


@pytest.mark.parametrize("kind", ["dict", "list"])
@pytest.mark.parametrize("picks", ["functions", "one function", "none"])
def test_several_optimizers(kind, picks):
    made = {"actor": _params([0]), "critic": _params([1, 2])}
    keys = ["actor", "critic"] if kind == "dict" else [0, 1]
    gather = (lambda values: dict(zip(keys, values, strict=True))) if kind == "dict" else list
    variables = gather(made.values()) if picks == "none" else {"params": made}
    network = (
        (lambda v, x: _two(v[keys[0]], v[keys[1]], x))
        if picks == "none"
        else (lambda v, x: _two(v["params"]["actor"], v["params"]["critic"], x))
    )
    params = {
        "none": None,
        "functions": gather([lambda v: v["params"]["actor"], lambda v: v["params"]["critic"]]),
        "one function": lambda v: gather(v["params"].values()),
    }[picks]
    txs = gather([optax.adam(0.1), optax.contrib.schedule_free_sgd(0.1)])
    states = gather([_adam(made["actor"]), txs[keys[1]].init(made["critic"])])
    result = demp_jax.prune(network, variables, [X], opt_state=states, tx=txs, params=params)
    actor, critic = (result.opt_state[key] for key in keys)
    assert type(result.opt_state) is type(states)
    for one, other in zip(
        jax.tree.leaves(actor[0].mu), jax.tree.leaves(_without(states[keys[0]][0].mu, [0])), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert jax.tree.map(jnp.shape, critic.z) == {"a": (5, 6), "b": (6,), "c": (6, 3)}
    assert result.record.parameters[0] == 2 * (40 + 8 + 24)


def test_several_optimizers_have_the_same_keys():
    variables = {"actor": _params([0])}
    network = lambda v, x: _layer(v["actor"], x)  # noqa: E731
    tx = {"actor": optax.adam(0.1)}
    with pytest.raises(ValueError, match=r"opt_state: .* the keys of tx, \['actor'\]; got \['critic'\]"):
        demp_jax.prune(network, variables, [X], opt_state={"critic": ()}, tx=tx)
    state = {"actor": tx["actor"].init(variables["actor"])}
    with pytest.raises(ValueError, match=r"params: .* the keys of tx, \['actor'\]; got \['other'\]"):
        demp_jax.prune(network, variables, [X], opt_state=state, tx=tx, params={"other": lambda v: v["actor"]})


def test_one_array_in_two_places_is_two_parameters():
    """Such as a copy of the initial parameters that is the same array."""
    layer = _params([0])
    for name, expected in (("one", [0, 1, 2]), ("two", [3, 4, 5])):
        leaves = mirror.trained_leaves(lambda v, name=name: v[name], {"one": layer, "two": layer})
        assert [leaf.variable for leaf in leaves] == expected


def test_a_state_that_knows_a_parameter_in_another_shape_is_reset():
    """Also where its own shape does not change: here means over the axis that is cut."""
    params = _params([0])
    tx = optax.GradientTransformation(lambda p: {"rows": {"a": jnp.zeros(5)}}, lambda g, s, p=None: (g, s))
    result = demp_jax.prune(_layer, params, [X], opt_state={"rows": {"a": jnp.ones(5)}}, tx=tx)
    assert result.record.reset == ["rows/a"]
    np.testing.assert_array_equal(result.opt_state["rows"]["a"], np.zeros(5))


def test_a_leaf_of_the_state_that_is_no_parameter_but_is_called_like_one():
    """Mechanic keeps six numbers called `r`, as a parameter with six entries may be called."""
    params = _params([0], width=6)
    names = ("a", "r", "c")
    params = dict(zip(names, params.values(), strict=True))
    tx = optax.contrib.mechanize(optax.sgd(0.1))
    state = tx.init(params)._replace(r=jnp.arange(6.0))
    result = demp_jax.prune(lambda p, x: _layer(p, x, names), params, [X], opt_state=state, tx=tx)
    np.testing.assert_array_equal(result.opt_state.r, np.arange(6.0))
    assert result.opt_state.x0["r"].shape == (5,)


def test_only_the_attribute_value_is_left_out_of_names():
    tree = {"layer": {"value": jnp.zeros(2)}, "variable": nnx.State({"w": nnx.Param(jnp.zeros(2))})}
    assert demp_jax.tracing.leaf_paths(tree) == ("layer/value", "variable/w")
