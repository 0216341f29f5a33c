# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""XLA's convolutions, compared with `with_fast_convolutions` and its compiler options.

Results and both gradients are measured in GFLOP/s. FLOPs include taps on padding, so an algorithm that skips these taps
has a higher rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.timing import interleaved
from experiments.fast_convolutions import compiler_options, with_fast_convolutions

# Side of the image, inputs, outputs, stride; kernels are 3 x 3.
_SHAPES = (
    (32, 16, 16, 1),
    (32, 64, 64, 1),
    (32, 29, 37, 1),
    (32, 3, 24, 1),
    (16, 21, 21, 1),
    (16, 16, 7, 1),
    (16, 9, 5, 1),
    (16, 4, 4, 1),
    (32, 16, 32, 2),
    (16, 16, 16, 1),
    (16, 64, 64, 1),
    (8, 64, 64, 1),
    (4, 128, 128, 1),
    (4, 64, 128, 2),
    (2, 128, 128, 1),
    (2, 29, 37, 1),
)
_LOOPED = ((16, 16, 16, 1), (8, 64, 64, 1), (4, 64, 128, 2))
# By scale: shape, whether the convolution runs in a loop, number of examples.
CASES: dict[str, list[tuple[tuple[int, int, int, int], bool, int]]] = {
    "tiny": [((8, 2, 3, 1), False, 4), ((2, 3, 2, 1), False, 4), ((8, 2, 3, 1), True, 4)],
    "cpu": [*((shape, False, 128) for shape in _SHAPES), *((shape, True, 128) for shape in _LOOPED)],
}
# Iterations of a loop.
_ROUNDS = 4


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per shape: times of the result and both gradients, and their largest relative differences."""
    for (side, inputs, outputs, stride), loop, examples in cases:
        x = jax.random.normal(jax.random.key(0), (examples, side, side, inputs))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, inputs, outputs))
        g = jax.random.normal(jax.random.key(2), (examples, -(-side // stride), -(-side // stride), outputs))
        record: dict[str, Any] = {"image": side, "inputs": inputs, "outputs": outputs, "stride": stride, "loop": loop}
        for name, (fn, args) in _parts(stride, x, kernel, g).items():
            platform = jax.default_backend()
            fast_fn, options = with_fast_convolutions(fn, platform=platform), compiler_options(platform)
            plain = jax.jit(_looped(fn) if loop else fn)
            fast = jax.jit(_looped(fast_fn) if loop else fast_fn, compiler_options=options)
            wanted = plain(*args)
            differs = float(jnp.max(jnp.abs(wanted - fast(*args))) / jnp.max(jnp.abs(wanted)))
            calls = {"XLA": lambda plain=plain, args=args: plain(*args), "ours": lambda f=fast, args=args: f(*args)}
            timings = interleaved(calls, 2 if scale == "tiny" else 5 if loop else 15)
            flops = 2.0 * 9 * inputs * outputs * g.shape[1] ** 2 * examples * (_ROUNDS if loop else 1)
            rates = {way: round(flops / timing.seconds / 1e9, 2) for way, timing in timings.items()}
            record[name] = {"gflops_per_second": rates, **timings["ours"].record(), "difference": differs}
        yield {**record, "examples": examples}


def _looped(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls `fn` several times in a loop."""

    def rounds(*args: jax.Array) -> jax.Array:
        return lax.map(lambda xs: fn(*xs), tuple(jnp.stack([each] * _ROUNDS) for each in args))

    return rounds


def _parts(
    stride: int, x: jax.Array, kernel: jax.Array, g: jax.Array
) -> dict[str, tuple[Callable[..., Any], tuple[jax.Array, ...]]]:
    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)

    def image_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: forward(x, kernel), jnp.zeros_like(x))[1](g)[0]

    def kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: forward(x, kernel), jnp.zeros_like(kernel))[1](g)[0]

    return {
        "result": (forward, (x, kernel)),
        "image's gradient": (image_gradient, (g, kernel)),
        "kernel's gradient": (kernel_gradient, (x, g)),
    }


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    parts = ("result", "image's gradient", "kernel's gradient")
    found: list[tuple[str, ...]] = [("image", "channels", "stride", *parts)]
    for record in records:
        cells = []
        for part in parts:
            rates = record[part]["gflops_per_second"]
            cells.append(f"{rates['XLA']:.1f} -> {rates['ours']:.1f}")
        side = record["image"]
        channels = f"{record['inputs']} -> {record['outputs']}"
        where = ", in a loop" if record.get("loop") else ""
        found.append((f"{side} x {side}{where}", channels, str(record["stride"]), *cells))
    return found
