"""Tolerances follow the noise and the scale; nothing is a literal threshold on the data."""

import numpy as np
import pytest

from spear_jax import numerics
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem


def truth_of(problem, factorization):
    return problem.directions(np.asarray(factorization.left)).T


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float32"}, {"noise": 1e-6}, {"spread": 3.0}, {"dead_rows": 20}], ids=str
)
def test_the_zero_mask_of_a_true_direction_is_its_pattern(options):
    wrong = entries = 0
    for seed in range(5):
        problem = planted_problem(5, 100, 150, seed=seed, **options)
        factorization = factorize(problem.observation.weight_grad)
        live = np.asarray(factorization.live_mask)
        mask = numerics.zero_mask(factorization, truth_of(problem, factorization))
        assert not mask[~live].any()
        wrong += int((mask != (problem.grad_z == 0))[live].sum())
        entries += int(live.sum()) * 5
    assert wrong / entries < 2e-3  # small true entries below the noise


def test_a_random_direction_has_no_zeros():
    factorization = factorize(planted_problem(5, 100, 150).observation.weight_grad)
    random = np.random.default_rng(0).normal(size=(50, 5))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    assert numerics.zero_mask(factorization, random).sum() == 0


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_tolerances_do_not_depend_on_the_gradient_s_unit(factor):
    gradient = planted_problem(5, 100, 150, noise=1e-5).observation.weight_grad
    one, other = factorize(gradient), factorize(factor * gradient)
    directions = np.eye(5)
    np.testing.assert_allclose(
        numerics.zero_tolerance(one, directions), numerics.zero_tolerance(other, directions), rtol=1e-5
    )
    np.testing.assert_allclose(numerics.search_tolerance(one), numerics.search_tolerance(other), rtol=1e-5)


def test_the_noise_is_estimated_within_a_third():
    for noise in (1e-5, 1e-3):
        problem = planted_problem(5, 100, 400, noise=noise)
        true = np.std(problem.observation.weight_grad - problem.grad_z @ problem.inputs)
        assert 0.66 < factorize(problem.observation.weight_grad).noise_std / true < 1.6


def test_the_canonical_sign_ignores_the_sign():
    vectors = np.random.default_rng(0).normal(size=(20, 4))
    np.testing.assert_array_equal(numerics.canonical_sign(vectors), numerics.canonical_sign(-vectors))
    assert (np.abs(numerics.canonical_sign(vectors)) == np.abs(vectors)).all()
