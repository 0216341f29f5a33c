"""Frozen parameters stay bit-identical under DemP: no noise, no penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import demp_jax

PARAMS = {
    "body": {"scale": jnp.ones(4), "kernel": jnp.full((3, 4), 0.3)},
    "head": {"scale": jnp.ones(2), "kernel": jnp.full((4, 2), 0.7)},
}
LABELS = {"body": "off", "head": "on"}
ONLY_HEAD = {"body": False, "head": True}


def _demp(base, **options):
    return demp_jax.demp(base, strength=0.1, noise=1e-2, where=demp_jax.regularizers.all_params, **options)


def _parted(on):
    return optax.partition({"on": on, "off": optax.set_to_zero()}, LABELS)


FROZEN_BODY = {
    "base": lambda: _demp(_parted(optax.adam(0.1))),
    "base of a chain": lambda: _demp(optax.chain(optax.clip(1.0), _parted(optax.adam(0.1)), optax.scale(0.5))),
    "base under a condition": lambda: _demp(optax.apply_if_finite(_parted(optax.adam(0.1)), 2)),
    "base of multisteps": lambda: _demp(optax.MultiSteps(_parted(optax.sgd(0.1)), 2).gradient_transformation()),
    "decoupled": lambda: _demp(_parted(optax.adam(0.1)), decoupled=True),
    "partition": lambda: _parted(_demp(optax.adam(0.1))),
    "masked": lambda: optax.chain(
        optax.masked(_demp(optax.adam(0.1)), ONLY_HEAD),
        optax.masked(optax.set_to_zero(), {"body": True, "head": False}),
    ),
    "symmetric": lambda: _demp(_parted(optax.adam(0.1)), asymmetric=False),
    "noise in a partition": lambda: _parted(optax.chain(optax.sgd(0.1), demp_jax.add_weight_noise(0.1, key=0))),
    "noise masked": lambda: optax.chain(
        _parted(optax.sgd(0.1)), optax.masked(demp_jax.add_weight_noise(0.1, key=0), ONLY_HEAD)
    ),
}


@pytest.mark.parametrize("name", FROZEN_BODY)
def test_what_is_set_to_zero_stays(name):
    tx = FROZEN_BODY[name]()

    @jax.jit
    def step(params, state, key):
        grads = jax.tree.map(lambda p: jax.random.normal(key, p.shape), params)
        live = jax.tree.map(lambda p: jnp.ones((1,) * p.ndim, bool), params)
        updates, state = tx.update(grads, state, params, **({"live": live} if "noise" in name else {}))
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for n in range(3):
        params, state = step(params, state, jax.random.key(n))
    for one, other in zip(jax.tree.leaves(params["body"]), jax.tree.leaves(PARAMS["body"]), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(jax.tree.leaves(params["head"]), jax.tree.leaves(PARAMS["head"]), strict=True):
        assert (np.asarray(one) != other).all()


def test_an_update_that_happens_to_be_zero_gets_noise():
    """With a learning rate of zero, and where gradients are zero."""
    for base in (optax.sgd(0.0), optax.sgd(0.1)):
        tx = _demp(base, asymmetric=False)
        grads = jax.tree.map(jnp.zeros_like, PARAMS)
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
        assert all(np.asarray(leaf).all() for leaf in jax.tree.leaves(updates))


def test_noise_finds_masks_by_keys():
    """Two parameters whose names joined by a slash are the same."""
    params = {"a": {"b": jnp.zeros(3)}, "a/b": jnp.zeros(3)}
    live = {"a": {"b": jnp.ones(3, bool)}, "a/b": jnp.zeros(3, bool)}
    tx = demp_jax.add_weight_noise(1.0, key=0)
    updates, _ = tx.update(params, tx.init(params), params, live=live)
    assert (np.asarray(updates["a"]["b"]) != 0).all()
    np.testing.assert_array_equal(updates["a/b"], 0)
