"""The README is true: its code runs, its commands exist, its tables come from records."""

import re

import jax
import pytest
from flax import nnx

from experiments.reporting import tables
from experiments.rundir.records import read_lines
from tests import pages

ROOT = pages.ROOT
README = pages.README.read_text()
[URL] = re.findall(r'^URL = "(.+?)"', (ROOT / "setup.py").read_text(), re.M)
TRAINING = (ROOT / "docs" / "training.md").read_text()


def test_the_example_runs_and_shrinks_a_network_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, outputs = pages.run_python(pages.README)
    *printed, last = outputs[0].splitlines()
    assert len(printed) == 3
    assert all("units removed" in line for line in printed)
    before = 64 * 128 + 128 * 128 + 128 * 10 + 2 * 3 * 128 + 10
    after = int(re.findall(r"parameters \d+ -> (\d+)", printed[-1])[0])
    assert re.findall(r"parameters (\d+) -> \d+", printed[0]) == [str(before)]
    assert after < 0.65 * before
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(names["model"], nnx.Param))) == after
    assert float(re.fullmatch(r"test accuracy (\d+\.\d)%", last)[1]) > 85


def test_it_is_short():
    assert README.count("\n") <= 150


def test_it_installs_the_library_and_names_two_commands():
    install, first, *_ = pages.blocks(pages.README, "bash")
    assert install.code.split()[:3] == ["pip", "install", f"git+{URL}"]
    assert pages.commands(first) == [["make", "demo"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_config_and_variant_it_names_exists():
    import importlib

    rows = re.findall(r"\| `configs/(\w+)\.py` \|.*\| (.*) \|", TRAINING)
    assert {name for name, _ in rows} == {p.stem for p in (ROOT / "configs").glob("*.py")} - {"__init__", "base"}
    for name, listed in rows:
        module = importlib.import_module(f"configs.{name}")
        named = set(re.findall(r"`(\w+)`", listed))
        assert named == set(module._VARIANTS) - {""}
        for variant in named:
            module.get_config(variant)


def test_every_method_is_in_its_table():
    from experiments.recipe.methods import METHODS

    table = TRAINING.split("| method | what it does |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named | {"dense", "demp"} == set(METHODS)


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert "docs/index.md" in links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda p: p.name)
def test_tables_come_from_records(path):
    records = read_lines(path)
    for record in records:
        assert {"command", "commit", "versions", "device"} <= set(record)
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), record["commit"]
    for page in (pages.README, ROOT / "docs" / "results.md"):
        text = page.read_text()
        if f"<!-- table {path.name} -->" in text:
            assert tables.fill(text, path.name, tables.markdown(records)) == text
            assert tables.fill(text, path.name, "| other |") != text
