"""The certificate: true directions certify, and nothing that is wrong ever does."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from spear_jax.attacks.dense.certificates import error_bars, limits, pattern
from spear_jax.attacks.dense.directions.recover import disaggregation, recover_inputs
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.result import weight_residual
from spear_jax.factorization import factorize
from spear_jax.observation import LayerObservation
from spear_jax.testing import planted_problem

SEEDS = range(25)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def judge(observation, directions=None, grad_z=None):
    factorization = factorized(observation)
    if directions is None:
        directions = unit((np.asarray(factorization.left).T @ grad_z).T)
    return pattern.agree(pose(observation, factorization), directions)


def factorized(observation, known={}):  # noqa: B006  the gradients are shared by many problems here
    gradient = observation.weight_grad
    if id(gradient) not in known:
        known[id(gradient)] = (gradient, factorize(gradient))
    return known[id(gradient)][1]


def changed(problem, **arrays):
    return dataclasses.replace(problem.observation, **arrays)


def truth_of(problem, observation=None):
    factorization = factorized(observation or problem.observation)
    return problem.directions(np.asarray(factorization.left)).T


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 10])
def test_true_directions_certify_every_sample(batch_size, dtype):
    certified = []
    for seed in range(5):
        problem = planted_problem(batch_size, 150, 60, seed=seed, dtype=dtype)
        verdict = judge(problem.observation, grad_z=problem.grad_z)
        certified.append(bool(verdict.precise.all()))
        assert verdict.matching_score == verdict.matching.mean()
        assert verdict.bias_residual < (1e-12 if dtype == "float64" else 1e-5)
    assert certified == [True] * 5


@pytest.mark.parametrize("options", [{"offset": 0.5}, {"dead_rows": 30}, {"spread": 2.0}, {"noise": 1e-7}], ids=str)
def test_true_directions_certify_in_the_harder_regimes(options):
    certified = [
        judge(problem.observation, grad_z=problem.grad_z).precise.all()
        for problem in (planted_problem(5, 150, 60, seed=seed, **options) for seed in range(5))
    ]
    assert sum(certified) >= 4  # noise may leave too many entries undecided


def wrong_problems():
    """Named ways to be wrong: each gives (observation, directions) that no sample of may be certified."""
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        problem = planted_problem(6, 120, 50, seed=seed)
        truth, observation = truth_of(problem), problem.observation
        yield "random orthogonal Q", observation, np.linalg.qr(rng.normal(size=(6, 6)))[0]
        yield "random Q", observation, unit(rng.normal(size=(6, 6)))
        yield "mixtures of two", observation, unit(truth + 0.7 * np.roll(truth, 1, axis=0))
        shuffled = rng.permutation(120)
        yield "shuffled rows of the weight", changed(problem, weight=observation.weight[shuffled]), truth
        other = planted_problem(6, 120, 50, seed=seed + 1000).observation
        yield "another weight", changed(problem, weight=other.weight), truth
        yield "negated weight", changed(problem, weight=-observation.weight), truth
        yield "another bias gradient", changed(problem, bias_grad=other.bias_grad), truth
        yield "a large bias", changed(problem, bias=rng.normal(size=120)), truth
        yield (
            "float32 and random Q",
            planted_problem(6, 120, 50, seed=seed, dtype="float32").observation,
            unit(rng.normal(size=(6, 6))),
        )


def test_no_wrong_problem_is_certified():
    counted, false = 0, []
    for name, observation, directions in wrong_problems():
        counted += 1
        if judge(observation, directions).precise.any():
            false.append(name)
    assert counted >= 200
    assert false == []


def test_while_one_direction_is_a_mixture_nothing_is_certified_and_the_pattern_tells_the_tainted_from_the_clean():
    """What an open direction does to the other samples has no bound, though most of them are right."""
    clean = 0
    for seed in SEEDS:
        problem = planted_problem(6, 120, 50, seed=seed)
        factorization = factorize(problem.observation.weight_grad)
        directions = problem.directions(np.asarray(factorization.left)).T.copy()
        directions[2] = unit(directions[2:3] + 0.5 * directions[4:5])[0]
        verdict = pattern.agree(pose(problem.observation, factorization), directions)
        mixing = disaggregation(factorization, problem.observation.bias_grad, directions)
        error = np.abs(recover_inputs(factorization, mixing) - problem.inputs).max(axis=1)
        assert not verdict.confirmed.any()
        assert (verdict.error > limits.MAX_APPROXIMATE_ERROR).all()
        assert verdict.matching[2] < 1
        is_clean = (error < 1e-9) & (np.arange(6) != 2)
        assert (verdict.matching[is_clean] == 1).all()
        assert (verdict.matching[error > 0.1] < 1).all()
        clean += int(is_clean.sum())
    assert clean > 50


def test_a_wrong_bias_is_seen_wherever_it_turns_a_sign():
    for seed in range(10):
        problem = planted_problem(5, 120, 50, seed=seed)
        bias = np.random.default_rng(seed).normal(size=120) * 0.2
        verdict = judge(changed(problem, bias=bias), grad_z=problem.grad_z)
        live = problem.grad_z.any(axis=1)
        agrees = ((problem.observation.weight @ problem.inputs.T + bias[:, None]) > 0) == (problem.grad_z != 0)
        np.testing.assert_array_equal(verdict.precise, agrees[live].all(axis=0))
        np.testing.assert_allclose(verdict.matching, agrees[live].mean(axis=0), atol=1e-12)


def test_a_smooth_activation_is_not_certified():
    """GELU leaves no zeros; its true directions must not pass for ReLU's."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        problem = planted_problem(5, 120, 50, seed=seed)
        z = problem.observation.weight @ problem.inputs.T + problem.observation.bias[:, None]
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        grad_z = rng.normal(size=z.shape) * (special.ndtr(z) + z * density)
        observation = LayerObservation(
            weight=problem.observation.weight,
            bias=problem.observation.bias,
            weight_grad=grad_z @ problem.inputs,
            bias_grad=grad_z.sum(axis=1),
        )
        verdict = judge(observation, grad_z=grad_z)
        assert not verdict.precise.any()
        assert verdict.matching_score < 0.7


def test_chance_does_not_certify_a_small_layer():
    """A wrong weight agrees with the pattern of m rows by luck once in 2^m: few rows are no evidence."""
    false = []
    for seed in range(200):
        problem = planted_problem(1, 12, 20, seed=seed)
        other = planted_problem(1, 12, 20, seed=seed + 5000).observation
        false.append(bool(judge(changed(problem, weight=other.weight), np.ones((1, 1))).precise.any()))
    assert np.mean(false) < 0.01


@pytest.mark.parametrize("factor", [1e-6, -3.0, 1e6])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_common_factor_of_the_gradients_changes_nothing(factor, dtype):
    problem = planted_problem(5, 120, 50, dtype=dtype)
    grad, bias_grad = problem.observation.weight_grad, problem.observation.bias_grad
    scaled = changed(problem, weight_grad=(factor * grad).astype(dtype), bias_grad=(factor * bias_grad).astype(dtype))
    one, other = (judge(observation, grad_z=problem.grad_z) for observation in (problem.observation, scaled))
    assert one.precise.all()
    np.testing.assert_array_equal(one.precise, other.precise)
    np.testing.assert_array_equal(one.matching, other.matching)


def test_the_order_of_the_directions_only_permutes_the_verdict():
    problem = planted_problem(6, 120, 50, seed=1)
    truth = truth_of(problem)
    truth[1] = unit(truth[1:2] + truth[2:3])[0]
    order = np.random.default_rng(0).permutation(6)
    one, other = judge(problem.observation, truth), judge(problem.observation, -truth[order])
    np.testing.assert_array_equal(one.precise[order], other.precise)
    np.testing.assert_allclose(one.matching[order], other.matching, atol=1e-12)


def test_noise_that_hides_the_pattern_certifies_nothing():
    problem = planted_problem(5, 120, 200, noise=0.3)
    factorization = factorize(problem.observation.weight_grad, rank=5)
    evidence = pose(problem.observation, factorization)
    random = unit(np.random.default_rng(0).normal(size=(5, 5)))
    assert not pattern.agree(evidence, random).precise.any()


def test_the_weight_residual_is_the_relative_error_of_the_gradient():
    problem = planted_problem(4, 60, 40, noise=1e-3)
    factorization = factorize(problem.observation.weight_grad)
    truth = problem.directions(np.asarray(factorization.left)).T
    mixing = disaggregation(factorization, problem.observation.bias_grad, truth)
    inputs = recover_inputs(factorization, mixing) + 0.1
    grad = problem.observation.weight_grad
    expected = np.linalg.norm(grad - np.asarray(factorization.left) @ mixing @ inputs) / np.linalg.norm(grad)
    got = weight_residual(problem.observation, factorization, mixing, inputs)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_a_direction_mixed_with_one_whose_neurons_are_nearly_all_its_own_is_left_open():
    """What once was certified and 8 % off: 13 of 200 rows tell the two columns apart, and none of these is zero."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        grad_z = rng.standard_normal((200, 20)) * (rng.random((200, 20)) < 0.55)
        outside = np.flatnonzero(grad_z[:, 0] == 0)
        grad_z[outside[13:], 1] = 0
        observation = LayerObservation(
            weight=rng.standard_normal((200, 60)), bias=np.zeros(200),
            weight_grad=grad_z @ rng.standard_normal((20, 60)), bias_grad=grad_z.sum(axis=1),
        )  # fmt: skip
        factorization = factorize(observation.weight_grad)
        left = np.asarray(factorization.left)
        true = unit((left.T @ grad_z).T)
        mixed = true.copy()
        mixed[0] = unit((left.T @ (grad_z[:, 0] + 0.1 * grad_z[:, 1]))[None])[0]
        off = np.ones((200, 20), bool)  # by the weights, which say nothing here
        assert np.isfinite(error_bars.direction_error(factorization, true, off)).all()
        assert pattern.is_determined(factorization, true).all()
        error = error_bars.direction_error(factorization, mixed, off)
        assert np.isinf(error[0])
        assert np.isfinite(error[1:]).all()
        determined = pattern.is_determined(factorization, mixed)
        assert not determined[0]
        assert determined[1:].all()
