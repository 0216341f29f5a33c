"""Sites that lose all of their units where the network stays connected: `min_units=0`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
from baselines import l1_norm, structured
from demp_jax import PruneOptions, models
from demp_jax import nnx as demp_nnx
from experiments.recipe import network
from experiments.rundir.checkpoints import load_pruned
from experiments.training import loop
from experiments.training.loop import train_and_evaluate
from tests.helpers import batch, cross_entropy
from tests.runs import last_digests, lines, short_config

EMPTY = PruneOptions(min_units=0)
X = batch((8, 5))


def _all(graph, *names):
    return {site.name: np.ones(site.width, bool) for site in graph.sites if site.name in names or not names}


def _params(**shapes):
    return {name: batch(shape, i) for i, (name, shape) in enumerate(shapes.items())}


def _residual(p, x):
    h = jax.nn.relu(x @ p["a"])
    h = h + jax.nn.relu(h @ p["w"]) @ p["v"] + p["b"][None]
    return jax.nn.relu(h) @ p["out"]


RESIDUAL = _params(a=(5, 6), w=(6, 4), v=(4, 6), b=(6,), out=(6, 3))


def test_a_block_beside_a_skip_is_emptied():
    result = demp_jax.prune(
        _residual, RESIDUAL, [X], remove=_all(demp_jax.trace(_residual, RESIDUAL, X), "w"), options=EMPTY
    )
    assert (result.variables["w"].shape, result.variables["v"].shape) == ((6, 0), (0, 6))
    wanted = jax.nn.relu(jax.nn.relu(X @ RESIDUAL["a"]) + RESIDUAL["b"][None]) @ RESIDUAL["out"]
    np.testing.assert_allclose(result.fn(result.variables, X), wanted, rtol=1e-5)
    graph = demp_jax.trace(_residual, result.variables, X)
    assert graph.widths == {"a": 6, "w": 0, "b": 6}
    assert "w: all of its units have been removed" in graph.report()
    # It can be pruned on.
    again = demp_jax.prune(_residual, result.variables, [X], remove={n: np.arange(6) < 2 for n in "ab"}, options=EMPTY)
    assert (again.variables["a"].shape, again.variables["w"].shape) == ((5, 4), (4, 0))


def test_a_branch_that_is_constant_is_emptied_with_its_block():
    """All channels of the block's output are constant, so the sum selects none of them and adds their constants."""

    def network(p, x):
        h = jax.nn.relu(x @ p["a"])
        y = jax.nn.relu(h @ p["w"]) @ p["v"] + p["b"][None]
        kept = (demp_jax.select(value, p[f"i{n}"], p[f"f{n}"]) for n, value in enumerate((h, y)))
        return jax.nn.relu(sum(kept)) @ p["out"]

    def is_float(tree):
        return {name: leaf for name, leaf in tree.items() if not name.startswith(("i", "f"))}

    arange, fill = jnp.arange(6, dtype=jnp.int32), jnp.zeros(6)
    params = {**RESIDUAL, "w": jnp.full((6, 4), -1.0), "i0": arange, "f0": fill, "i1": arange, "f1": fill}
    options = PruneOptions(min_units=0, constant=1e-6)
    result = demp_jax.prune(network, params, [X], params=is_float, options=options)
    # A channel of `h` that the sum does not select was only read by the block, and is removed with it.
    assert result.variables["a"].shape == (5, 5)
    assert result.variables["w"].shape == (5, 0)
    assert result.variables["v"].shape == (0, 0)
    assert result.variables["out"].shape == (5, 3)
    assert result.record.warnings == []
    found = network(result.variables, X)
    np.testing.assert_allclose(found, network(params, X), rtol=1e-5, atol=1e-6)
    whole, smaller = (
        jax.grad(lambda p, rest=rest: network({**rest, **p}, X).sum())(is_float(rest))
        for rest in (params, result.variables)
    )
    for name, leaf in is_float(result.plan.slice(whole)).items():
        np.testing.assert_allclose(smaller[name], leaf, rtol=1e-5, err_msg=name)


def _bottleneck(p, x):
    h = jax.nn.relu(x @ p["a"])
    h = h + jax.nn.relu(jax.nn.relu(h @ p["u"]) @ p["w"]) @ p["v"] + p["b"][None]
    return jax.nn.relu(h) @ p["out"]


def test_units_that_only_an_empty_layer_reads_are_removed_although_they_live():
    params = _params(a=(5, 6), u=(6, 7), w=(7, 4), v=(4, 6), b=(6,), out=(6, 3))
    tx = optax.adam(1e-2)
    remove = _all(demp_jax.trace(_bottleneck, params, X), "w")
    result = demp_jax.prune(_bottleneck, params, [X], opt_state=tx.init(params), tx=tx, remove=remove, options=EMPTY)
    assert {name: result.variables[name].shape for name in "uwv"} == {"u": (6, 0), "w": (0, 0), "v": (0, 6)}
    assert result.record.removed == {"u": 7, "w": 4}
    wanted = jax.nn.relu(jax.nn.relu(X @ params["a"]) + params["b"][None]) @ params["out"]
    np.testing.assert_allclose(result.fn(result.variables, X), wanted, rtol=1e-5)
    # The same if the layer was emptied by an earlier prune, which left the units of `u`.
    older = params | {"w": params["w"][:, :0], "v": params["v"][:0]}
    again = demp_jax.prune(_bottleneck, older, [X], options=EMPTY)
    assert again.variables["u"].shape == (6, 0)
    # By default, the layer keeps a unit, which reads all of them.
    kept = demp_jax.prune(_bottleneck, params, [X], remove=remove)
    assert (kept.variables["u"].shape, kept.variables["w"].shape) == ((6, 7), (7, 1))


def test_by_default_a_site_keeps_a_unit():
    result = demp_jax.prune(_residual, RESIDUAL, [X], remove=_all(demp_jax.trace(_residual, RESIDUAL, X)))
    assert (result.variables["a"].shape, result.variables["w"].shape) == ((5, 1), (1, 1))


def test_what_connects_input_and_output_keeps_a_unit_and_is_named():
    result = demp_jax.prune(
        _residual, RESIDUAL, [X], remove=_all(demp_jax.trace(_residual, RESIDUAL, X)), options=EMPTY
    )
    assert (result.variables["a"].shape, result.variables["w"].shape) == ((5, 1), (1, 0))
    assert result.record.protected == {"a": 1, "b": 1}


def test_of_two_parallel_branches_one_is_emptied():
    def network(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["b"] + jax.nn.relu(x @ p["c"]) @ p["d"]

    params = _params(a=(5, 4), b=(4, 3), c=(5, 4), d=(4, 3))
    result = demp_jax.prune(network, params, [X], remove=_all(demp_jax.trace(network, params, X)), options=EMPTY)
    assert {name: leaf.shape for name, leaf in result.variables.items()} == {
        "a": (5, 0),
        "b": (0, 3),
        "c": (5, 1),
        "d": (1, 3),
    }
    assert result.record.protected == {"c": 1}


def test_every_output_stays_connected():
    def network(p, x):
        h = jax.nn.relu(x @ p["a"])
        return h @ p["one"], jax.nn.relu(h @ p["b"]) @ p["two"]

    params = _params(a=(5, 4), one=(4, 3), b=(4, 4), two=(4, 2))
    result = demp_jax.prune(network, params, [X], remove=_all(demp_jax.trace(network, params, X), "b"), options=EMPTY)
    assert result.variables["b"].shape == (4, 1)


def test_a_last_unit_that_lives_has_company_so_that_both_can_be_removed_later():
    alive = jnp.array([1.0, 0.0, 0.0, 0.0])
    params = {**RESIDUAL, "w": jnp.abs(RESIDUAL["w"]) * (2 * alive - 1)[None]}
    first = demp_jax.prune(_residual, params, [X], options=EMPTY)
    assert first.variables["w"].shape == (6, 2)
    dead = {**first.variables, "w": -jnp.abs(first.variables["w"])}
    assert demp_jax.prune(_residual, dead, [X], options=EMPTY).variables["w"].shape == (6, 0)


def test_scores_can_empty_a_site():
    """Where its units score least: here the magnitudes of one block's weights are a hundredth of the others'."""
    params = {**RESIDUAL, "w": RESIDUAL["w"] * 0.01}
    batches = [(X, jnp.arange(8) % 3)]
    pruned = structured.prune(_residual, params, batches, l1_norm.score, 0.26, min_units=0)
    assert pruned.cut.variables["w"].shape == (6, 0)
    kept = structured.prune(_residual, params, batches, l1_norm.score, 0.26)
    assert kept.cut.variables["w"].shape == (6, 1)


@pytest.mark.parametrize("tx", [optax.adam(1e-2), optax.sgd(1e-2, momentum=0.9)], ids=["adam", "momentum"])
def test_training_goes_on_as_of_the_masked_network(tx):
    """A constant of the emptied block, here of its second bias, stays and is trained."""

    def loss(p, mask):
        h = jax.nn.relu(X @ p["a"])
        h = h + (jax.nn.relu(h @ p["w"]) * mask) @ p["v"] + p["b"][None]
        return jnp.mean((jax.nn.relu(h) @ p["out"] - 1) ** 2)

    state = tx.init(RESIDUAL)
    for _ in range(3):  # Moments that are not zero; the block's own gradients are masked.
        updates, state = tx.update(jax.grad(loss)(RESIDUAL, 0.0), state, RESIDUAL)
    graph = demp_jax.trace(_residual, RESIDUAL, X)
    result = demp_jax.prune(_residual, RESIDUAL, [X], opt_state=state, tx=tx, remove=_all(graph, "w"), options=EMPTY)
    small, small_state, large = result.variables, result.opt_state, RESIDUAL
    for _ in range(5):
        updates, state = tx.update(jax.grad(loss)(large, 0.0), state, large)
        large = optax.apply_updates(large, updates)
        updates, small_state = tx.update(jax.grad(loss)(small, 1.0), small_state, small)
        small = optax.apply_updates(small, updates)
    for name in ("a", "b", "out"):
        np.testing.assert_allclose(small[name], large[name], rtol=1e-5)
    assert not np.allclose(small["b"], RESIDUAL["b"])


@pytest.mark.parametrize("coupled", [False, True])
def test_all_blocks_of_a_resnet(coupled):
    """Masked and pruned networks agree in both modes; then it is pruned once more."""
    model = models.ResNet(3, 10, base_width=4, coupled=coupled, rngs=nnx.Rngs(0))
    x = batch((6, 16, 16, 3))
    model.train()
    model(x)
    model.eval()
    graph = demp_nnx.trace(model, x)
    inner = [name for name in graph.widths if name.endswith("bn1")]
    record = demp_nnx.prune(model, [x], remove=_all(graph, *inner), options=EMPTY)
    assert record.refused is None
    assert set(record.differences) == {"evaluation", "training"}
    assert max(record.differences.values()) < 1e-5 * max(record.scale, 1)
    widths = demp_nnx.trace(model, x).widths
    assert {widths[name] for name in inner} == {0}
    tx = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    model.train()

    @nnx.jit
    def step(model, tx):
        loss, grads = nnx.value_and_grad(lambda m: cross_entropy(m(x), jnp.arange(6)))(model)
        tx.update(model, grads)
        return loss

    losses = [float(step(model, tx)) for _ in range(6)]
    assert losses[-1] < losses[0]
    model.eval()
    last = ("blocks/6/shortcut_bn", "blocks/7/bn2") if coupled else ("blocks/7/sum",)
    again = demp_nnx.prune(model, [x], remove=dict.fromkeys(last, np.arange(32) < 16), options=EMPTY)
    assert again.neurons[0] - again.neurons[1] >= 16
    assert again.difference < 1e-4 * max(again.scale, 1)


def test_a_run_empties_blocks_and_goes_on(tmp_path, monkeypatch):
    """Checkpoints, a resume, and loading, with arrays that have no entries."""
    real = network.initial

    def initial(*args):
        net, variables = real(*args)
        for block in variables["params"]["blocks"].values():
            norm = block["bn1"]
            norm["scale"], norm["bias"] = jnp.zeros_like(norm["scale"]), jnp.full_like(norm["bias"], -1.0)
        return net, variables

    monkeypatch.setattr(network, "initial", initial)
    changes = {"model.name": "resnet18", "model.base_width": 4, "pruning.min_units": 0, "steps": "6"}
    changes |= {"method.strength_span": "6", "method.noise_span": "6", "pruning.every": "2", "checkpoint_every": "3"}
    config = short_config(**changes, **{"eval_every": "6", "method.noise": 0.0, "method.strength": 0.0})
    result = train_and_evaluate(config, tmp_path / "whole")
    first = lines(tmp_path / "whole" / "cuts.jsonl")[0]
    inner = [name for name in result.summary["widths"] if name.endswith("bn1")]
    assert first["refused"] is None
    assert {result.summary["widths"][name] for name in inner} == {0}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_stopped", lambda run, at, stop: loop.signal.SIGTERM if at == 3 else None)
        train_and_evaluate(config, tmp_path / "parts")
    train_and_evaluate(config, tmp_path / "parts")
    assert last_digests(tmp_path / "parts") == last_digests(tmp_path / "whole")
    x = batch((3, 8, 8, 1))
    np.testing.assert_allclose(
        load_pruned(tmp_path / "whole")(x), result.network(result.variables, x), rtol=1e-4, atol=1e-5
    )
