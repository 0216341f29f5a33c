"""Structured pruning by scores: stages, rules, when, and what a cut of chosen units leaves."""

import json
from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import strategies as st

import demp_jax
from baselines import chase, crop, early, l1_norm, random_units, selection, slimming, snap, structured
from baselines.subject import Subject, by_site
from demp_jax import models
from demp_jax.tracing import with_gates
from tests import helpers

UPDATES = json.loads((Path(__file__).resolve().parents[1] / "reference" / "parity" / "updates.json").read_text())


@pytest.mark.parametrize("sparsity", UPDATES["iterative"])
def test_stages_are_those_of_the_reference(sparsity):
    case = UPDATES["iterative"][sparsity]
    stages = selection.stages(float(sparsity))
    np.testing.assert_allclose(stages, case["jax_k"], rtol=1e-12)
    fractions = [selection.fraction_of_rest(b, a) for a, b in zip([0.0, *stages], stages, strict=False)]
    np.testing.assert_allclose(fractions, case["jax_fraction_of_remaining"], rtol=1e-12)
    assert selection.stages(float(sparsity), 1) == [float(sparsity)]


@hypothesis.given(st.integers(0, 2**31), st.floats(0, 0.95), st.integers(1, 3))
def test_exactly_so_many_units_leave(seed, fraction, floor):
    rng = np.random.default_rng(seed)
    scores = {name: rng.random(width) for name, width in {"a": 7, "b": 20, "c": 4}.items()}
    scores["b"][3], scores["c"][0] = np.nan, -np.inf
    leave = selection.select(scores, fraction, rule="exact", min_units=floor)
    assert not leave["b"][3]
    assert leave["c"][0]
    gone = sum(int(bits.sum()) for bits in leave.values()) - 1
    # 29 are ranked; each site keeps its floor, in b the unranked unit counts as one.
    assert gone == min(round(29 * fraction), 29 - floor - max(floor - 1, 0) - floor)
    for name, bits in leave.items():
        ranked = np.isfinite(scores[name])
        stays, goes = scores[name][~bits & ranked], scores[name][bits & ranked]
        assert (~bits).sum() >= floor
        assert not len(stays) or not len(goes) or stays.min() >= goes.max()


def test_layerwise_every_site_gives_its_share():
    scores = {"a": np.arange(10.0), "b": 100 - np.arange(20.0)}
    leave = selection.select(scores, 0.3, rule="layerwise")
    assert {name: bits.nonzero()[0].tolist() for name, bits in leave.items()} == {
        "a": [0, 1, 2],
        "b": [14, 15, 16, 17, 18, 19],
    }


def _resnet():
    network = helpers.build(lambda: models.ResNet(3, 3, base_width=4, blocks=(1, 2), rngs=nnx.Rngs(0)))
    x = helpers.batch((6, 8, 8, 3))
    return (*helpers.calibrated(network, x), x)


def _some(graph, seed, share):
    """Chooses units to leave, the first of no site: by site, and which classes stay."""
    rng = np.random.default_rng(seed)
    leave = {site.name: rng.random(site.width) < share for site in graph.sites}
    live = np.ones(graph.num_groups, bool)
    for site in graph.sites:
        leave[site.name][0] = False
        live[site.groups[leave[site.name]]] = False
    return leave, live


def test_a_cut_of_chosen_units_is_the_network_with_them_at_zero():
    fn, variables, x = _resnet()
    graph = demp_jax.trace(fn, variables, x)
    leave, live = _some(graph, seed=0, share=0.4)
    masked = jax.jit(with_gates(fn, graph))(variables, x, jnp.ones(graph.num_groups), None, jnp.asarray(live))
    result = demp_jax.prune(fn, variables, [x], remove=leave)
    assert result.record.removed == {n: b for n, b in {k: int(v.sum()) for k, v in leave.items()}.items() if b} | {
        name: units for name, units in result.record.removed.items() if name not in leave
    }
    np.testing.assert_allclose(result.fn(result.variables, x), masked, atol=1e-4)
    # And it is another network than before.
    assert float(jnp.abs(fn(variables, x) - masked).max()) > 1e-2
    with pytest.raises(ValueError, match="remove: no site is named 'nowhere'"):
        demp_jax.prune(fn, variables, [x], remove={"nowhere": np.zeros(3, bool)})
    with pytest.raises(ValueError, match="must be 4 bools"):
        demp_jax.prune(fn, variables, [x], remove={graph.sites[0].name: np.zeros(3, bool)})


SCORES = (crop.score, crop.released, l1_norm.score, slimming.score)


@pytest.mark.parametrize(
    "score", [snap.score, snap.released, *(pytest.param(score, marks=pytest.mark.slow) for score in SCORES)]
)
def test_scoring_with_units_at_zero_is_scoring_the_cut_network(score):
    """So stages need not cut and compile; a ResNet has a unit after every sum, whose products are in two branches."""
    fn, variables, x = _resnet()
    y = jnp.arange(6) % 3
    graph = demp_jax.trace(fn, variables, x)
    leave, live = _some(graph, seed=1, share=0.3)
    key = jax.random.key(0)
    values = score(Subject(fn, variables, graph, [(x, y)], live, key))
    cut = demp_jax.prune(fn, variables, [x], remove=leave)
    smaller = demp_jax.trace(cut.fn, cut.variables, x)
    expected = score(Subject(cut.fn, cut.variables, smaller, [(x, y)], np.ones(smaller.num_groups, bool), key))
    for before, after in zip(graph.sites, smaller.sites, strict=True):
        kept = before.groups[~leave[before.name]]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(values[kept], expected[after.groups], rtol=1e-3, atol=1e-4 * scale)


def test_norms_of_kernels_and_scales():
    """By hand: the unit after a sum is computed by the kernels and scales of both branches."""
    fn, variables, x = _resnet()
    graph = demp_jax.trace(fn, variables, x)
    subject = Subject(fn, variables, graph, [], np.ones(graph.num_groups, bool), jax.random.key(0))
    sums, scales = l1_norm.score(subject), slimming.score(subject)
    blocks = variables["params"]["blocks"]
    for i, block in blocks.items():
        sites = {site.name: site for site in graph.sites}
        kernels = [block["conv2"]["kernel"]] + ([block["shortcut_conv"]["kernel"]] if "shortcut_conv" in block else [])
        expected = sum(np.abs(np.asarray(k, np.float64)).sum((0, 1, 2)) for k in kernels)
        np.testing.assert_allclose(sums[sites[f"blocks/{i}/sum"].groups], expected, rtol=1e-6)
        expected = np.abs(np.asarray(block["conv1"]["kernel"], np.float64)).sum((0, 1, 2))
        np.testing.assert_allclose(sums[sites[f"blocks/{i}/bn1"].groups], expected, rtol=1e-6)
        norms = [block["bn2"]["scale"]] + ([block["shortcut_bn"]["scale"]] if "shortcut_bn" in block else [])
        expected = sum(np.abs(np.asarray(s, np.float64)) for s in norms)
        np.testing.assert_allclose(scales[sites[f"blocks/{i}/sum"].groups], expected, rtol=1e-6)


def test_a_gate_on_products_scales_all_kernels_of_its_unit():
    fn, variables, x = _resnet()
    graph = demp_jax.trace(fn, variables, x)
    gates = jnp.asarray(np.random.default_rng(2).uniform(0.5, 1.5, graph.num_groups), jnp.float32)
    found = jax.jit(with_gates(fn, graph, position="product"))(variables, x, gates)
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    gate = {site.name: gates[site.groups][None, None, None] for site in graph.sites}
    params["stem_conv"]["kernel"] *= gate["stem_bn"]
    for i, block in params["blocks"].items():
        block["conv1"]["kernel"] *= gate[f"blocks/{i}/bn1"]
        for name in ("conv2", "shortcut_conv"):
            if name in block:
                block[name]["kernel"] *= gate[f"blocks/{i}/sum"]
    np.testing.assert_allclose(found, fn({**variables, "params": params}, x), rtol=1e-4, atol=1e-4)


def test_a_gate_on_a_marked_value():
    def network(params, x):
        hidden = demp_jax.mark_units(x @ params["first"], kind="zero")
        return hidden @ params["head"]

    params = {"first": jnp.eye(3), "head": jnp.ones((3, 1))}
    graph = demp_jax.trace(network, params, jnp.ones((2, 3)))
    gated = with_gates(network, graph)
    out = gated(params, jnp.ones((2, 3)), jnp.array([2.0, 3.0, 4.0]), jnp.ones(3), jnp.array([True, False, True]))
    assert out[0].tolist() == [1.0 + 3.0]
    with pytest.raises(ValueError, match="position must be one of"):
        with_gates(network, graph, position="anywhere")

    def shared(params, x):
        hidden = x @ params["first"]
        return jnp.concatenate([jax.nn.relu(hidden), hidden], -1) @ params["head"]

    params = {"first": jnp.eye(3), "head": jnp.ones((6, 1))}
    with pytest.raises(ValueError, match="Use position='activation'"):
        with_gates(shared, demp_jax.trace(shared, params, x := jnp.ones((2, 3))))(params, x, jnp.ones(3))


def test_pruning_in_stages():
    fn, variables, x = _resnet()
    tx = optax.adam(1e-3)
    batches = [(x, jnp.arange(6) % 3)]
    pruned = structured.prune(
        fn,
        variables,
        batches,
        crop.score,
        0.8,
        steps=5,
        feedback="measured",
        rule="exact",
        opt_state=tx.init(variables["params"]),
        tx=tx,
        params=lambda v: v["params"],
    )
    units, left = pruned.cut.record.neurons
    assert [planned for planned, _ in pruned.stages] == selection.stages(0.8, 5)
    np.testing.assert_allclose([m for _, m in pruned.stages], [p for p, _ in pruned.stages], atol=1.5 / units)
    assert abs(left - 0.2 * units) <= 1.5
    fresh = jax.eval_shape(tx.init, pruned.cut.variables["params"])
    helpers.assert_same_shapes(jax.tree.map(lambda a: a, pruned.cut.opt_state), fresh)
    # Units of sites that are not ranked stay.
    options = {"score": random_units.score, "sparsity": 0.9, "rule": "exact"}
    kept = structured.prune(fn, variables, batches, **options, unranked=("blocks/*",)).cut
    assert {name for name, n in kept.record.removed.items() if name.endswith(("bn1", "sum"))} == set()
    with pytest.raises(ValueError, match="no site is named"):
        structured.prune(fn, variables, batches, **options, unranked=("nowhere",))


def _epochs(path, sparsity, rule):
    """The rules in plain NumPy: the epoch at whose end they fire, -1 for never."""
    distances = []
    previous, threshold = 0.0, None
    reference = path[0] if rule == "paper" else path[1]
    size = np.linalg.norm(reference)
    for e in range(1, len(path)):
        d = np.linalg.norm(path[e] - reference) / size
        distances.append(d)
        change, previous = abs(d - previous), d
        if rule == "paper" and 0 < change < 1 - sparsity:
            return e
        if rule == "released" and e == 2:
            threshold = d * min(1 - sparsity - 0.1, 0.99)
        if rule == "released" and e > 1 and change < threshold:
            return e
    return -1


@pytest.mark.parametrize("rule", early.RULES)
@hypothesis.given(st.integers(0, 2**31), st.floats(0.1, 0.95), st.floats(0.3, 0.98), st.sampled_from([1.0, 2.5, 4.0]))
def test_when_to_prune_is_what_the_rule_says(rule, seed, sparsity, decay, epoch):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=8).astype(np.float32)
    epochs = 12
    ends = [int(np.ceil(e * epoch)) for e in range(epochs + 1)]
    moves = np.zeros((ends[-1], 8), np.float32)
    for e in range(1, epochs + 1):
        moves[ends[e] - 1] = rng.normal(size=8) * decay**e
    path = [start]
    for e in range(1, epochs + 1):
        path.append(path[-1] + moves[ends[e] - 1])
    expected = _epochs([p.astype(np.float64) for p in path], sparsity, rule)
    tx = early.watch_distance(optax.sgd(1.0), epoch=epoch, sparsity=sparsity, rule=rule)

    def step(carry, move):
        params, state = carry
        updates, state = tx.update({"w": -move}, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"w": jnp.asarray(start)}
    (_, state), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(moves))
    assert early.fired_at((state, None)) == (ends[expected] if expected > 0 else -1)


def test_watching_changes_no_update():
    still = early.watch_distance(optax.sgd(0.0), epoch=1.0, sparsity=0.5)
    _, state = still.update({"w": jnp.ones(4)}, still.init({"w": jnp.ones(4)}), {"w": jnp.ones(4)})
    assert early.fired_at(state) == -1  # The paper's rule wants some way traveled.
    params = {"w": jnp.arange(4.0)}
    base = optax.adam(0.1)
    tx = early.watch_distance(base, epoch=1.0, sparsity=0.5)
    state, plain = tx.init(params), base.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state, params)
        expected, plain = base.update(params, plain, params)
        np.testing.assert_array_equal(updates["w"], expected["w"])
    with pytest.raises(ValueError, match="it holds 0"):
        early.fired_at(plain)


def test_chase_scores_every_unit_of_a_residual_network():
    """Some classes, the channels of branches, have no kernel of their own under which they could be scored."""
    network, variables = helpers.split(models.ResNet(3, 4, base_width=4, blocks=(1, 1), rngs=nnx.Rngs(0)))
    graph = demp_jax.trace(network, variables, helpers.batch((2, 8, 8, 3)))
    batches = [(helpers.batch((2, 8, 8, 3)), jnp.zeros(2, jnp.int32))]
    live = np.ones(graph.num_groups, bool)
    scores = chase.score(Subject(network, variables, graph, batches, live, jax.random.key(0)))
    assert np.isfinite(scores).all()
    of = by_site(graph, scores)
    kernel = np.abs(np.asarray(variables["params"]["stem_conv"]["kernel"], np.float64))
    np.testing.assert_allclose(of["stem_bn"], kernel.mean((0, 1, 2)), rtol=1e-6)
