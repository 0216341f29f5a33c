"""Folders of image files for the tests of streamed datasets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# A folder CLASS/*.JPEG of real photographs, beside the prepared datasets where there is one.
SAMPLE = Path(os.environ.get("TFDS_DATA_DIR", "nowhere")) / "imagenet_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs TFDS_DATA_DIR/imagenet_sample/CLASS/*.JPEG")


# What a config needs to train on such a folder of small images.
SMALL = {
    "data.name": "image_folder",
    "data.side": 16,
    "data.resize": (20,),
    "data.eval_resize": 20,
    "data.flip": True,
    "batch_size": 8,
    "eval_batch_size": 8,
}


def drawn_folder(root: Path, classes: int = 3, images: int = 7) -> Path:
    """Makes a folder of small JPEGs of several sizes and modes, `train/CLASS/*` and `val/CLASS/*`."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k in range(classes):
            folder = root / split / f"n{k:02d}"
            folder.mkdir(parents=True)
            for i in range(images):
                width, height = (int(size) for size in rng.integers(40, 90, 2))
                coarse = rng.integers(0, 255, (5, 5, 3), np.uint8)
                image = Image.fromarray(coarse).resize((width, height))
                # Some of ImageNet's files are gray.
                (image.convert("L") if i == 0 else image).save(folder / f"{i}.JPEG", quality=95)
    return root


def sample_folder(root: Path, classes: int) -> Path:
    """Makes a folder of links to real photographs, each class's one image in both splits."""
    for folder in sorted(p for p in SAMPLE.iterdir() if p.is_dir())[:classes]:
        for split in ("train", "val"):
            (root / split / folder.name).mkdir(parents=True)
            for image in folder.iterdir():
                (root / split / folder.name / image.name).symlink_to(image.resolve())
    return root
