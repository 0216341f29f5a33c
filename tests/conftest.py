"""Configuration of the tests: strict JAX flags, eight CPU devices, shape checks, and hypothesis profiles."""

import importlib.metadata
import os

# Most tests spend most of their time compiling, and these flags halve that time. XLA_FLAGS of the environment, as in
# `make test-all`, replace them. JAX 0.12 does not know the second flag.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + (
    os.environ.get("XLA_FLAGS")
    or "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10.")
)

import signal

import hypothesis
import jax
import jaxtyping
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores SIGINT. Tests of interrupts need Python's handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")

# Checks the annotations of the library at run time. The hook must be installed before the library is imported. As in
# mypy, an int is accepted as a float. The checks take an eighth of the time of the tests.
if os.environ.get("CHECK_SHAPES") == "1":
    jaxtyping.install_import_hook(
        "demp_jax._src", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    )

hypothesis.settings.register_profile("sample", max_examples=6, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=600, deadline=None)
hypothesis.settings.load_profile("sample")


@pytest.fixture(scope="session", autouse=True)
def _compile_cache(tmp_path_factory):
    """Shares compiled programs between all tests, including the processes that they start."""
    folder = tmp_path_factory.getbasetemp().parent / "xla"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
