"""The public surface: every name documented, and nothing private used outside the library."""

import ast
import inspect
from pathlib import Path

import pytest

import demp_jax
import demp_jax.equinox
import demp_jax.export
import demp_jax.linen
import demp_jax.models
import demp_jax.nnx

ROOT = Path(__file__).resolve().parents[2]
MODULES = (demp_jax, demp_jax.nnx, demp_jax.linen, demp_jax.equinox, demp_jax.export, demp_jax.models)


def _public():
    for module in MODULES:
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            if not name.startswith("_") and not inspect.ismodule(value):
                yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize(("name", "value"), [p for p in _public() if inspect.isclass(p[1]) or inspect.isfunction(p[1])])
def test_public_names_are_documented(name, value):
    assert value.__module__.startswith("demp_jax"), name
    text = inspect.getdoc(value)
    assert text, name
    if inspect.isfunction(value):
        for argument in inspect.signature(value).parameters:
            if argument not in ("options",) and len(inspect.signature(value).parameters) > 1:
                assert argument in text, (name, argument)
        assert all(p.annotation is not p.empty for p in inspect.signature(value).parameters.values()), name


def test_the_version_is_said_once():
    assert demp_jax.__version__ in (ROOT / "demp_jax" / "__init__.py").read_text()
    assert demp_jax.__version__ not in (ROOT / "setup.py").read_text()


def test_the_core_knows_no_model_no_dataset_and_no_loop():
    forbidden = (
        "flax",
        "equinox",
        "experiments",
        "configs",
        "demp_jax.models",
        "demp_jax.nnx",
        "demp_jax._src.frameworks",
    )
    for path in (ROOT / "demp_jax" / "_src").rglob("*.py"):
        if path.parent.name == "frameworks":  # It knows the layers of Flax NNX, for `demp_jax.nnx` alone.
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith(forbidden), path
