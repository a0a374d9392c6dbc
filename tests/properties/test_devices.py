"""The same candidates and hits, bit for bit, on any number of devices, for any chunk size and either mapper."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax import devices, numerics
from spear_jax.attacks.dense.directions.null_vectors import null_vectors_float64
from spear_jax.attacks.dense.sampling import flat, samplers
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="asks for eight CPU devices and equal bits")

ROUND = 2048
THRESHOLD = 36
QUICK = [{"num_devices": 3, "chunk_size": 64}, {"num_devices": 2, "mapper": "pmap"}]
SLOW = [
    {"num_devices": 1, "chunk_size": 64},
    {"num_devices": 1, "chunk_size": 256},
    {"num_devices": 2},
    {"num_devices": 8},
    {"num_devices": 8, "chunk_size": 64},
    {"num_devices": 8, "mapper": "pmap", "chunk_size": 256},
]
VARIANTS = [*QUICK, *(pytest.param(variant, marks=pytest.mark.slow) for variant in SLOW)]


@cache
def planted_left():
    factorization = factorize(planted_problem(4, 100, 50, seed=2).observation.weight_grad)
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    return (left / np.linalg.norm(left, axis=1, keepdims=True)).astype(np.float32), numerics.search_tolerance(
        factorization
    )


def run(options, *, seed=0, number=0, size=ROUND, threshold=THRESHOLD):
    left, tolerance = planted_left()
    config = ReconstructConfig(**{"num_devices": 1, "chunk_size": 1024, "hits_capacity": 1024} | options)
    return samplers.flat_sampler(left, jax.random.key(seed), tolerance, ROUND, config).draw(number, size, threshold)()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_hits_are_the_same(variant):
    for seed, number in ((0, 0), (1, 5)):
        reference, other = run({}, seed=seed, number=number), run(variant, seed=seed, number=number)
        assert reference.count > 100
        assert other.count == reference.count
        np.testing.assert_array_equal(other.rows, reference.rows)


def test_another_key_and_another_round_give_other_hits():
    reference = run({})
    assert not np.array_equal(run({}, seed=1).rows, reference.rows)
    assert not np.array_equal(run({}, number=1).rows, reference.rows)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 4])
def test_directions_and_zero_counts_do_not_depend_on_the_chunk_size(batch_size):
    """Zero counts exactly and directions within rounding, except where the submatrix is singular and any will do."""
    factorization = factorize(planted_problem(batch_size, 100, 50, seed=batch_size).observation.weight_grad)
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    left = jnp.asarray(left / np.linalg.norm(left, axis=1, keepdims=True), jnp.float32)
    tolerance = jnp.float32(numerics.search_tolerance(factorization))
    propose = jax.jit(flat.propose)

    def all_chunks(size):
        index = [jnp.arange(start, start + size, dtype=jnp.uint32) for start in range(0, 2048, size)]
        parts = [propose(left, jax.random.key(1), places, tolerance) for places in index]
        return np.concatenate([part[0] for part in parts], axis=1), np.concatenate([part[1] for part in parts])

    index = jnp.arange(2048, dtype=jnp.uint32)
    rows = flat.hit_rows(jax.random.key(1), index, num_rows=len(left), count=batch_size - 1)
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
        assert part.count == len(part.rows) == np.sum(hit_index(whole) < size)
        np.testing.assert_array_equal(part.rows, whole.rows[: part.count])


def hit_index(drawn):
    """Candidates of the first round that the rows are those of."""
    index, num_rows = jnp.arange(ROUND, dtype=jnp.uint32), len(planted_left()[0])
    every = np.asarray(flat.hit_rows(jax.random.key(0), index, num_rows=num_rows, count=3))
    return np.flatnonzero((every[:, None] == drawn.rows[None]).all(axis=2).any(axis=1))


@pytest.mark.parametrize("variant", [{}, {"num_devices": 2}, {"num_devices": 8, "mapper": "pmap"}], ids=str)
def test_overflow_keeps_the_first_hits_and_counts_all(variant):
    whole, small = run({}), run(variant | {"hits_capacity": 16})
    np.testing.assert_array_equal(small.rows, whole.rows[:16])
    assert (small.count, small.dropped) == (whole.count, whole.count - 16)


def test_a_threshold_that_nothing_meets_gives_an_empty_round():
    none = run({}, threshold=101)
    assert (len(none.rows), none.count) == (0, 0)


@pytest.mark.parametrize("number", [0, 7, 2**32 // ROUND - 1, 2**32 // ROUND, 3 * 2**32 // ROUND + 4])
def test_hits_are_zero_on_the_rows_that_they_were_drawn_by(number):
    left, tolerance = planted_left()
    hits = run({"num_devices": 8}, number=number)
    assert hits.count > 100
    vectors = null_vectors_float64(left[hits.rows])
    zeros = np.sum(np.abs(vectors @ left.T) < tolerance, axis=1)
    assert (zeros >= THRESHOLD).mean() > 0.99  # float32 took a few small entries for zeros


def test_rounds_beyond_32_bits_are_other_candidates():
    low = run({})
    for high in (1, 2):
        number = high * 2**32 // ROUND
        beyond = run({}, number=number)
        assert not np.array_equal(beyond.rows, low.rows)
        np.testing.assert_array_equal(beyond.rows, run({"num_devices": 8}, number=number).rows)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"num_devices is 1000 but JAX sees \d+ device"):
        devices.select_devices(1000)
    assert len(devices.select_devices(None)) == jax.device_count()
    assert len(devices.select_devices(3)) == 3


def test_a_half_given_cluster_is_refused():
    with pytest.raises(ValueError, match="go together"):
        devices.initialize_distributed("localhost:1234", 2)
