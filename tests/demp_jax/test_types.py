"""Shapes and dtypes in annotations are well-formed, checked in the tests, and not even read elsewhere."""

import dataclasses
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import demp_jax
import demp_jax._src
from demp_jax._src.optim import threefry
from demp_jax._src.pruning.slicing import Plan
from demp_jax._src.tracing.graph import per_unit

checked = pytest.mark.skipif(os.environ.get("CHECK_SHAPES") != "1", reason="CHECK_SHAPES=1 checks annotations")


@pytest.fixture(scope="module")
def graph():
    params = {"hidden": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    return demp_jax.trace(lambda params, x: jax.nn.relu(x @ params["hidden"]) @ params["out"], params, jnp.ones((2, 3)))


@checked
def test_a_wrong_rank_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="'values'"):
        per_unit(np.array([[True, False]]), np.zeros((2, 2), int))


@checked
def test_a_wrong_dtype_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="'groups'"):
        per_unit(np.array([True, False]), np.zeros(2, bool))


@checked
def test_fields_of_different_sizes_are_refused(graph):
    with pytest.raises(jaxtyping.TypeCheckError, match="'dead'"):
        Plan(graph, removed=np.zeros(3, bool), dead=np.zeros(4, bool))


@checked
def test_a_field_of_another_width_is_refused(graph):
    with pytest.raises(jaxtyping.TypeCheckError, match="'groups'"):
        dataclasses.replace(graph.sites[0], width=graph.sites[0].width + 1)


@checked
def test_a_mask_of_another_graph_is_refused(graph):
    assert graph.flops(np.zeros(graph.num_groups, bool)) == graph.flops()
    with pytest.raises(jaxtyping.TypeCheckError, match="'removed'"):
        graph.flops(np.zeros(graph.num_groups + 1, bool))


@checked
def test_a_wrong_result_is_refused(monkeypatch):
    monkeypatch.setattr(threefry, "normal_at", lambda key, numbers: jnp.zeros(numbers.size + 1))
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        threefry.normal(jax.random.key(0), 3)


def test_pytrees_of_leaves_that_are_no_arrays_can_be_built():
    activity = demp_jax.activity.summarize(jnp.ones((2, 3)))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, activity)
    assert isinstance(shardings.maximum, jax.sharding.Sharding)


def _members(module):
    """Yields the classes and functions of a module, and the methods and properties of its classes."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    for value in own:
        yield value
        for member in vars(value).values() if inspect.isclass(value) else ():
            yield getattr(member, "fget", None) or getattr(member, "func", None) or member


@checked
def test_annotations_are_well_formed_and_checked():
    """An annotation that jaxtyping cannot evaluate, such as one with a malformed shape, would count as `Any`."""
    for info in pkgutil.walk_packages(demp_jax._src.__path__, "demp_jax._src."):
        module = importlib.import_module(info.name)
        for member in _members(module):
            if inspect.isclass(member) or inspect.isfunction(member):
                typing.get_type_hints(member)
            if inspect.isfunction(member) and not hasattr(member, "__no_type_check__"):
                assert member.__code__.co_filename != module.__file__, member  # Else it is called without checks.


def test_outside_the_tests_nothing_is_checked():
    code = """
import sys
import demp_jax
from demp_jax._src.tracing.graph import per_unit
assert not hasattr(per_unit, "__wrapped__")
assert isinstance(per_unit.__annotations__["groups"], str)
assert "beartype" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
