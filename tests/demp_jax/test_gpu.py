"""What is shown on a CPU holds on an accelerator. `pytest -m gpu` runs these; they pass on a CPU, too, and say less."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import demp_jax
from demp_jax import models
from experiments.fast_convolutions import with_fast_convolutions
from tests import helpers
from tests.demp_jax.pruning import test_prune
from tests.helpers import batch

pytestmark = pytest.mark.gpu


def _close_to_norm(actual, expected, *, rtol, atol):
    """Asserts close entries, up to a part of the norm of all of them, as rounding comes to that in deep networks."""
    norm = float(optax.tree.norm(expected))
    helpers.assert_trees_close(actual, expected, rtol=rtol, atol=max(atol, 2e-5 * norm))


@pytest.mark.parametrize("name", ["mlp", "blocks", "resnet", "resnet50", "vgg", "vit_relu"])
def test_training_goes_on_as_if_nothing_had_been_cut(name):
    # Differences of rounding grow fast in what is not smooth.
    rate = 1e-5 if name == "vgg" else 1e-3
    with jax.default_matmul_precision("highest"):
        test_prune.check_training(name, optax.sgd(rate, momentum=0.9), rtol=1e-3, atol=1e-4, close=_close_to_norm)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [64, 256])
def test_channels_are_routed_exactly(dtype, channels):
    """By gathers, on a CPU by a product where they are few, and the gradient goes back where it came from."""
    x, g = batch((32, 8, 8, channels)).astype(dtype), batch((32, 8, 8, channels // 2), 1).astype(dtype)
    index = np.random.default_rng(0).permutation(channels)[: channels // 2]
    found, back = jax.vjp(
        jax.jit(lambda x: demp_jax.select(x, jnp.asarray(index), jnp.zeros(channels // 2), unique_indices=True)), x
    )
    np.testing.assert_array_equal(found, x[..., index])
    np.testing.assert_array_equal(back(g)[0], jnp.zeros_like(x).at[..., index].set(g))


@functools.cache
def _resnet(dtype):
    """A ResNet-18 of the paper's size, narrow on a CPU, with dead units, its variables, and a death set."""
    width = 16 if jax.default_backend() == "cpu" else 64
    model = helpers.build(lambda: models.ResNet(3, 10, base_width=width, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
    helpers.kill_units(model, np.random.default_rng(3))
    x = batch((128, 32, 32, 3))
    return *helpers.calibrated(model, x), x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cut_is_proved_in_full_precision(dtype, record_property):
    """A step's products of float32 take fewer bits on a GPU. The proof's do not, else no cut could be told exact."""
    network, variables, x = _resnet(dtype)
    result = demp_jax.prune(network, variables, [x], params=helpers.params_of)
    record = result.record
    assert record.refused is None
    assert not record.spared
    assert sum(record.removed.values()) > 0.2 * record.neurons[0]
    if dtype == "float32":
        assert record.difference <= 1e-5 * max(record.scale, 1)
    before, after = jax.jit(network)(variables, x), jax.jit(result.fn)(result.variables, x)
    default = float(jnp.max(jnp.abs(before - after))) / record.scale
    record_property("relative_difference", {"proved": record.difference / record.scale, "default precision": default})
    assert default <= (1e-2 if dtype == "float32" else 0.06)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_of_the_whole_network_learns(dtype):
    network, variables, x = _resnet(dtype)
    labels = jnp.arange(x.shape[0]) % 10
    tx = demp_jax.demp(optax.adam(1e-3), strength=1e-3, noise=1e-8, key=0)
    graph = demp_jax.trace(network, variables, x)
    members = demp_jax.weight_groups(graph, variables["params"])

    @jax.jit
    def step(variables, opt_state):
        def loss_fn(params):
            (logits, state), activity = demp_jax.with_activity(network.train)({**variables, "params": params}, x)
            alive = {name: demp_jax.alive(a) for name, a in activity.items()}
            return helpers.cross_entropy(logits, labels), (state, alive)

        (loss, (state, alive)), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        live = demp_jax.weight_mask(members, alive, variables["params"])
        updates, opt_state = tx.update(grads, opt_state, variables["params"], live=live)
        return {"params": optax.apply_updates(variables["params"], updates), "state": state}, opt_state, loss, alive

    opt_state, losses = tx.init(variables["params"]), []
    for _ in range(20):
        variables, opt_state, loss, alive = step(variables, opt_state)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables) if jnp.issubdtype(leaf.dtype, jnp.floating)} == {
        jnp.dtype("float32")
    }
    # Noise that would wake the dead, were it theirs: it is for weights of live units.
    noise = demp_jax.add_weight_noise(1.0, key=0)
    none = jax.tree.map(jnp.zeros_like, variables["params"])
    live = demp_jax.weight_mask(members, alive, none)
    moved, _ = jax.jit(noise.update)(none, noise.init(none), none, live=live)
    for update, mask in zip(jax.tree.leaves(moved), jax.tree.leaves(live), strict=True):
        np.testing.assert_array_equal(update != 0, np.broadcast_to(mask, update.shape))
    assert np.mean(np.concatenate([~np.asarray(bits) for bits in alive.values()])) > 0.2


def test_channels_of_zero_beside_odd_numbers_change_no_gradient():
    network, variables, x = _resnet("bfloat16")
    cut = demp_jax.prune(network, variables, [x], params=helpers.params_of)
    assert any(width % 8 for width in demp_jax.trace(cut.fn, cut.variables, x).widths.values())

    def gradient(params):
        def loss_fn(params):
            logits, _ = cut.fn.train({**cut.variables, "params": params}, x)
            return helpers.cross_entropy(logits, jnp.arange(x.shape[0]) % 10)

        return jax.grad(loss_fn)(params)

    params = cut.variables["params"]
    plain = jax.jit(gradient)(params)
    aligned = jax.jit(with_fast_convolutions(gradient, platform="gpu"))(params)
    off = optax.tree.norm(jax.tree.map(jnp.subtract, aligned, plain))
    assert float(off) <= 0.15 * float(optax.tree.norm(plain))  # bfloat16 on a CPU: 0.06.


def test_noise_is_the_same_on_every_kind_of_device():
    params = {"kernel": batch((3, 3, 64, 128)), "scale": jnp.ones(37)}
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            here = jax.device_put(params, device)
            tx = demp_jax.add_weight_noise(5e-5, key=7, asymmetric=False)
            updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, here), tx.init(here), here)
            found.append(jax.device_get(updates))
    helpers.assert_trees_close(found[0], found[1], rtol=1e-4, atol=1e-8)
    assert np.std(found[0]["kernel"]) == pytest.approx(5e-5**0.5, rel=0.02)
