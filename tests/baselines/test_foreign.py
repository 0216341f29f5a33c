"""A real updater of jaxpruner in the training program, where jaxpruner is installed."""

import importlib

import jax
import pytest

from baselines import foreign
from experiments.core.errors import UsageError
from experiments.training.loop import train_and_evaluate
from tests.runs import lines, short_config


def _jaxpruner():
    try:
        return foreign.jaxpruner()
    except ImportError:
        pytest.skip("needs jaxpruner: pip install git+https://github.com/google-research/jaxpruner")


@pytest.mark.parametrize("algorithm", ["magnitude", "rigl", "set", "static_sparse", "saliency", "magnitude_ste"])
def test_an_algorithm_of_jaxpruner(algorithm, tmp_path):
    _jaxpruner()
    changes = {"method.name": "jaxpruner", "masking.algorithm": algorithm, "masking.every": "5"}
    with jax.legacy_prng_key("allow"):
        summary = train_and_evaluate(short_config(**changes), tmp_path).summary
    kernels = 64 * 24 + 24 * 16 + 16 * 10
    sparse = lines(tmp_path / "metrics.jsonl")[-1]["parameters"]
    if not algorithm.endswith("ste"):
        assert sparse <= summary["dense_parameters"] - 0.75 * kernels


def test_the_same_masks_as_jaxpruner():
    """Ours and theirs, from the same numbers."""
    module = _jaxpruner()
    import functools

    import jax.numpy as jnp
    import numpy as np
    import optax

    from baselines import magnitude, rigl, saliency, sparsity

    params = {"a": {"kernel": jax.random.normal(jax.random.key(0), (9, 7)), "bias": jnp.ones(7)}}
    grads = jax.tree.map(lambda p: jnp.sin(9 * p), params)
    with jax.legacy_prng_key("allow"):
        for name, kind in (("magnitude", magnitude.Magnitude), ("saliency", saliency.Saliency)):
            theirs = module.ALGORITHM_REGISTRY[name](
                sparsity_distribution_fn=functools.partial(module.sparsity_distributions.uniform, sparsity=0.7)
            )
            ours = kind(sparsity.distribution("uniform", 0.7), sparsity.Schedule())
            _, expected = theirs.instant_sparsify(params, grads)
            _, found = ours.instant_sparsify(params, grads)
            np.testing.assert_array_equal(found["a"]["kernel"], expected["a"]["kernel"])
        theirs = module.ALGORITHM_REGISTRY["rigl"](
            scheduler=module.PeriodicSchedule(1, 0, 9),
            sparsity_distribution_fn=functools.partial(module.sparsity_distributions.uniform, sparsity=0.7),
        )
        ours = rigl.RigL(sparsity.distribution("uniform", 0.7), sparsity.Schedule("periodic", 0, 9, 1))
        first, second = (updater.wrap_optax(optax.adam(0.1)) for updater in (theirs, ours))
        one, other = first.init(params), second.init(params)
        other = other._replace(masks=one.masks)
        for _ in range(3):
            params = theirs.post_gradient_update(params, one)
            _, one = first.update(grads, one, params)
            _, other = second.update(grads, other, params)
            np.testing.assert_array_equal(other.masks["a"]["kernel"], one.masks["a"]["kernel"])
            grads = jax.tree.map(lambda g: jnp.cos(5 * g), grads)


def test_without_jaxpruner(monkeypatch, tmp_path):
    there = importlib.import_module

    def missing(name, *args):
        if name == "jaxpruner":
            raise ModuleNotFoundError(name)
        return there(name, *args)

    monkeypatch.setattr(foreign.importlib, "import_module", missing)
    with pytest.raises(UsageError, match="jaxpruner is not installed: pip install"):
        train_and_evaluate(short_config(**{"method.name": "jaxpruner"}), tmp_path)
