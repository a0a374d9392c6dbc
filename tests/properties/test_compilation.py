"""One compilation per shape, and an import that touches neither configuration nor devices."""

import subprocess
import sys

import jax
import numpy as np

from spear_jax.attacks.dense.sampling import flat, samplers
from spear_jax.config import ReconstructConfig

CONFIG = ReconstructConfig(chunk_size=64, num_devices=2)


def unit_rows(seed):
    left = np.random.default_rng(seed).normal(size=(50, 3))
    return (left / np.linalg.norm(left, axis=1, keepdims=True)).astype(np.float32)


def test_rounds_keys_sizes_and_thresholds_share_one_compilation(monkeypatch):
    traces = []
    original = flat.propose
    monkeypatch.setattr(flat, "propose", lambda *arguments: traces.append(1) or original(*arguments))
    samplers.flat_sampler(unit_rows(0), jax.random.key(0), 1e-3, 256, CONFIG)
    after_compiling = len(traces)
    assert after_compiling >= 1
    for seed in range(3):
        sampler = samplers.flat_sampler(unit_rows(seed), jax.random.key(seed), 1e-3, 256, CONFIG)
        for number, size, threshold in ((0, 256, 5), (1, 100, 7), (2**25, 256, 9)):
            sampler.draw(number, size, threshold)()
    assert len(traces) == after_compiling


def test_the_rows_of_hits_are_compiled_once_per_padded_size():
    flat.hit_rows.clear_cache()
    for seed in range(4):
        flat.hit_rows(jax.random.key(seed), np.arange(256, dtype=np.uint32), num_rows=50, count=3)
    assert flat.hit_rows._cache_size() == 1
    flat.hit_rows(jax.random.key(0), np.arange(512, dtype=np.uint32), num_rows=50, count=3)
    assert flat.hit_rows._cache_size() == 2


def test_a_second_search_of_the_same_shapes_compiles_nothing(monkeypatch):
    """A hundred batches of one layer must not pay for a hundred compilations."""
    samplers.flat_sampler(unit_rows(1), jax.random.key(1), 1e-3, 256, CONFIG)
    traces = []
    original = flat.propose
    monkeypatch.setattr(flat, "propose", lambda *arguments: traces.append(1) or original(*arguments))
    samplers.flat_sampler(unit_rows(2), jax.random.key(2), 2e-3, 256, CONFIG)
    assert traces == []


def test_importing_the_package_leaves_configuration_and_devices_alone():
    code = """
import jax
before = dict(jax.config.values)
import spear_jax
assert dict(jax.config.values) == before
jax.config.update("jax_num_cpu_devices", 4)
assert jax.device_count() == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True)
