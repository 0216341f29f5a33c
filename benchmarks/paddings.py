# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Convolutions with padded channels: how far XLA's convolutions and ours are from the best padding.

On a CPU, a convolution with 9 inputs and 5 outputs can take longer than one with 16 and 8. Convolutions with random
numbers of channels are timed with XLA's default options. With `compiler_options`, they are timed unpadded, padded to
multiples of 4, 8 and 16, and by `with_fast_convolutions`, whose padding rule this checks. Times include padding and
slicing.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.timing import interleaved
from experiments.fast_convolutions import compiler_options, with_fast_convolutions

# By scale: side of the image, examples, minimum and maximum of the channels, number of random convolutions.
CASES: dict[str, tuple[tuple[int, int, int, int, int], ...]] = {
    "tiny": ((4, 2, 3, 9, 2),),
    "cpu": ((32, 32, 3, 32, 30), (16, 128, 3, 32, 40), (16, 64, 17, 64, 20), (8, 128, 3, 48, 30), (4, 256, 8, 64, 30)),
}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per image size: seconds of every convolution, by algorithm."""
    for side, examples, least, most, count in cases:
        draw = random.Random(f"{side}, {most}")
        found = []
        for _ in range(count):
            inputs, outputs = draw.randint(least, most), draw.randint(least, most)
            seconds = _seconds(side, examples, inputs, outputs, 2 if scale == "tiny" else 15)
            found.append({"inputs": inputs, "outputs": outputs, "seconds": seconds})
            jax.clear_caches()
        yield {"image": side, "examples": examples, "channels": [least, most], "convolutions": found}


def _seconds(side: int, examples: int, inputs: int, outputs: int, repeats: int) -> dict[str, float]:
    """Returns the median seconds of a 3 x 3 convolution by XLA, by our rule, and with every padding."""
    x = jax.random.normal(jax.random.key(0), (examples, side, side, inputs))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, inputs, outputs))
    platform = jax.default_backend()
    options = compiler_options(platform)
    calls: dict[str, Callable[[], jax.Array]] = {"XLA": functools.partial(jax.jit(_convolve), x, kernel)}
    ways: dict[str, Callable[..., jax.Array]] = {"ours": with_fast_convolutions(_convolve, platform=platform)}
    for more_inputs in sorted({-(-inputs // m) * m for m in (1, 4, 8, 16)}):
        for more_outputs in sorted({-(-outputs // m) * m for m in (1, 4, 8, 16)}):
            way = functools.partial(_padded, inputs=more_inputs, outputs=more_outputs)
            ways[f"{more_inputs}, {more_outputs}"] = way
    calls |= {name: functools.partial(jax.jit(way, compiler_options=options), x, kernel) for name, way in ways.items()}
    return {name: round(timing.seconds, 6) for name, timing in interleaved(calls, repeats).items()}


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _padded(x: jax.Array, kernel: jax.Array, *, inputs: int, outputs: int) -> jax.Array:
    added, zero = inputs - x.shape[-1], jnp.zeros([], x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0),) * 3 + ((0, added, 0),))
    wide = lax.pad(kernel, zero, ((0, 0, 0),) * 2 + ((0, added, 0), (0, outputs - kernel.shape[-1], 0)))
    return _convolve(x, wide)[..., : kernel.shape[-1]]


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    found: list[tuple[str, ...]] = [("image", "outputs", "convolutions", "XLA", "at most", "ours", "at most")]
    sides = sorted({record["image"] for record in records}, reverse=True)
    for side in sides:
        every = [c for record in records if record["image"] == side for c in record["convolutions"]]
        for name, low, high in (("3 to 16", 0, 16), ("17 to 64", 17, math.inf)):
            chosen = [c["seconds"] for c in every if low <= c["outputs"] <= high]
            if chosen:
                cells = [cell for way in ("XLA", "ours") for cell in _to_best(chosen, way)]
                found.append((f"{side} x {side}", name, str(len(chosen)), *cells))
    return found


def _to_best(chosen: Sequence[Mapping[str, float]], way: str) -> tuple[str, str]:
    """Returns the geometric mean and the maximum of the time of an algorithm over the time of the best one."""
    ratios = [seconds[way] / min(seconds.values()) for seconds in chosen]
    return f"x {statistics.geometric_mean(ratios):.2f}", f"x {max(ratios):.2f}"
