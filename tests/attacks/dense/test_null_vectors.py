"""Null vectors by conjugate gradients against NumPy's, in both namespaces."""

import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.attacks.dense.directions.null_vectors import first_step, next_step, unit

M, R, K = 120, 12, 5


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.normal(size=(M, R)))[0]
    weights = rng.uniform(0.1, 1.0, size=(M, K))
    return rows, weights, unit(rng.normal(size=(R, K)))


def solve(rows, weights, start, steps):
    at = first_step(rows, weights, start)
    for _ in range(steps):
        at = next_step(rows, weights, start, at, 1e-300)
    return unit(start + at.correction)


@pytest.mark.parametrize("xp", [np, jnp])
def test_it_is_a_step_of_inverse_iteration(problem, xp):
    rows, weights, start = problem
    found = solve(*map(xp.asarray, problem), 2 * R)
    for column in range(K):
        gram = rows.T @ (weights[:, [column]] * rows)
        expected = np.linalg.solve(gram, start[:, column])
        np.testing.assert_allclose(found[:, column], expected / np.linalg.norm(expected), atol=1e-12)


def test_rows_without_weight_count_for_nothing(problem):
    rows, weights, start = problem
    weights[:40] = 0
    np.testing.assert_allclose(solve(rows, weights, start, 20), solve(rows[40:], weights[40:], start, 20), atol=1e-12)


def test_a_column_that_is_done_stays(problem):
    rows, weights, start = problem
    once = solve(rows, weights, start, 3 * R)
    at = first_step(rows, np.ones((M, K)), once)
    for _ in range(5):
        at = next_step(rows, np.ones((M, K)), once, at, 1e-300)
    assert np.isfinite(at.correction).all()
    assert np.abs(at.correction).max() < 1e-12  # with equal weights every vector is a null vector of the projection
