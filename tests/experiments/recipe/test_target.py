"""A target instead of a search: the controller against models of networks, its parts against identities, whole runs."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import demp_jax
from experiments.recipe.problem import pose
from experiments.training import cost_rule, prepared_prune
from experiments.training import steering as steering_lib
from experiments.training.compiled_step import Stepper
from experiments.training.loop import train_and_evaluate
from experiments.training.steering import Steering
from tests import helpers
from tests.helpers import assert_trees_close, batch
from tests.runs import config_of, last_digests, lines, model_of, short_config, without_times


def _dying(controller, span, *, speed, power, delay, natural, every):
    """Returns what is left of a network whose units die as in a model of one, driven by a controller.

    A part `speed factor^power / span` of what is left comes to the brink at each step, and dies `delay` steps later;
    a part `natural / span` dies of itself.
    """
    left, coming, factor = 1.0, [0.0] * delay, 1.0
    for step in range(span):
        if step % every == 0:
            factor = controller.update(step, left)
        coming.append(speed * factor**power / span)
        left *= max(1 - coming.pop(0) - natural / span, 0.0)
    return left


@given(
    left=st.floats(0.05, 0.5),
    speed=st.floats(0.5, 5.0),
    power=st.floats(0.5, 1.0),
    delay=st.integers(1, 30),
    natural=st.floats(0.0, 0.01),
    every=st.integers(5, 20),
)
def test_it_ends_where_it_is_asked_to(left, speed, power, delay, natural, every):
    controller = demp_jax.targets.TargetController(left=left, span=1000)
    ends = _dying(controller, 1000, speed=speed, power=power, delay=delay, natural=natural, every=every)
    assert abs(ends - left) < 0.01, (ends, left)


def test_it_begins_with_the_first_factor():
    controller = demp_jax.targets.TargetController(left=0.2, span=1000, first=10.0)
    assert controller.factor == controller.update(0, 1.0) == 10.0


def test_the_regularizer_stops_at_the_target_and_says_what_is_to_come():
    controller = demp_jax.targets.TargetController(left=0.2, span=1000)
    assert controller.update(300, 0.9) > 1
    assert controller.outlook() is None
    assert controller.update(640, 0.5) > 1
    # A tenth of the units in 340 steps, and so on for the rest of the span.
    assert 0.2 < controller.outlook() < 0.5
    assert controller.update(700, 0.2) == 0
    assert controller.outlook() <= 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": 1.0}, r"left must be in \(0, 1\); got left=1.0"),
        ({"span": 0}, "span must be >= 1 step; got span=0"),
        ({"first": 0.0}, r"first must be in \(0, 50\]; got first=0.0"),
    ],
)
def test_bad_arguments_of_the_controller(changes, message):
    with pytest.raises(ValueError, match=message):
        demp_jax.targets.TargetController(**{"left": 0.5, "span": 100, **changes})


PARAMS = {"norm": {"scale": batch((5,), 1), "bias": batch((5,), 2)}, "out": {"kernel": batch((5, 3), 3)}}
GRADS = jax.tree.map(lambda p: 0.1 * p + 0.01, PARAMS)


def _wrapped(strength, noise, **options):
    return demp_jax.demp(optax.adam(0.1), strength=strength, noise=noise, key=7, **options)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_a_factor_is_as_another_strength(factor, decoupled):
    tx = _wrapped(demp_jax.one_cycle(0.5, 10), demp_jax.one_cycle(0.2, 10), decoupled=decoupled)
    variance = 0.2 * min(factor, 1.0)
    other = _wrapped(demp_jax.one_cycle(0.5 * factor, 10), demp_jax.one_cycle(variance, 10), decoupled=decoupled)
    state, theirs = demp_jax.set_strength_factor(tx.init(PARAMS), factor), other.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(GRADS, state, PARAMS)
        expected, theirs = other.update(GRADS, theirs, PARAMS)
        assert_trees_close(updates, expected)


def test_a_factor_for_a_state_from_a_file():
    tx = _wrapped(0.5, 0.2)
    state = jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf), tx.init(PARAMS)
    )
    changed = demp_jax.set_strength_factor(state, 3.0)
    assert [float(leaf) for leaf in jax.tree.leaves(changed) if leaf.shape == () and leaf.dtype == np.float32] == [3, 1]


def test_at_zero_it_is_the_base_optimizer():
    tx, base = _wrapped(0.5, 0.2), optax.adam(0.1)
    updates, _ = tx.update(GRADS, demp_jax.set_strength_factor(tx.init(PARAMS), 0.0), PARAMS)
    expected, _ = base.update(GRADS, base.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_a_factor_compiles_nothing(caplog):
    tx = _wrapped(0.5, 0.2)
    step = jax.jit(lambda state: tx.update(GRADS, state, PARAMS)[1])
    state = step(tx.init(PARAMS))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        step(demp_jax.set_strength_factor(state, 2.0))
    assert not [r for r in caplog.records if "Compiling <lambda>" in r.getMessage()]


@pytest.mark.parametrize(
    ("state", "factor", "message"),
    [
        (optax.adam(0.1).init(PARAMS), 1.0, "opt_state must contain a regularizer. Wrap the optimizer in `demp`"),
        (_wrapped(0.1, 0.0).init(PARAMS), -1.0, "must be a finite number >= 0; got factor=-1.0"),
        (_wrapped(0.1, 0.0).init(PARAMS), float("nan"), "must be a finite number >= 0; got factor=nan"),
    ],
)
def test_a_factor_that_cannot_be_set(state, factor, message):
    with pytest.raises(ValueError, match=message):
        demp_jax.set_strength_factor(state, factor)


@pytest.mark.parametrize("min_units", [1, 3])
def test_a_forecast_is_what_a_cut_leaves(min_units):
    """Also of channels that are routed around blocks."""
    from experiments.recipe import network

    config = config_of({"model.name": "resnet18", "model.base_width": 4})
    net, variables = network.initial(model_of(config), config.seed, (8, 8, 3), 10)
    rng = np.random.default_rng(0)

    def killed(path, leaf):
        if path[-1].key not in ("scale", "bias"):
            return leaf
        # A unit without scale and with a bias below zero is dead after its ReLU.
        dead = np.random.default_rng(rng.integers(2**31)).random(leaf.shape) < 0.5
        return jnp.where(dead, 0.0 if path[-1].key == "scale" else -1.0, leaf)

    params = jax.tree_util.tree_map_with_path(killed, variables["params"])
    variables = {**variables, "params": params}
    death_set = [batch((32, 8, 8, 3), 5)]
    options = helpers.pruning(params=lambda v: v["params"], min_units=min_units)
    seen = demp_jax.preview(net, variables, death_set, **options)
    cut = demp_jax.prune(net, variables, death_set, **options)
    assert cut.record.refused is None
    assert seen.neurons[1] < seen.neurons[0]
    assert (seen.neurons, seen.parameters, seen.flops) == (cut.record.neurons, cut.record.parameters, cut.record.flops)
    assert {n: bits.tolist() for n, bits in seen.removed.items()} == {n: b.tolist() for n, b in cut.removed.items()}


def test_the_least_that_is_left():
    """By hand: an MLP of 64-24-16-10 with BatchNorm, every layer at two units."""
    problem = pose(short_config())
    removed = problem.dense.floor(2)
    count = problem.dense.parameters(lambda path: path.startswith("params/"), removed)
    assert count == 2 * (64 + 2) + 2 * (2 + 2) + 2 * 10 + 10
    assert problem.dense.flops(removed) == 2 * (64 * 2 + 2 * 2 + 2 * 10)


TARGET = {"method.strength": 0.0, "method.target.every": "5", "method.target.weight_sparsity": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_sparsity": 1.0}, r"config.method.target.weight_sparsity must be in \(0, 1\); got 1.0"),
        ({"weight_sparsity": 0.99}, "weight_sparsity must be at most 0.9589, .*min_units=1 units .*; got 0.99"),
        ({"neuron_sparsity": 0.97}, "neuron_sparsity must be at most 0.95, .*; got 0.97"),
        ({"parameters": 5000}, "config.method.target.parameters must be between 1 and 2169; got 5000"),
        ({"parameters": 50}, "config.method.target.parameters must be at least 89, .*; got 50"),
        ({"inference_flops": 0.0}, r"config.method.target.inference_flops must be in \(0, 1\); got 0.0"),
        ({"step_time": 0.01}, "config.method.target.step_time must be at least 0.0361, .*; got 0.01"),
        ({"weight_sparsity": 0.5, "parameters": 500}, "config.method.target must be one option at most; got .*"),
        (
            {"weight_sparsity": 0.5, "every": "0"},
            "target.every must be between one step and the 30 in which neurons die; got '0'",
        ),
    ],
)
def test_targets_that_cannot_be(changes, message):
    from experiments.core.errors import UsageError

    with pytest.raises(UsageError, match=message):
        pose(short_config(**{f"method.target.{name}": value for name, value in changes.items()}))


@pytest.mark.parametrize(
    "asked", [{"weight_sparsity": 0.9589}, {"parameters": 89}, {"step_time": 0.0361}, {"neuron_sparsity": 0.95}]
)
def test_the_bound_that_is_named_can_be_asked_for(asked):
    assert pose(short_config(**{f"method.target.{name}": value for name, value in asked.items()})).goal is not None


@pytest.mark.parametrize(
    ("changes", "span"),
    [
        ({"strength_span": "10", "noise_span": "10"}, 10),
        ({"strength_span": "10", "noise_span": "20"}, 20),
        ({"strength_span": "10", "noise_span": "20", "noise": 0.0}, 10),
        ({"strength_span": "10", "noise": 0.0, "strength_schedule": "warmup_hold"}, 30),
        ({"strength_span": "10", "noise_span": "5", "noise_schedule": "warmup_hold"}, 30),
    ],
)
def test_neurons_are_watched_as_long_as_something_makes_them_die(changes, span):
    goal = pose(short_config(**TARGET, **{f"method.{name}": value for name, value in changes.items()})).goal
    assert goal.span == span
    assert goal.due(5)
    assert goal.due(span)
    assert not goal.due(span + 5)


def test_looks_are_not_further_apart_than_the_span():
    from experiments.core.errors import UsageError

    changes = {**TARGET, "method.strength_span": "10", "method.noise_span": "10", "method.target.every": "11"}
    with pytest.raises(UsageError, match="target.every must be between one step and the 10 in which neurons die; got"):
        pose(short_config(**changes))


@pytest.mark.slow
def test_a_target_needs_a_regularizer_of_neurons():
    """LayerNorm scales channels that every block reads, and none of them can be cut."""
    from experiments.core.errors import UsageError

    changes = {**TARGET, "model.name": "vit", "model.patch": 4}
    with pytest.raises(UsageError, match=r"penalized must choose .* 'scales' chooses none in config.model.name='vit'"):
        pose(short_config(**changes))
    assert pose(short_config(**changes, **{"method.penalized": "all"})).goal is not None


def test_other_methods_have_no_target():
    from experiments.core.errors import UsageError

    with pytest.raises(UsageError, match="config.method.name must be demp with config.method.target.weight_sparsity"):
        pose(short_config(**{"method.name": "random", "method.target.weight_sparsity": 0.5}))
    assert pose(short_config(**{"method.name": "dense", "method.target.weight_sparsity": 0.5})).goal is None


_KINDS = [("weight_sparsity", 0.8), ("neuron_sparsity", 0.5), ("inference_flops", 0.3), ("parameters", 5000)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "asked"), [_KINDS[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in _KINDS[1:])]
)
def test_a_run_ends_at_its_target(tmp_path, kind, asked):
    changes = {"steps": "1000", "model.widths": (128, 128), "optimizer.learning_rate": 0.02, "method.noise": 5e-5}
    spans = {"method.strength_span": "87%", "method.noise_span": "87%", "pruning.every": "10%", "log_every": "50"}
    rare = {"eval_every": "50%", "checkpoint_every": "50%", "method.strength": 0.0, "pruning.examples": 512}
    config = short_config(**changes, **spans, **rare, **{f"method.target.{kind}": asked})
    summary = train_and_evaluate(config, tmp_path).summary
    reached = {
        "weight_sparsity": summary["weight_sparsity"],
        "neuron_sparsity": summary["neuron_sparsity"],
        "inference_flops": summary["inference_flops_ratio"],
        "parameters": summary["parameters"],
    }[kind]
    assert summary["target"] == {"kind": kind, "asked": asked, "reached": pytest.approx(reached)}
    assert abs(reached - asked) < 0.02 * (summary["dense_parameters"] if kind == "parameters" else 1)
    looks = [line for line in lines(tmp_path / "metrics.jsonl") if "target_left" in line]
    assert [line["step"] for line in looks] == list(range(0, 871, 17))  # Every 2% of the span of 870 steps.


def test_an_interrupted_run_is_steered_as_one_never_interrupted(tmp_path, monkeypatch):
    class Interrupted(Exception):
        pass

    # Interrupted when the first have died; until then the factor grows by the clock alone.
    changes = {**TARGET, "method.target.weight_sparsity": 0.2, "method.target.every": "2"}
    train_and_evaluate(short_config(**changes), tmp_path / "whole")
    real = Stepper.__call__

    def step(self, state, *args):
        if int(state.step) == 26:
            raise Interrupted
        return real(self, state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", step)
        with pytest.raises(Interrupted):
            train_and_evaluate(short_config(**changes), tmp_path / "parts")
    train_and_evaluate(short_config(**changes), tmp_path / "parts")
    assert last_digests(tmp_path / "parts") == last_digests(tmp_path / "whole")
    ours, theirs = (
        [line for line in without_times(lines(tmp_path / name / "metrics.jsonl")) if "target_left" in line]
        for name in ("parts", "whole")
    )
    assert ours == theirs
    assert len({line["strength_factor"] for line in ours}) >= 3


def test_a_target_that_will_be_missed_is_said_once_and_early(tmp_path, monkeypatch):
    """Without time to die nobody does."""
    changes = {**TARGET, "optimizer.learning_rate": 1e-5, "method.noise": 0.0, "method.strength": 1e-6}
    warned = []
    monkeypatch.setattr(steering_lib._LOG, "warning", lambda *args: warned.append(args[0] % args[1:]))
    train_and_evaluate(short_config(**changes), tmp_path)
    [said] = warned
    assert "config.method.target.weight_sparsity=0.5 will be missed, at about" in said
    assert int(said.split()[1].rstrip(":")) <= 25


def test_more_that_dies_than_was_asked_for_is_said():
    problem = pose(short_config(**TARGET))
    steering = Steering(problem.goal, problem.dense, problem.dense_parameters, guesses=True)
    dense = problem.dense_parameters
    forecast = demp_jax.Preview((40, 10), (dense, dense // 3), (100, 30), {})
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(steering_lib._LOG, "warning", lambda *args: said.append(args[0] % args[1:]))
        steering.look(10, forecast)
        steering.look(20, forecast)
    assert len(said) == 1
    assert "0.5 will be missed, at about 0.66" in said[0]
    assert "more units died" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "waits"), [("step_time", False), ("inference_flops", True)])
def test_cuts_that_tell_the_time_do_not_wait(kind, waits, tmp_path):
    """Where a cut would never pay, one is made all the same if the time of a step is asked for."""
    changes = {"steps": "80", "method.strength_span": "80", "method.noise_span": "80", "method.strength": 1.0}
    config = short_config(**changes, **{f"method.target.{kind}": 0.5, "pruning.cut_cost": "1000"})
    train_and_evaluate(config, tmp_path)
    cuts = [cut for cut in lines(tmp_path / "cuts.jsonl") if cut["step"] < int(config.steps)]
    assert any(cut["saves"] >= 0.1 for cut in cuts)  # There is something to cut.
    assert any(cut["removed"] for cut in cuts) == (not waits)


@pytest.mark.parametrize("busy", [False, True])
def test_steps_beside_a_compilation_are_not_timed(busy, tmp_path, monkeypatch):
    """Of the lines of the log, those of steps while a cut was being prepared, from 10 to 15 and from 20 to 25."""
    monkeypatch.setattr(prepared_prune.PreparedPrune, "busy", property(lambda self: busy))
    timed = []
    monkeypatch.setattr(Steering, "timed", lambda self, flops, seconds: timed.append(seconds))
    changes = {"method.target.step_time": 0.5, "method.target.every": "100%", "pruning.ahead": "5"}
    train_and_evaluate(short_config(**changes), tmp_path)
    logged = [line for line in lines(tmp_path / "metrics.jsonl") if "seconds_per_step" in line]
    clean = [line for line in logged if not (busy and (10 < line["step"] <= 15 or 20 < line["step"] <= 25))]
    assert len(clean) < len(logged) or not busy
    assert timed == [line["seconds_per_step"] for line in clean]


@pytest.mark.parametrize(("most", "left_out"), [(1, 0), (4, 2)])
def test_steps_are_timed_once_they_are_taken_together(most, left_out, tmp_path, monkeypatch):
    """Those before the first line of the log, and one beside it, are taken singly, where later ones are not: slower."""
    timed = []
    monkeypatch.setattr(Steering, "timed", lambda self, flops, seconds: timed.append(seconds))
    changes = {"method.target.step_time": 0.5, "method.target.every": "100%", "steps_per_call": most}
    train_and_evaluate(short_config(**changes), tmp_path)
    logged = [line for line in lines(tmp_path / "metrics.jsonl") if "seconds_per_step" in line]
    assert timed == [line["seconds_per_step"] for line in logged[left_out:]]


def test_step_time_goes_by_what_was_measured(tmp_path):
    problem = pose(short_config(**{"method.target.step_time": 0.7}))
    dense = problem.dense.flops()
    steering = Steering(problem.goal, problem.dense, problem.dense_parameters, guesses=True)
    half = demp_jax.Preview((40, 40), (2170, 2170), (dense, dense // 2), {})
    assert steering.gain_to_time() == 0.1
    assert steering.look(1, half) == pytest.approx(1 - cost_rule.time_per_flops() / 2, abs=1e-3)
    for seconds in (9.0, 1.0, 1.0, 1.0, 0.1):
        steering.timed(dense, seconds)
    for seconds in (5.0, 0.8, 0.8, 0.8, 0.1):
        steering.timed(dense // 2, seconds)
    assert steering.gain_to_time() == 0.2
    # Half of the FLOPs took a fifth of the time.
    assert steering.look(2, half) == pytest.approx(0.8, abs=1e-3)
    again = Steering(problem.goal, problem.dense, problem.dense_parameters, guesses=True)
    again.load(json.loads(json.dumps(steering.as_json())))
    assert again.as_json() == steering.as_json()
    assert again.look(3, half) == steering.look(3, half)
    # What it came to is measured.
    assert steering.summary(2170, problem.dense, 0.75)["reached"] == 0.75
