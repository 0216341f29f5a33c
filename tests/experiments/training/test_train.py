"""The training program, run for real on small networks."""

import dataclasses
import json
import os
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import demp_jax
from benchmarks import programs
from experiments.core import compile_clock
from experiments.core.errors import NonFiniteLossError, UsageError
from experiments.recipe import network
from experiments.recipe.problem import pose
from experiments.rundir.checkpoints import Checkpoints, load_pruned
from experiments.rundir.records import Records
from experiments.training import compiled_step, hooks, loop, pruning, totals
from experiments.training.batches import Feed
from experiments.training.compiled_step import Stepper
from experiments.training.learner import Learner
from experiments.training.loop import train_and_evaluate
from experiments.training.prune_hook import Prune
from experiments.training.step import Alive
from experiments.training.step_log import StepLog
from tests.runs import config_of, edit_metadata, last_digests, lines, short_config, without_times


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to its end: its workdir and result."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train_and_evaluate(short_config(), workdir)


def test_the_network_shrinks(finished):
    _, result = finished
    summary = result.summary
    assert summary["neurons"] < summary["dense_neurons"] == 40
    assert summary["parameters"] < summary["dense_parameters"] == 64 * 24 + 24 * 16 + 2 * 40 + 16 * 10 + 10
    assert summary["weight_sparsity"] == 1 - summary["parameters"] / summary["dense_parameters"]
    assert summary["neuron_sparsity"] == 1 - summary["neurons"] / 40
    assert sum(summary["widths"].values()) == summary["neurons"]
    assert 0 < summary["inference_flops_ratio"] < summary["train_flops_ratio"] < 1
    assert summary["step_time_ratio"] > 0


def test_the_summary_is_whole(finished):
    workdir, result = finished
    wanted = """method dataset model seed steps test_accuracy dense_parameters parameters neuron_sparsity
        weight_sparsity inference_flops_ratio train_flops_ratio step_time_ratio seconds_total seconds_compiling cuts
        command commit versions
        device""".split()
    summary = json.loads((workdir / "summary.json").read_text())
    assert set(wanted) <= set(summary)
    assert summary == result.summary
    assert summary["versions"]["jax"] == jax.__version__
    assert 0 < summary["seconds_compiling"] < summary["seconds_total"]
    parts = [name for name in summary if name.startswith("seconds_") and name != "seconds_total"]
    assert sum(summary[name] for name in parts) == pytest.approx(summary["seconds_total"], abs=0.01 * len(parts))


def test_what_a_run_leaves(finished):
    workdir, result = finished
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "cuts.jsonl",
        "summary.json",
        "curves.png",
        "checkpoints",
        "tensorboard",
    }
    assert json.loads((workdir / "config.json").read_text())["method"]["strength"] == 0.3
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")

    metrics = lines(workdir / "metrics.jsonl")
    logged = [line for line in metrics if "loss" in line]
    assert [line["step"] for line in logged] == [5, 8, 10, 15, 16, 20, 24, 25, 30]
    for line in logged:
        for key in ("epoch", "learning_rate", "strength", "noise", "train_accuracy", "seconds_per_step"):
            assert np.isfinite(line[key])
        assert set(line["active"]) == set(line["width"]) == set(result.summary["widths"])
        assert all(line["active"][name] <= line["width"][name] for name in line["width"])
    assert [line["step"] for line in metrics if "test_accuracy" in line] == [10, 20, 30]
    assert metrics[-1]["test_accuracy"] == result.summary["test_accuracy"]

    cuts = lines(workdir / "cuts.jsonl")
    assert [cut["step"] for cut in cuts] == [10, 20, 30]
    assert cuts[-1]["neurons"][1] == result.summary["neurons"]
    for cut in cuts:
        assert set(cut["seconds"]) >= {"measure", "recompile"}
        assert max(cut["differences"].values(), default=0.0) <= 1e-4 * max(cut["scale"], 1)
        assert cut["refused"] is None


def test_tensorboard_events_can_be_read(finished):
    workdir, _ = finished
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c  # noqa: F401  The reader below trusts the lengths.

    [path] = (workdir / "tensorboard").iterdir()
    raw, tags = path.read_bytes(), set()
    while raw:
        length = int.from_bytes(raw[:8], "little")
        event = event_pb2.Event.FromString(raw[12 : 12 + length])
        tags |= {value.tag for value in event.summary.value}
        raw = raw[16 + length :]
    assert {"train/loss", "test/accuracy", "test/loss", "schedule/strength", "width/norm/0", "size/neurons"} <= tags
    assert not {tag for tag in tags if tag.startswith("other/")}
    assert any(tag.startswith("config") for tag in tags)


def test_evaluation_covers_every_test_example_once(finished):
    workdir, result = finished

    problem = pose(short_config())
    images, labels = problem.dataset.splits["test"]
    images = problem.preparation(jnp.asarray(images))
    logits = result.network(result.variables, images)
    assert result.summary["test_accuracy"] == (np.asarray(logits).argmax(1) == labels).mean()
    last = [line for line in lines(workdir / "metrics.jsonl") if "test_loss" in line][-1]
    losses = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
    assert last["test_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_flops_are_summed_as_the_network_shrinks(finished):
    workdir, result = finished
    cuts = {cut["step"]: cut["flops"] for cut in lines(workdir / "cuts.jsonl")}
    flops = [cuts[10][0]] * 10 + [cuts[10][1]] * 10 + [cuts[20][1]] * 10
    assert result.summary["train_flops"] == 3 * 64 * sum(flops)
    assert result.summary["train_flops_ratio"] == pytest.approx(sum(flops) / (30 * cuts[10][0]))


def test_a_pruned_network_is_loaded_from_its_checkpoint_alone(finished, tmp_path):
    workdir, result = finished
    x = jnp.asarray(np.random.default_rng(0).random((5, 8, 8, 1)), jnp.float32)
    expected = result.network(result.variables, x)
    np.testing.assert_array_equal(load_pruned(workdir)(x), expected)
    alone = tmp_path / "somewhere"
    alone.mkdir()
    (workdir / "checkpoints" / "30").rename(alone / "30")
    try:
        np.testing.assert_array_equal(load_pruned(alone)(x), expected)
    finally:
        (alone / "30").rename(workdir / "checkpoints" / "30")
    wider = load_pruned(workdir, step=24)
    assert wider(x).shape == (5, 10)
    assert not list(workdir.rglob("*.pkl"))
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="workdir must"):
            load_pruned(missing)


def test_a_checkpoint_of_another_kind_of_device_is_read(finished, tmp_path):
    workdir, result = finished
    copied = tmp_path / "copy"
    shutil.copytree(workdir, copied)
    for path in (copied / "checkpoints").glob("*/arrays/_sharding"):
        path.write_text(path.read_text().replace("cpu:0", "cuda:0"))
    (copied / "summary.json").unlink()
    x = np.zeros((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(load_pruned(copied)(x), load_pruned(workdir)(x))
    assert train_and_evaluate(short_config(), copied).summary["parameters"] == result.summary["parameters"]


def test_a_finished_run_is_not_run_again(finished, caplog):
    workdir, result = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    again = train_and_evaluate(short_config(), workdir)
    assert again.summary == result.summary
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_the_same_seed_gives_the_same_run_and_another_does_not(finished, tmp_path):
    workdir, _ = finished
    train_and_evaluate(short_config(), tmp_path / "same")
    assert last_digests(tmp_path / "same") == last_digests(workdir)
    train_and_evaluate(short_config(seed=1), tmp_path / "other")
    assert last_digests(tmp_path / "other") != last_digests(workdir)


def _records(workdir):
    """Returns records without times, and without the memory of a compiled step."""
    found = [without_times(lines(workdir / name)) for name in ("metrics.jsonl", "cuts.jsonl")]
    for line in found[1]:
        line.pop("step_bytes")
    return found


def _steps_per_call(patch):
    """Returns a list that calls of the compiled steps add to: the first step, and how many."""
    calls, real = [], Stepper.__call__

    def call(self, state, batches):
        calls.append((int(state.step), batches.steps))
        return real(self, state, batches)

    patch.setattr(Stepper, "__call__", call)
    return calls


@pytest.fixture(scope="module")
def singly(tmp_path_factory):
    """The program of up to four steps in a call, called for one at a time."""
    workdir = tmp_path_factory.mktemp("singly")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_CALL_SECONDS", 0.0)
        calls = _steps_per_call(patch)
        result = train_and_evaluate(short_config(steps_per_call=4), workdir)
    assert calls == [(step, 1) for step in range(30)]
    return workdir, result


def test_steps_that_are_taken_together_are_the_same_steps(finished, singly, tmp_path, monkeypatch):
    """Bit for bit where they are called otherwise; up to rounding where they are compiled otherwise."""
    monkeypatch.setattr(loop, "_CALL_SECONDS", 1e9)
    calls = _steps_per_call(monkeypatch)
    result = train_and_evaluate(short_config(steps_per_call=4), tmp_path)
    # Singly until steps have been timed, beside the next; then up to lines of metrics (5), checkpoints (8), cuts (10).
    timed = [(5, 1), (6, 2), (8, 2), (10, 4), (14, 1), (15, 1), (16, 4), (20, 4), (24, 1), (25, 4), (29, 1)]
    assert calls == [*((step, 1) for step in range(5)), *timed]
    workdir, alone = singly
    assert last_digests(tmp_path) == last_digests(workdir)
    assert _records(tmp_path) == _records(workdir)
    for key in ("test_accuracy", "widths", "train_flops", "cuts"):
        assert result.summary[key] == alone.summary[key]
    losses = [[line["loss"] for line in lines(w / "metrics.jsonl") if "loss" in line] for w in (tmp_path, finished[0])]
    assert len(losses[0]) == len(losses[1])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert result.summary["widths"] == finished[1].summary["widths"]


def test_training_goes_on_while_metrics_are_written(tmp_path, monkeypatch):
    """The device has its next steps before the line of those before is made, unless that is asked for at their end."""
    events, take, write = [], Learner.take, Records.metrics

    def taken(self, batches):
        events.append(("take", int(self.state.step)))
        return take(self, batches)

    def written(self, step, values):
        if "loss" in values:
            events.append(("write", step))
        return write(self, step, values)

    monkeypatch.setattr(Learner, "take", taken)
    monkeypatch.setattr(Records, "metrics", written)
    train_and_evaluate(short_config(eval_every="20", checkpoint_every="30"), tmp_path)
    # At step 10 and 20 something is cut, at 30 the run ends.
    assert [step for kind, step in events if kind == "write"] == [5, 10, 15, 20, 25, 30]
    for step in (5, 15, 25):
        assert events.index(("write", step)) == events.index(("take", step)) + 1
    for step in (10, 20):
        assert events.index(("write", step)) == events.index(("take", step)) - 1


@pytest.mark.slow
def test_steps_that_are_taken_together_tell_who_was_alive_at_every_site():
    """Of sites of different widths, each with other dead units, whatever their order."""
    bits = {"wide": jnp.array([True, False, True]), "narrow": jnp.array([False])}
    packed = Alive.packed(bits)
    for steps in (packed, dataclasses.replace(packed, bits=jnp.stack([packed.bits] * 2))):
        found = steps.by_site()
        assert set(found) == set(bits)
        for name, each in bits.items():
            np.testing.assert_array_equal(found[name], np.broadcast_to(each, (*steps.bits.shape[:-1], each.size)))
    net, variables = programs.initial({"name": "resnet18", "base_width": 4, "stem_stride": 2}, (8, 8, 3))
    rng = np.random.default_rng(0)

    def kill(path, leaf):
        of_norm = "bn" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path)
        return jnp.where(rng.random(leaf.shape) < 0.5, -100.0, leaf) if of_norm else leaf

    variables = jax.tree_util.tree_map_with_path(kill, variables)
    one, both = (programs.built(net, variables, (8, 8, 3), 4, together=n)()[1].alive.by_site() for n in (1, 2))
    assert {name: bits.shape for name, bits in both.items()} == {name: (2, *bits.shape) for name, bits in one.items()}
    assert len({bits.size for bits in one.values()}) == 4
    for name, bits in one.items():
        np.testing.assert_array_equal(both[name][0], bits)
    assert sum(not bits.all() for bits in one.values()) > 8


def test_a_call_takes_no_longer_than_a_signal_can_wait(tmp_path, monkeypatch):
    calls = _steps_per_call(monkeypatch)
    config = short_config(steps_per_call=10, steps="20", log_every="10", eval_every="20", checkpoint_every="20")
    config = config_of({"method.strength_span": "20", "method.noise_span": "20"}, lambda: config)
    monkeypatch.setattr(loop, "_CALL_SECONDS", 1.0)
    monkeypatch.setattr(StepLog, "seconds", property(lambda self: 0.3, lambda self, seconds: None), raising=False)
    train_and_evaluate(config, tmp_path)
    assert calls == [(step, 1 if step % 10 == 9 else 3) for step in (0, 3, 6, 9, 10, 13, 16, 19)]


def test_a_signal_while_steps_are_taken_together(singly, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CALL_SECONDS", 1e9)
    real = Stepper.__call__

    def call(self, state, batches):
        if int(state.step) == 10:
            assert batches.steps == 4
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, state, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", call)
        assert train_and_evaluate(short_config(steps_per_call=4), tmp_path).stopped_by == signal.SIGTERM
    assert (tmp_path / "checkpoints" / "14").is_dir()
    train_and_evaluate(short_config(steps_per_call=4), tmp_path)
    assert last_digests(tmp_path) == last_digests(singly[0])


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "moment",
    [pytest.param("step 3", marks=pytest.mark.slow), "step 9", "step 23", "after the cut at 20", "evaluation at 30"],
)
def test_an_interrupted_run_ends_as_one_never_interrupted(finished, tmp_path, monkeypatch, moment):
    """Also when it stops between a cut and its checkpoint; the interruption leaves as little as a kill does."""
    workdir, _ = finished
    stop_at = int(moment.split()[-1])
    with monkeypatch.context() as patch:
        if moment.startswith("step"):
            real = Stepper.__call__

            def step(self, state, *args):
                if int(state.step) == stop_at:
                    raise _Interrupted
                return real(self, state, *args)

            patch.setattr(Stepper, "__call__", step)
        elif moment.startswith("after"):
            real_prune = Prune.__call__

            def prune(self, step):
                real_prune(self, step)
                if step == stop_at:
                    raise _Interrupted

            patch.setattr(Prune, "__call__", prune)
        else:
            real_evaluate = hooks.Evaluate.__call__

            def evaluate(self, step):
                if step == stop_at:
                    raise _Interrupted
                real_evaluate(self, step)

            patch.setattr(hooks.Evaluate, "__call__", evaluate)
        with pytest.raises(_Interrupted):
            train_and_evaluate(short_config(), tmp_path)
    train_and_evaluate(short_config(), tmp_path)
    assert last_digests(tmp_path) == last_digests(workdir)
    for name in ("metrics.jsonl", "cuts.jsonl"):
        ours, theirs = (without_times(lines(folder / name)) for folder in (tmp_path, workdir))
        if name == "metrics.jsonl":  # A mean over the steps since the last line: those may begin elsewhere.
            for line in (*ours, *theirs):
                line.pop("loss", None), line.pop("train_accuracy", None)
        assert ours == theirs
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path, workdir))
    for key in ("test_accuracy", "widths", "train_flops", "cuts"):
        assert ours[key] == theirs[key]


@pytest.mark.parametrize("older", [False, True])
def test_time_is_told_apart(tmp_path, monkeypatch, older):
    """Of an interrupted run, by a clock that only what is named here moves on; an older checkpoint told less."""
    now, taken = [0.0], []

    def takes(seconds, real):
        def wrapped(*args, **options):
            now[0] += seconds
            return real(*args, **options)

        return wrapped

    def step(self, state, *args):
        taken.append(int(state.step))
        if taken[-1] == 13 and taken.count(13) == 1:
            raise _Interrupted
        return real_step(self, state, *args)

    def batches(self, *args):
        for batch in real_batches(self, *args):
            now[0] += 10
            yield batch

    real_step, real_batches = Stepper.__call__, Feed.batches
    monkeypatch.setattr(totals, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(compile_clock.CompileClock, "take", lambda self: 0.0)
    monkeypatch.setattr(Stepper, "__call__", takes(1, step))
    monkeypatch.setattr(Feed, "batches", batches)
    monkeypatch.setattr(Feed, "test_batches", takes(100, Feed.test_batches))
    monkeypatch.setattr(pruning, "dead", takes(1000, pruning.dead))
    monkeypatch.setattr(Checkpoints, "save", takes(10_000, Checkpoints.save))
    with pytest.raises(_Interrupted):
        train_and_evaluate(short_config(), tmp_path)
    # Cuts and evaluations at 10, 20 and 30, checkpoints at 8, 16, 24 and 30; 8 does not know how long it takes to save.
    expected = {"steps": 30, "data": 300, "evaluation": 300, "cuts": 3000, "checkpoints": 30_000, "other": 0}
    total = sum(expected.values())
    if older:
        path = tmp_path / "checkpoints" / "8" / "meta" / "metadata"
        meta = json.loads(path.read_text())
        assert meta["counters"].pop("seconds") == {**dict.fromkeys(expected, 0.0), "steps": 8.0, "data": 80.0}
        edit_metadata(path, lambda text: json.dumps(meta))
        expected |= {"steps": 22, "data": 220}
    summary = train_and_evaluate(short_config(), tmp_path).summary
    assert {part: summary[f"seconds_{part}"] for part in expected} == expected
    assert summary["seconds_total"] == total


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(finished, tmp_path, monkeypatch, number):
    workdir, _ = finished
    real = Stepper.__call__

    def step(self, state, *args):
        if int(state.step) == 12:
            os.kill(os.getpid(), number)
        return real(self, state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", step)
        result = train_and_evaluate(short_config(), tmp_path)
    assert result.stopped_by == number
    assert (tmp_path / "checkpoints" / "13").is_dir()
    assert not (tmp_path / "summary.json").exists()
    assert (tmp_path / "curves.png").exists()
    assert signal.getsignal(number) != signal.SIG_DFL or number == signal.SIGTERM
    train_and_evaluate(short_config(), tmp_path)
    assert last_digests(tmp_path) == last_digests(workdir)


@pytest.mark.slow
def test_a_run_stopped_while_its_last_step_is_timed_times_it_when_continued(finished, tmp_path, monkeypatch):
    workdir, _ = finished
    real = compiled_step.time_ratio

    def timed(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(compiled_step, "time_ratio", timed)
        result = train_and_evaluate(short_config(), tmp_path)
    assert (result.stopped_by, result.summary["steps"], result.summary["step_time_ratio"]) == (signal.SIGINT, 30, None)
    assert not (tmp_path / "summary.json").exists()
    assert train_and_evaluate(short_config(), tmp_path).summary["step_time_ratio"] > 0
    assert last_digests(tmp_path) == last_digests(workdir)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    real = Stepper.__call__

    def step(self, state, *args):
        new, metrics = real(self, state, *args)
        return new, metrics._replace(loss=jnp.full_like(metrics.loss, jnp.nan)) if int(new.step) == 19 else metrics

    monkeypatch.setattr(Stepper, "__call__", step)
    message = (
        "the loss became nan at step 19; the checkpoint of step 16 is kept in .*Lower config.optimizer.learning_rate"
    )
    with pytest.raises(NonFiniteLossError, match=message):
        train_and_evaluate(short_config(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["16", "8"]


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """The loss of the update that broke them was that before it."""
    real = Stepper.__call__

    def step(self, state, *args):
        new, metrics = real(self, state, *args)
        if int(new.step) == 16:
            broken = jax.tree.map(lambda leaf: leaf * jnp.nan, new.variables["params"])
            new = new._replace(variables={**new.variables, "params": broken})
        return new, metrics

    monkeypatch.setattr(Stepper, "__call__", step)
    message = "parameters became infinite or NaN at step 16; the checkpoint of step 8 is kept"
    with pytest.raises(NonFiniteLossError, match=message):
        train_and_evaluate(short_config(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["8"]


def test_a_rate_that_is_far_too_high_is_noticed(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"the loss became (nan|inf) at step \d+; "):
        train_and_evaluate(short_config(**{"optimizer.learning_rate": 1e38}), tmp_path)


@pytest.mark.parametrize("model", ["mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_network_cut_to_the_bone_trains_on(tmp_path, model):
    # A criterion that condemns everything leaves one unit per layer.
    changes = {"model.name": model, "model.base_width": 2, "pruning.criterion": "epsilon", "pruning.epsilon": 1e3}
    spans = {"steps": "8", "method.strength_span": "8", "method.noise_span": "8", "pruning.every": "5"}
    result = train_and_evaluate(short_config(**changes, **spans), tmp_path)
    assert set(result.summary["widths"].values()) == {1}
    assert result.summary["step_time_ratio"] > 0
    smaller = load_pruned(tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(smaller(x), result.network.model(result.variables)(x))


def test_a_run_that_ended_before_its_summary_is_finished(finished, tmp_path):
    workdir, result = finished
    copied = tmp_path / "copy"
    shutil.copytree(workdir, copied)
    (copied / "summary.json").unlink()
    again = train_and_evaluate(short_config(), copied)
    assert last_digests(copied) == last_digests(workdir)
    for name in ("metrics.jsonl", "cuts.jsonl"):
        assert lines(copied / name) == lines(workdir / name)
    assert again.summary["test_accuracy"] == result.summary["test_accuracy"]


def test_a_cut_at_a_checkpoint_is_on_record_after_a_kill(finished, tmp_path, monkeypatch):
    workdir, _ = finished
    config = short_config(checkpoint_every="10")

    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    save = hooks.Save.__call__

    def save_and_die(self, step):
        save(self, step)
        if step == 20:
            dies()

    monkeypatch.setattr(hooks.Save, "__call__", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, tmp_path)
    monkeypatch.setattr(hooks.Save, "__call__", save)
    train_and_evaluate(config, tmp_path)
    assert without_times(lines(tmp_path / "cuts.jsonl")) == without_times(lines(workdir / "cuts.jsonl"))


def test_a_cut_is_on_record_once_after_a_kill_behind_its_checkpoint(finished, tmp_path, monkeypatch):
    """The checkpoint holds a cut that is written when the next step has been compiled; that step is taken twice."""
    taken = Stepper.__call__

    def dies(self, state, *args):
        if int(state.step) == 22:
            raise _Interrupted
        return taken(self, state, *args)

    config = short_config(checkpoint_every="10")
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", dies)
        with pytest.raises(_Interrupted):
            train_and_evaluate(config, tmp_path)
    assert [line["step"] for line in lines(tmp_path / "cuts.jsonl")] == [10, 20]
    train_and_evaluate(config, tmp_path)
    assert without_times(lines(tmp_path / "cuts.jsonl")) == without_times(lines(finished[0] / "cuts.jsonl"))


def test_the_death_set_is_as_large_as_it_says(tmp_path):
    config = short_config(**{"pruning.examples": 100, "eval_batch_size": 70, "steps": "10"})
    config = config_of({"method.strength_span": "10", "method.noise_span": "10"}, lambda: config)
    train_and_evaluate(config, tmp_path)
    assert [cut["examples"] for cut in lines(tmp_path / "cuts.jsonl")] == [100]


def test_weights_that_a_last_update_broke_are_not_saved(tmp_path, monkeypatch):
    taken = Stepper.__call__

    def breaks(self, state, *args):
        state, metrics = taken(self, state, *args)
        if int(state.step) == 8:  # Where the first checkpoint is due; the loss of the step was good.
            params = jax.tree.map(lambda leaf: leaf * jnp.nan, state.variables["params"])
            state = state._replace(variables={**state.variables, "params": params})
        return state, metrics

    monkeypatch.setattr(Stepper, "__call__", breaks)
    with pytest.raises(NonFiniteLossError, match="no checkpoint had been written yet"):
        train_and_evaluate(short_config(), tmp_path)


def test_dense_runs_cut_nothing(tmp_path):
    summary = train_and_evaluate(short_config(**{"method.name": "dense"}), tmp_path).summary
    assert summary["neuron_sparsity"] == summary["weight_sparsity"] == 0
    assert summary["train_flops_ratio"] == summary["inference_flops_ratio"] == summary["step_time_ratio"] == 1
    assert summary["cuts"] == 0


def test_pruning_at_the_end_only(tmp_path):
    summary = train_and_evaluate(short_config(**{"pruning.dynamic": False}), tmp_path).summary
    assert [cut["step"] for cut in lines(tmp_path / "cuts.jsonl")] == [30]
    assert summary["train_flops_ratio"] == 1
    assert summary["weight_sparsity"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.name": "sgdm"},
        pytest.param(
            {"optimizer.name": "sgdm", "optimizer.decoupled_decay": False, "optimizer.weight_decay": 1e-3},
            marks=pytest.mark.slow,
        ),
        {"model.activation": "leaky_relu", "optimizer.schedule": "cosine"},
        pytest.param(
            {"model.activation": "swish", "optimizer.schedule": "step", "optimizer.step_every": "10"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"method.regularizer": "l2", "method.penalized": "all", "method.decoupled": True}, marks=pytest.mark.slow
        ),
        {"method.noise_amplitude": "std", "method.noise_asymmetric": False, "pruning.criterion": "sum"},
        pytest.param(
            {"pruning.constant": 0.01, "label_smoothing": 0.1, "pruning.min_units": 4}, marks=pytest.mark.slow
        ),
        pytest.param({"model.norm": False, "method.penalized": "all", "method.strength": 0.01}, marks=pytest.mark.slow),
        {"pruning.exclude": ("norm/1",), "pruning.start": "15", "fast_convolutions": False},
    ],
)
def test_options(tmp_path, changes, monkeypatch):
    tasks = []
    real = compiled_step.compiled
    monkeypatch.setattr(compiled_step, "compiled", lambda *args, task: tasks.append(task) or real(*args, task=task))
    result = train_and_evaluate(
        short_config(**{"steps": "20", "method.strength_span": "20", "method.noise_span": "20"} | changes), tmp_path
    )
    assert {task.fast_convolutions for task in tasks} == {changes.get("fast_convolutions", True)}
    assert np.isfinite(result.summary["test_accuracy"])
    assert result.summary["steps"] == 20
    graph = demp_jax.trace(result.network, result.variables, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    assert graph.widths == result.summary["widths"]
    if "pruning.exclude" in changes:
        assert result.summary["widths"]["norm/1"] == 16
        assert [cut["step"] for cut in lines(tmp_path / "cuts.jsonl")] == [20]


@pytest.mark.slow
def test_only_the_last_cut_takes_all_that_is_dead(tmp_path):
    """With widths rounded up, and with cuts that wait: until the last, and the run ends as small as any."""
    rounded = train_and_evaluate(short_config(**{"pruning.multiple": 8}), tmp_path / "rounded")
    cuts = lines(tmp_path / "rounded" / "cuts.jsonl")
    assert sum(sum(cut["protected"].values()) for cut in cuts[:-1]) > 0
    for cut in cuts[:-1]:
        assert cut["neurons"][1] % 8 == 0
    assert rounded.summary["neurons"] % 8
    waited = train_and_evaluate(short_config(**{"pruning.cut_cost": "10", "pruning.ahead": "10"}), tmp_path / "waited")
    cuts = lines(tmp_path / "waited" / "cuts.jsonl")
    # A cut at 30 saves no step any more: none is prepared for then.
    assert [(cut["step"], bool(cut["removed"])) for cut in cuts] == [(20, False), (30, True)]
    assert waited.summary["neurons"] < 40


class _GroupNormNet(nnx.Module):
    """Two groups of two units, the first of them dead."""

    def __init__(self, rngs):
        self.hidden, self.head = nnx.Linear(64, 4, rngs=rngs), nnx.Linear(4, 10, rngs=rngs)
        self.norm = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
        alive = jnp.array([0.0, 0.0, 1.0, 1.0])
        self.norm.scale.set_value(alive)
        self.norm.bias.set_value(alive - 0.5)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.hidden(x.reshape(x.shape[0], -1)))))


@pytest.mark.slow
def test_a_network_with_nothing_left_to_cut_trains_on(tmp_path, monkeypatch):
    monkeypatch.setitem(network.MODELS, "mlp", lambda section, shape, classes, common: _GroupNormNet(common["rngs"]))
    result = train_and_evaluate(short_config(**{"method.strength": 0.0, "method.noise": 0.0}), tmp_path)
    assert [sum(cut["removed"].values()) for cut in lines(tmp_path / "cuts.jsonl")] == [2]
    assert result.summary["neurons"] == 2


def test_who_is_dead_is_written_without_cutting(tmp_path):
    """On a death set and on the whole training set, where it is held to a forward pass written out."""
    changes = {"method.name": "dense", "optimizer.learning_rate": 0.3, "model.norm": False}
    watch = {"watch.every": "15", "watch.whole": True, "steps": "31"}
    result = train_and_evaluate(short_config(**changes, **watch), tmp_path)
    looks = lines(tmp_path / "dead.jsonl")
    assert [look["step"] for look in looks] == [0, 15, 30, 31]
    params = jax.device_get(result.variables)["params"]

    images, _ = pose(short_config()).dataset.splits["train"]
    x = images.reshape(len(images), -1) / 16.0
    for layer, name in zip(params["dense"].values(), looks[-1]["width"], strict=True):
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
        whole = (x.max(0) == 0).astype(np.uint8)
        assert looks[-1]["whole"]["dead"][name] == whole.sum()
        assert looks[-1]["whole"]["bits"][name] == np.packbits(whole).tobytes().hex()
        # Who is dead on all examples is dead on some.
        assert looks[-1]["dead"][name] >= whole.sum()
    assert sum(looks[-1]["whole"]["dead"].values()) > 0
