"""Scales and inputs from the true directions, in any order and sign."""

import numpy as np
import pytest

from spear_jax.attacks.dense.directions.recover import disaggregation, recover_inputs, recover_scale
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 1e-5)])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_true_directions_give_the_batch_back(batch_size, dtype, tolerance):
    problem = planted_problem(batch_size, 100, 50, seed=batch_size, dtype=dtype)
    factorization = factorize(problem.observation.weight_grad)
    truth = problem.directions(np.asarray(factorization.left)).T
    order = np.random.default_rng(0).permutation(batch_size)
    signs = np.where(np.arange(batch_size) % 2, 1.0, -1.0)
    mixing = disaggregation(factorization, problem.observation.bias_grad, truth[order] * signs[:, None])
    np.testing.assert_allclose(recover_inputs(factorization, mixing), problem.inputs[order], atol=tolerance * 10)
    np.testing.assert_allclose(factorization.left @ mixing, problem.grad_z[:, order], atol=tolerance * 10)


def test_scales_are_the_norms_of_the_true_columns():
    problem = planted_problem(5, 100, 50)
    factorization = factorize(problem.observation.weight_grad)
    truth = problem.directions(np.asarray(factorization.left)).T
    scale = recover_scale(factorization, problem.observation.bias_grad, truth)
    np.testing.assert_allclose(scale, np.linalg.norm(problem.grad_z, axis=0), rtol=1e-10)


def test_inputs_of_a_wrong_direction_are_not_the_batch():
    problem = planted_problem(5, 100, 50)
    factorization = factorize(problem.observation.weight_grad)
    wrong = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    mixing = disaggregation(factorization, problem.observation.bias_grad, wrong)
    assert np.abs(recover_inputs(factorization, mixing) - problem.inputs).max() > 0.1
