"""Every method of the training program, by its row: it trains, prunes as asked, and goes on where it stopped."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import masking, structured
from configs import quickstart
from experiments.core.errors import UsageError
from experiments.recipe import methods
from experiments.recipe.problem import pose
from experiments.training.loop import train_and_evaluate
from tests.runs import last_digests, lines, short_config

METHODS = {
    "snap": {},
    "crop": {"ranking.definition": "released"},
    "earlysnap": {"ranking.early_rule": "released", "ranking.latest": "15"},
    "earlycrop": {"ranking.stages": 1},
    "random": {},
    "l1": {"ranking.when": "20"},
    "slimming": {"ranking.when": "50%", "method.strength": 0.1},
    "magnitude": {},
    "saliency": {"masking.schedule": "one_shot", "masking.start": "10"},
    "static": {"masking.distribution": "uniform"},
    "set": {"masking.drop_schedule": "constant"},
    "rigl": {},
    "srigl": {},
    "chase": {"ranking.every": "10", "ranking.until": "20", "masking.end": "20"},
    "demp_rigl": {"masking.sparsity": 0.5, "method.strength": 0.3, "method.noise": 1e-3},
}
LONG = ("snap", "magnitude", "rigl", "chase", "crop", "earlysnap", "random", "l1", "saliency", "static", "set", "srigl")
CUTS = {"snap": 0, "crop": 0, "earlysnap": 15, "random": 0, "l1": 20, "slimming": 15}


def _config(name, **changes):
    plain = {"method.strength": 0.0, "method.noise": 0.0, "ranking.batch_size": 128, "ranking.batches": 2}
    return short_config(**{"method.name": name, "masking.every": "5", **plain, **METHODS[name], **changes})


def test_every_method_is_tested():
    assert set(METHODS) | {"dense", "demp", "jaxpruner"} == set(methods.METHODS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in METHODS])
def test_a_method_prunes_as_asked(name, tmp_path):
    result = train_and_evaluate(_config(name), tmp_path)
    summary = result.summary
    cuts = lines(tmp_path / "cuts.jsonl")
    assert all(cut["refused"] is None for cut in cuts)
    assert summary["method"] == name
    if name in CUTS:
        [ranked] = [cut for cut in cuts if "target" in cut]
        assert (ranked["step"], ranked["target"]) == (CUTS[name], 0.5)
        assert summary["neuron_sparsity"] >= 0.5 - 0.5 / 40
        assert summary["inference_flops_ratio"] < 0.7
    if name == "earlycrop":
        # The rule fires at the end of the first epoch of 22.5 steps; nothing before it.
        assert [cut["step"] for cut in cuts if "target" in cut] in ([23], [])
    if name in ("magnitude", "saliency", "static", "set", "rigl", "srigl"):
        dense = summary["dense_parameters"]
        kernels = 64 * 24 + 24 * 16 + 16 * 10
        # Of what is not masked, a little leaves with units that have no weights.
        assert 0.78 * kernels / dense < summary["weight_sparsity"] < 0.88 * kernels / dense
        assert summary["inference_flops_ratio"] < 0.23
        nonzero = [int((leaf != 0).sum()) for leaf in jax.tree.leaves(result.variables["params"]) if leaf.ndim > 1]
        assert sum(nonzero) <= 0.2 * kernels + 1
    if name == "slimming":
        strengths = {line["step"]: line["strength"] for line in lines(tmp_path / "metrics.jsonl") if "strength" in line}
        assert (strengths[10], strengths[20]) == (pytest.approx(0.1), 0.0)
    if name == "chase":
        assert [cut["step"] for cut in cuts if "target" in cut] == [10, 20]
        assert summary["neuron_sparsity"] >= 0.49
        assert summary["weight_sparsity"] > 0.85
    if name == "demp_rigl":
        assert summary["neuron_sparsity"] > 0
        assert summary["weight_sparsity"] > 0.5


@pytest.mark.slow
def test_the_optimizer_can_start_anew_after_the_cut(tmp_path):
    """Its schedules begin again, and the rule that said when does not fire again."""
    changes = {"ranking.optimizer": "restarted", "ranking.stages": 1, "checkpoint_every": "30"}
    result = train_and_evaluate(_config("earlysnap", **changes), tmp_path)
    assert [cut["step"] for cut in lines(tmp_path / "cuts.jsonl")] == [15, 30]
    assert result.summary["neuron_sparsity"] >= 0.5
    train_and_evaluate(_config("earlysnap", **{**changes, "ranking.optimizer": "sliced"}), tmp_path / "sliced")
    anew, sliced = last_digests(tmp_path), last_digests(tmp_path / "sliced")
    differ = {path for path in anew if anew[path] != sliced[path]}
    assert any(path.startswith("opt_state/inner") and path.endswith("count") for path in differ), sorted(anew)
    assert not any(path.endswith(("fired_at", "opt_state/step")) for path in differ)


@pytest.mark.parametrize("name", ["rigl", pytest.param("set", marks=pytest.mark.slow)])
def test_training_flops_of_moving_masks(name, tmp_path):
    """3 f a step and example, and where growing goes by gradients those of all weights, D - f, when masks change."""
    changes = {"masking.distribution": "uniform", "masking.sparsity": 0.5, "masking.end": "20"}
    summary = train_and_evaluate(_config(name, **changes), tmp_path).summary
    dense = summary["dense_inference_flops"]
    flops = summary["inference_flops_ratio"] * dense
    assert summary["neuron_sparsity"] == 0
    moves = {"rigl": 5, "set": 0}[name]  # After steps 0, 5, 10, 15 and 20.
    assert summary["train_flops"] == pytest.approx(64 * (30 * 3 * flops + moves * (dense - flops)), rel=1e-6)


def test_what_feeds_the_sums_of_a_residual_network_is_known():
    """To methods that rank units: they need the routing, which shapes alone do not tell."""
    problem = pose(_config("random", **{"model.name": "resnet18", "model.base_width": 4}))
    units = structured.ranked_units(problem.routed, ())
    assert sum(units.values()) == problem.dense.neurons == 244
    with pytest.raises(ValueError, match="traced from shapes"):
        structured.ranked_units(problem.dense, ())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_on_a_residual_network(name, tmp_path):
    """Where units of the blocks' sums are fed by branches."""
    once = {"steps": "4", "pruning.every": "4", "eval_every": "4", "checkpoint_every": "4", "ranking.when": "0"}
    short = {**once, "method.strength_span": "4", "method.noise_span": "4", "masking.every": "1", "masking.start": "0"}
    when = {"ranking.latest": "2", "ranking.every": "2", "ranking.until": "2", "ranking.stages": 1, "masking.end": "3"}
    network = {"model.name": "resnet18", "model.base_width": 4, "batch_size": 16, "ranking.batches": 1}
    if name == "slimming":
        when["ranking.when"] = "2"
    config = _config(name, **{**short, **when, **network, "pruning.tolerance": 1.0})
    summary = train_and_evaluate(config, tmp_path).summary
    if name in CUTS:
        assert summary["neuron_sparsity"] >= 0.4
    elif name != "demp_rigl":
        assert summary["weight_sparsity"] >= 0.4
    assert all(cut["refused"] is None for cut in lines(tmp_path / "cuts.jsonl"))


def test_a_rule_that_never_fires_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("experiments"), "propagate", True)
    changes = {"ranking.early_rule": "released", "ranking.sparsity": 0.9, "ranking.latest": ""}
    summary = train_and_evaluate(_config("earlysnap", **changes), tmp_path).summary
    assert "config.ranking.early_rule='released' has not fired" in caplog.text
    assert not any("target" in cut for cut in lines(tmp_path / "cuts.jsonl"))
    assert summary["steps"] == 30


class _Shuffled:
    """A foreign updater: it knows nothing of this project but the protocol, and hides half of the first kernel."""

    def wrap_optax(self, inner):
        def init(params):
            masks = jax.tree.map(lambda p: None, params)
            shape = params["dense"][0]["kernel"].shape
            masks["dense"][0]["kernel"] = jax.numpy.arange(shape[0] * shape[1]).reshape(shape) % 2
            return masking.SparseState(masks, inner.init(params), None, jax.numpy.zeros([], int))

        def update(grads, state, params):
            updates, inner_state = inner.update(grads, state.inner_state, params)
            return updates, state._replace(inner_state=inner_state)

        return masking.optax.GradientTransformation(init, update)

    def pre_forward_update(self, params, opt_state):
        del opt_state
        return params

    def post_gradient_update(self, params, opt_state):
        return masking.apply_masks(params, opt_state.masks)


def test_an_updater_of_another_library(tmp_path, monkeypatch):
    monkeypatch.setitem(methods.METHODS, "theirs", methods.masked(lambda *_: _Shuffled()))
    summary = train_and_evaluate(short_config(**{"method.name": "theirs"}), tmp_path / "theirs").summary
    first = lines(tmp_path / "theirs" / "metrics.jsonl")[0]
    assert first["parameters"] == summary["dense_parameters"] - 64 * 24 // 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.name": "snap", "ranking.sparsity": 1.0}, r"config.ranking.sparsity must be in \[0, 1\); got 1.0"),
        ({"method.name": "l1", "ranking.definition": "released"}, "config.ranking.definition must be 'demp'"),
        ({"method.name": "snap", "ranking.when": "200%"}, "config.ranking.when must be in 0 to 30 steps"),
        ({"method.name": "crop", "ranking.rule": "best"}, "config.ranking.rule must be one of"),
        ({"method.name": "crop", "ranking.batches": 0}, "config.ranking.batches must be at least 1"),
        (
            {"method.name": "crop", "ranking.exclude": ("nowhere",)},
            r"^config.ranking.exclude=.*no site is named 'nowhere'",
        ),
        ({"method.name": "slimming"}, "config.ranking.when must be at least one step with slimming"),
        ({"method.name": "rigl", "masking.sparsity": -0.1}, r"config.masking.sparsity must be in \[0, 1\)"),
        ({"method.name": "rigl", "masking.exclude": ("nowhere",)}, "^config.masking.exclude=.*path matches 'nowhere'"),
        ({"method.name": "rigl", "masking.start": "20", "masking.end": "10"}, "config.masking.end must be between"),
        ({"method.name": "rigl", "masking.drop": 2.0}, r"config.masking.drop must be in \[0, 1\]"),
        ({"method.name": "magnitude", "masking.schedule": "often"}, "config.masking.schedule must be one of"),
        ({"method.name": "earlysnap", "ranking.latest": "0"}, "config.ranking.latest must be in 1 to 30 steps"),
        ({"method.name": "chase", "ranking.optimizer": "restarted"}, "config.ranking.optimizer must be one of sliced"),
        ({"method.name": "chase", "ranking.until": "0"}, "config.ranking.until must be between 1 step"),
    ],
)
def test_bad_input(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train_and_evaluate(short_config(**changes), tmp_path)


def test_statistics_are_those_of_the_batch(tmp_path):
    """Before the first step the running statistics are those of a batch, whatever the momentum."""
    from experiments.recipe.network import calibrated
    from experiments.recipe.problem import pose

    problem = pose(_config("snap"))
    network, variables = problem.initial()
    x = jax.random.normal(jax.random.key(0), (32, 8, 8, 1)) + 1
    state = calibrated(network, variables, x)["state"]
    first = x.reshape(32, -1) @ variables["params"]["dense"][0]["kernel"]
    np.testing.assert_allclose(state["norm"][0]["mean"], first.mean(0), atol=1e-4)
    np.testing.assert_allclose(state["norm"][0]["var"], first.var(0), atol=1e-3)


@pytest.mark.slow
def test_a_line_of_metrics_is_of_before_the_update_of_its_step(tmp_path):
    """Masks change at the same steps; an evaluation there asks for the line at once, without one it comes later."""
    found = []
    for number, every in enumerate(("5", "100%")):
        train_and_evaluate(_config("magnitude", eval_every=every, checkpoint_every="100%"), tmp_path / str(number))
        rows = lines(tmp_path / str(number) / "metrics.jsonl")
        found.append([(line["step"], line["parameters"]) for line in rows if "loss" in line])
    assert len({parameters for _, parameters in found[0]}) > 2
    assert found[0] == found[1]


def test_layers_have_strengths_by_what_their_units_cost():
    config = quickstart.get_config("smoke")
    config.update_from_flattened_dict({"method.cost_power": 1.0, "method.decoupled": True})
    config.update_from_flattened_dict({"method.strength_schedule": "constant", "masking.sparsity": 0.5})
    problem = pose(config)
    _, variables = problem.initial()
    params = variables["params"]
    state = problem.method.steered(problem.method.tx.init(params))
    updates, _ = problem.method.tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    moves = [float(-leaf.mean()) for leaf in jax.tree.leaves(updates) if leaf.ndim == 1 and leaf.any()]
    # Pixels, or units before, units or classes after, and scale and bias of the norm.
    expected = np.array([64 + 128 + 2, 128 + 10 + 2])
    np.testing.assert_allclose(moves, config.method.strength * expected / expected.mean(), rtol=1e-5)
    config.method.name = "demp_rigl"
    assert pose(config).method.of_graph is not None
    config.method.regularizer = "group"
    with pytest.raises(UsageError, match="config.method.cost_power must be 0 with a group Lasso"):
        pose(config)
