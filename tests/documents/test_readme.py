"""The README is true: its code runs, its commands exist, its tables come from records."""

import re

import pytest

from experiments.reporting import tables
from experiments.rundir.records import read_lines
from tests import pages

ROOT = pages.ROOT
README = pages.README.read_text()


def test_the_example_runs_and_shrinks_a_network_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, outputs = pages.run_python(pages.README)
    printed = outputs[0].splitlines()
    assert len(printed) == 3
    assert all("units removed" in line for line in printed)
    model, norms = names["model"], 2 * (32 + 64 + 128)
    before = 9 * 32 + 32 + 9 * 32 * 64 + 64 + 256 * 128 + 128 + 128 * 10 + 10 + norms
    after = int(re.findall(r"parameters \d+ -> (\d+)", printed[-1])[0])
    assert after < 0.65 * before
    model.eval()
    accuracy = (model(names["images"][1500:]).argmax(-1) == names["labels"][1500:]).mean()
    assert accuracy > 0.85


def test_the_first_block_holds_the_two_commands():
    assert pages.commands(pages.blocks(pages.README, "bash")[0]) == [["make", "demo"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_config_and_variant_it_names_exists():
    import importlib

    rows = re.findall(r"\| `configs/(\w+)\.py` \|.*\| (.*) \|", README)
    assert {name for name, _ in rows} == {p.stem for p in (ROOT / "configs").glob("*.py")} - {"__init__", "base"}
    for name, listed in rows:
        module = importlib.import_module(f"configs.{name}")
        named = set(re.findall(r"`(\w+)`", listed))
        assert named == set(module._VARIANTS) - {""}
        for variant in named:
            module.get_config(variant)


def test_every_method_is_in_its_table():
    from experiments.recipe.methods import METHODS

    table = README.split("| method | what it does |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named | {"dense", "demp"} == set(METHODS)


def test_every_file_of_the_layout_exists():
    layout = README.split("## How it works")[1].split("```")[1]
    folders = re.findall(r"^(\w+)/", layout, re.M)
    assert len(folders) >= 8
    there = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    for name in re.findall(r"\b(\w+\.py)\b", layout):
        assert name in there, name
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder


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
    if f"<!-- table {path.name} -->" in README:
        assert tables.fill(README, path.name, tables.markdown(records)) == README
        assert tables.fill(README, path.name, "| other |") != README
