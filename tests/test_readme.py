"""The README is true: its code runs, its commands exist, its tables come from records."""

import re
from pathlib import Path

import pytest

from experiments import tables
from experiments.records import read_lines

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language):
    return [text for tag, text in re.findall(r"```(\w*)\n(.*?)```", README, re.S) if tag == language]


def test_the_example_runs_and_shrinks_a_network_of_its_own(capsys):
    code = _blocks("python")[0]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert all("units cut" in line for line in printed)
    model, norms = names["model"], 2 * (32 + 64 + 128)
    before = 9 * 32 + 32 + 9 * 32 * 64 + 64 + 256 * 128 + 128 + 128 * 10 + 10 + norms
    after = int(re.findall(r"parameters \d+ -> (\d+)", printed[-1])[0])
    assert after < 0.65 * before
    model.eval()
    accuracy = (model(names["images"][1500:]).argmax(-1) == names["labels"][1500:]).mean()
    assert accuracy > 0.85


def test_the_first_block_holds_the_two_commands():
    commands = [line.split("#")[0].strip() for line in _blocks("bash")[0].splitlines()]
    assert commands == ["make demo", "make test"]
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
    from experiments.methods import METHODS

    table = README.split("| method | what it does |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named | {"dense", "demp"} == set(METHODS)


def test_its_method_of_your_own_prunes_every_other_unit(tmp_path, monkeypatch):
    from experiments import methods
    from experiments.train import train_and_evaluate
    from tests.runs import lines, short_config

    module, row = _blocks("python")[1].split("# experiments/methods/__init__.py, in METHODS:")
    names = {}
    exec(compile(module, "README.md", "exec"), names)
    name, builder = re.fullmatch(r'\s*"(\w+)": ranked\((\w+)\.score\),\s*', row).groups()
    assert name == builder
    monkeypatch.setitem(methods.METHODS, name, methods.ranked(names["score"]))
    changes = {"method.name": name, "steps": "1", "pruning.every": "1", "eval_every": "1", "checkpoint_every": "1"}
    changes |= {"ranking.batches": 1, "ranking.stages": 1, "method.strength_span": "1", "method.noise_span": "1"}
    train_and_evaluate(short_config(**changes, log_every="1"), tmp_path)
    assert lines(tmp_path / "cuts.jsonl")[0]["removed"] == {"norm/0": 12, "norm/1": 8}


def test_every_file_of_the_layout_exists():
    [layout] = _blocks("")
    for folder in re.findall(r"^(\w+)/", layout, re.M):
        assert (ROOT / folder).is_dir(), folder
    for name in re.findall(r"\b(\w+\.py)\b", layout):
        assert list(ROOT.glob(f"*/**/{name}")), name


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda p: p.name)
def test_tables_come_from_records(path):
    records = read_lines(path)
    for record in records:
        assert {"command", "commit", "versions", "device"} <= set(record)
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), record["commit"]
    if f"<!-- table {path.name} -->" in README:
        assert tables.fill(README, path.name, tables.markdown(records)) == README
        assert tables.fill(README, path.name, "| other |") != README
