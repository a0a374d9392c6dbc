"""Strict switches for the whole suite: eight CPU devices, x64, no silent broadcasting, promotion or key reuse.

The package is imported inside tests and fixtures of each file after this one ran, so that the type-checking hook
(``--jaxtyping-packages``) comes first.
"""

import gc
import os
from pathlib import Path

# Small matrices on two threads of a core that is shared cost many times what they do on one. The variable is for
# whatever loads BLAS after this, workers and the tests' own processes too; the limit for what a plugin loaded before.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# What a test's own process compiles is not kept in the home of whoever runs it.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"

import jax
import pytest
import threadpoolctl

threadpoolctl.threadpool_limits(1, user_api="blas")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64", "1") != "0")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_enable_compilation_cache", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# Linux gives a process 65,530 memory maps. Each compiled program takes some; where one is refused XLA crashes.
MOST_MAPS = 25_000


def pytest_configure(config):
    """Keep what is compiled with pytest's cache: for the other worker, the slow tests and the next run.

    ``pytest --cache-clear`` forgets it.
    """
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("programs")))


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Forget what a worker compiled for earlier files before it is too much."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()
