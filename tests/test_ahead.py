"""Cuts that wait until they pay, and are prepared while training goes on."""

import json
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import demp_jax
from experiments.core.errors import NonFiniteLossError
from experiments.recipe.problem import Lengths, pose
from experiments.training import ahead, loop, pruning, when
from experiments.training.batches import Feed
from experiments.training.compiled_step import Stepper
from experiments.training.loop import train_and_evaluate
from tests.runs import last_digests, lines, short_config, without_times

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


@given(
    st.floats(0.5, 500),
    st.integers(1, 200),
    st.integers(0, 500),
    st.lists(st.floats(0, 0.9), min_size=1, max_size=40),
)
def test_waiting_costs_at_most_what_the_cuts_do(cost, every, preparing, deaths):
    """Rent or buy, in the time that the rule goes by: steps lost by waiting against the price of the cuts."""
    waited, lost, cuts, saves = 0.0, 0.0, 0, 0.0
    chances = range(every, 10**6, every)
    # While a cut is prepared there is no other chance.
    every = next(chance for chance in chances if chance >= preparing)
    assert every == ahead.period(chances.step, preparing)
    for chance, death in enumerate(deaths, start=1):
        # Of what is left, so much dies.
        saves += (1 - saves) * death
        remaining = (len(deaths) - chance + 1) * every
        if saves > 0 and saves >= ahead.least_gain(cost, waited, every, remaining):
            assert ahead.time_per_flops() * saves * remaining >= cost * (1 - 1e-6)  # The rest of the run repays it.
            cuts, waited, saves = cuts + 1, 0.0, 0.0
        else:
            waited += ahead.time_per_flops() * saves * every
            lost += ahead.time_per_flops() * saves * every
    assert lost <= cost * (cuts + 1) + 1e-6 or waited > cost
    if waited > cost:
        # Then a cut would not have been repaid by the end.
        assert ahead.time_per_flops() * saves * every < cost


def test_a_gpu_saves_less_of_its_time_so_that_a_cut_has_to_save_more(monkeypatch):
    here = ahead.least_gain(10, 0.0, 1000, 10**6)
    assert here == pytest.approx(0.01 / 0.7)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ahead.least_gain(10, 0.0, 1000, 10**6) == pytest.approx(0.01 / 0.2)


def test_a_cut_that_costs_nothing_is_always_made():
    assert ahead.least_gain(0, 0.0, 10, 0) == 0.0
    assert 0 < ahead.least_gain(100, 0.0, 10, 10**6) < 1
    assert ahead.least_gain(100, 99.9, 10, 10**6) < ahead.least_gain(100, 0.0, 10, 10**6)


def test_cuts_are_prepared_while_training_goes_on(tmp_path, monkeypatch):
    compiled = []
    plain = Stepper.compile

    def watched(self, state, batch):
        compiled.append((threading.current_thread() is threading.main_thread(), sum(self.graph.widths.values())))
        plain(self, state, batch)

    monkeypatch.setattr(Stepper, "compile", watched)
    said = []
    monkeypatch.setattr(when, "_LONG_WAIT", 0.0)
    monkeypatch.setattr(when._LOG, "warning", lambda *args: said.append(args[0] % args[1:]))
    result = train_and_evaluate(short_config(**CHANGES), tmp_path)
    cuts = lines(tmp_path / "cuts.jsonl")
    assert said[0].startswith("step 12: training waited")
    # Nothing is compiled in the few steps between these prunes.
    assert all("prune less often by --config.pruning.every" in text for text in said)
    # Where too few were dead when the cut was due, it was tried again.
    assert all(cut["step"] == cut["since"] + 2 for cut in cuts[:-1])
    assert all((cut["since"] - 2 * (cut["trials"] - 1)) % 10 == 0 for cut in cuts[:-1])
    made = [cut for cut in cuts[:-1] if cut["removed"]]
    assert len(made) >= 2
    assert sum(bool(cut["waiting"]) for cut in cuts) >= 1
    for cut in made:
        assert max(cut["differences"].values(), default=0.0) < 1e-4
        assert cut["saves"] == pytest.approx(1 - cut["flops"][1] / cut["flops"][0], abs=1e-5)
        assert cut["seconds"]["wait"] >= 0
        assert cut["predicted_time"] == pytest.approx(1 - ahead.time_per_flops() * cut["saves"], abs=1e-4)
        assert cut["saves"] >= cut["least_gain"] or cut["trials"] > 1
    for cut in cuts:
        assert not cut["waiting"] or 0 < cut["saves"] < cut["least_gain"]
        # What trials before took is part of what the loop waited.
        assert (cut["seconds"].get("trials", 0.0) > 0) == (cut.get("trials", 1) > 1)
    # The step at the first widths was compiled when it was needed, all others before that.
    assert [width for main, width in compiled if main] == [40]
    prepared = [width for main, width in compiled if not main]
    # The last trial of a cut that waits found nothing worth it, every other one a step.
    assert len(prepared) == sum(cut["trials"] - (not cut["removed"]) for cut in cuts[:-1])
    assert {cut["neurons"][1] for cut in made} <= set(prepared)
    # What a step takes falls with the widths.
    memory = [cut["step_bytes"] for cut in made]
    assert memory == sorted(memory, reverse=True)
    assert memory[-1] < memory[0]
    assert result.summary["neurons"] == cuts[-1]["neurons"][1]


@pytest.mark.slow
def test_units_that_came_back_stay(tmp_path, monkeypatch):
    """Only what is dead when the cut is made leaves: here the trial condemns units that live."""
    plain = ahead.Ahead.planned
    seen = []

    def planned(self):
        found = plain(self)
        if found.leave is not None and "norm/0" in found.leave:
            bits = found.leave["norm/0"]
            seen.append(int(bits.sum()))
            bits[:] = np.arange(bits.size) > 0
        return found

    monkeypatch.setattr(ahead.Ahead, "planned", planned)
    train_and_evaluate(short_config(**CHANGES), tmp_path)
    made = [cut for cut in lines(tmp_path / "cuts.jsonl")[:-1] if cut["removed"]]
    assert made
    assert max(seen) < 23
    assert max(cut["trials"] for cut in made) == ahead.TRIALS
    for cut in made:  # What trials before took is part of what the loop waited.
        assert (cut["seconds"].get("trials", 0.0) > 0) == (cut["trials"] > 1)
    assert all(cut["neurons"][1] > 1 + 16 and max(cut["differences"].values(), default=0.0) < 1e-4 for cut in made)


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
    assert all(cut["trials"] == 1 for cut in made)


@pytest.mark.parametrize("stops", [(20, 21), pytest.param((22, 41), marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_as_one_never_interrupted(stops, tmp_path, monkeypatch):
    """Stopped at the trial, between the trial and the cut, and at the cut."""
    whole = train_and_evaluate(short_config(**CHANGES), tmp_path / "whole").summary
    left = list(stops)

    def stop(self, step, stop):
        del self, stop
        if left and step == left[0]:
            left.pop(0)
            return loop.signal.SIGTERM
        return None

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_stopped", stop)
        for _ in stops:
            train_and_evaluate(short_config(**CHANGES), tmp_path / "parts")
    parts = train_and_evaluate(short_config(**CHANGES), tmp_path / "parts").summary
    assert not left
    assert last_digests(tmp_path / "parts") == last_digests(tmp_path / "whole")
    assert {parts[k] == whole[k] for k in ("test_accuracy", "widths", "train_flops", "cuts")} == {True}
    one, other = (without_times(lines(tmp_path / part / "cuts.jsonl")) for part in ("whole", "parts"))
    assert one == other


def test_where_too_few_are_dead_half_of_them_are_tried_next():
    bits = lambda text: np.array([int(digit) for digit in text], bool)  # noqa: E731
    planned = ahead.Planned(10, 13, {"a": bits("1100"), "b": bits("1111"), "c": bits("1000"), "d": bits("0000")}, {})
    assert planned.fits({"a": bits("0011"), "b": bits("1111"), "c": bits("0001")})
    now = {"a": bits("0011"), "b": bits("1011"), "c": bits("0000")}
    assert not planned.fits(now)
    found = planned.fewer(now)
    assert {name: value.astype(int).tolist() for name, value in found.items()} == {
        "a": [0, 0, 1, 1],
        "b": [1, 0, 0, 0],
        "c": [0, 0, 0, 0],
    }


@pytest.mark.slow
def test_a_checkpoint_waits_for_a_trial_but_training_does_not(tmp_path, monkeypatch):
    """Due while a trial goes on, it is of that step all the same: a run that continues there ends alike."""
    changes = CHANGES | {"steps": "40", "pruning.ahead": "6", "checkpoint_every": "11"}
    train_and_evaluate(short_config(**changes), tmp_path / "whole")
    checkpoints, plain, released = tmp_path / "parts" / "checkpoints", pruning.dead, threading.Event()

    def slow(at):
        assert threading.current_thread() is threading.main_thread() or released.wait(10)
        return plain(at)

    def stop(self, step, stop):
        del self, stop
        if step != 14:
            return None
        assert not (checkpoints / "11").exists()
        released.set()
        return loop.signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(pruning, "dead", slow)
        patch.setattr(loop._Run, "_stopped", stop)
        train_and_evaluate(short_config(**changes), tmp_path / "parts")
    assert sorted(int(path.name) for path in checkpoints.iterdir()) == [11, 14]
    assert json.loads((checkpoints / "11" / "meta" / "metadata").read_text())["ahead"]["since"] == 10
    shutil.rmtree(checkpoints / "14")
    train_and_evaluate(short_config(**changes), tmp_path / "parts")
    assert last_digests(tmp_path / "parts") == last_digests(tmp_path / "whole")
    one, other = (without_times(lines(tmp_path / part / "cuts.jsonl")) for part in ("whole", "parts"))
    assert one == other


def test_a_checkpoint_that_waits_is_kept_when_the_loss_breaks(tmp_path, monkeypatch):
    plain, taken, released = pruning.dead, Stepper.__call__, threading.Event()

    def slow(at):
        assert threading.current_thread() is threading.main_thread() or released.wait(10)
        return plain(at)

    def breaks(self, state, batches):
        state, metrics = taken(self, state, batches)
        if int(state.step) == 12:
            released.set()
            metrics = metrics._replace(loss=metrics.loss * jnp.nan)
        return state, metrics

    monkeypatch.setattr(pruning, "dead", slow)
    monkeypatch.setattr(Stepper, "__call__", breaks)
    changes = CHANGES | {"pruning.ahead": "6", "checkpoint_every": "11", "log_every": "2"}
    with pytest.raises(NonFiniteLossError, match="became nan at step 12; the checkpoint of step 11 is kept"):
        train_and_evaluate(short_config(**changes), tmp_path)


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
    # Not once more of those that are tried again, and not when the cut is made.
    asked.clear()
    pruning.dead(trial._replace(at_most={"c": bits}))
    pruning.dead(trial._replace(at_most={"c": bits}, opt_state=()))
    assert asked == [(0.05, {"c": [0, 1]}), (0.1, {"c": [0, 1]})]


def test_a_plan_survives_a_checkpoint():
    planned = ahead.Planned(10, 13, {"a": np.array([True, False])}, {})
    again = ahead.Ahead.resumed(planned.as_json())
    assert again.due == 13
    assert again.prepared() is None
    assert again.planned().leave["a"].tolist() == [True, False]
    waits = ahead.Planned(10, 13, None, {"waiting": 3})
    assert ahead.Ahead.resumed(waits.as_json()).planned() == waits


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
    lengths = Lengths(100.0, 2000, 1, 1, 1, cut_every=400, cut_cost=0, ahead=100, watch=0)
    assert when.advice(180.0, lengths) == "with --config.pruning.ahead=300 it would not"
    said = when.advice(4810.0, lengths)
    assert "prunes are due every 400 steps" in said
    assert "pruning.ahead" not in said
