"""Kernel and bias gradients that were scaled apart: mended where the layers above see the factor, said where not."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.certificates import certified_alone, certify, pattern
from spear_jax.attacks.dense.certificates.next_layer import next_layer_factor
from spear_jax.attacks.dense.directions.recover import disaggregation, dual_vectors, recover_inputs
from spear_jax.attacks.dense.outcome import Outcome, SearchState, is_done
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Scale, Status
from tests.helpers.networks import simulate, with_above

B, M, N = 4, 80, 60
CONFIG = ReconstructConfig(num_devices=1, max_candidates=2**14)


def planted(batch, bias_grad=None):
    """Problem and true directions of a batch whose bias gradient came back as this one."""
    observation = batch.observation
    if bias_grad is not None:
        observation = dataclasses.replace(observation, bias_grad=bias_grad)
    factorization = factorize(observation.weight_grad)
    directions = np.asarray(factorization.left).T @ batch.grad_z
    return pose(observation, factorization), (directions / np.linalg.norm(directions, axis=0)).T


def certified(problem, directions, num_examples=None):
    """Verdict, and the inputs as `reconstruct` gives them."""
    agreement = pattern.agree(problem, directions)
    outcome = Outcome(SearchState(None), directions, agreement, Status.EXACT)
    if problem.above is not None and not is_done(agreement):
        outcome = outcome._replace(alone=certified_alone(problem, outcome))
    verdict = certify(problem, outcome, num_examples)
    dual = dual_vectors(problem.factorization, problem.bias_grad / verdict.common_factor, verdict.directions)
    dual = np.where(np.isfinite(verdict.dual), verdict.dual, dual)
    return verdict, dual @ np.asarray(problem.factorization.right)


def error_of(inputs, batch):
    """(r,) relative distance of each input to the private one in its place."""
    return np.linalg.norm(inputs - batch.inputs, axis=1) / np.linalg.norm(batch.inputs, axis=1)


@pytest.mark.parametrize("zero_bias", [False, True])
@pytest.mark.parametrize("factor", [0.05, 0.998, 1.05, 7.0])
@pytest.mark.parametrize(("classes", "depth"), [(10, 2), (2, 2), (2, 1), (3, 3)])
def test_the_model_sees_the_factor_and_mends_it(factor, classes, depth, zero_bias):
    for seed in range(3):
        batch = simulate(
            B, M, in_features=N, classes=classes, depth=depth, zero_bias=zero_bias, seed=seed, dtype="float32"
        )
        problem, directions = planted(batch, np.float32(factor) * batch.observation.bias_grad)
        verdict, inputs = certified(with_above(problem, batch.network), directions)
        error = error_of(inputs, batch)
        vouched = verdict.exact | verdict.approximate
        if verdict.scale is Scale.NETWORK:
            assert verdict.exact.all()
            assert (error < np.maximum(4 * verdict.error, 1e-6)).all()
            assert abs(verdict.factor / factor - 1) < 1e-3
        else:  # said, with the factors that the patterns leave open
            lowest, highest = verdict.factor_range
            assert not vouched.any() or lowest <= factor <= highest


def test_the_model_sees_it_wherever_there_are_more_than_two_classes():
    seen = []
    for seed in range(10):
        batch = simulate(B, M, in_features=N, classes=10, depth=2, seed=100 + seed, dtype="float32")
        problem, directions = planted(batch, np.float32(3) * batch.observation.bias_grad)
        seen.append(certified(with_above(problem, batch.network), directions)[0].scale is Scale.NETWORK)
    assert all(seen)


def test_what_was_not_scaled_is_left_alone():
    for seed in range(10):
        batch = simulate(B, M, in_features=N, classes=10, depth=2, seed=seed, dtype="float32")
        problem, directions = planted(batch)
        verdict, inputs = certified(with_above(problem, batch.network), directions)
        assert verdict.factor is None
        assert verdict.exact.all()
        assert (error_of(inputs, batch) < 4 * verdict.error).all()


def test_the_next_layer_s_gradient_sees_it_by_its_biases():
    for seed in range(5):
        batch = simulate(B, M, in_features=N, depth=2, seed=seed, dtype="float32")
        problem, directions = planted(batch, np.float32(1.5) * batch.observation.bias_grad)
        above = with_above(problem, next_weight_grad=batch.next_weight_grad)
        verdict, inputs = certified(above, directions)
        assert verdict.scale is Scale.NEXT_LAYER
        assert abs(verdict.factor / 1.5 - 1) < 1e-4
        assert verdict.exact.all()
        assert (error_of(inputs, batch) < 4 * verdict.error).all()


def test_without_biases_the_next_layer_sees_no_scale():
    batch = simulate(B, M, in_features=N, depth=2, zero_bias=True, dtype="float32")
    problem, directions = planted(batch)
    above = with_above(problem, next_weight_grad=batch.next_weight_grad)
    dual = dual_vectors(problem.factorization, problem.bias_grad, directions)
    assert not next_layer_factor(above, directions, dual).is_seen


def test_the_layer_alone_says_that_its_scale_rests_on_the_bias_gradient():
    batch = simulate(B, M, in_features=N, zero_bias=True)
    result = reconstruct(batch.observation, jax.random.key(0), CONFIG)
    assert result.certificate.scale is Scale.BIAS_GRADIENT
    assert result.certificate.factor_range == (0.0, np.inf)
    batch = simulate(B, M, in_features=N)
    lowest, highest = reconstruct(batch.observation, jax.random.key(0), CONFIG).certificate.factor_range
    assert 0 < lowest < 1 < highest < np.inf


@pytest.mark.parametrize("decimals", [3, 4])
def test_a_rounded_bias_gradient_gives_no_scale_but_the_model_does(decimals):
    for seed in range(5):
        batch = simulate(B, M, in_features=N, depth=2, seed=seed, dtype="float32")
        size = np.abs(batch.observation.bias_grad).max()
        rounded = (np.round(batch.observation.bias_grad / size, decimals) * size).astype("float32")
        problem, directions = planted(batch, rounded)
        assert not pattern.agree(problem, directions).confirmed.any()
        verdict, inputs = certified(with_above(problem, batch.network), directions)
        assert verdict.exact.all()
        assert (error_of(inputs, batch) < 4 * verdict.error).all()


@pytest.mark.parametrize(
    "seeds", [pytest.param(range(2), id="first"), pytest.param(range(2, 5), id="others", marks=pytest.mark.slow)]
)
def test_collinear_inputs_of_which_the_kernel_s_gradient_shows_one_are_not_certified(seeds):
    for seed in seeds:
        drawn = np.random.default_rng(seed).normal(size=(5, N))
        drawn[4] = 0.85 * drawn[3]
        batch = simulate(5, 200, in_features=N, inputs=drawn, seed=seed, dtype="float32", labels=[0, 1, 2, 3, 4])
        result = reconstruct(batch.observation, jax.random.key(0), CONFIG)
        distance = np.linalg.norm(result.inputs[:, None] - drawn[None], axis=2) / np.linalg.norm(drawn, axis=1)
        vouched = result.certificate.exact | result.certificate.approximate
        assert (distance.min(axis=1)[vouched] < 1e-3).all()


def test_the_error_bar_holds_the_noise_of_a_single_sample_s_kernel_gradient():
    ratios = []
    for seed in range(40):
        batch = simulate(1, 100, in_features=N, seed=seed)
        rng, gradient = np.random.default_rng(seed), batch.observation.weight_grad
        noisy = gradient + 1e-4 * np.sqrt(np.mean(gradient**2)) * rng.normal(size=gradient.shape)
        problem, directions = planted(
            batch._replace(observation=dataclasses.replace(batch.observation, weight_grad=noisy))
        )
        error = pattern.agree(problem, directions).error[0]
        mixing = disaggregation(problem.factorization, problem.bias_grad, directions)
        ratios.append(error_of(recover_inputs(problem.factorization, mixing), batch)[0] / error)
    assert 0.2 < np.median(ratios) < 1.2
    assert max(ratios) < 2
