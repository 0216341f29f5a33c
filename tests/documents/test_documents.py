"""The pages of docs/ are true: their code runs, what it prints is what they show, their commands exist.

The README's code is run by `test_readme`.
"""

import inspect
import re
from unittest import mock

import pytest

import demp_jax
import demp_jax.equinox
import demp_jax.export
import demp_jax.linen
import demp_jax.models
import demp_jax.nnx
from experiments.core import compile_clock
from experiments.data.load import DATASETS
from experiments.recipe.methods import METHODS
from experiments.recipe.network import MODELS
from tests import pages

PUBLIC = (
    demp_jax,
    demp_jax.activity,
    demp_jax.equinox,
    demp_jax.export,
    demp_jax.linen,
    demp_jax.masks,
    demp_jax.models,
    demp_jax.nnx,
    demp_jax.regularizers,
    demp_jax.schedules,
    demp_jax.targets,
    demp_jax.tracing,
)

# They train a network, and so do others that are not slow.
SLOW = ("add_dataset", "record", "target")


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem in SLOW else [], id=p.stem) for p in pages.PAGES[1:]],
)
def test_code_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compile_clock, "use_compile_cache", lambda folder: None)  # The tests have their own.
    with mock.patch.dict(METHODS), mock.patch.dict(MODELS), mock.patch.dict(DATASETS):  # Pages add rows.
        pages.run_python(path)


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: p.stem)
def test_commands_are_understood_by_their_programs(path, tmp_path):
    for i, block in enumerate(pages.blocks(path, "bash")):
        if block.output is not None:
            (tmp_path / str(i)).mkdir()
            pages.run_shown(block, tmp_path / str(i))
            continue
        for words in pages.commands(block):
            pages.check(words)


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda p: p.stem)
def test_no_block_is_left_out(path):
    assert set(re.findall(r"^```(\w+)$", path.read_text(), re.M)) <= {"python", "bash", "text"}


def test_every_public_name_is_in_the_reference():
    text = "".join(p.read_text() for p in (pages.ROOT / "docs" / "reference").glob("*.rst"))
    whole = set(re.findall(r"automodule:: (\S+)\n   :members:", text))
    listed = set(re.findall(r"^\.\. (?:autofunction|autoclass|data):: (\w+)$", text, re.M))
    for module in PUBLIC:
        names = {n for n, value in vars(module).items() if not n.startswith("_") and not inspect.ismodule(value)}
        assert module.__name__ in whole or names <= listed, names - listed
    for path in (pages.ROOT / "baselines").glob("[!_]*.py"):
        assert f"baselines.{path.stem}" in whole
