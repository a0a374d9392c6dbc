"""The same candidates and hits, bit for bit, on any number of devices, for any chunk size and either mapper."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax import devices, numerics, sampling
from spear_jax.config import ReconstructConfig
from spear_jax.factorize import factorize
from spear_jax.testing import planted_problem

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="asks for eight CPU devices and equal bits")

ROUND = 2048
THRESHOLD = 36
VARIANTS = [
    {"num_devices": 1, "chunk_size": 64},
    {"num_devices": 1, "chunk_size": 256},
    {"num_devices": 2},
    {"num_devices": 3, "chunk_size": 64},
    {"num_devices": 8},
    {"num_devices": 8, "chunk_size": 64},
    {"num_devices": 2, "mapper": "pmap"},
    {"num_devices": 8, "mapper": "pmap", "chunk_size": 256},
]


@cache
def planted_left():
    factorization = factorize(planted_problem(4, 100, 50, seed=2).observation.weight_grad)
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    return (left / np.linalg.norm(left, axis=1, keepdims=True)).astype(np.float32), numerics.search_tolerance(
        factorization
    )


@cache
def runner(**options):
    left, tolerance = planted_left()
    config = ReconstructConfig(**{"num_devices": 1, "chunk_size": 1024, "hits_capacity": 1024} | options)
    return devices.compile_round(left, jax.random.key(0), tolerance, ROUND, config)


def run(options, *, seed=0, first=0, size=ROUND, threshold=THRESHOLD):
    return runner(**options).run(jax.random.key(seed), first, size, threshold)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_hits_are_the_same_bits(variant):
    for seed, first in ((0, 0), (1, 5 * ROUND)):
        reference, other = run({}, seed=seed, first=first), run(variant, seed=seed, first=first)
        assert reference.count > 100
        assert other.count == reference.count
        np.testing.assert_array_equal(other.index, reference.index)


def test_another_key_and_another_stretch_give_other_hits():
    reference = run({})
    assert not np.array_equal(run({}, seed=1).index, reference.index)
    assert not np.array_equal(run({}, first=ROUND).index - ROUND, reference.index)


@pytest.mark.parametrize("batch_size", [3, 4])
def test_directions_and_zero_counts_do_not_depend_on_the_chunk_size(batch_size):
    """Zero counts exactly and directions within rounding, except where the submatrix is singular and any will do."""
    factorization = factorize(planted_problem(batch_size, 100, 50, seed=batch_size).observation.weight_grad)
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    left = jnp.asarray(left / np.linalg.norm(left, axis=1, keepdims=True), jnp.float32)
    tolerance = jnp.float32(numerics.search_tolerance(factorization))
    propose = jax.jit(sampling.propose)

    def all_chunks(size):
        index = [jnp.arange(start, start + size, dtype=jnp.uint32) for start in range(0, 2048, size)]
        parts = [propose(left, jax.random.key(1), places, tolerance) for places in index]
        return np.concatenate([part[0] for part in parts], axis=1), np.concatenate([part[1] for part in parts])

    index = jnp.arange(2048, dtype=jnp.uint32)
    rows = sampling.hit_rows(jax.random.key(1), index, num_rows=len(left), count=batch_size - 1)
    spectrum = np.linalg.svd(np.asarray(left, np.float64)[np.asarray(rows)], compute_uv=False)
    regular = spectrum[:, -1] > 1e-2
    assert regular.mean() > 0.8
    directions, zeros = all_chunks(2048)
    for size in (64, 256, 1024):
        other_directions, other_zeros = all_chunks(size)
        np.testing.assert_array_equal(other_zeros[regular], zeros[regular])
        np.testing.assert_allclose(other_directions[:, regular], directions[:, regular], atol=1e-4)
        np.testing.assert_array_equal(other_zeros >= THRESHOLD, zeros >= THRESHOLD)


@pytest.mark.parametrize("variant", [{}, {"num_devices": 8}, {"num_devices": 3, "chunk_size": 64}], ids=str)
def test_candidates_from_the_size_on_are_ignored(variant):
    whole = run({})
    for size in (63, 700, ROUND - 1):
        part = run(variant, size=size)
        np.testing.assert_array_equal(part.index, whole.index[whole.index < size])
        assert part.count == len(part.index)


@pytest.mark.parametrize("variant", [{}, {"num_devices": 2}, {"num_devices": 8, "mapper": "pmap"}], ids=str)
def test_overflow_keeps_the_first_hits_and_counts_all(variant):
    whole, small = run({}), run(variant | {"hits_capacity": 16})
    np.testing.assert_array_equal(small.index, whole.index[:16])
    assert small.count == whole.count


def test_a_threshold_that_nothing_meets_gives_an_empty_round():
    none = run({}, threshold=101)
    assert (len(none.index), none.count) == (0, 0)


def test_hits_can_be_drawn_again_from_their_index_and_key():
    left, tolerance = planted_left()
    for first in (0, 7 * ROUND, 2**32 - ROUND, 2**32, 3 * 2**32 + 4 * ROUND):
        hits = run({"num_devices": 8}, first=first)
        assert hits.count > 100
        index = hits.index[:64]
        directions, zeros = jax.jit(sampling.propose)(
            jnp.asarray(left), hits.key, jnp.asarray(index), jnp.float32(tolerance)
        )
        assert (np.asarray(zeros) >= THRESHOLD).all()
        rows = np.asarray(sampling.hit_rows(hits.key, index, num_rows=len(left), count=3))
        residual = np.einsum("ckr,rc->ck", left[rows], np.asarray(directions))
        assert np.abs(residual).max() < 1e-5


def test_indices_beyond_32_bits_are_other_candidates():
    low = run({}, first=0)
    for high in (1, 2):
        beyond = run({}, first=high * 2**32)
        assert not np.array_equal(beyond.index, low.index)
        np.testing.assert_array_equal(beyond.index, run({"num_devices": 8}, first=high * 2**32).index)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"num_devices is 1000 but JAX sees \d+ device"):
        devices.select_devices(1000)
    assert len(devices.select_devices(None)) == jax.device_count()
    assert len(devices.select_devices(3)) == 3


def test_a_half_given_cluster_is_refused():
    with pytest.raises(ValueError, match="go together"):
        devices.initialize_distributed("localhost:1234", 2)
