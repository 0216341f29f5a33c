# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Throughput of reading image files, for a folder of `CLASS/*.JPEG`: `python -m benchmarks.input --dir=FOLDER`.

First, one thread decodes and crops images as in the ResNet-50 recipe (shorter side 256, random crop of 224), with each
installed library: Pillow, OpenCV, simplejpeg. Then the input pipeline runs with threads and with processes. Results are
images per second, and ratios to decoding at full size with Pillow. `--out=FILE` appends a record to a file.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.data import BatchOrder, images
from experiments.data.files import Folder
from experiments.data.streamed import Streamed
from experiments.rundir import records

SIDE, SHORT = 224, 256


def _pillow(data: bytes, rng: np.random.Generator) -> np.ndarray:
    return _cropped(_resized(images.decode(data)), rng)


def _fraction(data: bytes, rng: np.random.Generator) -> np.ndarray:
    return images.Framing(SIDE, resize=(SHORT,)).for_training(data, rng)


def _opencv(data: bytes, rng: np.random.Generator) -> np.ndarray:
    import cv2

    array = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    scale = SHORT / min(array.shape[:2])
    size = (max(round(array.shape[1] * scale), SHORT), max(round(array.shape[0] * scale), SHORT))
    return _cropped(Image.fromarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA)), rng)


def _simplejpeg(data: bytes, rng: np.random.Generator) -> np.ndarray:
    import simplejpeg

    array = simplejpeg.decode_jpeg(data, "RGB", min_height=SHORT, min_width=SHORT, min_factor=1)
    return _cropped(_resized(Image.fromarray(array)), rng)


def _resized(image: Image.Image) -> Image.Image:
    scale = SHORT / min(image.size)
    size = (max(round(image.width * scale), SHORT), max(round(image.height * scale), SHORT))
    return image.resize(size, Image.Resampling.BILINEAR)


def _cropped(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    left, top = (int(rng.integers(0, size - SIDE + 1)) for size in image.size)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


DECODERS: dict[str, tuple[str, Callable[[bytes, np.random.Generator], np.ndarray]]] = {
    "Pillow, full size": ("PIL", _pillow),
    "Pillow, at a fraction (ours)": ("PIL", _fraction),
    "OpenCV": ("cv2", _opencv),
    "simplejpeg, at a fraction": ("simplejpeg", _simplejpeg),
}


def _listed(folder: Path) -> Folder:
    paths = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.JPEG"))
    return Folder(str(folder), tuple(paths), (0,) * len(paths))


def decoders(files: Folder, repeats: int) -> dict[str, float]:
    """Returns images per second of one thread by decoder, medians of interleaved repeats."""
    rng = np.random.default_rng(0)
    data = [files[i][0] for i in range(len(files))]
    present = {name: function for name, (module, function) in DECODERS.items() if importlib.util.find_spec(module)}
    times: dict[str, list[float]] = {name: [] for name in present}
    for _ in range(repeats):
        for name, function in present.items():
            started = time.perf_counter()
            for each in data:
                function(each, rng)
            times[name].append(time.perf_counter() - started)
    return {name: len(data) / statistics.median(taken) for name, taken in times.items()}


def pipelines(files: Folder, batches: int, batch: int, workers: int) -> dict[str, float]:
    """Returns images per second of the training pipeline, without the time to start its processes."""
    rgb = (0.0, 0.0, 0.0)
    dataset = Streamed(
        name="image_folder",
        classes=1,
        image_shape=(SIDE, SIDE, 3),
        train_examples=len(files),
        test_examples=len(files),
        mean=rgb,
        std=rgb,
        files={"train": files, "test": files},
        framing=images.Framing(SIDE, resize=(SHORT,)),
        seed=0,
        workers=0,
        threads=workers,
    )
    vit = images.Framing(SIDE, "random_resized_crop", randaugment=(2, 9.0))
    kinds = {
        f"{workers} threads": dataset,
        f"{workers} processes": dataclasses.replace(dataset, workers=workers),
        f"{workers} threads, ViT": dataclasses.replace(dataset, framing=vit),
        f"{workers} processes, ViT": dataclasses.replace(dataset, framing=vit, workers=workers),
    }
    speeds = {}
    for name, each in kinds.items():
        with contextlib.closing(each.feed(BatchOrder(0, len(files), batch), range(batches + 2), part=(0, 1))) as feed:
            for _ in range(2):
                next(feed)
            started = time.perf_counter()
            for _ in range(batches):
                next(feed)
            speeds[name] = batches * batch / (time.perf_counter() - started)
    return speeds


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="folder of CLASS/*.JPEG")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of every decoder")
    parser.add_argument("--batches", type=int, default=12, help="timed batches of the pipeline")
    parser.add_argument("--batch", type=int, default=64, help="images per batch")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of the pipeline")
    parser.add_argument("--out", type=Path, help="file that the record is appended to; none by default")
    options = parser.parse_args()
    files = _listed(options.dir)
    found: dict[str, dict[str, float]] = {
        "decoders": decoders(files, options.repeats),
        "pipelines": pipelines(files, options.batches, options.batch, options.workers),
    }
    base = found["decoders"]["Pillow, full size"]
    for group in found.values():
        for name, speed in group.items():
            print(f"{name:32} {speed:8.1f} images/s   x {speed / base:.2f}")  # noqa: T201
    if options.out:
        asked: dict[str, Any] = {"images": len(files), "batch": options.batch, "workers": options.workers}
        record = {"benchmark": "input", **asked, "images_per_second": found, **records.provenance()}
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
