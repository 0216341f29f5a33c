# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Figure 9: which noise kills the neurons of a small MLP on MNIST."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import mlp_mnist
from experiments import data, settings
from experiments.core.errors import UsageError
from experiments.figures.figure import Figure, Mean, Panel, Point, line
from experiments.figures.judging import Claim, Effect
from experiments.settings import schema

LEVELS = (0.01, 0.025, 0.05, 0.075, 0.1)
KINDS = ("SGD noise", "asymmetric", "symmetric", "SGD")
_PANELS = {"SGD noise": 0, "asymmetric": 1, "symmetric": 1, "SGD": 2}
# Images and steps, by scale; the paper's are 10,000 and 35,000.
_SIZES = {"cpu": (1_000, 6_000), "gpu": (10_000, 35_000), "paper": (10_000, 35_000)}
_WIDTHS = (100, 300, 10)
_LOOKS = 12
# Ratios of fewer dead neurons than this are not reported.
_FEWEST = 10

Params = list[tuple[jax.Array, jax.Array]]


def initial(key: jax.Array, inputs: int) -> Params:
    """Returns the weights and biases of an MLP of widths 100, 300 and 10, truncated normals of variance 1 / fan-in."""
    sizes = (inputs, *_WIDTHS)
    return [
        (jax.random.truncated_normal(k, -2, 2, (a, b)) / math.sqrt(a), jnp.zeros(b))
        for k, a, b in zip(jax.random.split(key, 3), sizes, sizes[1:], strict=False)
    ]


def hidden(params: Params, x: jax.Array) -> list[jax.Array]:
    """Returns the activations of both hidden layers for `x` `[B, inputs]`."""
    values = []
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b[None])
        values.append(x)
    return values


def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy."""
    w, b = params[-1]
    logits = hidden(params, x)[-1] @ w + b[None]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


def dead(params: Params, x: jax.Array) -> jax.Array:
    """Returns how many hidden neurons are zero on all of `x`."""
    return sum((jnp.sum(jnp.all(value <= 0, 0)) for value in hidden(params, x)), start=jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnames=("kind", "looks", "between"))
def train(
    params: Params, x: jax.Array, y: jax.Array, key: jax.Array, level: float, *, kind: str, looks: int, between: int
) -> jax.Array:
    """Returns the number of dead neurons after every `between` steps, `[looks]`; -1 if the weights have diverged.

    A step uses a single image. `SGD noise` is w -= level (g_image - g_all), the noise of the gradient alone.
    `asymmetric` and `symmetric` are w += level 0.1 xi, xi ~ N(0, 1), for the weights of alive neurons or for all. `SGD`
    is w -= level g_image.
    """

    def step(params: Params, key: jax.Array) -> tuple[Params, None]:
        i = jax.random.randint(key, (1,), 0, x.shape[0])
        if kind in ("SGD noise", "SGD"):
            update = jax.grad(loss)(params, x[i], y[i])
            if kind == "SGD noise":
                update = jax.tree.map(jnp.subtract, update, jax.grad(loss)(params, x, y))
            return jax.tree.map(lambda p, u: p - level * u, params, update), None
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        noise = [0.1 * level * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
        moves = jax.tree.unflatten(structure, noise)
        if kind == "asymmetric":
            lives = [jnp.any(value > 0, 0) for value in hidden(params, x)]
            # A weight belongs to the neuron that computes with it and to the one whose output it multiplies.
            after, before = [*lives, jnp.ones(_WIDTHS[-1], bool)], [jnp.ones(x.shape[1], bool), *lives]
            moves = [
                (w * a[None, :] * b[:, None], bias * a) for (w, bias), a, b in zip(moves, after, before, strict=True)
            ]
        return jax.tree.map(jnp.add, params, moves), None

    def look(params: Params, key: jax.Array) -> tuple[Params, jax.Array]:
        params, _ = jax.lax.scan(step, params, jax.random.split(key, between))
        finite = jnp.isfinite(loss(params, x, y)) & jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)])
        )
        return params, jnp.where(finite, dead(params, x), -1)

    return jax.lax.scan(look, params, jax.random.split(key, looks))[1]


def _images(count: int) -> tuple[jax.Array, jax.Array]:
    try:
        config = mlp_mnist.get_config()
        with config.unlocked():
            config.data.train_examples, config.progress = count, "off"
        dataset: Any = data.load(settings.section(schema.Data, config.data), config.seed)
        images, labels = dataset.splits["train"]
        return jnp.asarray(images[:count].reshape(count, -1) / 255.0, jnp.float32), jnp.asarray(labels[:count])
    except UsageError as error:
        raise UsageError(f"fig9 needs MNIST: {error}") from error


def _points(scale: str, seeds: Sequence[int]) -> list[Point]:
    count, steps = _SIZES[scale]
    x, y = _images(count)
    points = []
    for kind, level, seed in itertools.product(KINDS, LEVELS, seeds):
        first, run = jax.random.split(jax.random.key(seed))
        params = initial(first, x.shape[1])
        options: dict[str, Any] = {"kind": kind, "looks": _LOOKS, "between": steps // _LOOKS}
        counts = np.asarray(train(params, x, y, run, level, **options))
        series = f"{level:g}" if kind.startswith("SGD") else f"{level:g} {kind}"
        for i, n in enumerate([int(dead(params, x)), *counts.tolist()]):
            t = i * (steps // _LOOKS)
            if n >= 0:
                points.append(Point(_PANELS[kind], series, t, seed, t, float(n)))
    return points


def _judge(means: Sequence[Mean]) -> list[Claim]:
    end = max((m.x for m in means), default=0.0)

    def ends(panel: int, kind: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Returns by level the first number of dead units, and the mean of the last third, as the numbers fluctuate."""
        found = []
        for level in LEVELS:
            x, y = line(means, panel, f"{level:g}{kind}")
            told = len(x) and x[-1] == end
            found.append((y[0], np.mean(y[x >= 2 / 3 * end])) if told else (math.nan, math.nan))
        first, last = np.array(found).T
        return first, last

    first, pure = ends(0)
    (_, plain), (_, asymmetric), (_, symmetric) = ends(2), ends(1, " asymmetric"), ends(1, " symmetric")
    known = np.isfinite(pure)
    lost = ", ".join(f"{level:g}" for level, told in zip(LEVELS, known, strict=True) if not told)
    note = f"with SGD noise a seed's weights diverged at {lost}" if means and lost else ""
    # A minority of the levels does not tell what the noise does.
    most = float(np.max((pure - first)[known])) if 2 * known.sum() > len(LEVELS) else math.nan
    enough = known & (np.maximum(pure, plain) >= _FEWEST)
    pairs = np.sort([pure[enough], plain[enough]], axis=0)
    ratios = pairs[0] / pairs[1]
    ratio = float(np.mean(ratios)) if 2 * len(ratios) >= len(LEVELS) else math.nan
    fewer = float(max(asymmetric[-1], symmetric[-1]) / plain[-1]) if plain[-1] >= _FEWEST else math.nan
    apart, rise = float(np.mean(asymmetric - symmetric)), float(plain[-1] - plain[0])
    alone = Effect(
        "dead at the end minus at the start, of 400, at the level with the most", most, above=20.0, unit="neurons"
    )
    as_many = Effect("smaller over larger number of dead, SGD noise and SGD", ratio, above=0.5, unit="times")
    far_fewer = Effect("half of SGD's dead minus those with Gaussian noise", 0.5 - fewer, unit="of SGD's dead")
    revived = Effect("dead with noise on live neurons minus on all, mean of the levels", apart, unit="neurons")
    noisier = Effect("dead at the largest level minus at the smallest", rise, unit="neurons")
    similar = "The noise of SGD kills about as many as SGD (half to twice as many, averaged over the levels)."
    return [
        Claim("The noise of SGD alone kills neurons (5% of them at some level).", "D.1", (alone,), note),
        Claim(similar, "2.2", (as_many,), note),
        Claim("Gaussian noise kills far fewer than SGD (less than half, at the largest level).", "2.2", (far_fewer,)),
        Claim(
            "Gaussian noise on live neurons kills more than noise on all neurons, which revives some.",
            "D.1",
            (revived,),
        ),
        Claim("SGD kills more neurons, the higher the level.", "D.1", (noisier,)),
    ]


FIG9 = Figure(
    "fig9",
    "dead neurons of a small MLP under SGD noise, Gaussian noise of standard deviation 0.1 x level, and SGD, MNIST",
    tuple(Panel(t, "Training step", "Dead neurons") for t in ("SGD noise", "Gaussian noise", "SGD")),
    _judge,
    simulate=_points,
    look=lambda series: (f"level {series.split()[0]}", series.partition(" ")[2]),
)
FIGURES = (FIG9,)
