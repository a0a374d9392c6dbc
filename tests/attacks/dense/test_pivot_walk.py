"""The pivot walk: each step against NumPy in float64, candidates uniform, hits true and at the planned rate."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from spear_jax.attacks.dense.directions.null_vectors import null_vectors_float64
from spear_jax.attacks.dense.sampling import cost, walk
from spear_jax.attacks.dense.sampling import walk_hits as walk_round
from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS, STEPS, TESTED_ROWS
from spear_jax.devices import Sizes, Stretch
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem


def unit_left(factorization):
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    return left / np.linalg.norm(left, axis=1, keepdims=True)


def true_tableau(matrices, rank):
    """``R B^-1`` of each chain by NumPy."""
    return np.stack([np.linalg.solve(chain[:rank].T, chain[rank:].T).T for chain in np.moveaxis(matrices, -1, 0)], -1)


def random_tableau(rank, *, chains=7, seed=0):
    matrices = np.random.default_rng(seed).normal(size=(rank + CHECK_ROWS, rank, chains))
    return matrices, true_tableau(matrices, rank)


def test_the_rows_of_a_chain_are_distinct_and_every_subset_is_as_likely():
    """Of the rows in front, the basis, too: a walk must not start from a favoured one."""
    rows = np.asarray(walk.chain_rows(jax.random.key(1), jnp.arange(32_768, dtype=jnp.uint32), 7, 3))
    assert rows.shape == (3, 32_768)
    assert (np.diff(np.sort(rows, axis=0), axis=0) > 0).all()
    subsets = {subset: place for place, subset in enumerate(combinations(range(7), 2))}
    seen = [subsets[tuple(pair)] for pair in np.sort(rows[:2], axis=0).T.tolist()]
    assert stats.chisquare(np.bincount(seen, minlength=len(subsets))).pvalue > 1e-4


def test_wide_layers_are_shuffled_too():
    """Where the index leaves few random bits, ties would come out in order: half of the neighbours must rise."""
    rows = np.asarray(walk.chain_rows(jax.random.key(0), jnp.arange(64, dtype=jnp.uint32), 2**18, 30))
    assert np.mean(np.diff(rows, axis=0) > 0) == pytest.approx(0.5, abs=0.06)


def test_consecutive_chains_of_a_shuffle_share_no_row():
    assert walk.chains_per_shuffle(100, 30) == 2
    rows = np.asarray(walk.chain_rows(jax.random.key(0), jnp.arange(4, dtype=jnp.uint32), 100, 30))
    assert len(np.unique(rows[:, :2])) == 60
    assert len(np.unique(rows[:, 1:3])) < 60


@pytest.mark.parametrize("rank", [3, 4, 11])
def test_the_first_tableau_is_numpy_s(rank):
    matrices, reference = random_tableau(rank)
    np.testing.assert_allclose(walk.start_tableau(jnp.asarray(matrices)), reference, rtol=1e-7, atol=1e-7)


def test_an_exchange_gives_the_tableau_of_the_exchanged_rows():
    rank, row, column = 6, 3, 4
    matrices, reference = random_tableau(rank)
    tableau = jnp.asarray(reference)
    limit = float(np.median(np.abs(reference[row, column])))
    left, right, is_exchanged = walk.exchange_terms(tableau, jnp.int32(row), jnp.int32(column), limit)
    after = np.asarray(walk.exchange(tableau, left, right))
    np.testing.assert_array_equal(is_exchanged, np.abs(reference[row, column]) > limit)
    assert 0 < np.sum(is_exchanged) < len(is_exchanged)
    swapped = matrices.copy()
    swapped[[column, rank + row]] = matrices[[rank + row, column]]
    expected = np.where(np.asarray(is_exchanged), true_tableau(swapped, rank), reference)
    np.testing.assert_allclose(after, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rank", [3, 8, 9])
def test_the_fewest_mismatches_are_those_of_the_best_pair(rank):
    """Brute force over all pairs; quotients are 1, 2 or 3 within rounding, so that they agree often and by chance."""
    rng = np.random.default_rng(rank)
    entering = rng.normal(size=(rank, 50)).astype(np.float32)
    quotient = rng.integers(1, 4, (TESTED_ROWS, rank, 50))
    quotient[3] = 1  # the entering row itself, which agrees in every pair
    tested = quotient.astype(np.float32) * entering
    codes = walk.quotients(jnp.asarray(tested), jnp.asarray(entering))
    differ = [np.sum(quotient[:, i] != quotient[:, j], axis=0) for i, j in combinations(range(rank), 2)]
    np.testing.assert_array_equal(walk.fewest_mismatches(codes, rank), np.min(differ, axis=0))


def walk_hits(left, *, chains=256, seed=0, threshold=2, capacity=4096):
    program = partial(walk_round.walk_range, sizes=Sizes(2, chains // 2, capacity))
    key, stretch = jax.random.key(seed), Stretch(jnp.uint32(0), jnp.int32(0), jnp.int32(chains))
    found = jax.jit(program)(jnp.asarray(left, jnp.float32), key, stretch, (jnp.int32(threshold),))
    hits = jax.tree.map(np.asarray, found)
    assert hits.count <= capacity
    in_use = [array[: hits.count] for array in hits[:3]]
    return in_use, walk_round.hit_subsets(left, np.asarray(walk.exchange_places(key, left.shape[1])), *in_use)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_hits_show_true_directions_at_the_planned_rate(seed):
    """Distinct finds per chain, within a factor of two of what the planner counts on."""
    rank, chains = 12, 256
    problem = planted_problem(rank, 160, 60, seed=seed)
    factorization = factorize(problem.observation.weight_grad)
    left = unit_left(factorization)
    (offset, *_), (rows, confirmed) = walk_hits(left, chains=chains, seed=seed)
    assert (np.diff(offset) > 0).all()
    assert len(rows) > 0.8 * len(offset)
    live = np.flatnonzero(np.asarray(factorization.live_mask))
    found = null_vectors_float64(np.asarray(factorization.left)[live[rows]])
    likeness = np.abs(found @ problem.directions(np.asarray(factorization.left)))
    assert (likeness.max(axis=1) > 1 - 1e-9).mean() > 0.95
    zeros = np.sum(problem.grad_z[live] == 0, axis=0)
    per_draw = cost.hit_probability(zeros, len(left), rank).sum()
    candidates = chains * STEPS * rank * (rank - 1) / 2
    # Hits of one chain and direction within 30 steps are one find.
    seen = set(zip(offset[confirmed] // 30, likeness.argmax(axis=1), strict=True))
    efficiency = cost.walk_efficiency(2, rank, len(left), float(np.mean(zeros)) / len(left))
    assert 0.5 < len(seen) / (candidates * per_draw * efficiency) < 2


def test_candidates_come_from_all_subsets_alike():
    """One candidate per chain, from the end of its walk: rows in any of its places equally often, pairs nearly so."""
    rank, chains = 3, 8192
    left = np.random.default_rng(0).normal(size=(CHECK_ROWS + 6, rank))
    left = jnp.asarray(left / np.linalg.norm(left, axis=1, keepdims=True), jnp.float32)
    key = jax.random.key(3)
    walked = jax.jit(walk.walk)(left, key, jnp.arange(chains, dtype=jnp.uint32))
    places = np.asarray(walk.exchange_places(key, rank))
    last = np.full(chains, STEPS - 1)
    rows = walk_round._replay(np.asarray(walked.rows).T, np.asarray(walked.is_exchanged).T, last, places, rank)
    subsets = np.sort(np.stack([rows[:, 0], rows[:, rank + places[-1, 0]]], axis=1), axis=1)
    per_row = np.bincount(subsets.ravel(), minlength=len(left)) / (2 * chains / len(left))
    assert per_row.min() > 0.8
    assert per_row.max() < 1.25
    everything = len(left) * (len(left) - 1) // 2
    per_pair = np.bincount(subsets[:, 0] * len(left) + subsets[:, 1])
    per_pair = per_pair[per_pair > 0] / (chains / everything)
    assert len(per_pair) == everything
    assert np.quantile(per_pair, [0.01, 0.99]) == pytest.approx([0.6, 1.5], abs=0.3)


@pytest.mark.slow
def test_a_dense_random_matrix_gives_no_submatrix():
    """Quotients agree by chance now and then; float64 lets none through."""
    left = np.random.default_rng(0).normal(size=(120, 9))
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    (offset, *_), (rows, _) = walk_hits(left, threshold=1)
    assert len(offset) > 20
    assert len(rows) == 0


def test_a_submatrix_leaves_out_the_pair_that_agrees():
    """A planted tableau: two rows outside a column's zeros, all others inside."""
    rank, rng = 6, np.random.default_rng(4)
    directions = np.linalg.qr(rng.normal(size=(rank, rank)))[0]
    left = rng.normal(size=(rank + CHECK_ROWS, rank))
    is_zero = np.ones(len(left), bool)
    is_zero[[1, 4]] = False
    is_zero[rank + 8 :] = False
    left[is_zero] -= np.outer(left[is_zero] @ directions[0], directions[0])
    rows = np.arange(len(left))[None]
    np.testing.assert_array_equal(walk_round._subsets(left, rows, np.array([2]), rank)[0], [[0, 2, 3, 5, rank + 2]])
    assert len(walk_round._subsets(left, rows, np.array([12]), rank)[0]) == 0


def test_the_chance_to_miss_a_candidate_is_that_of_simulated_columns():
    rng, m, rank, trials = np.random.default_rng(0), 60, 8, 40_000
    zeros = rng.permuted(np.tile(np.arange(m) < m // 2, (trials, 1)), axis=1)
    further = zeros[zeros[:, : rank - 1].all(axis=1), rank - 1 : rank - 1 + TESTED_ROWS].copy()
    assert len(further) > 50
    # In a third of the steps the entering row is one of the tested and tells nothing.
    further[rng.random(len(further)) < TESTED_ROWS / CHECK_ROWS, 0] = False
    missed = np.sum(further.sum(axis=1) < 3)
    low, high = stats.binom.interval(1 - 1e-4, len(further), cost.walk_threshold_rate(3, rank, m))
    assert low <= missed <= high
    assert not low <= np.sum(further.sum(axis=1) < 4) <= high
