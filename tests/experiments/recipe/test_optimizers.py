"""Learning rates and base optimizers, against formulas."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import resnet50_imagenet, vgg16_cifar, vit_b16_imagenet
from experiments.core.errors import UsageError
from experiments.recipe import optimizers
from tests.runs import config_of, settings_of, short_config


def _rate(config, epoch=10.0, run=1000):
    schedule = optimizers.learning_rate(settings_of(config, round(epoch * config.batch_size), run))
    return np.vectorize(lambda step: float(schedule(step)))


def test_resnet50_divides_by_ten_at_30_70_and_90_epochs():
    rate = _rate(config_of(base=resnet50_imagenet.get_config))
    steps = np.arange(1000)
    expected = 0.005 * 0.1 ** ((steps >= 300).astype(int) + (steps >= 700) + (steps >= 900))
    np.testing.assert_allclose(rate(steps), expected, rtol=1e-5)


def test_the_released_resnet50_warms_up_and_keeps_its_boundaries():
    rate = _rate(config_of(base=lambda: resnet50_imagenet.get_config("released")))
    steps = np.arange(1000)
    expected = 0.005 * 0.1 ** ((steps >= 300).astype(int) + (steps >= 700) + (steps >= 900))
    expected = np.where(steps < 50, 1e-6 + (0.005 - 1e-6) * steps / 50, expected)
    np.testing.assert_allclose(rate(steps), expected, rtol=1e-5, atol=1e-9)


def test_vit_warms_up_linearly_and_then_follows_a_cosine():
    rate = _rate(config_of(base=vit_b16_imagenet.get_config), run=1500)
    steps = np.arange(1501)
    warm = 9.9e-5 + (0.003 - 9.9e-5) * steps / 160
    cosine = 0.003 * (1 + np.cos(np.pi * (steps - 160) / 1340)) / 2
    np.testing.assert_allclose(rate(steps), np.where(steps < 160, warm, cosine), rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_vgg_has_one_cycle():
    rate = _rate(config_of(base=vgg16_cifar.get_config))
    steps = np.arange(1001)

    def between(start, end, part):
        return end + (start - end) * (1 + np.cos(np.pi * part)) / 2

    rise = between(0.005 / 25, 0.005, steps / 300)
    fall = between(0.005, 0.005 / 25e4, (steps - 300) / 700)
    np.testing.assert_allclose(rate(steps), np.where(steps < 300, rise, fall), rtol=1e-3, atol=2e-9)


def test_one_cycle_has_no_warm_up_of_its_own():
    config = short_config(**{"optimizer.schedule": "one_cycle", "optimizer.warmup": "3"})
    with pytest.raises(
        UsageError, match=r"config.optimizer.warmup must be 0 with config.optimizer.schedule='one_cycle'"
    ):
        _rate(config)


def test_boundaries_grow():
    config = short_config(**{"optimizer.schedule": "piecewise", "optimizer.boundaries": ("9", "9", "12")})
    with pytest.raises(UsageError, match=r"config.optimizer.boundaries must be durations that grow.*\(9, 9, 12\)"):
        _rate(config)


def _two_steps(grads, **changes):
    changes = {f"optimizer.{name}": value for name, value in changes.items()}
    tx = optimizers.base_optimizer(settings_of(short_config(**changes)), optax.constant_schedule(0.1))
    params = {"w": jnp.array([1.0, -2.0])}
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update({"w": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["w"])


GRADS = [[0.3, 0.1], [-0.2, 0.4]]


def _by_hand(name, decoupled, decay=0.1, clip=math.inf, rate=0.1):
    w, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, g in enumerate(np.array(GRADS), 1):
        g = g * min(1.0, clip / np.linalg.norm(g))
        g = g if decoupled else g + decay * w
        if name == "sgdm":
            m = 0.9 * m + g
            direction = m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            direction = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - rate * (direction + (decay * w if decoupled else 0.0))
    return w


@pytest.mark.parametrize("clip", [0.0, 0.25])
@pytest.mark.parametrize(
    ("name", "decoupled"), [("sgdm", True), ("sgdm", False), ("adam", True), ("adam", False), ("adamw", True)]
)
def test_optimizers_by_hand(name, decoupled, clip):
    seen = _two_steps(GRADS, name=name, decoupled_decay=decoupled, weight_decay=0.1, clip_norm=clip)
    np.testing.assert_allclose(seen, _by_hand(name, decoupled, clip=clip or math.inf), rtol=1e-5)


def test_adamw_is_decoupled():
    with pytest.raises(UsageError, match="config.optimizer.decoupled_decay must be true with adamw; got False"):
        _two_steps(GRADS, name="adamw", decoupled_decay=False)
