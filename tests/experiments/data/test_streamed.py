"""Datasets of image files: the same batches whoever reads them, every example once, folders and prepared data."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.core.errors import UsageError
from experiments.data import streamed
from experiments.data.images import Framing
from tests.image_files import drawn_folder, needs_sample, sample_folder
from tests.runs import config_of, dataset_of

SMALL = {"data.name": "image_folder", "data.side": 16, "data.resize": (20, 24), "data.eval_resize": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_folder(tmp_path_factory.mktemp("images"))


def _load(folder, **changes):
    return dataset_of(config_of({**SMALL, "data.dir": str(folder), **changes}))


def _batches(dataset, steps=range(5), part=(0, 1), batch=6):
    order = data.BatchOrder(0, dataset.train_examples, batch)
    return list(dataset.feed(order, steps, part=part))


def _digest(batches):
    return [hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() for images, labels in batches]


def test_a_folder_is_what_lies_in_it(folder):
    dataset = _load(folder)
    assert (dataset.classes, dataset.image_shape) == (3, (16, 16, 3))
    assert (dataset.train_examples, dataset.test_examples) == (21, 21)
    (images, labels), *_ = dataset.read("test", [np.array([0, 8, 20])])
    assert labels.tolist() == [0, 1, 2]
    frame = Framing(16, evaluation=20)
    for i, name in enumerate(("n00/0", "n01/1", "n02/6")):
        np.testing.assert_array_equal(images[i], frame.for_evaluation((folder / "val" / f"{name}.JPEG").read_bytes()))


def test_an_epoch_is_every_image_once_and_evaluation_keeps_its_order(folder):
    dataset = _load(folder)
    batches = _batches(dataset, range(7), batch=3)
    assert sorted(np.concatenate([labels for _, labels in batches]).tolist()) == [0] * 7 + [1] * 7 + [2] * 7
    rows = [np.arange(i, min(i + 4, 21)) for i in range(0, 21, 4)]
    read = list(dataset.read("test", rows))
    assert [len(labels) for _, labels in read] == [4, 4, 4, 4, 4, 1]
    assert np.concatenate([labels for _, labels in read]).tolist() == [0] * 7 + [1] * 7 + [2] * 7


@pytest.mark.parametrize("framing", ["resize_crop", "random_resized_crop"])
def test_batches_are_a_function_of_seed_and_step(folder, framing, monkeypatch):
    changes = {"data.framing": framing, "data.randaugment_operations": 2}
    dataset = _load(folder, **changes)
    whole = _digest(_batches(dataset))
    assert len(set(whole)) == 5
    assert _digest(_batches(dataset, range(3, 5))) == whole[3:]  # Resumed.
    assert _digest(_batches(_load(folder, **changes, **{"data.workers": 2}))) == whole  # Read by other processes.
    assert _digest(_batches(_load(folder, **changes, seed=1))) != whole
    monkeypatch.setattr(streamed, "_PIECE", 4)
    assert _digest(_batches(dataset)) == whole  # Read in other pieces.


def test_one_image_is_framed_anew_at_every_place_of_every_step(tmp_path):
    dataset = _load(drawn_folder(tmp_path, classes=1, images=1))
    batches = _batches(dataset, range(4), batch=3)
    assert len({image.tobytes() for images, _ in batches for image in images}) > 6


def test_several_processes_share_a_batch(folder):
    dataset = _load(folder)
    whole = _batches(dataset)
    parts = [_batches(dataset, part=(i, 3)) for i in range(3)]
    for step, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[step][0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[step][1] for part in parts]), labels)


def test_the_next_epoch_is_drawn_anew(folder):
    dataset = _load(folder)
    first, again = _batches(dataset, range(1), batch=21)[0], _batches(dataset, range(1, 2), batch=21)[0]
    assert (first[1] != again[1]).any()
    assert not {image.tobytes() for image in first[0]} & {image.tobytes() for image in again[0]}


def test_a_limited_training_set(folder):
    dataset = _load(folder, **{"data.train_examples": 8})
    assert dataset.train_examples == 8
    assert sorted(_batches(dataset, range(1), batch=8)[0][1].tolist()) == [0] * 7 + [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.dir": "/no/such"}, "config.data.dir must be a folder with train/CLASS/.*; got '/no/such'"),
        ({"data.framing": "pad"}, "config.data.framing must be one of random_resized_crop, resize_crop; got 'pad'"),
        (
            {"data.resize": (10,)},
            r"config.data.resize must be one or more lengths of at least config.data.side=16.*\(10,",
        ),
        ({"data.resize": ()}, r"config.data.resize must be one or more numbers"),
        ({"data.eval_resize": 15}, "config.data.eval_resize must be at least config.data.side=16; got 15"),
        ({"data.side": 0}, "config.data.side must be at least 1; got 0"),
        ({"data.workers": -1}, "config.data.workers must be at least 0; got -1"),
        ({"data.randaugment_operations": -1}, "config.data.randaugment_operations must be in .0, 100.; got -1"),
        ({"data.randaugment_magnitude": 31.0}, r"config.data.randaugment_magnitude must be in \[0, 30\]; got 31.0"),
        ({"data.train_examples": 22}, "config.data.train_examples must be between 1 and 21, or 0 for all; got 22"),
        ({"data.name": "imagenet"}, "config.data.name='imagenet2012' is not in .*no prepared imagenet2012"),
    ],
)
def test_bad_fields(folder, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        _load(changes.pop("data.dir", folder), **changes)
    assert "\n" not in str(caught.value)


def test_folders_that_are_not_what_they_should_be(tmp_path):
    (tmp_path / "train" / "n00").mkdir(parents=True)
    (tmp_path / "val" / "n01").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"val has the class 'n01', which train/ lacks"):
        _load(tmp_path)
    (tmp_path / "val" / "n01").rmdir()
    with pytest.raises(UsageError, match=r"train holds no image that Pillow can open"):
        _load(tmp_path)


def test_a_folder_is_read_as_it_is(tmp_path, caplog):
    """All that Pillow opens, in folders within a class as well; what is hidden is not there, the rest is told."""
    image = Image.new("RGB", (30, 30), (200, 0, 0))
    for split in ("train", "val"):
        cats = tmp_path / split / "cats"
        (cats / "from x.png").mkdir(parents=True)
        (tmp_path / split / "dogs").mkdir()
        (tmp_path / split / ".ipynb_checkpoints").mkdir()
        for name in ("a.WEBP", "b.bmp", "c.gif", "d.tiff", "from x.png/e.jpg", "._a.jpg"):
            image.save(cats / name, name.rpartition(".")[2].replace("jpg", "jpeg").upper())
        (cats / "notes.txt").write_text("")
        (cats / "gone.jpg").symlink_to(tmp_path / "nowhere")
    with caplog.at_level("WARNING", logger="experiments"):
        dataset = _load(tmp_path)
    assert (dataset.classes, dataset.train_examples) == (2, 5)
    said = caplog.text
    assert f"{tmp_path / 'train'}: files that are no images are left out: 1 *.txt, 1 links that lead nowhere" in said
    assert "1 of 2 classes have no image: dogs" in said
    (images, labels), *_ = dataset.read("test", [np.arange(5)])
    assert labels.tolist() == [0] * 5
    assert (np.abs(images.astype(int) - (200, 0, 0)) <= 2).all()


def test_a_changed_folder_has_another_fingerprint(tmp_path):
    folder = drawn_folder(tmp_path, classes=2, images=3)
    whole = _load(folder).fingerprint()
    assert whole == _load(folder).fingerprint()
    first = folder / "train" / "n00" / "0.JPEG"
    content = first.read_bytes()
    first.write_bytes(content + b"0")
    assert _load(folder).fingerprint() != whole
    first.write_bytes(content)
    (folder / "val" / "n00" / "more.JPEG").write_bytes(content)
    assert _load(folder).fingerprint() != whole
    (folder / "val" / "n00" / "more.JPEG").unlink()
    for split in ("train", "val"):
        (folder / split / "n01").rename(folder / split / "n09")
    assert _load(folder).fingerprint() != whole


def test_an_image_that_may_be_meant_to_fill_the_memory_is_named(tmp_path, monkeypatch):
    folder = drawn_folder(tmp_path, classes=1, images=3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UsageError, match=r"0.JPEG must be an image that Pillow reads \(Image size .* exceeds limit"):
        list(_load(folder).read("test", [np.arange(1)]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named(tmp_path, workers):
    folder = drawn_folder(tmp_path, classes=1, images=3)
    damaged = folder / "train" / "n00" / "1.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(UsageError, match=rf"config.data.dir: {damaged} must be an image that Pillow reads") as caught:
        _batches(_load(folder, **{"data.workers": workers}), range(1), batch=3)
    assert "\n" not in str(caught.value)


@needs_sample
def test_a_prepared_imagenet_gives_what_the_folder_gives(tmp_path, monkeypatch):
    """The dataset is prepared here by tensorflow-datasets' own builder, from real photographs."""
    import tensorflow_datasets as tfds

    images = sample_folder(tmp_path / "images", 6)
    names = sorted(p.name for p in (images / "train").iterdir())

    class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("5.1.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = None

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=names),
                "file_name": tfds.features.Text(),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples("train"), "validation": self._generate_examples("val")}

        def _generate_examples(self, split="train"):
            for path in sorted((images / split).glob("*/*.JPEG")):
                yield path.name, {"image": str(path), "label": path.parent.name, "file_name": path.name}

    Imagenet2012(data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()
    changes = {"data.side": 64, "data.resize": (72,), "data.eval_resize": 72}
    prepared = dataset_of(config_of({**SMALL, **changes, "data.name": "imagenet", "data.dir": str(tmp_path / "tfds")}))
    folder = _load(images, **changes)
    assert (prepared.classes, prepared.train_examples, prepared.test_examples) == (1000, 6, 6)
    by_label = {}
    for dataset in (prepared, folder):
        (seen, labels), *_ = dataset.read("test", [np.arange(6)])
        by_label[dataset.name] = {int(label): image.tobytes() for image, label in zip(seen, labels, strict=True)}
    assert by_label["imagenet"] == by_label["image_folder"]
    assert len(by_label["imagenet"]) == 6
    limited = dataset_of(
        config_of(
            {**SMALL, **changes, "data.name": "imagenet", "data.dir": str(tmp_path / "tfds"), "data.train_examples": 4}
        )
    )
    assert limited.train_examples == 4
    once = _batches(prepared, range(2))
    workers = dataset_of(
        config_of({**SMALL, **changes, "data.name": "imagenet", "data.dir": str(tmp_path / "tfds"), "data.workers": 1})
    )
    assert _digest(_batches(workers, range(2))) == _digest(once)
