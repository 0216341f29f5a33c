"""The packages of the training program import one another in one direction."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "experiments"
# From what others use to what uses others; a package may import itself and those before it. Commands are modules beside
# the packages, and nothing imports them but one another.
_ORDER = "core settings data fast_convolutions recipe rundir reporting training cli figures commands"
LAYERS = _ORDER.split()
PATHS = sorted(ROOT.rglob("*.py"))


def _layer(dotted):
    part = dotted.split(".")[1] if "." in dotted else "core"
    return part if part in LAYERS else "commands"


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "experiments":
            whole = node.module == "experiments"
            yield from (f"experiments.{alias.name}" for alias in node.names) if whole else [node.module]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return
    mine = LAYERS.index(_layer(".".join(("experiments", *parts))))
    above = [module for module in _imports(path) if LAYERS.index(_layer(module)) > mine]
    assert not above, f"{path.relative_to(ROOT)} must not import {above}: they use it"
