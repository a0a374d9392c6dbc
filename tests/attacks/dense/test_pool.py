"""The pool: merged up to sign, sparsest kept, polished to float64, and closed to false directions."""

import numpy as np
import pytest

from spear_jax import numerics
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem
from spear_jax.types import CandidatePool

THRESHOLD = 42  # of 120 rows: true columns have about 60 zeros, mixtures of two about 30
RNG = np.random.default_rng(0)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def some(count, rank=5, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, rank))), rng.integers(10, 90, count), np.ones(count, np.int64)


def as_set(p):
    """Zero count, hits and direction up to sign of every place in use, in a canonical order."""
    used = p.zero_count != CandidatePool.EMPTY
    rows = np.c_[p.zero_count[used], p.hits[used], numerics.canonical_sign(p.directions[used])]
    return rows[np.lexsort(rows.T)]


@pytest.fixture(scope="module", params=["float64", "float32"])
def planted(request):
    problem = planted_problem(6, 120, 80, seed=4, dtype=request.param)
    factorization = factorize(problem.observation.weight_grad)
    return problem, factorization, problem.directions(np.asarray(factorization.left)).T


def zero_rows(problem, column, count, seed):
    """``count`` draws of rows where this column of D is zero."""
    zeros = np.flatnonzero((problem.grad_z[:, column] == 0) & problem.grad_z.any(axis=1))
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(zeros, problem.grad_z.shape[1] - 1, replace=False) for _ in range(count)])


def test_an_empty_pool_is_empty():
    empty = pool.empty_pool(4, 3)
    assert empty.size == 0
    assert empty.directions.shape == (4, 3)


def test_merging_nothing_changes_nothing():
    nothing = (np.zeros((0, 5)), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert pool.merge(pool.empty_pool(4, 5), *nothing).size == 0
    filled = pool.merge(pool.empty_pool(4, 5), *some(3))
    np.testing.assert_array_equal(as_set(pool.merge(filled, *nothing)), as_set(filled))


def test_merging_again_adds_hits_but_no_direction():
    directions, zeros, hits = some(6)
    once = pool.merge(pool.empty_pool(20, 5), directions, zeros, hits)
    twice = pool.merge(once, directions, zeros, hits)
    np.testing.assert_array_equal(twice.directions, once.directions)
    np.testing.assert_array_equal(twice.zero_count, once.zero_count)
    np.testing.assert_array_equal(twice.hits, 2 * once.hits)


def test_the_order_of_merging_does_not_matter_to_the_set():
    directions, zeros, hits = some(12)
    reference = pool.merge(pool.empty_pool(20, 5), directions, zeros, hits)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        grown = pool.empty_pool(20, 5)
        for part in np.array_split(order, 3):
            grown = pool.merge(grown, directions[part], zeros[part], hits[part])
        np.testing.assert_array_equal(as_set(grown), as_set(reference))


def test_the_sparsest_come_first_and_stay_when_the_pool_is_full():
    directions, zeros, hits = some(30)
    full = pool.merge(pool.empty_pool(8, 5), directions, zeros, hits)
    np.testing.assert_array_equal(full.zero_count, np.sort(zeros)[::-1][:8])
    assert full.size == 8
    better = pool.merge(full, unit(RNG.normal(size=(1, 5))), np.array([99]), np.array([1]))
    assert better.zero_count[0] == 99
    assert better.size == 8


def test_directions_equal_up_to_sign_are_one():
    directions, zeros, hits = some(4)
    nearly = unit(-directions + 1e-6 * RNG.normal(size=directions.shape))
    merged = pool.merge(
        pool.empty_pool(20, 5), np.concatenate([directions, nearly]), np.tile(zeros, 2), np.tile(hits, 2)
    )
    assert merged.size == 4
    np.testing.assert_array_equal(merged.hits[:4], 2)


def test_directions_farther_apart_than_the_angle_are_two():
    direction = np.eye(3)[:1]
    for angle, size in ((0.3 * numerics.SAME_DIRECTION_ANGLE, 1), (3 * numerics.SAME_DIRECTION_ANGLE, 2)):
        turned = np.array([[np.cos(angle), np.sin(angle), 0.0]])
        both = np.concatenate([direction, turned])
        assert pool.merge(pool.empty_pool(4, 3), both, np.array([5, 5]), np.array([1, 1])).size == size


def test_true_rows_verify_to_every_true_direction_with_its_zeros(planted):
    problem, factorization, truth = planted
    rows = np.concatenate([zero_rows(problem, column, 8, column) for column in range(6)])
    found = pool.verify(factorization, rows, THRESHOLD)
    likeness = np.abs(found.directions @ truth.T)
    assert len(found.directions) == 6
    assert sorted(likeness.argmax(axis=1)) == list(range(6))
    tolerance = 1e-12 if problem.observation.weight.dtype == np.float64 else 1e-8
    assert (1 - likeness.max(axis=1) < tolerance).all()
    live = problem.grad_z.any(axis=1)
    np.testing.assert_array_equal(found.zero_count, (problem.grad_z[live] == 0).sum(axis=0)[likeness.argmax(axis=1)])
    regular = np.linalg.svd(np.asarray(factorization.left)[rows], compute_uv=False)[:, -1] > 1e-4
    assert regular.sum() <= found.hits.sum() <= len(rows)


def test_rows_drawn_at_random_are_rejected(planted):
    problem, factorization, truth = planted
    live = np.flatnonzero(np.asarray(factorization.live_mask))
    rows = np.stack([RNG.choice(live, 5, replace=False) for _ in range(200)])
    inside = (problem.grad_z[rows] == 0).all(axis=1).any(axis=1)
    assert len(pool.verify(factorization, rows[~inside], THRESHOLD).directions) == 0


def test_no_rows_give_no_direction(planted):
    _, factorization, _ = planted
    found = pool.verify(factorization, np.zeros((0, 5), np.int64), 30)
    assert found.directions.shape == (0, 6)
    assert len(found.zero_count) == len(found.hits) == 0


def test_mixtures_of_two_true_directions_lack_zeros(planted):
    _, factorization, truth = planted
    mixtures = unit(truth[:-1] + truth[1:])
    assert (pool.zero_count(factorization, mixtures) < 42).all()
    assert (pool.zero_count(factorization, truth) > 42).all() or (pool.zero_count(factorization, truth) == 0).any()


@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-3])
def test_polish_restores_a_perturbed_direction_to_float64(distance):
    problem = planted_problem(6, 120, 80, seed=4)
    factorization = factorize(problem.observation.weight_grad)
    truth = problem.directions(np.asarray(factorization.left)).T
    step = unit(np.random.default_rng(1).normal(size=truth.shape))
    polished = polish(factorization, unit(truth + distance * step))
    error = np.linalg.norm(polished - numerics.canonical_sign(truth), axis=1)
    assert error.max() < 1e-13


@pytest.mark.parametrize("entry", [1e-3, 1e-5, 1e-7])
def test_a_tiny_true_entry_is_no_zero_and_costs_none(entry):
    problem = planted_problem(5, 100, 60, seed=1)
    grad_z = problem.grad_z.copy()
    for column in range(5):
        active = np.flatnonzero(grad_z[:, column])
        grad_z[active[0], column] = entry * np.sqrt(np.mean(grad_z[:, column] ** 2))
    factorization = factorize(grad_z @ problem.inputs)
    left = np.asarray(factorization.left)
    truth = unit((left.T @ grad_z).T)
    perturbed = unit(truth + 1e-7 * np.random.default_rng(0).normal(size=truth.shape))
    zeros = pool.zero_count(factorization, polish(factorization, perturbed))
    live = np.asarray(factorization.live_mask)
    np.testing.assert_array_equal(zeros, (grad_z[live] == 0).sum(axis=0))


def test_dead_rows_count_for_nothing():
    problem = planted_problem(4, 100, 60, seed=1, dead_rows=40)
    factorization = factorize(problem.observation.weight_grad)
    anything = unit(np.random.default_rng(0).normal(size=(5, 4)))
    assert pool.zero_count(factorization, anything).max() == 0
