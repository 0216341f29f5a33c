"""Parts of a vector, as the optimizer and the masks take them."""

import re

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from demp_jax._src.optim.parts import parts
from tests import helpers


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=5))
def test_parts_are_slices(platform, places):
    places = [(start, min(size, 20 - start)) for start, size in places]
    vector = jnp.arange(20)
    with pytest.MonkeyPatch.context() as patched:
        helpers.resolve_for(platform, patched)
        for found in (parts(vector, places), jax.jit(lambda v: parts(v, places))(vector)):
            wanted = [np.arange(20)[start : start + size] for start, size in places]
            assert [part.tolist() for part in found] == [part.tolist() for part in wanted]


def test_slices_are_dynamic_on_a_cpu_alone():
    traced = jax.jit(lambda v: parts(v, [(0, 2), (2, 3)])).trace(jnp.arange(5))
    texts = [traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda")]
    assert ["dynamic_slice" in text for text in texts] == [True, False]


def test_what_is_computed_of_parts_in_a_loop_is_the_same_to_the_compiler():
    """XLA's fused computations of three weights but for their numbers: one, where places are operands."""
    weights = [jnp.full((32, 48), float(n)) for n in range(3)]
    places = [(n * 32 * 48, 32 * 48) for n in range(3)]

    def kernels(take):
        def step(_, state):
            vector, ws = state
            return vector[::-1], [w + jnp.sin(w) * p.reshape(w.shape) for w, p in zip(ws, take(vector), strict=True)]

        steps = jax.jit(lambda count, state: jax.lax.fori_loop(0, count, step, state))
        text = steps.lower(4, (jnp.ones(3 * 32 * 48), weights)).compile().as_text()
        fused = re.findall(r"^%fused_computation[^\n]*\n(.*?)^}", text, re.DOTALL | re.MULTILINE)
        same = {re.sub(r"(?<=[a-z])[._][.\d]+|, metadata=\{[^}]*\}", "", body) for body in fused}
        return [body for body in same if "sin" in body]

    assert len(kernels(lambda vector: [vector[start : start + size] for start, size in places])) == 3
    assert len(kernels(lambda vector: parts(vector, places))) == 1
