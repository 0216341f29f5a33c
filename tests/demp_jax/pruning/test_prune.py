"""A cut changes nothing but sizes: the identities that must hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
from demp_jax import PruneOptions, models
from demp_jax import nnx as demp_nnx
from tests import helpers
from tests.helpers import batch

TWICE = ("resnet50", "resnet_coupled", "blocks_coupled", "vit_gelu", "vit_relu")
RATE = 1e-3


def _demp(base):
    return demp_jax.demp(base, strength=demp_jax.one_cycle(1e-2, 30), noise=0.0)


def _by_kind(params):
    def kind(path, leaf):
        return "scales" if path[-1].key == "scale" else "rest"

    return jax.tree_util.tree_map_with_path(kind, params)


# Optimizers that treat every entry of a parameter by itself, so that the dead ones change nothing for the others.
ENTRYWISE = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9),
    "nesterov": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "adam": optax.adam(RATE),
    "adamw": optax.adamw(RATE, weight_decay=0.01),
    "amsgrad": optax.amsgrad(RATE),
    "nadam": optax.nadam(RATE),
    "adabelief": optax.adabelief(RATE),
    "rmsprop": optax.rmsprop(RATE, momentum=0.9),
    "adagrad": optax.adagrad(RATE),
    "lion": optax.lion(RATE),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(RATE)),
    "masked": optax.chain(optax.masked(optax.add_decayed_weights(0.1), demp_jax.norm_scales), optax.adam(RATE)),
    "partition": optax.partition({"scales": optax.adam(RATE), "rest": optax.sgd(RATE, momentum=0.9)}, _by_kind),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(RATE, 0.0, 100)),
    "accumulated": optax.MultiSteps(optax.adam(RATE), 3),
    "averaged": optax.chain(optax.adam(RATE), optax.ema(0.9)),
    "demp_adam": _demp(optax.adam(RATE)),
    "demp_sgdm": _demp(optax.sgd(RATE, momentum=0.9)),
}
# Optimizers that look at whole parameters, or keep state of other shapes: what a cut leaves must at least fit.
WHOLE = {
    "lamb": optax.lamb(RATE),
    "lars": optax.lars(RATE),
    "adafactor": optax.adafactor(RATE, min_dim_size_to_factor=8),
    "novograd": optax.novograd(RATE),
    "muon": optax.contrib.muon(RATE),
    "lbfgs": optax.lbfgs(RATE, memory_size=3, linesearch=None),
}


def _make(name):
    rngs = nnx.Rngs(0)
    if name == "mlp":
        return models.MLP(12, 5, widths=(16, 10), rngs=rngs)
    if name == "vgg":
        return models.VGG((32, 32, 3), 5, base_width=4, hidden=24, rngs=rngs)
    if name == "resnet50":
        return models.resnet50(3, 5, base_width=4, blocks=(2, 1), rngs=rngs)
    if name.startswith("resnet"):
        return models.ResNet(3, 5, base_width=8, blocks=(1, 1), coupled=name == "resnet_coupled", rngs=rngs)
    if name.startswith("vit"):
        sizes = {"patch": 8, "features": 12, "depth": 2, "heads": 3, "hidden": 20}
        return models.ViT((16, 16, 3), 5, **sizes, activation=name.removeprefix("vit_"), rngs=rngs)
    return helpers.Blocks(rngs, coupled=name == "blocks_coupled")


SHAPES = {"mlp": (16, 12), "vgg": (8, 32, 32, 3), "resnet50": (8, 16, 16, 3), "vit_relu": (8, 16, 16, 3)}
SHAPES |= {"vit_gelu": (8, 16, 16, 3), "resnet": (8, 8, 8, 3), "resnet_coupled": (8, 8, 8, 3)}


def _network(name):
    model, shape = helpers.build(lambda: _make(name)), SHAPES.get(name, helpers.BLOCKS_INPUT)
    helpers.kill_units(model, np.random.default_rng(3))
    network, variables = helpers.calibrated(model, batch(shape, 40))
    return network, variables, shape


NETWORKS = ("mlp", "blocks", "blocks_coupled", "resnet", "resnet_coupled", "resnet50", "vit_relu", "vit_gelu")
NETWORKS += (pytest.param("vgg", marks=pytest.mark.slow),)


@functools.cache
def _gradient():
    def gradient(network, variables, x, labels):
        return helpers.train_gradient(network, variables, x, labels)

    return jax.jit(gradient, static_argnames=("network",))


def _train(network, variables, opt_state, tx, shape, steps, first=0):
    update = jax.jit(tx.update)
    for step in range(first, first + steps):
        x = batch(shape, 100 + step)
        labels = jnp.arange(shape[0]) % 5
        grads, state = _gradient()(network, variables, x, labels)
        updates, opt_state = update(grads, opt_state, variables["params"])
        variables = {"params": optax.apply_updates(variables["params"], updates), "state": state}
    return variables, opt_state


def check_training(network_name, tx, *, rtol=2e-5, atol=2e-6, close=helpers.assert_trees_close):
    """Masked network == cut network: outputs, gradients, and the next ten steps, whose trees `close` compares."""
    network, variables, shape = _network(network_name)
    opt_state = tx.init(variables["params"])
    variables, opt_state = _train(network, variables, opt_state, tx, shape, 2)
    death_set = [batch(shape, 50), batch(shape, 51)]
    result = demp_jax.prune(network, variables, death_set, opt_state=opt_state, tx=tx, params=helpers.params_of)
    assert result.plan is not None
    assert sum(result.record.removed.values()) > 5
    assert result.record.difference <= 1e-5 * max(result.record.scale, 1)
    assert not result.record.reset
    helpers.assert_same_shapes(result.opt_state, jax.eval_shape(tx.init, result.variables["params"]))

    x, labels = batch(shape, 60), jnp.arange(shape[0]) % 5
    grads, _ = _gradient()(network, variables, x, labels)
    small_grads, _ = _gradient()(result.fn, result.variables, x, labels)
    close(small_grads, result.plan.slice(grads), rtol=1e-4, atol=1e-4)

    masked, masked_state = _train(network, variables, opt_state, tx, shape, 10, 2)
    small, small_state = _train(result.fn, result.variables, result.opt_state, tx, shape, 10, 2)
    close(small["params"], result.plan.slice(masked["params"]), rtol=rtol, atol=atol)
    close(small_state, result.plan.slice(masked_state), rtol=1e-3, atol=1e-4)
    x = batch(shape, 61)
    np.testing.assert_allclose(result.fn(small, x), network(masked, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ENTRYWISE)
def test_training_goes_on_as_if_nothing_had_been_cut(name):
    # Adam and its kin divide by the root of a mean square, which multiplies rounding errors of tiny gradients.
    check_training("mlp", ENTRYWISE[name], rtol=1e-3, atol=3e-4)


LONG = ("resnet50", "vit_relu", "vit_gelu", "blocks_coupled")


@pytest.mark.parametrize("network", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in NETWORKS[1:]])
def test_training_goes_on_for_every_architecture(network):
    # Rounding errors grow a hundredfold on their way through fifteen layers of BatchNorm, at every step.
    rate = 1e-2 * RATE if network == "vgg" else RATE
    check_training(network, optax.sgd(rate, momentum=0.9), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_state_of_other_shapes_fits_after_a_cut(name):
    tx = WHOLE[name]
    network, variables, shape = _network("mlp")
    opt_state = tx.init(variables["params"])
    result = demp_jax.prune(network, variables, [batch(shape)], opt_state=opt_state, tx=tx, params=helpers.params_of)
    helpers.assert_same_shapes(result.opt_state, jax.eval_shape(tx.init, result.variables["params"]))
    grads = jax.tree.map(jnp.ones_like, result.variables["params"])
    tx.update(grads, result.opt_state, result.variables["params"])
    assert bool(result.record.reset) == (name in ("adafactor", "lbfgs"))


def test_state_of_another_optimizer_is_refused():
    network, variables, shape = _network("mlp")
    state = optax.sgd(RATE).init(variables["params"])
    with pytest.raises(ValueError, match=r"opt_state: its structure is not that of tx.init"):
        demp_jax.prune(
            network, variables, [batch(shape)], opt_state=state, tx=optax.adam(RATE), params=helpers.params_of
        )


def test_nothing_dead_changes_nothing():
    network, variables, shape = _network("mlp")
    first = demp_jax.prune(network, variables, [batch(shape)], params=helpers.params_of)
    again = demp_jax.prune(first.fn, first.variables, [batch(shape)], params=helpers.params_of)
    assert again.plan is None
    assert again.variables is first.variables
    assert again.record.removed == {}
    assert again.record.neurons[0] == again.record.neurons[1] == first.record.neurons[1]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in TWICE else n for n in NETWORKS])
def test_cutting_twice_is_cutting_once(name):
    network, variables, shape = _network(name)
    death_set = [batch(shape, 7)]

    def kill(variables, seed, like):
        """Kills more units, chosen on the widths of `like`."""
        model = network.model(variables)
        helpers.kill_units(model, np.random.default_rng(seed), 0.3, lift=0.0)
        return helpers.split(model)[1]

    both = kill(variables, 11, variables)
    once = demp_jax.prune(network, both, death_set, params=helpers.params_of)
    first = demp_jax.prune(network, variables, death_set, params=helpers.params_of)
    # The same weights, sliced by the first cut: the second cut has to find the rest.
    second = demp_jax.prune(first.fn, first.plan.slice_variables(both), death_set, params=helpers.params_of)
    helpers.assert_trees_close(second.variables, once.variables, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["blocks", "resnet"])
def test_any_set_of_units_can_be_cut_consistently(name):
    """Whatever leaves, the rest computes what the full network computes with those units' activations at zero."""
    network, variables, shape = _network(name)
    x = batch(shape)
    graph = demp_jax.trace(network, variables, x)
    for seed in range(3):
        plan = helpers.random_plan(graph, np.random.default_rng(seed))
        smaller = plan.slice_variables(variables)
        resized = network.resized(smaller)
        again = demp_jax.trace(resized, smaller, x)
        assert again.flops() == graph.flops(plan.removed)
        assert again.parameters() == graph.parameters(removed=plan.removed)
        assert resized(smaller, x).shape == (shape[0], 5)


def test_permuting_units_commutes_with_cutting():
    network, variables, shape = _network("mlp")
    order = np.random.default_rng(5).permutation(16)
    params, state = variables["params"], variables["state"]
    permuted = {
        "params": {
            **params,
            "dense": {
                0: {"kernel": params["dense"][0]["kernel"][:, order]},
                1: {"kernel": params["dense"][1]["kernel"][order]},
            },
            "norm": {**params["norm"], 0: jax.tree.map(lambda a: a[order], params["norm"][0])},
        },
        "state": {"norm": {**state["norm"], 0: jax.tree.map(lambda a: a[order], state["norm"][0])}},
    }
    death_set = [batch(shape)]
    plain = demp_jax.prune(network, variables, death_set, params=helpers.params_of)
    turned = demp_jax.prune(network, permuted, death_set, params=helpers.params_of)
    kept = dict(zip(plain.plan.graph.paths, plain.plan.keep, strict=True))["params/norm/0/scale"][0]
    rank = {unit: i for i, unit in enumerate(kept)}
    places = [rank[unit] for unit in order if unit in rank]
    np.testing.assert_array_equal(
        turned.variables["params"]["dense"][0]["kernel"], plain.variables["params"]["dense"][0]["kernel"][:, places]
    )
    np.testing.assert_array_equal(
        turned.variables["params"]["norm"][0]["scale"], plain.variables["params"]["norm"][0]["scale"][np.array(places)]
    )


# What must not vanish, and what is refused.


def _plain(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"][None]) @ params["out"] + params["end"][None]


def _plain_params(bias):
    bias = jnp.asarray(bias, jnp.float32)
    return {"hidden": batch((3, bias.size)) * 0.1, "bias": bias, "out": batch((bias.size, 2), 1), "end": jnp.zeros(2)}


def test_a_site_is_never_emptied():
    result = demp_jax.prune(
        _plain, _plain_params([-9.0, -9.0, -9.0, -9.0]), [batch((8, 3))], options=PruneOptions(min_units=2)
    )
    assert result.variables["hidden"].shape == (3, 2)
    assert result.record.protected == {"bias": 2}
    assert result.record.removed == {"bias": 2}


def test_the_most_active_units_are_the_ones_that_stay():
    params = _plain_params([0.5, 2.0, 1.0, -9.0])
    result = demp_jax.prune(
        _plain,
        params,
        [batch((8, 3))],
        options=PruneOptions(criterion="epsilon", epsilon=100.0, tolerance=np.inf),
    )
    np.testing.assert_array_equal(result.variables["bias"], [2.0])
    result = demp_jax.prune(
        _plain,
        params,
        [batch((8, 3))],
        options=PruneOptions(criterion="epsilon", epsilon=100.0, tolerance=np.inf, min_units=2),
    )
    np.testing.assert_array_equal(result.variables["bias"], [2.0, 1.0])


@pytest.mark.parametrize(
    ("multiple", "dead", "width"),
    [(1, 3, 4), (4, 3, 4), (4, 2, 7), (2, 2, 6), (2, 3, 4), (8, 3, 7), (3, 1, 6), (3, 2, 6)],
)
def test_widths_are_rounded_up(multiple, dead, width):
    """To a multiple, or to all 7; the dead that are taken back in change nothing."""
    params = _plain_params([-9.0] * dead + [1.0] * (7 - dead))
    result = demp_jax.prune(_plain, params, [batch((8, 3))], options=PruneOptions(multiple=multiple))
    assert result.variables["hidden"].shape == (3, width)
    assert sum(result.record.removed.values()) == 7 - width
    assert sum(result.record.protected.values()) == width - (7 - dead)
    assert result.record.difference < 1e-6


def test_a_cut_waits_until_it_saves_enough():
    params = _plain_params([-9.0] + [1.0] * 9)  # A tenth of the FLOPs.
    waits = demp_jax.prune(_plain, params, [batch((8, 3))], options=PruneOptions(least_gain=0.11))
    assert (waits.variables is params, waits.plan, waits.record.waiting) == (True, None, 1)
    assert (waits.record.removed, waits.record.refused) == ({}, None)
    assert waits.record.flops[0] == waits.record.flops[1]
    assert "1 dead units wait until removing them saves more" in str(waits.record)
    goes = demp_jax.prune(_plain, params, [batch((8, 3))], options=PruneOptions(least_gain=0.09))
    assert (goes.record.removed, goes.record.waiting) == ({"bias": 1}, 0)


def test_as_many_leave_as_in_a_trial():
    """Those that are named and still dead, others in the place of those that came back, and no more."""
    x = [batch((8, 3))]
    trial = demp_jax.prune(_plain, _plain_params([-9.0, -9.0, 1.0, 1.0, 1.0]), x)
    assert trial.record.neurons == (5, 3)
    assert trial.record.saves == pytest.approx(0.4)
    params = _plain_params([1.0, -9.0, -9.0, -9.0, 1.0])  # One came back, two more died.
    result = demp_jax.prune(_plain, params, x, at_most=trial.removed)
    assert (result.record.neurons, result.record.protected) == ((5, 3), {"bias": 1})
    assert jax.tree.map(jnp.shape, result.variables) == jax.tree.map(jnp.shape, trial.variables)
    assert (result.removed["bias"][1], result.removed["bias"][[2, 3]].sum()) == (True, 1)
    few = demp_jax.prune(_plain, _plain_params([1.0, 1.0, -9.0, 1.0, 1.0]), x, at_most=trial.removed)
    assert few.record.neurons == (5, 4)
    nothing = demp_jax.prune(_plain, params, x, at_most={})
    assert (nothing.removed, nothing.variables is params) == ({}, True)
    assert demp_jax.prune(_plain, params, x).record.saves == pytest.approx(0.6)


def test_a_sum_and_what_it_adds_lose_the_same_channels_where_they_lose_as_many():
    """A channel that nothing reads any more leaves before one that is named: the sum stays a plain one."""

    def network(variables, x):
        one, other = (
            demp_jax.select(x @ branch, index, fill)
            for branch, index, fill in zip(variables["branch"], variables["index"], variables["fill"], strict=True)
        )
        return jax.nn.relu(one + other + variables["bias"][None]) @ variables["out"]

    variables = {
        # The third channel of the first is constant, the first of the sum dead.
        "branch": [jnp.array([[1.0, 1.0, 0.0, 1.0]]), jnp.array([[1.0, 2.0, 3.0, 1.0]])],
        "index": [jnp.arange(4)] * 2,
        "fill": [jnp.zeros(4)] * 2,
        "bias": jnp.array([-9.0, 0.0, 0.0, 0.0]),
        "out": jnp.ones((4, 2)),
    }
    x, first, third = [jnp.array([[1.0], [2.0]])], np.arange(4) == 0, np.arange(4) == 2
    everything = demp_jax.prune(network, variables, x, options=PruneOptions(constant=0.0))
    assert {name: bits.tolist() for name, bits in everything.removed.items()} == {
        "bias": first.tolist(),
        "branch": (first | third).tolist(),
        "branch+": first.tolist(),
    }
    like = {"bias": first, "branch": third, "branch+": first}
    result = demp_jax.prune(network, variables, x, options=PruneOptions(constant=0.0), at_most=like)
    assert {name: bits.tolist() for name, bits in result.removed.items()} == dict.fromkeys(like, first.tolist())
    assert [index.tolist() for index in result.variables["index"]] == [[0, 1, 2]] * 2
    assert result.record.difference == 0


def test_a_cut_beyond_the_tolerance_is_refused_not_applied():
    params = _plain_params([0.5, 2.0, 1.0, -9.0])
    result = demp_jax.prune(
        _plain, params, [batch((8, 3))], options=PruneOptions(criterion="epsilon", epsilon=1.2, tolerance=1e-3)
    )
    assert result.variables is params
    assert result.plan is None
    assert "more than the tolerance 0.001 times the largest output" in result.record.refused
    assert result.record.removed == {}
    assert result.record.parameters[0] == result.record.parameters[1]
    assert str(result.record).startswith("nothing removed: the outputs differ")


def test_outputs_that_are_not_finite_refuse_the_cut():
    params = _plain_params([0.5, np.nan, 1.0, -9.0])
    result = demp_jax.prune(_plain, params, [batch((8, 3))])
    assert result.plan is None
    assert "NaN" in result.record.refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"criterion": "asleep"},
            "criterion must be one of auto, zero, epsilon, negative, sum; got criterion='asleep'",
        ),
        ({"epsilon": 0.0}, "epsilon must be a positive number; got epsilon=0.0"),
        ({"min_units": -1}, "min_units must be at least 0; got min_units=-1"),
        ({"multiple": 0}, "multiple must be at least 1; got multiple=0"),
        ({"at_most": {"hiden": np.ones(2, bool)}}, "at_most: no site is named 'hiden'. The sites are: bias."),
        ({"at_most": {"bias": np.ones(3, bool)}}, r"at_most\['bias'\] must be 2 bools; got the shape \(3,\)."),
        ({"least_gain": 1.0}, r"least_gain must be in \[0, 1\); got least_gain=1.0"),
        ({"constant": -1.0}, "constant must be a finite number >= 0, or None; got constant=-1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        demp_jax.prune(_plain, _plain_params([1.0, 1.0]), [batch((8, 3))], **helpers.pruning(**options))


def test_an_empty_death_set_is_an_error():
    with pytest.raises(ValueError, match="the death set is empty"):
        demp_jax.prune(_plain, _plain_params([1.0, 1.0]), [])


# Values read besides the activation, and constants.


def _leaky_reading(params, x):
    y = x @ params["hidden"] + params["bias"][None]
    return jax.nn.relu(y) @ params["out"] + jax.nn.sigmoid(y) @ params["side"] + params["end"][None]


def test_a_dead_unit_whose_value_is_read_elsewhere_stays():
    params = _plain_params([0.5, -9.0, 1.0, -9.0]) | {"side": batch((4, 2), 2)}
    result = demp_jax.prune(_leaky_reading, params, [batch((8, 3))])
    assert result.record.removed == {}
    assert result.record.needed == {"bias": 2}


def test_a_dead_unit_that_is_constant_elsewhere_leaves_with_its_constant():
    params = _plain_params([0.5, -1.0, 1.0, -9.0]) | {"side": batch((4, 2), 2)}
    params["hidden"] = params["hidden"].at[:, 1].set(0.0)
    result = demp_jax.prune(_leaky_reading, params, [batch((8, 3))])
    assert result.record.removed == {"bias": 1}
    assert result.record.folded == 1
    expected = jax.nn.sigmoid(-1.0) * params["side"][1]
    np.testing.assert_allclose(result.variables["end"], expected, rtol=1e-6)


def test_constant_units_stay_by_default_and_fold_on_request():
    params = _plain_params([0.5, 2.0, 1.0, 0.7])
    params["hidden"] = params["hidden"].at[:, 1].set(0.0)
    assert demp_jax.prune(_plain, params, [batch((8, 3))]).record.removed == {}
    result = demp_jax.prune(_plain, params, [batch((8, 3))], options=PruneOptions(constant=1e-6))
    assert result.record.removed == {"bias": 1}
    np.testing.assert_allclose(result.variables["end"], 2.0 * params["out"][1], rtol=1e-6)
    x = batch((9, 3), 8)
    np.testing.assert_allclose(_plain(result.variables, x), _plain(params, x), rtol=1e-5, atol=1e-6)


def test_nearly_constant_units_leave_within_the_tolerance():
    params = _plain_params([0.5, 2.0, 1.0, 0.7])
    params["hidden"] = params["hidden"].at[:, 1].mul(1e-3)
    assert demp_jax.prune(_plain, params, [batch((8, 3))], options=PruneOptions(constant=1e-6)).record.removed == {}
    result = demp_jax.prune(_plain, params, [batch((8, 3))], options=PruneOptions(constant=1e-2))
    assert result.record.removed == {"bias": 1}
    assert 0 < result.record.difference < 1e-2


class _Convolutions(nnx.Module):
    """A constant unit before a convolution, with and without zero padding, whose running mean can take it up."""

    def __init__(self, padding, rngs):
        self.first, self.norm = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.second = nnx.Conv(6, 4, (3, 3), padding=padding, use_bias=False, rngs=rngs)
        self.after, self.head = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.norm.scale[...] = self.norm.scale[...].at[:3].set(0.0)
        self.norm.bias[...] = jnp.asarray([1.0, -1.0, 0.5, 0.1, 0.1, 0.1])

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.head(nnx.relu(self.after(self.second(x))).mean((1, 2)))


def test_a_constant_before_an_unpadded_convolution_goes_into_the_running_mean():
    model = _Convolutions("VALID", nnx.Rngs(0))
    x = batch((8, 6, 6, 3))
    record = demp_nnx.prune(model, [x], options=PruneOptions(constant=1e-6))
    assert record.removed == {"norm": 3}
    assert record.folded == 2
    assert record.difference < 1e-5
    assert float(jnp.abs(model.after.mean[...]).max()) > 0


def test_a_constant_before_a_padded_convolution_is_held_to_the_tolerance():
    x = batch((8, 6, 6, 3))
    loose = demp_nnx.prune(_Convolutions("SAME", nnx.Rngs(0)), [x], options=PruneOptions(constant=1e-6, tolerance=10.0))
    assert loose.removed == {"norm": 3}
    assert loose.difference > 1e-3
    tight = demp_nnx.prune(_Convolutions("SAME", nnx.Rngs(0)), [x], options=PruneOptions(constant=1e-6))
    assert tight.removed == {"norm": 1}  # The dead one; the two constants would change the border.
    assert tight.refused is None
    assert tight.difference < 1e-5


def test_constant_channels_of_a_residual_branch_go_into_the_sum():
    model, shape = helpers.Blocks(nnx.Rngs(0)), helpers.BLOCKS_INPUT
    model.bn2.scale[...] = model.bn2.scale[...].at[:4].set(0.0)
    model.bn2.bias[...] = jnp.arange(8.0) / 10 + 0.1
    network, variables = helpers.split(model)
    params, keep = helpers.params_of, {"exclude": ["bn4"]}
    plain = demp_jax.prune(network, variables, [batch(shape)], **helpers.pruning(params=params, **keep))
    assert plain.record.removed == {}
    options = helpers.pruning(params=params, constant=1e-6, **keep)
    result = demp_jax.prune(network, variables, [batch(shape)], **options)
    assert result.record.removed == {"bn2": 4}
    assert result.record.neurons[0] == result.record.neurons[1]  # Filters leave, neurons stay.
    np.testing.assert_allclose(result.variables["state"]["sum"]["fill_0"][:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert result.record.difference < 1e-5
    x = batch(shape, 9)
    np.testing.assert_allclose(result.fn(result.variables, x), network(variables, x), rtol=1e-4, atol=1e-5)


def test_the_record_counts():
    network, variables, shape = _network("mlp")
    record = demp_jax.prune(network, variables, [batch(shape)] * 2, params=helpers.params_of).record
    first, second = (16 - record.removed["norm/0"], 10 - record.removed["norm/1"])
    assert record.neurons == (26, first + second)
    size = lambda a, b: 12 * a + a * b + b * 5 + 2 * (a + b) + 5  # noqa: E731
    assert record.parameters == (size(16, 10), size(first, second))
    assert record.flops == (2 * (12 * 16 + 16 * 10 + 10 * 5), 2 * (12 * first + first * second + second * 5))
    assert record.examples == 32
    assert set(record.seconds) == {"measure", "slice", "prove"}
    assert "units removed" in str(record)


@pytest.mark.parametrize("width", [24, 37])
def test_a_cut_in_bfloat16_is_exact_up_to_its_rounding(width):
    """Parameters in float32, products in bfloat16: dead units leave by default, and the outputs hold."""
    rng = np.random.default_rng(width)
    params = {
        f"w{i}": jnp.asarray(rng.normal(size=s) / 4, jnp.float32) for i, s in enumerate([(16, width), (width, 5)])
    }
    dead = np.arange(width) % 3 == 0
    params["b"] = jnp.asarray(np.where(dead, -50.0, 1.0), jnp.float32)

    def network(params, x):
        h = x.astype(jnp.bfloat16) @ params["w0"].astype(jnp.bfloat16) + params["b"].astype(jnp.bfloat16)[None]
        return (jax.nn.relu(h) @ params["w1"].astype(jnp.bfloat16)).astype(jnp.float32)

    x = jnp.asarray(rng.normal(size=(64, 16)), jnp.float32)
    result = demp_jax.prune(network, params, [x])
    assert result.record.refused is None
    assert sum(result.record.removed.values()) == dead.sum()
    assert not result.record.spared
    masked = {**params, "w1": params["w1"] * jnp.asarray(~dead)[:, None]}
    difference = np.abs(np.asarray(network(masked, x)) - np.asarray(result.fn(result.variables, x))).max()
    assert difference <= 2 * 2**-7 * float(jnp.abs(network(params, x)).max())


def test_what_changes_outputs_by_more_than_bfloat16_rounds_is_still_spared():
    def network(params, x):
        h = jax.nn.relu(x.astype(jnp.bfloat16) @ params["w0"].astype(jnp.bfloat16))
        # Reads how wide the layer is: no cut of it can be exact.
        return (h @ params["w1"].astype(jnp.bfloat16)).astype(jnp.float32) * h.shape[1]

    params = {"w0": jnp.array([[1.0, -1.0, 2.0]]), "w1": jnp.ones((3, 1))}
    result = demp_jax.prune(network, params, [jnp.array([[1.0], [2.0]])])
    assert "more than the tolerance 0.0625" in result.record.refused


def test_named_units_that_have_to_stay_are_not_masked():
    """Without its activation the first unit is a constant that nothing absorbs, the second is nothing."""

    def network(p, x):
        return (jax.nn.relu(x @ p["w1"] + p["b1"][None]) + p["shift"][None]) @ p["w2"]

    params = {"w1": batch((5, 6)), "b1": jnp.zeros(6), "shift": jnp.zeros(6).at[0].set(1.0), "w2": batch((6, 3), 1)}
    x = batch((32, 5), 2)
    named = {"b1": np.array([True, True, False, False, False, False])}
    result = demp_jax.prune(network, params, [x], remove=named)
    record = result.record
    assert (record.removed, record.needed, record.refused) == ({"b1": 1}, {"b1": 1}, None)
    masked = {**params, "w1": params["w1"].at[:, 1].set(0.0)}
    np.testing.assert_allclose(network(result.variables, x), network(masked, x), rtol=1e-4, atol=1e-5)
    # All of a site: one stays, as it was.
    chain = {"w1": batch((5, 2)), "b1": jnp.zeros(2), "shift": jnp.zeros(2), "w2": batch((2, 3), 1)}
    record = demp_jax.prune(network, chain, [x], remove={"b1": np.ones(2, bool)}).record
    assert (record.removed, record.protected, record.refused) == ({"b1": 1}, {"b1": 1}, None)


def test_sites_that_the_network_needs_whole_do_not_stop_the_others():
    """A width that is written in a reshape keeps its own site, which the record names with the cause and a remedy."""

    def network(p, x):
        h = jax.nn.relu(jax.nn.relu(x @ p["first"]) @ p["grouped"]).reshape(-1, 4, 2)
        return jax.nn.relu(h.max(2) @ p["last"]) @ p["out"]

    shapes = {"first": (5, 7), "grouped": (7, 8), "last": (4, 6), "out": (6, 3)}
    params = {name: batch(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    for name, units in {"first": 2, "grouped": 2, "last": 1}.items():
        params[name] = params[name].at[:, :units].set(0)
    x = batch((16, 5))
    result = demp_jax.prune(network, params, [x])
    assert (result.record.removed["first"], result.record.removed["last"]) == (2, 1)
    assert "grouped" not in result.record.removed
    assert not result.record.spared
    [warning] = result.record.warnings
    assert warning.startswith("left whole since the network cannot run with fewer units of grouped: TypeError: ")
    assert "exclude=[...]" in warning
    assert warning in str(result.record)
    np.testing.assert_allclose(network(result.variables, x), network(params, x), rtol=1e-5, atol=1e-6)
