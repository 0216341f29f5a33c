"""Which weights belong to live neurons."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import demp_jax
from demp_jax import models
from tests import helpers
from tests.helpers import batch


def test_a_weight_lives_with_both_its_neurons():
    network, variables = helpers.split(models.MLP(6, 3, widths=(5, 4), rngs=nnx.Rngs(0)))
    graph = demp_jax.trace(network, variables, batch((2, 6)))
    params = variables["params"]
    members = demp_jax.weight_groups(graph, params)
    alive = {"norm/0": jnp.array([1, 0, 1, 1, 0], bool), "norm/1": jnp.array([0, 1, 1, 1], bool)}
    mask = jax.jit(demp_jax.weight_mask)(members, alive, params)
    full = jax.tree.map(lambda m, p: np.broadcast_to(m, p.shape), mask, params)
    a, b = (np.asarray(alive[n]) for n in ("norm/0", "norm/1"))
    np.testing.assert_array_equal(full["dense"][0]["kernel"], np.tile(a, (6, 1)))
    np.testing.assert_array_equal(full["dense"][1]["kernel"], np.outer(a, b))
    np.testing.assert_array_equal(full["norm"][0]["scale"], a)
    np.testing.assert_array_equal(full["head"]["kernel"], np.tile(b[:, None], (1, 3)))
    assert full["head"]["bias"].all()


def test_a_coupled_neuron_lives_where_any_of_its_activations_does():
    model = helpers.Blocks(nnx.Rngs(0), coupled=True)
    network, variables = helpers.split(model)
    graph = demp_jax.trace(network, variables, batch(helpers.BLOCKS_INPUT))
    members = demp_jax.weight_groups(graph, variables["params"])
    alive = {s.name: jnp.zeros(s.width, bool) for s in graph.sites}
    alive["bn2"] = alive["bn2"].at[3].set(True)  # After the sum; united with the stem's.
    mask = demp_jax.weight_mask(members, alive, variables["params"])
    np.testing.assert_array_equal(np.ravel(mask["bn0"]["scale"]), np.arange(8) == 3)


@pytest.mark.parametrize("blocks", [(1, 1), (3, 2)])
def test_the_mask_is_where_the_gradient_is(blocks):
    """For ReLU: a weight of a dead neuron has no gradient, and every other weight has one."""
    model = models.ResNet(3, 4, base_width=6, blocks=blocks, rngs=nnx.Rngs(0))
    helpers.kill_units(model, np.random.default_rng(2), 0.5)
    for block in model.blocks:
        # A scale of exactly zero, which training never meets, stops the gradient to a branch that is not dead.
        for norm in [block.bn2] + ([block.shortcut_bn] if block.projected else []):
            norm.scale[...] = jnp.where(norm.scale[...] == 0, 0.1, norm.scale[...])
    network, variables = helpers.split(model)
    x, params = batch((32, 8, 8, 3)), variables["params"]

    def loss(params):
        (logits, _), activity = demp_jax.with_activity(network.train)({**variables, "params": params}, x)
        return helpers.cross_entropy(logits, jnp.arange(32) % 4), activity

    grads, activity = jax.jit(jax.grad(loss, has_aux=True))(params)
    graph = demp_jax.trace(network, variables, x)
    members = demp_jax.weight_groups(graph, params)
    alive = {n: demp_jax.alive(a) for n, a in activity.items()}
    mask = demp_jax.weight_mask(members, alive, params)
    dead, wrong, total = 0, 0, 0
    for m, g in zip(jax.tree.leaves(mask), jax.tree.leaves(grads), strict=True):
        m = np.broadcast_to(m, g.shape)
        assert (np.asarray(g)[~m] == 0).all()
        dead, total = dead + int((~m).sum()), total + m.size
        wrong += int((np.asarray(g)[m] == 0).sum())
    assert dead > 0.3 * total
    assert wrong < 0.02 * total


def test_a_branch_lives_where_what_reads_its_sums_does():
    """Through two sums, the second of fewer channels, and through a third one beside them."""
    first, second, third = np.array([2, 0, 1, 3]), np.array([1, 3, 0]), np.array([3, 1])
    widths = {"a": 4, "b": 4, "c": 3, "d": 2}
    params = {name: jax.random.normal(jax.random.key(n), (3, w)) for n, (name, w) in enumerate(widths.items())}
    params["out"] = jnp.ones((5, 2))
    routes = {name: jnp.asarray(index) for name, index in {"1": first, "2": second, "3": third}.items()}
    variables = {"params": params, "routes": routes, "fills": {n: jnp.zeros(i.size) for n, i in routes.items()}}

    def network(variables, x):
        def taken(y, name):
            return demp_jax.select(y, variables["routes"][name], variables["fills"][name])

        a, b, c, d = (x @ variables["params"][name] for name in "abcd")
        ends = [jax.nn.relu(taken(taken(a, "1") + b, "2") + c), jax.nn.relu(taken(a, "3") + d)]
        return jnp.concatenate(ends, -1) @ variables["params"]["out"]

    graph = demp_jax.trace(network, variables, batch((5, 3)))
    members = demp_jax.weight_groups(graph, params)
    sites = sorted(graph.sites, key=lambda site: -site.width)
    assert [site.width for site in sites] == [3, 2]
    weight_mask = jax.jit(demp_jax.weight_mask)
    for pattern in itertools.product((False, True), repeat=5):
        c, d = np.array(pattern[:3]), np.array(pattern[3:])
        mask = weight_mask(members, {sites[0].name: jnp.asarray(c), sites[1].name: jnp.asarray(d)}, params)
        b = np.isin(np.arange(4), second[c])
        a = np.isin(np.arange(4), [*first[b], *third[d]])
        for name, lives in {"a": a, "b": b, "c": c, "d": d}.items():
            np.testing.assert_array_equal(np.broadcast_to(mask[name], params[name].shape), np.tile(lives, (3, 1)))


@pytest.mark.parametrize("kept", ["excluded", "one channel"])
def test_a_branch_lives_where_the_sum_that_reads_it_cannot_leave(kept):
    """The sum is excluded, or has one channel alone; of the others' channels, those that it does not read are dead."""
    width = 1 if kept == "one channel" else 3
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((3, width)), "out": jnp.ones((width, 2))}
    variables = {"params": params, "index": jnp.array([2, 0, 1][:width]), "fill": jnp.zeros(width)}

    def network(variables, x):
        a, b = (x @ variables["params"][name] for name in "ab")
        return jax.nn.relu(demp_jax.select(a, variables["index"], variables["fill"]) + b) @ variables["params"]["out"]

    graph = demp_jax.trace(network, variables, batch((5, 3)))
    exclude = [site.name for site in graph.sites] if kept == "excluded" else []
    graph = demp_jax.trace(network, variables, batch((5, 3)), exclude=exclude)
    members = demp_jax.weight_groups(graph, params)
    alive = {site.name: jnp.zeros(site.width, bool) for site in [*graph.sites, *graph.branches]}
    mask = demp_jax.weight_mask(members, alive, params)
    lives = np.isin(np.arange(4), np.asarray(variables["index"]))
    np.testing.assert_array_equal(np.broadcast_to(mask["a"], (3, 4)), np.tile(lives, (3, 1)))


def test_a_membership_is_of_one_shape_whichever_channels_meet():
    """A step that was compiled for some widths serves other units of them, also where fewer channels of a sum meet."""
    network, variables = helpers.split(helpers.Blocks(nnx.Rngs(0)))

    def without(positions):
        def change(leaf):
            return leaf.at[positions].set(np.iinfo(np.int32).max) if leaf.dtype == jnp.int32 else leaf

        changed = jax.tree.map(change, variables)
        graph = demp_jax.trace(network, changed, batch(helpers.BLOCKS_INPUT))
        return demp_jax.weight_groups(graph, changed["params"])

    one, other = without(jnp.array([2])), without(jnp.array([0, 5]))
    helpers.assert_same_shapes(one, other)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_routing_is_not_known_from_shapes():
    model = models.ResNet(3, 5, base_width=4, blocks=(1,), rngs=nnx.Rngs(0))
    network, variables = helpers.split(model)
    shapes = jax.eval_shape(lambda: variables)
    graph = demp_jax.trace(network, shapes, jax.ShapeDtypeStruct((2, 8, 8, 3), "float32"))
    with pytest.raises(ValueError, match="traced from shapes. Trace with arrays"):
        demp_jax.weight_groups(graph, shapes["params"])
