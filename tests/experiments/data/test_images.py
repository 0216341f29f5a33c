"""From image files to squares: frames, decoding at a fraction of the size, RandAugment."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.data import images, randaugment
from experiments.data.images import Framing


def _file(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def _gradient(height, width):
    """Red tells the row, green the column: where a pixel of a frame comes from can be read off it."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


def test_an_evaluation_sees_the_centre():
    seen = Framing(side=20, evaluation=30).for_evaluation(_file(_gradient(30, 50)))
    np.testing.assert_array_equal(seen, _gradient(30, 50)[5:25, 15:35])


@pytest.mark.parametrize("shape", [(60, 100), (100, 60)])
def test_an_evaluation_resizes_the_shorter_side(shape):
    seen = Framing(side=20, evaluation=30).for_evaluation(_file(_gradient(*shape))).astype(float)
    # Half the size: the center of pixel i lies at 2 i + 0.5.
    rows, columns = ((size // 2 - 20) // 2 for size in shape)
    np.testing.assert_allclose(seen[:, 0, 0], 2 * (rows + np.arange(20)) + 0.5, atol=0.51)
    np.testing.assert_allclose(seen[0, :, 1], 2 * (columns + np.arange(20)) + 0.5, atol=0.51)


def test_training_crops_anywhere():
    frame = Framing(side=20, resize=(30,))
    corners = set()
    for seed in range(300):
        seen = frame.for_training(_file(_gradient(30, 40)), np.random.default_rng(seed))
        top, left = (int(v) for v in seen[0, 0, :2])
        np.testing.assert_array_equal(seen, _gradient(30, 40)[top : top + 20, left : left + 20])
        corners.add((top, left))
    assert {top for top, _ in corners} == set(range(11))
    assert {left for _, left in corners} == set(range(21))


def test_training_draws_the_length_of_the_shorter_side():
    frame = Framing(side=10, resize=(20, 80))
    lengths = {"small": 0, "large": 0}
    for seed in range(40):
        seen = frame.for_training(_file(_gradient(40, 40)), np.random.default_rng(seed)).astype(int)
        step = (seen[-1, 0, 0] - seen[0, 0, 0]) / 9  # Pixels of the file per pixel of the frame: 2 or 1/2.
        lengths["small" if step > 1 else "large"] += 1
        assert step == pytest.approx(2 if step > 1 else 0.5, abs=0.12)
    assert min(lengths.values()) >= 10


def test_random_resized_crops_have_the_areas_and_aspects_they_should():
    frame = Framing(side=16, train="random_resized_crop")
    areas, aspects = [], []
    for seed in range(300):
        seen = frame.for_training(_file(_gradient(200, 200)), np.random.default_rng(seed)).astype(float)
        height = (seen[-1, :, 0] - seen[0, :, 0]).mean() * 16 / 15
        width = (seen[:, -1, 1] - seen[:, 0, 1]).mean() * 16 / 15
        areas.append(height * width / 200**2)
        aspects.append(width / height)
    assert 0.07 < min(areas) < 0.12
    assert 0.85 < max(areas) < 1.01
    # Uniform between 8% and 100%, but for boxes that are drawn anew because they do not fit.
    assert np.mean(areas) == pytest.approx(0.52, abs=0.06)
    assert 0.73 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.37


def test_an_image_too_long_for_any_box_gives_its_centre():
    seen = Framing(side=8, train="random_resized_crop").for_training(
        _file(_gradient(10, 250)), np.random.default_rng(0)
    )
    assert seen.shape == (8, 8, 3)
    assert 115 < seen[:, :, 1].mean() < 135


@pytest.mark.parametrize("train", images.FRAMINGS)
def test_jpegs_are_decoded_at_a_fraction_of_their_size_where_that_is_enough(train):
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    array = np.asarray(Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC))
    data = _file(array, format="JPEG", quality=95)
    assert images.decode(data, 150).size == (200, 150)
    assert images.decode(data, 151).size == (400, 300)
    assert images.decode(data).size == (800, 600)
    frame = Framing(side=64, train=train, resize=(70,))
    fast = frame.for_training(data, np.random.default_rng(3)).astype(float)
    exact = frame.for_training(_file(np.asarray(images.decode(data))), np.random.default_rng(3)).astype(float)
    assert np.abs(fast - exact).mean() < 2.5


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_every_mode_becomes_rgb(mode):
    file = io.BytesIO()
    Image.fromarray(_gradient(40, 40)).convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
    assert Framing(side=20, evaluation=30).for_evaluation(file.getvalue()).shape == (20, 20, 3)


def _saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _values(data):
    return np.asarray(images.decode(data))


def test_sixteen_bits_become_eight():
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(_values(_saved(Image.fromarray(deep), kind))[..., 0], deep >> 8)
    with pytest.raises(ValueError, match="its pixels are of floating point"):
        images.decode(_saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_what_is_transparent_is_white():
    half = np.zeros((4, 4, 4), np.uint8)
    half[:2, :, 3] = 255  # Black above, nothing below.
    seen = np.array([[0], [0], [255], [255]]) * np.ones((4, 4))
    np.testing.assert_array_equal(_values(_saved(Image.fromarray(half)))[..., 0], seen)
    palette = Image.fromarray((seen > 0).astype(np.uint8), "L").convert("P")
    palette.putpalette([0, 0, 0, 9, 9, 9])
    np.testing.assert_array_equal(_values(_saved(palette, transparency=1))[..., 0], seen)
    np.testing.assert_array_equal(
        _values(_saved(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"))[0, 0], (255, 0, 0)
    )


@pytest.mark.parametrize("train", images.FRAMINGS)
def test_images_are_turned_as_they_were_taken(train):
    """A camera held upright writes rows as columns, and says so."""
    upright = Image.fromarray(_gradient(60, 40)).resize((120, 180))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = _saved(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    np.testing.assert_array_equal(_values(turned), np.asarray(upright))
    frame = Framing(side=20, train=train, resize=(30,), evaluation=30)
    np.testing.assert_array_equal(frame.for_evaluation(turned), frame.for_evaluation(_saved(upright)))
    drawn = [frame.for_training(data, np.random.default_rng(0)) for data in (turned, _saved(upright))]
    np.testing.assert_array_equal(*drawn)


def _photo():
    coarse = np.random.default_rng(1).integers(30, 200, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((32, 24), Image.Resampling.BICUBIC)


def _by_hand(name, value):
    """The operations that have a formula, in NumPy."""
    x = np.asarray(_photo()).astype(float)
    gray = np.asarray(_photo().convert("L")).astype(float)[..., None]
    low, high = x.min((0, 1)), x.max((0, 1))
    return {
        "identity": lambda: x,
        "brightness": lambda: x * (1 + value),
        "color": lambda: gray + (1 + value) * (x - gray),
        "contrast": lambda: round(gray.mean()) + (1 + value) * (x - round(gray.mean())),
        "posterize": lambda: x.astype(int) & (256 - 2 ** round(value)),
        "solarize": lambda: np.where(x >= round(255 - value), 255 - x, x),
        "autocontrast": lambda: (x - low) * 255 / (high - low),
        "translate_x": lambda: np.stack([_shifted(row, value * 32) for row in x]),
    }[name]()


def _shifted(row, by):
    places = np.arange(32) + by
    inside = (places > -0.5) & (places < 31.5)
    near = np.clip(places, 0, 31)
    columns = [np.interp(near, np.arange(32), row[:, c]) for c in range(3)]
    return np.where(inside[:, None], np.stack(columns, -1), 0.0)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("identity", 0),
        ("brightness", 0.9),
        ("color", 0.9),
        ("contrast", 0.9),
        ("posterize", 4),
        ("solarize", 255),
        ("autocontrast", 0),
        ("translate_x", 150 / 331),
    ],
)
def test_operations_do_what_they_are_called(name, largest, mirrored):
    value = 9 / 30 * largest
    directed = name in ("brightness", "color", "contrast", "translate_x")
    seen = np.asarray(randaugment.apply(_photo(), name, 9.0, mirrored=mirrored)).astype(float)
    expected = np.clip(_by_hand(name, -value if mirrored and directed else value), 0, 255)
    np.testing.assert_allclose(seen, expected, atol=1.5)


def test_a_mirrored_rotation_is_the_rotation_of_the_mirror():
    square = _photo().resize((32, 32))
    turned = randaugment.apply(square, "rotate", 20.0)
    mirror = Image.Transpose.FLIP_LEFT_RIGHT
    other = randaugment.apply(square.transpose(mirror), "rotate", 20.0, mirrored=True).transpose(mirror)
    difference = np.abs(np.asarray(turned).astype(float) - np.asarray(other))
    assert difference.mean() < 1
    assert np.abs(np.asarray(turned).astype(float) - np.asarray(square)).mean() > 5


def test_every_operation_is_drawn_and_the_strength_grows():
    seen = []
    image = _photo()
    for name in randaugment.OPERATIONS:
        weak, strong = (
            np.abs(np.asarray(randaugment.apply(image, name, m)).astype(float) - np.asarray(image)).mean()
            for m in (3.0, 27.0)
        )
        seen.append(strong)
        if name not in ("identity", "autocontrast", "equalize"):
            assert strong > weak
    assert sum(value > 0 for value in seen) == len(randaugment.OPERATIONS) - 1
    results = {randaugment.randaugment(image, np.random.default_rng(s), 1, 9.0).tobytes() for s in range(400)}
    # Nine operations have a direction.
    assert len(results) == 14 + 9


def test_a_shear_moves_rows_by_their_height():
    x = np.zeros((8, 32, 3), np.uint8)
    x[:, 16] = 255
    sheared = np.asarray(randaugment.apply(Image.fromarray(x), "shear_x", 30.0))[..., 0].astype(float)
    middle = (sheared * np.arange(32)).sum(1) / sheared.sum(1)
    # A point of the result is taken from x + 0.3 y of the image.
    np.testing.assert_allclose(middle, 16 - 0.3 * (np.arange(8) + 0.5), atol=0.2)
