"""Every key of a config times bad values of its kind: one line that names it, or a value that the limits allow."""

import math
import re

import pytest

from configs import base
from experiments.cli import command
from experiments.core.errors import UsageError
from experiments.recipe import fields, limits
from experiments.recipe.problem import pose

BAD = {
    int: (-1, 0, 2**31, 10**9, 10**30),
    float: (-1.0, float("nan"), float("inf"), 1e39, 1e30),
    str: ("", "nonsense", "-1", "5000%", "3000000000", "1e400ep", "2ep"),
    tuple: ("()", "(0,)", "(-1,)", "('',)", "('nope',)"),
    bool: ("maybe",),
}
KEYS = list(fields.flat(base.base()))
EVERY = [(key, value) for key in KEYS for value in BAD[fields._kinds()[key]]]
# One value of each key, another of the next.
SAMPLE = {(key, values[i % len(values)]) for i, key in enumerate(KEYS) for values in [BAD[fields._kinds()[key]]]}


def _allowed(key, value):
    """The rule by which a value is legitimate wherever nothing else of the config or the data speaks against it."""
    limit, kind = limits.LIMITS[key], fields._kinds()[key]
    if limit == limits.ANY:
        return True
    if kind is tuple:
        elements = re.findall(r"'[^']*'|-?\d+", value)
        if limit in (limits.PATTERNS, limits.DURATION):
            return not elements or (value == "('nope',)" and limit == limits.PATTERNS)
        return bool(elements) and all(int(each) in limit for each in elements if each[0] != "'")
    if limit in (limits.DURATION, limits.OPTIONAL_DURATION):
        return re.fullmatch(r"\d+(ep|%)?", value) or (not value and limit == limits.OPTIONAL_DURATION)
    if isinstance(limit, limits.Range):
        return math.isfinite(value) and limit.least <= value <= limit.most
    return value in limit


@pytest.mark.parametrize(
    ("key", "value"), [pytest.param(*c, marks=[] if c in SAMPLE else [pytest.mark.slow]) for c in EVERY]
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_bad_value_ends_in_one_line_that_names_it(key, value):
    said = ""
    try:
        pose(command.config_of(["--config=configs/quickstart.py:smoke", f"--config.{key}={value}"]))
    except UsageError as error:
        said = str(error)
    if not said:
        assert _allowed(key, value), f"config.{key}={value!r} was accepted"
    else:
        assert f"config.{key}" in said
        assert "\n" not in said
        assert len(said) < 400


def test_every_key_has_limits_that_its_default_keeps():
    assert set(limits.LIMITS) == {key for key in KEYS if fields._kinds()[key] is not bool}
    limits.require_sizes(base.base())
    limits.require_all(base.base(), epoch=10.0, run=2000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("pruning.min_units=128",), r"config.pruning.min_units must be below 128, the units of the widest layer"),
        (("pruning.multiple=129",), r"config.pruning.multiple must be at most 128, the units of the widest layer"),
        (
            ("method.name=snap", "ranking.exclude=('norm/*',)"),
            r"config.ranking.exclude must be patterns that leave some",
        ),
        (
            ("method.name=snap", "ranking.exclude=('nope',)"),
            r"config.ranking.exclude=\('nope',\): no site is named 'nope'",
        ),
        (
            ("method.name=srigl", "masking.never_ablated=('nope',)"),
            r"config.masking.never_ablated must be patterns of paths",
        ),
    ],
)
def test_what_leaves_nothing_to_do_is_refused(changes, message):
    words = ["--config=configs/quickstart.py:smoke", "--config.model.widths=(128,)"]
    with pytest.raises(UsageError, match=message):
        pose(command.config_of([*words, *(f"--config.{change}" for change in changes)]))
