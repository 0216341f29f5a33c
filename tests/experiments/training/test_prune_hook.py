"""When a run is pruned, at once or prepared while training goes on."""

import json
import threading
import typing
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from experiments.recipe.problem import pose
from experiments.training import cost_rule, prune_hook, pruning
from experiments.training.batches import Feed
from experiments.training.compiled_step import Stepper
from experiments.training.loop import train_and_evaluate
from experiments.training.prepared_prune import PreparedPrune, Trial
from experiments.training.step import TrainState
from experiments.training.totals import Counters
from tests.runs import lines, short_config

_EMPTY = {dict[str, int]: {}, dict[str, str]: {}, dict[str, float]: {}, list[str]: [], tuple[int, int]: (0, 0)}


class _Learner:
    """A fake: it has a number of units, and removes what it is told to."""

    def __init__(self, units):
        self.units, self.prepared = units, []
        self.variables, self.network, self.stepper = {"params": {}}, None, SimpleNamespace(bytes=0)
        self.state = TrainState(np.int32(0), self.variables, (), None)
        self.graph = SimpleNamespace(prunable=True)

    def shrink(self, result, prepared=None):
        self.units -= result.record.removed["a"]
        self.prepared.append(prepared)


def _hook(pool=None, **pruned):
    """Returns a `Prune` of a run of 100 steps with chances at 10, 20, ...; its learner; and its records."""
    section = SimpleNamespace(**{"every": 10, "ahead": 0, "cut_cost": 0, **pruned})
    method = SimpleNamespace(prunes=lambda step: step > 0 and step % 10 == 0, ranking=None, updater=None)
    records = []
    run = SimpleNamespace(
        problem=SimpleNamespace(
            method=method,
            settings=SimpleNamespace(steps=100, pruning=section),
            devices=SimpleNamespace(agree=lambda what, value: None),
        ),
        learner=_Learner(50),
        feed=SimpleNamespace(last=None),
        counters=Counters(),
        compiling=SimpleNamespace(seconds=0.0),
        steering=None,
        records=SimpleNamespace(cut=lambda step, record: records.append({"step": step, **record})),
    )
    return prune_hook.Prune(run, lambda step: 0.1, pool), run.learner, records


def _train(hook, steps=range(101)):
    for step in steps:
        if hook.due(step):
            hook(step)
        hook.close()


@pytest.fixture
def dying(monkeypatch):
    """Of 50 units a tenth of the step's number is dead, but for what was removed."""

    def prune(at):
        removed = 50 - hook_units[0]
        dead = at.step // 10 - removed
        most = dead if at.at_most is None else min(dead, int(at.at_most["a"].sum()))
        waits = most and most / 50 < at.least_gain
        made = most > 0 and not waits
        kinds = typing.get_type_hints(demp_jax.PruneRecord)
        record = demp_jax.PruneRecord(
            **{name: _EMPTY.get(kind, 0) for name, kind in kinds.items()}
            | {"removed": {"a": most} if made else {}, "waiting": most if waits else 0, "saves": most / 50}
            | {"seconds": {"measure": 0.0}, "deviation": 0.0, "scale": 1.0, "refused": None}
        )
        bits = {"a": np.arange(50) < most}
        result = SimpleNamespace(plan="plan" if made else None, removed=bits, record=record, fn=None, variables={})
        return result, {"why": "dead"}

    hook_units = [50]
    monkeypatch.setattr(pruning, "dead", prune)
    monkeypatch.setattr(pruning, "standing", lambda run, step, **more: _standing(run, step, hook_units, more))
    return hook_units


def _standing(run, step, hook_units, more):
    hook_units[0] = run.learner.units
    return pruning.Standing(None, None, step, None, None, None, run.learner.state.opt_state, **more)


def test_every_tau_steps_what_is_dead_is_removed(dying):
    hook, learner, records = _hook()
    _train(hook)
    assert [record["step"] for record in records] == list(range(10, 101, 10))
    assert [record["removed"] for record in records] == [{"a": 1}] * 10
    assert learner.units == 40


def test_a_prune_that_costs_waits_until_it_pays_and_the_last_does_not_wait(dying):
    hook, learner, records = _hook(cut_cost=1)
    _train(hook)
    # A dead unit saves 0.7 * 2% of a step, which is 0.14 steps until the next chance. Waiting with one, two and three
    # of them costs 0.14 + 0.28 + 0.42 = 0.84 steps; with four for another 10 steps it would cost 1.4, which is more
    # than 1.
    steps = [record["step"] for record in records if record["removed"]]
    waits = [record["step"] for record in records if record["waiting"]]
    assert steps == [40, 80, 100]
    assert waits == [10, 20, 30, 50, 60, 70, 90]
    assert learner.units == 40


def test_a_prepared_prune_is_made_later_at_the_widths_of_its_trial(dying):
    hook, learner, records = _hook(ahead=15)
    _train(hook)
    # While one is prepared there is no other chance; none begins that would end behind the run.
    assert [(record.get("since"), record["step"]) for record in records] == [
        (10, 25),
        (30, 45),
        (50, 65),
        (70, 85),
        (None, 100),
    ]
    assert [record["removed"]["a"] for record in records] == [1, 2, 2, 2, 3]
    assert learner.units == 40


def test_the_step_of_a_prepared_prune_is_compiled_meanwhile(dying, monkeypatch):
    class Prepared:
        def __init__(self, problem, network, variables):
            pass

    monkeypatch.setattr(prune_hook, "Stepper", Prepared)
    monkeypatch.setattr(prune_hook, "Network", type(None))
    with ThreadPoolExecutor(1) as pool:
        hook, learner, _ = _hook(pool, ahead=5)
        _train(hook, range(16))
    assert [type(each) for each in learner.prepared] == [Prepared]


def test_where_too_few_are_dead_by_then_the_step_is_compiled_when_needed(dying, monkeypatch):
    hook, learner, records = _hook(ahead=5)
    _train(hook, range(40))
    prepared = PreparedPrune.resumed(Trial(40, 45, {"a": np.arange(50) < 9}, {}).as_json())
    prepared._compiled = Future()
    prepared._compiled.set_result("a step for nine units less")
    monkeypatch.setattr(hook, "_prepared", prepared)
    learner.prepared.clear()
    _train(hook, range(45, 46))
    assert records[-1]["removed"] == {"a": 1}
    assert learner.prepared == [None]


def test_a_hook_goes_on_from_its_json(dying):
    whole, learner, records = _hook(ahead=15, cut_cost=1)
    _train(whole)
    first, again, _ = _hook(ahead=15, cut_cost=1)
    _train(first, range(38))
    second, resumed, rest = _hook(ahead=15, cut_cost=1)
    resumed.units = again.units
    second._run.counters = first._run.counters
    second.load(json.loads(json.dumps(first.as_json())))
    _train(second, range(38, 101))
    assert resumed.units == learner.units
    assert rest == records[-len(rest) :]
    assert len(rest) > 1


def test_fits_counts_units_by_site():
    bits = lambda text: np.array([int(digit) for digit in text], bool)  # noqa: E731
    trial = Trial(10, 13, {"a": bits("1100"), "b": bits("1111"), "c": bits("1000"), "d": bits("0000")}, {})
    assert trial.fits({"a": bits("0011"), "b": bits("1111"), "c": bits("0001")})
    assert not trial.fits({"a": bits("0011"), "b": bits("1011"), "c": bits("0001")})


# Chances at 10, 20, ... 50; what is prepared is cut 2 steps later.
CHANGES = {
    "steps": "60",
    "pruning.cut_cost": "1",
    "pruning.ahead": "2",
    "optimizer.learning_rate": 0.1,
    "method.strength_span": "40",
    "method.noise_span": "40",
    "checkpoint_every": "100",
}


def test_cuts_are_prepared_while_training_goes_on(tmp_path, monkeypatch):
    compiled = []
    plain = Stepper.compile

    def watched(self, state, batch):
        compiled.append((threading.current_thread() is threading.main_thread(), sum(self.graph.widths.values())))
        plain(self, state, batch)

    monkeypatch.setattr(Stepper, "compile", watched)
    said = []
    monkeypatch.setattr(prune_hook, "_LONG_WAIT", 0.0)
    monkeypatch.setattr(prune_hook._LOG, "warning", lambda *args: said.append(args[0] % args[1:]))
    result = train_and_evaluate(short_config(**CHANGES), tmp_path)
    cuts = lines(tmp_path / "cuts.jsonl")
    assert said[0].startswith("step 12: training waited")
    # Nothing is compiled in the few steps between these prunes.
    assert all("prune less often by --config.pruning.every" in text for text in said)
    assert all(cut["step"] == cut["since"] + 2 and cut["since"] % 10 == 0 for cut in cuts[:-1])
    made = [cut for cut in cuts[:-1] if cut["removed"]]
    assert len(made) >= 2
    for cut in made:
        assert max(cut["differences"].values(), default=0.0) < 1e-4
        assert cut["saves"] == pytest.approx(1 - cut["flops"][1] / cut["flops"][0], abs=1e-5)
        assert cut["seconds"]["wait"] >= 0
        assert cut["predicted_time"] == pytest.approx(1 - cost_rule.time_per_flops() * cut["saves"], abs=1e-4)
    for cut in cuts:
        assert not cut["waiting"] or 0 < cut["saves"] < cut["least_gain"]
    needed = [width for main, width in compiled if main]
    prepared = [width for main, width in compiled if not main]
    assert needed[0] == 40  # The first step; others only where too few units were dead when their prune was due.
    assert len(prepared) == sum("wait" in cut["seconds"] for cut in cuts)
    assert {cut["neurons"][1] for cut in made} <= {*prepared, *needed}
    assert any(cut["neurons"][1] not in needed for cut in made)
    # What a step takes falls with the widths.
    memory = [cut["step_bytes"] for cut in made]
    assert memory == sorted(memory, reverse=True)
    assert memory[-1] < memory[0]
    assert result.summary["neurons"] == cuts[-1]["neurons"][1]


@pytest.mark.slow
def test_whichever_units_are_dead_when_a_cut_is_due_its_step_is_ready(tmp_path, monkeypatch):
    """The trial looks at variables with the units of the first layer in another order: as many are dead, but others."""
    plain = pruning.dead
    orders = []

    def shuffled(at):
        if threading.current_thread() is threading.main_thread():
            return plain(at)
        order = np.roll(np.arange(at.graph.widths["norm/0"]), 1)
        axes = {"['dense'][0]['kernel']": 1, "['dense'][1]['kernel']": 0}

        def reordered(path, leaf):
            name = jax.tree_util.keystr(path).removeprefix("['params']").removeprefix("['state']")
            first = name in axes or name.startswith("['norm'][0]")
            return jnp.take(leaf, order, axes.get(name, 0)) if first else leaf

        result = plain(at._replace(variables=jax.tree_util.tree_map_with_path(reordered, at.variables)))
        orders.append(result[0].removed.get("norm/0"))
        return result

    monkeypatch.setattr(pruning, "dead", shuffled)
    where = []
    compile_step = Stepper.compile

    def watched(self, state, batch):
        where.append(threading.current_thread() is threading.main_thread())
        compile_step(self, state, batch)

    monkeypatch.setattr(Stepper, "compile", watched)
    train_and_evaluate(short_config(**CHANGES), tmp_path)
    made = [cut for cut in lines(tmp_path / "cuts.jsonl")[:-1] if cut["removed"]]
    assert any(bits is not None and bits.any() and not bits.all() for bits in orders)
    assert made
    # The first step alone kept training waiting, and what the trials compiled was of use.
    assert sum(where) == 1


def test_a_trial_names_what_can_be_expected_to_leave(monkeypatch):
    """Of what is constant as good as surely, and not all of it: a site of 3 names 1, one of 24 names 21."""
    asked = []

    def forecast(network, variables, batches, **options):
        del network, variables, batches
        asked.append(options["options"].constant)
        return demp_jax.Preview((0, 0), (0, 0), (0, 0), {"a": np.arange(5) > 1, "b": np.arange(24) >= 0, "c": bits})

    def cut(network, variables, batches, **options):
        del network, variables, batches
        like = options["at_most"]
        asked.append(
            (options["options"].constant, like and {name: bits.nonzero()[0].tolist() for name, bits in like.items()})
        )

    bits = np.array([True, True])
    monkeypatch.setattr(demp_jax, "preview", forecast)
    monkeypatch.setattr(demp_jax, "prune", cut)
    problem = pose(short_config(**CHANGES | {"pruning.constant": 0.1}))
    trial = pruning.Standing(problem, Feed(problem), 10, None, None, None, None)
    pruning.dead(trial)
    assert asked == [0.05, (0.05, {"a": [2], "b": list(range(21)), "c": []})]
    # Not when the prune is made.
    asked.clear()
    pruning.dead(trial._replace(at_most={"c": bits}, opt_state=()))
    assert asked == [(0.1, {"c": [0, 1]})]


def test_an_error_in_the_thread_reaches_the_run(tmp_path, monkeypatch):
    def fail(at):
        raise RuntimeError("out of memory") if at.opt_state is None else AssertionError("no cut was planned")

    monkeypatch.setattr("experiments.training.pruning.dead", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_and_evaluate(short_config(**CHANGES), tmp_path)


@pytest.mark.slow
def test_several_devices_cut_the_same(tmp_path):
    """There the trial is part of the loop, and nothing is prepared."""
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    one = train_and_evaluate(short_config(**CHANGES), tmp_path / "one").summary
    two = train_and_evaluate(short_config(**CHANGES, devices=2), tmp_path / "two").summary
    assert one["widths"] == two["widths"]
    steps = [[cut["step"] for cut in lines(tmp_path / run / "cuts.jsonl")] for run in ("one", "two")]
    assert steps[0] == steps[1]


def test_advice_can_be_followed():
    section = pose(short_config(**CHANGES | {"pruning.every": "400", "pruning.ahead": "100"})).settings.pruning
    assert prune_hook.advice(180.0, section) == "with --config.pruning.ahead=300 it would not"
    said = prune_hook.advice(4810.0, section)
    assert "prunes are due every 400 steps" in said
    assert "pruning.ahead" not in said
