"""Choosing r directions: sparsest first where that is right, swaps where chance broke it."""

import numpy as np
import pytest

from spear_jax.attacks.dense.certificates import pattern
from spear_jax.attacks.dense.certificates import select as module
from spear_jax.attacks.dense.certificates.select import select, sparsest_independent
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.problem import pose
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def planted(seed=0, batch_size=6, m=120):
    problem = planted_problem(batch_size, m, 80, seed=seed)
    factorization = factorize(problem.observation.weight_grad)
    truth = problem.directions(np.asarray(factorization.left)).T
    return pose(problem.observation, factorization), truth


def pool_of(directions, zeros, capacity=64):
    return pool.merge(
        pool.empty_pool(capacity, directions.shape[1]), directions, zeros, np.ones(len(directions), np.int64)
    )


def mixtures(truth, seed):
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(len(truth), 2, replace=False) for _ in range(10)]
    return unit(np.stack([truth[i] + rng.normal() * truth[j] for i, j in pairs]))


def is_truth(directions, truth):
    likeness = np.abs(directions @ truth.T)
    return len(directions) == len(truth) and (likeness.max(axis=0) > 1 - 1e-10).all()


def test_the_true_set_is_chosen_from_true_directions_and_mixtures():
    right = []
    for seed in range(8):
        problem, truth = planted(seed)
        candidates = np.concatenate([mixtures(truth, seed), truth])
        full = pool_of(candidates, pool.zero_count(problem.factorization, candidates))
        chosen, agreement = select(problem, full)
        assert agreement is not None
        right.append(is_truth(full.directions[chosen], truth) and agreement.precise.all())
    assert sum(right) == 8


@pytest.mark.parametrize("wrong", [1, 2])
def test_swaps_repair_a_choice_that_chance_made_wrong(wrong):
    """Mixtures are given more zeros than the truth, so that sparsest-first must take them."""
    problem, truth = planted(3)
    fakes = unit(np.stack([truth[2 * k] + 0.7 * truth[2 * k + 1] for k in range(wrong)]))
    candidates = np.concatenate([fakes, truth])
    zeros = np.concatenate([np.full(wrong, 110), pool.zero_count(problem.factorization, truth)])
    full = pool_of(candidates, zeros)
    greedy = sparsest_independent(full)
    assert not is_truth(full.directions[greedy], truth)
    assert not pattern.agree(problem, full.directions[greedy]).precise.all()
    chosen, agreement = select(problem, full)
    assert agreement is not None
    assert is_truth(full.directions[chosen], truth)
    assert agreement.precise.all()
    assert agreement.matching_score == 1


def test_swaps_never_lower_the_score():
    problem, truth = planted(1)
    directions = np.concatenate([mixtures(truth, 5), truth[:4]])
    full = pool_of(directions, np.random.default_rng(0).integers(30, 90, len(directions)))
    greedy = sparsest_independent(full)
    if len(greedy) == 6:
        chosen, agreement = select(problem, full)
        assert agreement is not None
        assert agreement.matching_score >= pattern.agree(problem, full.directions[greedy]).matching_score


def test_dependent_directions_are_passed_over():
    truth = np.eye(4)
    candidates = np.concatenate([truth[:2], unit(truth[:1] + truth[1:2]), truth[2:]])
    full = pool_of(candidates, np.array([9, 8, 7, 6, 5]))
    np.testing.assert_array_equal(sparsest_independent(full), [0, 1, 3, 4])


def test_nothing_is_judged_while_directions_are_missing(monkeypatch):
    def judge(*_):
        raise AssertionError("judged an incomplete choice")

    monkeypatch.setattr(module, "agree", judge)
    problem, _ = planted()
    full = pool_of(np.eye(4)[:3], np.array([9, 8, 7]))
    chosen, agreement = select(problem, full)
    assert (len(chosen), agreement) == (3, None)
    chosen, agreement = select(problem, pool.empty_pool(4, 4))
    assert (len(chosen), agreement) == (0, None)


def test_the_order_of_the_pool_decides_between_independent_sets():
    directions = np.concatenate([np.eye(2), unit(np.ones((1, 2)))])
    assert list(sparsest_independent(pool_of(directions, np.array([5, 5, 5])))) == [0, 1]
    full = pool_of(directions, np.array([5, 4, 9]))
    np.testing.assert_allclose(full.directions[sparsest_independent(full)][0], unit(np.ones((1, 2)))[0])
