"""When a claim holds: bounds, equivalence, and how often the rule is wrong."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from experiments.figures import judging
from experiments.figures.judging import Claim, Effect, Verdict, decide


def _decided(values, above=0.0, within=None):
    return decide([Claim("It is.", "1", (Effect("it", value, above, within),)) for value in values])


def test_the_bounds_are_those_of_a_t_test():
    """Where a bound is at b, scipy's one-sided t-test of the mean against b has a p-value of 0.1."""
    values = [1.2, 0.8, 1.5]
    low, high = judging.bounds(values)
    assert stats.ttest_1samp(values, low, alternative="greater").pvalue == pytest.approx(0.1)
    assert stats.ttest_1samp(values, high, alternative="less").pvalue == pytest.approx(0.1)


def test_what_is_decided():
    assert _decided([1.2, 0.8, 1.5]).outcome == "holds"
    assert _decided([1.2, 0.8, 1.5], above=2.0).outcome == "does not hold"
    assert _decided([3.0, -1.0, 1.0]).outcome == "undecided"
    assert _decided([0.2, -0.1, 0.0], within=1.0).outcome == "holds"
    assert _decided([1.6, 1.5, 1.7], within=1.0).outcome == "does not hold"
    assert _decided([-1.6, -1.5, -1.7], within=1.0).outcome == "does not hold"
    assert _decided([1.1, 0.8, 0.6], within=1.0).outcome == "undecided"
    # One seed, or two, decide nothing, however large the effect is.
    assert [_decided([9.0] * n).outcome for n in (1, 2, 3)] == ["undecided", "undecided", "holds"]
    nothing = _decided([np.nan] * 3)
    assert (nothing.outcome, nothing.why) == ("not tested", "no runs at this scale")
    assert _decided([1.2, np.nan, 1.5]).outcome == "undecided"


def test_several_effects():
    """All of them have to be where the claim has them; what is not tested leaves it undecided."""

    def decided(*columns):
        names = "abcdef"[: len(columns)]
        return decide(
            [Claim("It is.", "1", tuple(map(Effect, names, row))) for row in zip(*columns, strict=True)]
        ).outcome

    good, bad, unknown = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [np.nan] * 3
    assert decided(good, good) == "holds"
    assert decided(good, bad) == "does not hold"
    assert decided(good, unknown) == "undecided"
    assert decided(bad, unknown) == "does not hold"
    # Below its own bound, but of six effects one is by chance.
    little = [-1.0, -0.2, -0.9]
    assert decided(little) == "does not hold"
    assert decided(little, *[good] * 5) == "undecided"


@pytest.mark.parametrize("within", [None, 1.0])
def test_under_no_effect_it_is_rarely_wrong(within):
    """At the border of a claim each wrong decision comes in at most one case of ten, and one seed decides nothing."""
    rng, border, count = np.random.default_rng(0), 0.0 if within is None else within, 20_000
    for seeds in (1, 3, 5):
        values = rng.normal(border, 1.0, (count, seeds))
        found = collections.Counter(judging.outcome(list(row), 0.0, within) for row in values)
        # Three standard errors of the count.
        most = 0.1 * count + 3 * np.sqrt(0.09 * count)
        assert found["holds"] <= most
        assert found["does not hold"] <= most
        if seeds == 1:
            assert found == {"undecided": count}
        elif within is None:
            assert found["holds"] >= 0.09 * count  # The bounds are no wider than they have to be.


def test_a_verdict_tells_its_numbers_and_is_read_again():
    claims = [
        Claim("It is.", "4.1", (Effect("ours minus theirs", value, over=over), Effect("else", np.nan)), "so far")
        for value, over in ((1.2, (60.0, 80.0)), (0.8, (55.0, 82.0)), (1.5, (61.0, 79.0)))
    ]
    found = decide(claims)
    assert found.why == (
        "ours minus theirs (55 to 82%): +1.17 points [+0.784, +1.55], required: above 0; no runs for: else; so far"
    )
    assert Verdict.load(json.loads(json.dumps(dataclasses.asdict(found)))) == found
