"""Every key of a config times bad values of its kind: one line that names it, or a value that the limits allow."""

import math
import re

import pytest

import demp_jax
from baselines import early, selection, sparsity, structured
from configs import base
from demp_jax import models
from experiments.cli import command
from experiments.core import progress
from experiments.core.errors import UsageError
from experiments.data import images
from experiments.data.preparation import PADDINGS
from experiments.recipe import methods
from experiments.recipe.problem import pose
from experiments.settings import Settings, device_defaults, options, parse, require_valid, schema

BAD = {
    int: (-1, 0, 2**31, 10**9, 10**30),
    float: (-1.0, float("nan"), float("inf"), 1e39, 1e30),
    str: ("", "nonsense", "-1", "5000%", "3000000000", "1e400ep", "2ep"),
    tuple: ("()", "(0,)", "(-1,)", "('',)", "('nope',)"),
    bool: ("maybe",),
}
KEYS = list(options.flat(base.base()))
EVERY = [(key, value) for key in KEYS for value in BAD[options.types()[key]]]
_MAY_BE_EMPTY = ("ranking.latest", "pruning.cut_cost", "pruning.ahead")
# One value of each key, another of the next.
SAMPLE = {(key, values[i % len(values)]) for i, key in enumerate(KEYS) for values in [BAD[options.types()[key]]]}


def _allowed(key, value):
    """The rule by which a value is legitimate wherever nothing else of the config or the data speaks against it."""
    limit, kind = schema.limits().get(key), options.types()[key]
    if limit is None:
        return True
    if kind is tuple:
        elements = re.findall(r"'[^']*'|-?\d+", value)
        if not isinstance(limit, schema.Range):
            return not elements or (value == "('nope',)" and isinstance(limit, schema.Patterns))
        return bool(elements) and all(int(each) in limit for each in elements if each[0] != "'")
    if isinstance(limit, schema.Duration):
        return re.fullmatch(r"\d+(ep|%)?", value) or (not value and key in _MAY_BE_EMPTY)
    if isinstance(limit, schema.Range):
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


def test_settings_have_every_option_and_accept_the_defaults():
    assert sorted(schema.limits()) == sorted(KEYS)
    config = device_defaults.settled(base.base(), 2000)
    require_valid(config)
    settings = parse(config, 1437)
    assert isinstance(settings, Settings)
    assert (settings.steps, settings.steps_per_epoch) == (2000, 1437 / 64)
    assert (settings.pruning.every, settings.eval_every, settings.watch.every) == (100, 200, 0)
    assert settings.optimizer.boundaries == (673, 1571, 2020)
    assert settings.ranking.latest is None
    assert settings.data.resize == (256,)
    assert settings.extra == {}


def test_options_of_your_own_are_kept():
    config = base.base()
    config.mine = {"temperature": 2.0}
    assert parse(device_defaults.settled(config, 2000), 1437).extra == {"mine.temperature": 2.0}


def test_choices_are_those_of_the_code():
    """The settings name them without importing JAX."""
    limits = schema.limits()
    for option, known in {
        "model.activation": models.ACTIVATIONS,
        "method.strength_schedule": demp_jax.schedules.SCHEDULES,
        "method.noise_schedule": demp_jax.schedules.SCHEDULES,
        "method.penalized": methods.PENALIZED,
        "pruning.criterion": demp_jax.activity.CRITERIA,
        "pruning.modes": demp_jax.activity.MODES,
        "masking.distribution": sparsity.DISTRIBUTIONS,
        "ranking.early_rule": early.RULES,
        "ranking.rule": ("auto", *selection.RULES),
        "ranking.feedback": structured.FEEDBACK,
        "data.framing": images.FRAMINGS,
        "data.padding": PADDINGS,
        "progress": progress.MODES,
    }.items():
        assert set(limits[option]) == set(known), option


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
