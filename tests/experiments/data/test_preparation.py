"""What the step does to images: resizing, the order of things, Mixup and CutMix, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import vgg16_cifar
from experiments.data import Preparation, preparation
from experiments.data.arrays import of
from experiments.data.preparation import cutmix, mixup
from tests.runs import config_of, settings_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (6, 8, 8, 3), np.uint8)
TARGETS = jnp.eye(6)


def test_resizing_is_bilinear():
    prepare = Preparation((0.0,) * 3, (1.0,) * 3, upsample=16)
    x = np.asarray(prepare(jnp.asarray(IMAGES)))
    assert x.shape == (6, 16, 16, 3)
    assert prepare.shape((8, 8, 3)) == (16, 16, 3)
    expected = [np.asarray(Image.fromarray(i).resize((16, 16), Image.Resampling.BILINEAR), float) for i in IMAGES]
    np.testing.assert_allclose(x, expected, atol=1.01)  # Pillow rounds, twice.


def _places(x, source):
    """Returns where in `source` (padded) each image of `x` lies."""
    found = []
    for image, padded in zip(x, source, strict=True):
        height, width = image.shape[:2]
        spots = [
            (top, left)
            for top in range(padded.shape[0] - height + 1)
            for left in range(padded.shape[1] - width + 1)
            if np.allclose(padded[top : top + height, left : left + width], image, atol=1e-4)
        ]
        assert len(spots) == 1
        found += spots
    return found


@pytest.mark.parametrize("padding", ["reflect", "zero"])
def test_the_papers_order_is_resize_then_crop(padding):
    prepare = Preparation((0.0,) * 3, (1.0,) * 3, upsample=16, crop=2, padding=padding)
    x, _ = prepare.train(jax.random.key(0), jnp.asarray(IMAGES), TARGETS)
    large = np.asarray(prepare(jnp.asarray(IMAGES)))
    mode = {"reflect": "reflect", "zero": "constant"}[padding]
    spots = _places(np.asarray(x), np.pad(large, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode))
    assert len(set(spots)) > 2


def test_the_released_order_is_crop_then_resize():
    prepare = Preparation((0.0,) * 3, (1.0,) * 3, upsample=16, crop=2, padding="zero", crop_first=True)
    x, _ = prepare.train(jax.random.key(0), jnp.asarray(IMAGES), TARGETS)
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for i in range(6):
        crops = np.stack([padded[i, t : t + 8, k : k + 8] for t in range(5) for k in range(5)])
        candidates = np.asarray(prepare(jnp.asarray(crops)))
        assert np.isclose(candidates, np.asarray(x)[i], atol=1e-4).all((1, 2, 3)).sum() == 1


def test_mixup():
    x = RNG.normal(size=(6, 4, 4, 3)).astype(np.float32)
    weights = []
    for seed in range(200):
        mixed, targets = mixup(jax.random.key(seed), jnp.asarray(x), TARGETS, 0.2)
        t = float(targets[1, 1])
        np.testing.assert_allclose(mixed, t * x + (1 - t) * np.roll(x, 1, 0), atol=1e-5)
        np.testing.assert_allclose(targets, t * np.eye(6) + (1 - t) * np.roll(np.eye(6), 1, 0), atol=1e-6)
        weights.append(t)
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 * 1.4).
    assert np.mean(weights) == pytest.approx(0.5, abs=0.1)
    assert np.var(weights) == pytest.approx(1 / 5.6, abs=0.04)


def test_cutmix():
    x = RNG.normal(size=(6, 20, 30, 3)).astype(np.float32)
    shares = []
    for seed in range(300):
        keys = jax.random.split(jax.random.key(seed))
        mixed, targets = (np.asarray(a) for a in cutmix(keys[0], keys[1], jnp.asarray(x), TARGETS, 1.0))
        mine, other = (mixed == x).all((0, 3)), (mixed == np.roll(x, 1, 0)).all((0, 3))
        assert (mine ^ other).all()
        rows, columns = other.any(1), other.any(0)
        np.testing.assert_array_equal(other, rows[:, None] & columns[None, :])  # A box ...
        for line in (rows, columns):
            assert np.abs(np.diff(line.astype(int))).sum() <= 2  # ... in one piece.
        share = other.mean()
        np.testing.assert_allclose(targets, (1 - share) * np.eye(6) + share * np.roll(np.eye(6), 1, 0), atol=1e-5)
        shares.append(share)
    # Uniform areas, less what lies outside: E[1 - t] = 1/2 as drawn.
    assert 0.25 < np.mean(shares) < 0.42
    assert max(shares) > 0.8


def test_both_take_turns():
    prepare = Preparation((0.0,) * 3, (1.0,) * 3, mixup=1.0, cutmix=1.0)
    cut = 0
    images = jnp.asarray(IMAGES)
    for seed in range(40):
        x, targets = prepare.train(jax.random.key(seed), images, TARGETS)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-5)
        whole = np.asarray(x)
        cut += bool(((whole == IMAGES) | (whole == np.roll(IMAGES, 1, 0))).all())
    assert 10 <= cut <= 30


def test_the_paper_normalizes_and_the_numbers_are_those_of_the_training_set():
    labels = np.arange(6)
    dataset = of("drawn", (IMAGES, labels), (IMAGES, labels), 6)
    prepare = preparation(settings_of(config_of(base=vgg16_cifar.get_config)).data, dataset)
    x = (IMAGES / 1.0 - IMAGES.mean((0, 1, 2))) / IMAGES.std((0, 1, 2))
    assert prepare.shape((8, 8, 3)) == (64, 64, 3)
    plain = Preparation(prepare.mean, prepare.std)
    np.testing.assert_allclose(plain(jnp.asarray(IMAGES)), x, atol=1e-4)
