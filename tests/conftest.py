"""Strict flags for every test, eight devices on the CPU, checked shapes, and hypothesis profiles."""

import importlib.metadata
import os

# Compiling takes most of the time of most tests, and at most half of it so. Flags that are given take the place of
# these, as those of `make test-all` do. JAX 0.12 does not know the second one.
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
    # Started in the background of a shell, where Ctrl-C does nothing; in the tests it does.
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")

# Before anything imports the library: its functions are compiled with checks of their annotations around them, which
# takes an eighth of the time of the tests. An int is a float to them, as it is to mypy.
if os.environ.get("CHECK_SHAPES") == "1":
    jaxtyping.install_import_hook(
        "demp_jax._src", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    )

hypothesis.settings.register_profile("sample", max_examples=6, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=600, deadline=None)
hypothesis.settings.load_profile("sample")


@pytest.fixture(scope="session", autouse=True)
def _compile_cache(tmp_path_factory):
    """Programs compiled by one test serve the others, also those in processes of their own."""
    folder = tmp_path_factory.getbasetemp().parent / "xla"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
