"""What evaluation does not read: auxiliary heads, counters of units, teachers, entry points called apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import demp_jax
import demp_jax.nnx
from tests.helpers import batch

X = batch((64, 5))


def _params(dead=(0, 1)):
    rng = np.random.default_rng(0)
    bias = np.where(np.isin(np.arange(8), dead), -99.0, 0.1)
    tree = {"w1": rng.normal(size=(5, 8)), "b1": bias, "w2": rng.normal(size=(8, 3)), "head": rng.normal(size=(8, 4))}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _hidden(p, x):
    return jax.nn.relu(x @ p["w1"] + p["b1"][None])


def _network(p, x):
    return _hidden(p, x) @ p["w2"]


def test_variables_that_nothing_reads_are_named():
    graph = demp_jax.trace(_network, _params(), X)
    assert graph.unread == ("head",)
    result = demp_jax.prune(_network, _params(), [X])
    assert result.record.unread == ["head"]
    assert "not pruned along, since no traced call reads them: head" in str(result.record)
    assert result.variables["head"].shape == (8, 4)
    # One whose axes have other sizes cannot belong to the units.
    other = {**_params(), "head": jnp.ones((7, 4))}
    assert demp_jax.prune(_network, other, [X]).record.unread == []


def test_what_a_call_reads_is_pruned_along():
    params = _params()
    result = demp_jax.prune(_network, params, [X], calls=[lambda p, x: (_hidden(p, x) @ p["head"], None)])
    assert result.record.unread == []
    assert result.variables["head"].shape == (6, 4)
    before, after = (_hidden(p, X) @ p["head"] for p in (params, result.variables))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_a_unit_that_lives_in_a_call_is_kept():
    """The same layer on other inputs: its units are dead on those of the network, and not on those of the call."""
    params = {**_params(), "b1": jnp.zeros(8).at[:2].set(-9.0)}
    loud = demp_jax.prune(_network, params, [X], calls=[lambda p, x: (_hidden(p, 100 * x) @ p["head"], None)])
    assert loud.record.removed == {}
    quiet = demp_jax.prune(_network, params, [X], calls=[lambda p, x: (_hidden(p, x) @ p["head"], None)])
    assert sum(quiet.record.removed.values()) >= 1


def test_a_constant_that_a_call_cannot_absorb_keeps_the_unit():
    result = demp_jax.prune(_network, _params(), [X], calls=[lambda p, x: ((_hidden(p, x) + 1) @ p["head"], None)])
    assert result.record.removed == {}
    [why] = result.record.needed_by.values()
    assert "in call 0" in why


def test_a_teacher_follows_its_student():
    both = {"student": _params((0, 1)), "teacher": _params((0, 1, 2))}
    for params in both.values():
        del params["head"]

    def network(p, x):
        return _network(p["student"], x)

    def follow(p, x):
        mean = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, p["teacher"], p["student"])
        return _network(p["teacher"], x), {**p, "teacher": mean}

    result = demp_jax.prune(network, both, [X], calls=[follow])
    assert sum(result.record.removed.values()) == 2  # The third is alive in the student.
    smaller = result.variables
    assert smaller["teacher"]["w1"].shape == smaller["student"]["w1"].shape == (5, 6)
    for name in both:
        np.testing.assert_allclose(_network(smaller[name], X), _network(both[name], X), rtol=1e-5, atol=1e-5)
    follow(smaller, X)


def test_entry_points_are_one_network():
    """An encoder and a decoder that are called apart: one function of a pair of inputs."""
    params = {"encoder": _params((0, 1)), "decoder": _params((2, 3, 4))}
    inputs = {"encoder": X, "decoder": batch((64, 5), 1)}

    def apart(p, x):
        return _network(p["encoder"], x["encoder"]), _network(p["decoder"], x["decoder"])

    result = demp_jax.prune(apart, params, [inputs])
    assert sorted(result.record.removed.values()) == [2, 3]
    for one, other in zip(apart(result.variables, inputs), apart(params, inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


class _Auxiliary(nnx.Module):
    """A head and a counter that training alone reads."""

    def __init__(self, rngs):
        self.l1, self.out = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.head, self.drop = nnx.Linear(8, 4, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
        self.seen = nnx.Variable(jnp.zeros(8))
        self.l1.bias[...] = self.l1.bias[...].at[:3].set(-99.0)

    def __call__(self, x):
        h = nnx.relu(self.l1(x))
        if self.drop.deterministic:
            return self.out(h)
        self.seen[...] = 0.9 * self.seen[...] + 0.1 * (h > 0).mean(0)
        return self.out(h), self.head(self.drop(h))


def test_a_model_is_traced_in_training_where_evaluation_leaves_variables_out():
    model = _Auxiliary(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    record = demp_jax.nnx.prune(model, [X], optimizer)
    assert record.removed == {"l1": 3}
    assert (model.head.kernel.shape, model.seen.shape, record.unread) == ((5, 4), (5,), [])
    gradients = nnx.grad(lambda m: sum((y**2).mean() for y in m(X)))(model)
    optimizer.update(model, gradients)


def _both(models, x):
    return models["actor"](x), models["critic"](x)


def test_a_dict_of_models_with_an_optimizer_each():
    models = {name: _Network(dead, nnx.Rngs(i)) for i, (name, dead) in enumerate((("actor", [0]), ("critic", [1, 2])))}
    optimizers = {name: nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param) for name, model in models.items()}
    before = _both(models, X)
    record = demp_jax.nnx.prune(models, [X], optimizers, call=_both)
    assert record.removed == {"actor/l1": 1, "critic/l1": 2}
    for name, width in (("actor", 7), ("critic", 6)):
        assert optimizers[name].opt_state[0].mu["l1"]["kernel"].shape == models[name].l1.kernel.shape == (5, width)
        gradients = nnx.grad(lambda m: (m(X) ** 2).mean())(models[name])
        optimizers[name].update(models[name], gradients)
    assert all(one.shape == other.shape for one, other in zip(_both(models, X), before, strict=True))


def test_optimizers_of_parts_of_one_model():
    class Head(nnx.Param):
        pass

    model = _Network([0, 1], nnx.Rngs(0))
    model.out.kernel = Head(model.out.kernel[...])
    parts = [Head, nnx.All(nnx.Param, nnx.Not(Head))]
    optimizers = [nnx.Optimizer(model, optax.adam(1e-3), wrt=part) for part in parts]
    demp_jax.nnx.prune(model, [X], optimizers)
    assert optimizers[0].opt_state[0].mu["out"]["kernel"].shape == (6, 3)
    assert optimizers[1].opt_state[0].mu["l1"]["kernel"].shape == (5, 6)


class _Network(nnx.Module):
    def __init__(self, dead, rngs):
        self.l1, self.out = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.l1.bias[...] = self.l1.bias[...].at[jnp.array(dead)].set(-99.0)

    def __call__(self, x):
        return self.out(nnx.relu(self.l1(x)))


class _Taught(nnx.Module):
    def __init__(self, rngs):
        self.student, self.teacher = _Network([0, 1], rngs), _Network([0, 1, 2], rngs)

    def __call__(self, x):
        return self.student(x)


def _follow(model, x):
    mean = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, nnx.state(model.teacher), nnx.state(model.student))
    nnx.update(model.teacher, mean)
    return model.teacher(x)


def test_a_teacher_inside_a_model():
    model = _Taught(nnx.Rngs(0))
    before = model.teacher(X)
    named = demp_jax.nnx.prune(_Taught(nnx.Rngs(0)), [X])
    assert "teacher/l1/kernel" in named.unread
    record = demp_jax.nnx.prune(model, [X], calls=[_follow])
    assert (record.removed, record.unread) == ({"student/l1": 2}, [])
    assert model.teacher.l1.kernel.shape == model.student.l1.kernel.shape == (5, 6)
    np.testing.assert_allclose(model.teacher(X), before, rtol=1e-5, atol=1e-5)
