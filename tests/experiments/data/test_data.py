"""Datasets, batch order, augmentation."""

import collections
import contextlib
import logging
import types

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from configs import quickstart
from experiments import data
from experiments.core.errors import UsageError
from tests.runs import config_of, dataset_of, needs_tfds, settings_of


@hypothesis.given(
    examples=st.integers(1, 50), batch=st.integers(1, 50), steps=st.integers(1, 30), seed=st.integers(0, 9)
)
def test_every_example_once_per_epoch(examples, batch, steps, seed):
    hypothesis.assume(batch <= examples)
    order = data.BatchOrder(seed, examples, batch)
    stream = np.concatenate([order(step) for step in range(steps)])
    assert stream.shape == (steps * batch,)
    for start in range(0, len(stream) - examples + 1, examples):
        np.testing.assert_array_equal(np.sort(stream[start : start + examples]), np.arange(examples))
    last = stream[len(stream) // examples * examples :]
    assert len(set(last.tolist())) == len(last)


def test_order_depends_on_seed_and_step_alone():
    forward = data.BatchOrder(3, 10, 4)
    walked = [forward(step) for step in range(8)]
    np.testing.assert_array_equal(data.BatchOrder(3, 10, 4)(7), walked[7])
    assert any((data.BatchOrder(4, 10, 4)(s) != walked[s]).any() for s in range(8))


_TARGETS = jnp.eye(6)


def _images(shape=(6, 5, 7, 2)):
    return jnp.asarray(np.random.default_rng(0).integers(0, 255, shape), jnp.uint8)


def test_crops_and_flips_are_crops_and_flips():
    images = _images()
    prepare = data.Preparation((0.0,) * 2, (1.0,) * 2, crop=2, flip=True)
    seen = collections.Counter()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for seed in range(60):
        out = np.asarray(prepare.train(jax.random.key(seed), images, _TARGETS)[0])
        for i in range(6):
            places = [
                (top, left, turned)
                for top in range(5)
                for left in range(5)
                for turned in (False, True)
                if (out[i] == padded[i, top : top + 5, left : left + 7][:, :: -1 if turned else 1]).all()
            ]
            assert len(places) == 1
            seen.update(places)
    assert len(seen) == 50  # Every crop, turned and not.


def test_no_augmentation_is_the_identity():
    images = _images()
    plain = data.Preparation((0.0,) * 2, (1.0,) * 2)
    np.testing.assert_array_equal(plain.train(jax.random.key(0), images, _TARGETS)[0], images)


@pytest.mark.parametrize("normalize", ["unit", "standardize"])
def test_normalization(normalize):
    dataset = dataset_of(quickstart.get_config())
    prepare = data.preparation(settings_of(config_of({"data.normalize": normalize})).data, dataset)
    x = np.asarray(prepare(jnp.asarray(dataset.splits["train"][0])))
    assert x.dtype == np.float32
    if normalize == "unit":
        assert (x.min(), x.max()) == (0, 1)
    else:
        np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-4)


def test_digits():
    dataset = dataset_of(quickstart.get_config())
    assert dataset.splits["train"][0].shape == (1437, 8, 8, 1)
    assert dataset.splits["test"][0].shape == (360, 8, 8, 1)
    assert sorted(np.bincount(dataset.splits["test"][1])) == [35, 35, 36, 36, 36, 36, 36, 36, 37, 37]
    both = {image.tobytes() for image in dataset.splits["train"][0]} & {
        image.tobytes() for image in dataset.splits["test"][0]
    }
    assert not both


@needs_tfds
@pytest.mark.parametrize(("name", "shape", "mean"), [("mnist", (28, 28, 1), 0.1307), ("cifar10", (32, 32, 3), 0.4734)])
def test_a_part_of_prepared_datasets(name, shape, mean):
    dataset = dataset_of(config_of({"data.name": name, "data.train_examples": 2000, "data.test_examples": 500}))
    (images, labels), (test, _) = dataset.splits["train"], dataset.splits["test"]
    assert (images.shape, test.shape) == ((2000, *shape), (500, *shape))
    assert (dataset.train_examples, dataset.test_examples, dataset.classes) == (2000, 500, 10)
    assert images.mean(dtype=np.float64) / 255 == pytest.approx(mean, abs=0.01)
    assert np.bincount(labels).min() >= 150


@pytest.mark.slow
@needs_tfds
@pytest.mark.parametrize(("name", "shape", "mean"), [("mnist", (28, 28, 1), 0.1307), ("cifar10", (32, 32, 3), 0.4734)])
def test_prepared_datasets(name, shape, mean):
    dataset = dataset_of(config_of({"data.name": name}))
    assert dataset.splits["train"][0].shape == ({"mnist": 60_000, "cifar10": 50_000}[name], *shape)
    assert dataset.splits["test"][0].shape == (10_000, *shape)
    assert dataset.splits["train"][0].dtype == np.uint8
    assert dataset.splits["train"][0].mean(dtype=np.float64) / 255 == pytest.approx(mean, abs=1e-3)
    assert np.bincount(dataset.splits["test"][1]).min() >= 892


class _Prepared:
    """A prepared dataset of six examples, that counts how often one is decoded."""

    def __init__(self, folder):
        folder.mkdir()
        (folder / "examples.array_record").write_bytes(b"first")
        self.data_path, self.decoded = folder, 0
        split = types.SimpleNamespace(num_examples=6)
        label = types.SimpleNamespace(num_classes=3)
        self.info = types.SimpleNamespace(splits={"train": split, "test": split}, features={"label": label})

    def as_data_source(self, split):
        for i in range(int(split.split("[:")[1][:-1]) if "[" in split else 6):
            self.decoded += 1
            yield {"image": np.full((2, 2, 3), i, np.uint8), "label": i % 3}


def test_decoded_images_are_kept(tmp_path, monkeypatch, caplog):
    prepared = _Prepared(tmp_path / "data")
    monkeypatch.setattr(logging.getLogger("experiments"), "propagate", True)
    monkeypatch.setattr(data.prepared, "open_builder", lambda *_: contextlib.nullcontext(prepared))

    def load(train=0, cache=str(tmp_path / "cache")):
        prepared.decoded = 0
        changes = {"data.name": "cifar10", "data.train_examples": train, "data.cache": cache}
        dataset = dataset_of(config_of(changes))
        wanted = np.arange(train or 6)
        np.testing.assert_array_equal(dataset.splits["train"][0][:, 0, 0, 0], wanted)
        np.testing.assert_array_equal(dataset.splits["train"][1], wanted % 3)
        assert dataset.splits["test"][0].dtype == np.uint8
        return prepared.decoded

    assert load(train=2) == 8  # A part of a split is not kept; the whole test split is.
    assert load(train=2) == 2
    assert load() == 6
    assert load() == 0
    assert load(train=2) == 0
    assert load(cache="") == 12
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-30])  # As a full disk leaves it.
    assert load() == 12
    assert "cannot be read and is made anew" in caplog.text
    assert load() == 0
    (prepared.data_path / "examples.array_record").write_bytes(b"another version")
    assert load() == 12
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".npz"] * 4
    (tmp_path / "file").write_text("")
    assert load(cache=str(tmp_path / "file" / "below")) == 12
    assert "are not kept for the next run: config.data.cache=" in caplog.text


def test_mean_and_deviation_of_the_channels():
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3)).astype(np.uint8)
    dataset = data.arrays.of("some", (images, np.zeros(9, np.int32)), (images, np.zeros(9, np.int32)), 1)
    np.testing.assert_allclose(dataset.mean, images.mean((0, 1, 2), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, images.std((0, 1, 2), dtype=np.float64), rtol=1e-12)


def test_a_limited_training_set():
    assert dataset_of(config_of({"data.train_examples": 100})).train_examples == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.name": "cifar11"},
            "config.data.name must be one of cifar10, cifar100, digits, image_folder, imagenet, mnist; got",
        ),
        (
            {"data.name": "cifar10", "data.dir": "/no/such/folder"},
            "config.data.dir must be a folder that holds cifar10/ .*; got '/no/such/folder', which does not exist",
        ),
        (
            {"data.train_examples": 5000},
            "config.data.train_examples must be between 1 and 1437, or 0 for all; got 5000",
        ),
    ],
)
def test_bad_data(changes, message):
    with pytest.raises(UsageError, match=message):
        dataset_of(config_of(changes))


def test_missing_data_says_what_to_do(tmp_path):
    with pytest.raises(
        UsageError, match="config.data.name='mnist' is not in .* Set --config.data.dir or TFDS_DATA_DIR"
    ):
        dataset_of(config_of({"data.name": "mnist", "data.dir": str(tmp_path)}))
