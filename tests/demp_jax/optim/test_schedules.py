"""Schedules against a plain reference."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import demp_jax
from demp_jax import schedules
from tests.reference import demp as reference

CASES = {
    "one_cycle": (demp_jax.one_cycle, reference.one_cycle),
    "one_cycle_cosine": (
        schedules.SCHEDULES["one_cycle_cosine"],
        lambda t, p, s: reference.one_cycle(t, p, s, shape="cosine"),
    ),
    "warmup_hold": (schedules.warmup_hold, reference.warmup_hold),
    "cosine_decay": (schedules.cosine_decay, reference.cosine_decay),
    "constant": (schedules.constant, reference.constant),
}


@pytest.mark.parametrize("name", CASES)
@hypothesis.given(peak=st.floats(0, 10), span=st.integers(1, 100_000), part=st.floats(0, 1.5))
def test_against_the_reference(name, peak, span, part):
    ours, theirs = CASES[name]
    step = int(part * span)
    np.testing.assert_allclose(ours(peak, span)(step), theirs(step, peak, span), rtol=2e-4, atol=2e-5 * max(peak, 1e-3))


@pytest.mark.parametrize("name", CASES)
def test_range_and_tracing(name):
    schedule = schedules.SCHEDULES[name](0.5, 1000)
    values = jax.vmap(schedule)(jnp.arange(1500))
    assert values.dtype == jnp.float32
    assert float(values.min()) >= 0
    assert float(values.max()) == pytest.approx(0.5, rel=1e-5)
    assert float(values[-1]) == (0.5 if name == "warmup_hold" else 0.0)


def test_the_table_is_complete():
    assert set(CASES) == set(schedules.SCHEDULES)


def test_released_shape_is_that_of_optax_until_its_floor():
    ours = schedules.SCHEDULES["one_cycle_cosine"](0.01, 1000)
    theirs = optax.cosine_onecycle_schedule(1000, 0.01)
    steps = np.arange(1000)
    np.testing.assert_allclose([ours(t) for t in steps], [theirs(t) for t in steps], atol=1e-6)


def test_peak_and_ends_of_the_paper():
    schedule = demp_jax.one_cycle(1.0, 1000)
    assert [float(schedule(t)) for t in (0, 150, 300, 1000, 5000)] == pytest.approx([0, 0.5, 1, 0, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: demp_jax.one_cycle(-1.0, 10),
            "peak_value must be a finite number >= 0; got peak_value=-1.0",
        ),
        (
            lambda: demp_jax.one_cycle(float("nan"), 10),
            "peak_value must be a finite number >= 0; got peak_value=nan",
        ),
        (lambda: demp_jax.one_cycle(1.0, 0), "one_cycle: transition_steps must be >= 1 step; got"),
        (
            lambda: demp_jax.one_cycle(1.0, 10, pct_start=1.0),
            r"pct_start must be in \[0, 1\); got pct_start=1.0",
        ),
        (lambda: demp_jax.one_cycle(1.0, 10, shape="step"), "shape must be 'linear' or 'cosine'; got shape='step'"),
        (lambda: schedules.warmup_hold(float("inf"), 10), "warmup_hold: peak_value must be a finite number"),
        (
            lambda: schedules.cosine_decay(1.0, -5),
            "cosine_decay: decay_steps must be >= 1 step; got",
        ),
        (
            lambda: schedules.constant(1.0, 0),
            "constant: transition_steps must be >= 1 step; got",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
