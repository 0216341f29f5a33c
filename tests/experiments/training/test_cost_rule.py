"""When a prune pays."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.training import cost_rule


@given(
    st.floats(0.5, 500),
    st.integers(1, 200),
    st.integers(0, 500),
    st.lists(st.floats(0, 0.9), min_size=1, max_size=40),
)
def test_waiting_costs_at_most_what_the_cuts_do(cost, every, preparing, deaths):
    """Rent or buy, in the time that the rule goes by: steps lost by waiting against the price of the cuts."""
    waited, lost, cuts, saves = 0.0, 0.0, 0, 0.0
    chances = range(every, 10**6, every)
    # While a cut is prepared there is no other chance.
    every = next(chance for chance in chances if chance >= preparing)
    assert every == cost_rule.period(chances.step, preparing)
    for chance, death in enumerate(deaths, start=1):
        # Of what is left, so much dies.
        saves += (1 - saves) * death
        remaining = (len(deaths) - chance + 1) * every
        if saves > 0 and saves >= cost_rule.least_gain(cost, waited, every, remaining):
            assert cost_rule.time_per_flops() * saves * remaining >= cost * (1 - 1e-6)  # The rest of the run repays it.
            cuts, waited, saves = cuts + 1, 0.0, 0.0
        else:
            waited += cost_rule.time_per_flops() * saves * every
            lost += cost_rule.time_per_flops() * saves * every
    assert lost <= cost * (cuts + 1) + 1e-6 or waited > cost
    if waited > cost:
        # Then a cut would not have been repaid by the end.
        assert cost_rule.time_per_flops() * saves * every < cost


def test_a_gpu_saves_less_of_its_time_so_that_a_cut_has_to_save_more(monkeypatch):
    here = cost_rule.least_gain(10, 0.0, 1000, 10**6)
    assert here == pytest.approx(0.01 / 0.7)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert cost_rule.least_gain(10, 0.0, 1000, 10**6) == pytest.approx(0.01 / 0.2)


def test_a_cut_that_costs_nothing_is_always_made():
    assert cost_rule.least_gain(0, 0.0, 10, 0) == 0.0
    assert 0 < cost_rule.least_gain(100, 0.0, 10, 10**6) < 1
    assert cost_rule.least_gain(100, 99.9, 10, 10**6) < cost_rule.least_gain(100, 0.0, 10, 10**6)
