"""The pruner: when it prunes, how it gets to a size, and a training that goes on from its state."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import demp_jax
import demp_jax.nnx
from tests.helpers import assert_trees_close, batch

X = batch((64, 6))
Y = jnp.asarray(np.random.default_rng(1).integers(0, 3, 64))
SPAN = 60
OPTIONS = {"every": 20, "target": {"sparsity": 0.5}, "span": SPAN, "look_every": 4}


class _Net(nnx.Module):
    def __init__(self, rngs):
        self.l1, self.norm = nnx.Linear(6, 24, rngs=rngs), nnx.BatchNorm(24, momentum=0.5, rngs=rngs)
        self.drop, self.out = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(24, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.norm(self.l1(x)))))


def _build(target=None, every=20, strength=0.3, span=SPAN):
    model, average = _Net(nnx.Rngs(0)), _Net(nnx.Rngs(0))
    tx = demp_jax.demp(optax.adam(0.02), strength=demp_jax.one_cycle(strength, span), noise=1e-6)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    pruner = demp_jax.nnx.Pruner(
        model, optimizer, [X], every=every, target=target, span=span, look_every=4, copies={"average": average}
    )
    return model, average, optimizer, pruner


@nnx.jit
def _step(model, optimizer, average):
    def loss_fn(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(X), Y).mean()

    loss, gradients = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, gradients)
    mean = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, nnx.state(average, nnx.Param), nnx.state(model, nnx.Param))
    nnx.update(average, mean)
    nnx.update(average, nnx.state(model, nnx.BatchStat))
    return loss


def _train(model, average, optimizer, pruner, last):
    records = []
    while pruner.steps < last:
        _step(model, optimizer, average)
        record = pruner.step()
        if record is not None:
            records.append((pruner.steps, record))
    return records


def _parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_it_prunes_every_so_many_steps():
    model, average, optimizer, pruner = _build()
    records = _train(model, average, optimizer, pruner, 60)
    assert [step for step, _ in records] == [20, 40, 60]
    assert sum(sum(record.removed.values()) for _, record in records) > 0
    assert average.l1.out_features == model.l1.out_features < 24
    assert all(record.difference < 1e-4 * max(record.scale, 1) for _, record in records if record.removed)
    assert set(records[-1][1].differences) <= {"evaluation", "training", "average"}
    assert pruner.factor == 1.0


def test_it_ends_at_a_size():
    model, average, optimizer, pruner = _build({"parameters": 0.5}, strength=0.05, span=200)
    dense = _parameters(model)
    _train(model, average, optimizer, pruner, 220)
    pruner.prune()
    # A unit is 4% of so small a network.
    assert abs(_parameters(model) / dense - 0.5) <= 0.08
    assert pruner.factor == 0.0


@pytest.mark.filterwarnings("ignore:Pruner. the target sparsity=0.5 will be missed")
@pytest.mark.parametrize("stop", [19, 20, 50])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, stop):
    whole = _build({"sparsity": 0.5})
    _train(*whole, 70)
    first = _build({"sparsity": 0.5})
    _train(*first, stop)
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "checkpoint", first[3].state())
    with ocp.StandardCheckpointer() as loader:
        stored = loader.restore(tmp_path / "checkpoint")
    second = _build({"sparsity": 0.5})  # Wide again.
    second[3].restore(stored)
    assert second[0].l1.out_features == first[0].l1.out_features
    _train(*second, 70)
    assert whole[0].l1.out_features < 24
    for one, other in zip(whole[:3], second[:3], strict=True):
        assert_trees_close(nnx.as_pure(nnx.state(other)), nnx.as_pure(nnx.state(one)), rtol=0, atol=0)
    assert second[3].state()["pruner"] == whole[3].state()["pruner"]


def _other_optimizer():
    model = _Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    return demp_jax.nnx.Pruner(model, optimizer, [X], copies={"average": _Net(nnx.Rngs(0))}, **OPTIONS)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: _build({"parameters": 0.4})[3], r"the state has the target 0.5 in 60 steps, this pruner 0.4 in 60"),
        (lambda: _build()[3], "the state and this pruner must both have a target, or both have none"),
        (_other_optimizer, r"the state is not of this optimizer \(0\); opt_state/.*stored .*, wanted nothing"),
        (
            lambda: demp_jax.nnx.Pruner(_Net(nnx.Rngs(0)), None, [X], **OPTIONS),
            "the optimizers of the state must be those of this pruner, none; got 0",
        ),
    ],
)
def test_the_state_of_another_training_is_refused(other, message):
    state = _build({"sparsity": 0.5})[3].state()
    with pytest.raises(ValueError, match=message):
        other().restore(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1 step; got every=0"),
        ({"every": 1, "target": {"size": 0.1}}, "target must have one entry, of parameters, flops, neurons, sparsity"),
        ({"every": 1, "target": {"flops": 0.1}}, "a target needs span"),
        ({"every": 1, "target": {"flops": 1.5}, "span": 10}, r"target\['flops'\] must be in \(0, 1\); got 1.5"),
        ({"every": 1, "look_every": 0}, "look_every must be at least 1 step; got look_every=0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        demp_jax.Pruner(lambda p, x: x, [X], **options)


def _network(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"][None]) @ params["w2"]


def test_the_pure_pruner_looks_at_the_network_that_it_left():
    rng = np.random.default_rng(0)
    params = {"w1": rng.normal(size=(6, 8)), "b1": np.full(8, 0.1), "w2": rng.normal(size=(8, 3))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    params["b1"] = params["b1"].at[:2].set(-99.0)
    tx = demp_jax.demp(optax.sgd(0.0), strength=0.1, where=demp_jax.regularizers.all_params)
    pruner = demp_jax.Pruner(_network, [X], every=2, target={"neurons": 0.5}, span=10, look_every=1, tx=tx)
    variables, opt_state, factors = params, tx.init(params), []
    for step in range(1, 13):
        variables, opt_state, _, record = pruner.step(variables, opt_state)
        factors.append(pruner.factor)
        assert (record is not None) == (step % 2 == 0)
        if step == 4:
            variables = {**variables, "b1": variables["b1"].at[:2].set(-99.0)}  # Two more die: at the target.
    assert variables["w1"].shape == (6, 4)
    assert factors[0] > 0
    assert factors[5] == factors[-1] == 0.0
    np.testing.assert_allclose(_network(variables, X).shape, (64, 3))


def test_a_target_that_will_be_missed_is_said_once():
    """No unit dies, whatever the strength, so that the whole network is left."""

    def network(params, x):
        return jax.nn.relu(x @ params["hidden"]) @ params["out"]

    params = {"hidden": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    pruner = demp_jax.Pruner(network, [jnp.ones((4, 3))], every=1000, target={"parameters": 0.2}, span=100)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(100):
            pruner.step(params)
    [warning] = said
    assert "the target parameters=0.2 will be missed, at about 1, because too few units die" in str(warning.message)
