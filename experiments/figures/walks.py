# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The paper's two random walks (appendix B), simulated, and what they say of one real neuron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments.figures.figure import Figure, Mean, Panel, Point, line, names
from experiments.figures.judging import Claim, Effect

# Walkers and steps, by scale.
_SIZES = {"cpu": (20_000, 2_000), "gpu": (200_000, 20_000), "paper": (200_000, 20_000)}
_ETAS = (0.01, 0.05, 0.1)
_W0 = 1.0


def survival(key: jax.Array, eta: float, *, w0: float = _W0, time: float, walkers: int, steps: int) -> np.ndarray:
    """Returns the fraction of walkers above zero at times up to `time`, `[steps + 1]`: equation (5) of the paper.

        dw = sqrt(eta) dB while w > 0, and w = 0 from then on

    A walker may have been below zero between two steps: it dies in between with the probability of a Brownian bridge,
    exp(-2 w_t w_{t+1} / (eta dt)), so that the steps bring no error.
    """
    dt = time / steps

    def step(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        w, lives = carry
        move, crossing = jax.random.split(key)
        after = w + math.sqrt(eta * dt) * jax.random.normal(move, w.shape)
        crossed = jax.random.uniform(crossing, w.shape) < jnp.exp(-2 * w * after / (eta * dt))
        lives = lives & (after > 0) & ~crossed
        return (jnp.where(lives, after, 0.0), lives), jnp.mean(lives)

    first = (jnp.full(walkers, w0), jnp.ones(walkers, bool))
    _, parts = jax.jit(lambda: jax.lax.scan(step, first, jax.random.split(key, steps)))()
    return np.concatenate([[1.0], np.asarray(parts)])


def _curve(panel: int, series: str, seed: int, xs: Iterable[float], ys: Iterable[float]) -> list[Point]:
    return [Point(panel, series, x, seed, x, y) for x, y in zip(xs, ys, strict=True)]


_CLOSER = f"simulated from w0 / 2, eta {_ETAS[0]}"


def _prop_b1(scale: str, seeds: Sequence[int]) -> list[Point]:
    walkers, steps = _SIZES[scale]
    every, time = steps // 20, 100.0
    times = np.linspace(0, time, steps + 1)[::every]

    def simulated(name: str, seed: int, stream: int, eta: float, w0: float) -> list[Point]:
        key = jax.random.fold_in(jax.random.key(seed), stream)
        alive = survival(key, eta, w0=w0, time=time, walkers=walkers, steps=steps)
        return _curve(0, name, seed, times, alive[::every])

    points = []
    for eta in _ETAS:
        with np.errstate(divide="ignore"):
            theory = special.erf(_W0 / np.sqrt(2 * eta * times))
        for seed in seeds:
            points += _curve(0, f"erf, eta {eta}", seed, times, theory)
            points += simulated(f"simulated, eta {eta}", seed, round(1000 * eta), eta, _W0)
    for seed in seeds:
        points += simulated(_CLOSER, seed, 0, _ETAS[0], _W0 / 2)
    return points


def _judge_b1(means: Sequence[Mean]) -> list[Claim]:
    worst, ends = math.nan, [math.nan] * len(_ETAS)
    if means:
        pairs = [[line(means, 0, f"{kind}, eta {eta}")[1] for kind in ("erf", "simulated")] for eta in _ETAS]
        worst = max(float(np.max(np.abs(theory - found))) for theory, found in pairs)
        ends = [float(found[-1]) for _, found in pairs]
    closer = float(line(means, 0, _CLOSER)[1][-1]) if means else math.nan
    claim = "A walker that is absorbed at zero survives to t with probability erf(w0 / sqrt(2 eta t)) (within 0.02)."
    unit = "of the walkers"
    sooner = [
        Effect(f"alive at the end at eta {low} minus at {high}", a - b, unit=unit)
        for (low, a), (high, b) in itertools.pairwise(zip(_ETAS, ends, strict=True))
    ]
    near = Effect(f"alive at the end from w0 minus from w0 / 2, at eta {_ETAS[0]}", ends[0] - closer, unit=unit)
    return [
        Claim(claim, "B.1", (Effect("largest difference", worst, within=0.02, unit=unit),)),
        Claim("A walker dies sooner at a larger learning rate eta.", "B.1", tuple(sooner)),
        Claim("A walker that starts closer to zero dies sooner.", "B.1", (near,)),
    ]


PROP_B1 = Figure(
    "propB1",
    "survival of the absorbing random walk, simulated and by formula",
    (Panel("", "Time", "Survival probability (%)", percent=True),),
    _judge_b1,
    simulate=_prop_b1,
    # The formula has a color of its own, since it coincides with the simulations.
    look=lambda series: ("erf", "erf") if series.startswith("erf") else (series.split(", ")[1], series.split(", ")[0]),
)

# The second walk: w_{t+1} = w_t - eta (h + zeta_t) w_t, with zeta = 1 or -1 with equal probability.
_H, _ZETA = -0.02, 1.0


def growth(eta: np.ndarray, h: float = _H, zeta: float = _ZETA) -> np.ndarray:
    """Returns mu = E log(1 - eta (h + zeta)) for noise of plus or minus `zeta`, equation (12)'s exponent."""
    return 0.5 * (np.log1p(-eta * (h + zeta)) + np.log1p(-eta * (h - zeta)))


def bound(eta: np.ndarray, h: float = _H, zeta: float = _ZETA) -> np.ndarray:
    """Returns the upper bound of mu by equation (15), with sigma the standard deviation of the noise."""
    s = zeta**2
    return -eta * h - eta**2 / 2 * (h**2 + s) - eta**3 / 3 * (h**3 + 3 * h * s)


def _lemma_b2(scale: str, seeds: Sequence[int]) -> list[Point]:
    walkers, steps = _SIZES[scale]
    points = []
    etas = np.linspace(0.005, 0.6, 60)
    for seed in seeds:
        points += _curve(0, "mu", seed, etas, growth(etas)) + _curve(0, "bound (15)", seed, etas, bound(etas))
    epsilon = 0.02
    for eta in (0.02, 0.3):
        mu = float(growth(np.array(eta)))
        name = f"eta {eta}, mu {mu:+.4f}"
        for seed in seeds:
            signs = np.random.default_rng(seed).choice((-1.0, 1.0), (min(walkers, 2_000), steps))
            logs = np.cumsum(np.log1p(-eta * (_H + _ZETA * signs)), 1)
            for t in range(steps // 20, steps + 1, steps // 20):
                inside = np.abs(logs[:, t - 1] / t - mu) <= epsilon
                points.append(Point(1, name, t, seed, t, float(inside.mean())))
                points.append(Point(2, name, t, seed, t, float(np.median(logs[:, t - 1]))))
    for seed in seeds:
        for eta in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
            points.append(Point(3, "ReLU neuron", eta, seed, eta, _neuron_deaths(seed, eta, steps=min(steps, 2000))))
    return points


def _neuron_deaths(seed: int, eta: float, *, steps: int, neurons: int = 400, inputs: int = 8) -> float:
    """Returns the fraction of single ReLU neurons that are dead after SGD on labels that they cannot learn.

    Each neuron relu(w x + b) is trained alone by batches of one on 64 inputs with labels of random sign: its gradient
    is all noise, and zero once the neuron is dead, as in both walks.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    x = jax.random.normal(keys[0], (64, inputs))
    y = jax.random.rademacher(keys[1], (64,), jnp.float32)
    w = jax.random.normal(keys[2], (neurons, inputs + 1)) / math.sqrt(inputs)
    ones = jnp.concatenate([x, jnp.ones((64, 1))], 1)

    def step(w: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        chosen = jax.random.randint(key, (neurons,), 0, 64)
        value = jnp.sum(w * ones[chosen], 1)
        error = jnp.where(value > 0, jnp.maximum(value, 0) - y[chosen], 0.0)
        return w - eta / inputs * error[:, None] * ones[chosen], None

    w, _ = jax.jit(lambda w: jax.lax.scan(step, w, jax.random.split(keys[3], steps)))(w)
    return float(jnp.mean(jnp.all(w @ ones.T <= 0, 1)))


def _judge_b2(means: Sequence[Mean]) -> list[Claim]:
    ends = {name: 100 * float(line(means, 1, name)[1][-1]) for name in names(means, 1)}
    claim = "In the end |w_t| is between exp(t (mu - epsilon)) and exp(t (mu + epsilon)) with high probability (95%)."
    inside = Effect(
        "inside at the end, at the learning rate with the fewest", min(ends.values(), default=math.nan), 95.0, unit="%"
    )
    found = [Claim(claim, "B.2", (inside,))]
    etas, mu = line(means, 0, "mu")
    _, above = line(means, 0, "bound (15)")
    claim = "For h < 0 there is a range of learning rates with mu < 0, where noise makes an unstable direction stable."
    note, least, over = "", math.nan, math.nan
    if len(mu):
        least, over = -float(mu.min()), float((above - mu).min())
        note = (
            f"computed, not simulated: mu < 0 from eta {etas[mu < 0][0]:.3f} on" if least > 0 else "mu > 0 everywhere"
        )
    effects = (
        Effect("-mu at its minimum", least, unit="per step"),
        # In exact arithmetic 0 at eta = 0.
        Effect("minimum of the bound (15) minus mu", over, above=-1e-12, unit="per step"),
    )
    found.append(Claim(claim, "B.3", effects, note))
    _, dead = line(means, 3, "ReLU neuron")
    claim = "A real ReLU neuron driven by gradient noise dies more often at a larger learning rate."
    more = 100 * float(dead[-1] - dead[0]) if len(dead) else math.nan
    effect = Effect("dead at the largest eta minus at the smallest", more, unit="% of the neurons")
    return [*found, Claim(claim, "B (the effect itself)", (effect,))]


LEMMA_B2 = Figure(
    "lemmaB2",
    "the geometric random walk: its bounds, its stable learning rates, and one real ReLU neuron",
    (
        Panel(f"h = {_H}, zeta = +-{_ZETA:g}", "eta", "mu"),
        Panel("Inside the bounds", "t", "Walkers (%)", percent=True),
        Panel("Size of a weight", "t", "Median log |w_t|"),
        Panel("One neuron, SGD noise", "Learning rate", "Dead (%)", log_x=True, percent=True),
    ),
    _judge_b2,
    simulate=_lemma_b2,
)
FIGURES = (PROP_B1, LEMMA_B2)
