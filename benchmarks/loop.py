# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The overhead around a training step: in the training program, in `nnx.jit`, and in PyTorch.

All train the same ResNet-18 with the same batch size. Times are relative to the bare compiled step, in interleaved
rounds:

* `program` is the median of the records of a run. It includes reading batches and writing records, but not compiling
  or evaluating. The program runs several steps per call. On a CPU it is also timed with XLA's convolutions and one step
  per call.
* `bare steps together` are as many compiled steps per call, with nothing around them.
* `PyTorch` is timed on the same device, if it is installed.

A network with arrays that are small but just as many shows the overhead of the host.
"""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import programs
from configs.base import variants
from demp_jax import models
from experiments.rundir import records as records_lib
from experiments.training.loop import train_and_evaluate

_SMALL: dict[str, Any] = {"base_width": 4, "stem_stride": 2}
# By scale: data, model, batch, steps of the program.
CASES: dict[str, list[tuple[str, dict[str, Any], int, int]]] = {
    "tiny": [("digits", _SMALL, 8, 8)],
    "cpu": [
        ("digits", _SMALL, 8, 800),
        ("cifar10", {"base_width": 16, "stem_stride": 2}, 128, 60),
        # The network above after an even prune of 80% of its weights, to compare what PyTorch gains by pruning.
        ("cifar10", {"base_width": 7, "stem_stride": 2}, 128, 120),
        ("cifar10", {"base_width": 16}, 128, 24),
        # The recipe with the most seeds in the suite `train`.
        ("cifar10", {"base_width": 32, "stem_stride": 2}, 128, 40),
    ],
    "gpu": [
        ("digits", _SMALL, 8, 800),
        *(("cifar10", {"base_width": 64, "dtype": dtype}, 512, 200) for dtype in ("bfloat16", "float32")),
    ],
}
_SHAPES = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}
# Strength of the regularizer, in the program and in bare steps. Noise is measured by the suite `overhead`.
_STRENGTH = 1e-3
# Maximum number of steps per call of the program: the default of `config.steps_per_call`.
_TOGETHER = 10
# By scale: rounds, and calls per round.
_ROUNDS = {"tiny": (1, 1), "cpu": (3, 15), "gpu": (2, 50)}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per network: seconds per step, and ratios to the bare step, of each way to run it."""
    rounds, repeats = _ROUNDS[scale]
    for data, model, batch, steps in cases:
        model, shape = {"name": "resnet18", **model}, _SHAPES[data]
        net, variables = programs.initial(model, shape)
        bare = programs.built(net, variables, shape, batch, strength=_STRENGTH)
        ways: dict[str, Callable[[], Any]] = {"bare step": bare, "nnx.jit": _through_nnx(model, shape, batch)}
        # As many steps per call as the program runs.
        together = programs.built(net, variables, shape, batch, strength=_STRENGTH, together=_TOGETHER)
        if _has_torch() and model.get("dtype", "float32") == "float32":
            ways["PyTorch"] = _through_torch(model, shape, batch)
        taken: dict[str, list[float]] = {}
        for _ in range(rounds):
            found = {name: _in_a_row(call, repeats) for name, call in ways.items()}
            found["bare steps together"] = _in_a_row(together, -(-repeats // _TOGETHER) + 1) / _TOGETHER
            found["program, a step per call"] = _program(model, batch, steps, data, steps_per_call=1)
            found["program"] = _program(model, batch, steps, data)
            if jax.default_backend() == "cpu":
                found["program, XLA's convolutions"] = _program(model, batch, steps, data, fast_convolutions=False)
            for name, seconds in found.items():
                taken.setdefault(name, []).append(seconds)
        yield {
            "model": model,
            "batch": batch,
            "image": list(shape),
            "ways": {name: _summary(seconds, taken["bare step"]) for name, seconds in taken.items()},
        }
        jax.clear_caches()


def _in_a_row(call: Callable[[], Any], repeats: int) -> float:
    """Returns the median seconds of consecutive calls, after one warm-up call."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def _summary(seconds: Sequence[float], bare: Sequence[float]) -> dict[str, Any]:
    """Returns the median of the seconds, and median, minimum and maximum of the ratios to the bare step."""
    ratios = [a / b for a, b in zip(seconds, bare, strict=True)]
    return {
        "seconds": round(statistics.median(seconds), 6),
        "ratio": round(statistics.median(ratios), 4),
        "range": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def _program(model: dict[str, Any], batch: int, steps: int, data: str, **more: Any) -> float:
    """Returns the median seconds per step of a run of the training program: DemP without a prune before the end."""
    changes = {
        "steps": str(steps),
        "batch_size": batch,
        "data.name": data,
        # As in `programs.built`.
        "data.crop": 4,
        "data.flip": True,
        "log_every": str(max(steps // 4, 1)),
        "eval_every": "100%",
        "checkpoint_every": "100%",
        "pruning.every": "100%",
        "method.strength": _STRENGTH,
        "method.noise": 0.0,
        "step_time_seconds": 0.01,
        "progress": "off",
        **more,
    }
    cache = jax.config.values["jax_compilation_cache_dir"]
    config = variants("benchmarks", "", {"": {**changes, **{f"model.{name}": value for name, value in model.items()}}})
    with tempfile.TemporaryDirectory() as folder:
        try:
            train_and_evaluate(config, Path(folder) / "run")
        finally:
            # The run enables the cache of compiled programs. Other measurements in this process compile without it.
            jax.config.update("jax_compilation_cache_dir", cache)
            compilation_cache.reset_cache()
        lines = records_lib.read_lines(Path(folder) / "run" / "metrics.jsonl")
    # The program chooses the number of steps per call after the first line of metrics.
    return statistics.median([line["seconds_per_step"] for line in lines if "seconds_per_step" in line][1:])


def _made_up(shape: tuple[int, int, int], batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, *shape)).astype(np.float32), rng.integers(0, 10, batch).astype(np.int32)


def _through_nnx(model: dict[str, Any], shape: tuple[int, int, int], batch: int) -> Callable[[], Any]:
    """Returns a training step in the style of NNX's documentation: `nnx.jit` updates model and optimizer in place."""
    dtype = jnp.dtype(model.get("dtype", "float32"))
    options: dict[str, Any] = {"stem_stride": model.get("stem_stride", 1), "base_width": model["base_width"]}
    net = models.ResNet(shape[-1], 10, dtype=dtype, rngs=nnx.Rngs(0), **options)
    optimizer = nnx.Optimizer(net, optax.adamw(5e-3, weight_decay=5e-4), wrt=nnx.Param)
    x, y = map(jnp.asarray, _made_up(shape, batch))

    @nnx.jit
    def step(net: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        def loss_fn(net: Any) -> jax.Array:
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(net(x), y))

        loss, grads = nnx.value_and_grad(loss_fn)(net)
        optimizer.update(net, grads)
        return loss

    return lambda: step(net, optimizer, x, y)


def _has_torch() -> bool:
    """Returns whether PyTorch is installed and supports the device that JAX uses."""
    if not importlib.util.find_spec("torch"):
        return False
    import torch

    return bool(jax.default_backend() == "cpu" or (jax.default_backend() == "gpu" and torch.cuda.is_available()))


def _through_torch(model: dict[str, Any], shape: tuple[int, int, int], batch: int) -> Callable[[], Any]:
    """Returns a training step of the same network in PyTorch, with AdamW."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
            )
            same = stride == 1 and inputs == width
            projection = (nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            self.shortcut = nn.Identity() if same else nn.Sequential(*projection)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    base = model["base_width"]
    stem = (nn.Conv2d(shape[-1], base, 3, model.get("stem_stride", 1), 1, bias=False), nn.BatchNorm2d(base), nn.ReLU())
    widths = [base, base, base, 2 * base, 2 * base, 4 * base, 4 * base, 8 * base, 8 * base]
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    net = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * base, 10))
    place = "cpu" if jax.default_backend() == "cpu" else "cuda"
    net = net.to(place, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=5e-4)
    images, labels = _made_up(shape, batch)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(place, memory_format=torch.channels_last)
    y = torch.from_numpy(labels.astype(np.int64)).to(place)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    found: list[tuple[str, ...]] = [("model", "batch", "way", "a step takes", "time", "from, to")]
    for record in records:
        model = record["model"]
        name = f"resnet18, width {model['base_width']}, {model.get('dtype', 'float32')}, {record['image'][0]} x "
        name += str(record["image"][1]) + (", half-size maps" if model.get("stem_stride") == 2 else "")
        for way, row in record["ways"].items():
            low, high = row["range"]
            cells = (f"{1e3 * row['seconds']:.2f} ms", f"x {row['ratio']:.2f}", f"{low:.2f}, {high:.2f}")
            found.append((name, str(record["batch"]), way, *cells))
    return found
