"""Criteria, regularizer, noise and schedules in plain NumPy."""

import math

import numpy as np


def alive(batches, criterion, epsilon=0.01):
    """Who is alive: `batches` is a list of arrays `[examples, space..., units]`."""
    units = batches[0].shape[-1]
    lives = np.zeros(units, bool)
    for j in range(units):
        for values in (b[..., j].ravel() for b in batches):
            if criterion == "zero":
                lives[j] |= any(v != 0 for v in values)
            elif criterion == "epsilon":
                lives[j] |= any(abs(v) >= epsilon for v in values)
            elif criterion == "negative":
                lives[j] |= any(v > 0 for v in values)
            elif criterion == "sum":
                lives[j] |= sum(float(v) for v in values) > 0
    return lives


def regularizer_gradient(kind, strength, theta):
    """Gradient of lambda |theta| or lambda/2 theta^2, by central differences of the penalty itself."""

    def penalty(value):
        return strength * abs(value) if kind == "lasso" else strength * value**2 / 2

    step = 1e-4
    flat = [(penalty(v + step) - penalty(v - step)) / (2 * step) for v in np.ravel(theta)]
    return np.reshape(flat, np.shape(theta))


def one_cycle(step, peak, span, warmup=0.3, shape="linear"):
    """The paper's schedule, one step at a time."""
    grown = math.floor(warmup * span)
    if step < grown:
        if shape == "linear":
            return peak * step / grown
        return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * step / grown)) / 2
    if step >= span:
        return 0.0
    return peak * (1 + math.cos(math.pi * (step - grown) / (span - grown))) / 2


def warmup_hold(step, peak, span):
    """Linear growth, then constant."""
    return peak * min(step / span, 1)


def cosine_decay(step, peak, span):
    """Half a cosine, then zero."""
    return peak * (1 + math.cos(math.pi * min(step / span, 1))) / 2


def constant(step, peak, span):
    """Constant for a span."""
    return peak if step < span else 0.0


def noisy(update, std, normal, live):
    """Update plus noise on live weights."""
    return update + std * normal * live
