"""Inputs that are not centred: what the server sees of them, its tests, and whole batches."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax import numerics
from spear_jax.attacks.dense import strategy
from spear_jax.attacks.dense.dictionary.half_space import is_half_space
from spear_jax.attacks.dense.dictionary.low_rows import low_rows
from spear_jax.attacks.dense.dictionary.mixtures import unmix
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.regime import is_skewed, single_rows
from spear_jax.config import DictionaryConfig, ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Status
from spear_jax.testing import planted_problem
from tests.helpers.networks import simulate

B, M, N = 12, 200, 150


def skewed_inputs(seed, batch_size=B):
    """Pixels in [0, 1] with a brightness of their own, as photos have."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.uniform(0, 0.8, (batch_size, N)) + rng.uniform(0, 0.5, (batch_size, 1)), 0, 1)


@pytest.fixture(scope="module", params=[0, 1])
def skewed(request):
    """A batch, its evidence and its true unit directions as rows."""
    seed = request.param
    batch = simulate(B, M, in_features=N, seed=seed, inputs=skewed_inputs(seed))
    factorization = factorize(batch.observation.weight_grad)
    directions = np.asarray(factorization.left).T @ batch.grad_z
    evidence = pose(batch.observation, factorization)
    return batch, evidence, (directions / np.linalg.norm(directions, axis=0)).T


def test_offsets_are_the_pre_activations_of_the_mean_that_the_gradient_shows(skewed):
    batch, evidence, _ = skewed
    gradient, bias_grad = batch.observation.weight_grad, batch.observation.bias_grad
    mean = gradient.T @ bias_grad / (bias_grad @ bias_grad)
    np.testing.assert_allclose(evidence.offset, batch.observation.weight @ mean + batch.observation.bias, atol=1e-9)
    share = np.sum((gradient.T @ bias_grad) ** 2) / (bias_grad @ bias_grad) / np.sum(gradient**2)
    np.testing.assert_allclose(evidence.mean_share, share, rtol=1e-9)


def test_the_regime_is_read_off_the_gradient():
    for seed in range(5):
        for inputs, said in ((None, "centred"), (skewed_inputs(seed), "skewed")):
            batch = simulate(B, M, in_features=N, seed=seed, inputs=inputs)
            factorization = factorize(batch.observation.weight_grad)
            problem = pose(batch.observation, factorization)
            assert is_skewed(problem) == (said == "skewed")
            method = strategy.make_plan(problem, ReconstructConfig()).method
            assert (method == "dictionary") == (said == "skewed")


def test_low_rows_keep_the_zeros_of_every_direction(skewed):
    _, evidence, directions = skewed
    chosen = low_rows(evidence, 0.6)
    factorization = evidence.factorization
    spectrum = np.asarray(factorization.singular_values[:B])
    inside = directions / spectrum @ chosen.rotation.T * chosen.spectrum
    np.testing.assert_allclose(chosen.left.T @ chosen.left, np.eye(B), atol=1e-9)
    there = np.abs(chosen.left @ inside.T) > 1e-9 * np.linalg.norm(inside, axis=1)
    before = np.abs(np.asarray(factorization.left)[chosen.rows] @ directions.T) > 1e-9
    assert np.mean(there == before) > 0.999
    assert evidence.offset[chosen.rows].max() <= np.quantile(evidence.offset, 0.75)


def test_neurons_of_a_single_sample_are_counted(skewed):
    batch, evidence, _ = skewed
    fired = np.sum(batch.grad_z != 0, axis=1)
    alone = [np.flatnonzero((fired == 1) & (batch.grad_z[:, sample] != 0)) for sample in range(B)]
    assert single_rows(evidence) == sum(len(rows) for rows in alone if len(rows) > 1)


def test_true_supports_are_half_spaces_and_unions_are_not(skewed):
    batch, evidence, _ = skewed
    supports = batch.grad_z != 0
    assert is_half_space(evidence, supports).all()
    unions = supports | np.roll(supports, 1, axis=1)
    assert np.mean(is_half_space(evidence, unions)) < 0.2
    flipped = supports ^ (np.random.default_rng(0).random(supports.shape) < 0.05)
    assert not is_half_space(evidence, flipped).any()


@pytest.mark.parametrize("share", [1e-6, 0.01, 0.3])
def test_mixtures_are_unmixed_and_true_directions_left_alone(skewed, share):
    _, evidence, directions = skewed
    factorization = evidence.factorization
    mixed = directions + share * np.roll(directions, 1, axis=0)
    mixed = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    nearly = np.sum(numerics.zero_mask(factorization, mixed), axis=0) >= B + 4
    found = unmix(factorization, mixed[nearly], directions)
    zeros = pool.zero_count(factorization, found)
    assert (zeros > pool.zero_count(factorization, mixed[nearly])).all()
    assert (np.abs(found @ directions.T).max(axis=1) > 1 - 1e-9).all()
    np.testing.assert_allclose(np.abs(np.sum(unmix(factorization, directions, directions) * directions, axis=1)), 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_skewed_batch_comes_back_whole(seed):
    batch = simulate(B, M, in_features=N, seed=seed, inputs=skewed_inputs(seed))
    result = reconstruct(batch.observation, jax.random.key(0), model=batch.network)
    assert result.status is Status.EXACT
    order = [np.argmin(np.linalg.norm(batch.inputs - sample, axis=1)) for sample in result.inputs]
    assert sorted(order) == list(range(B))
    np.testing.assert_allclose(result.inputs, batch.inputs[order], atol=1e-6)


@pytest.mark.slow
def test_sampling_goes_on_with_what_the_rounds_leave_where_it_takes_seconds():
    config = ReconstructConfig(dictionary=DictionaryConfig(max_rounds=0, regime="skewed"))
    found = reconstruct(planted_problem(5, 100, 80, seed=2).observation, jax.random.key(0), config)
    assert (found.status, found.stats.method) == (Status.EXACT, "sampling")
    assert "and sampling for what it leaves" in found.stats.reason
    # Nested zeros: sampling finds some directions only, and the budget it ran out of is none that the user gave.
    batch = simulate(6, M, in_features=N, inputs=skewed_inputs(0)[:6])
    left = reconstruct(batch.observation, jax.random.key(0), config)
    assert left.status in (Status.ROUND_BUDGET, Status.PARTIAL)
    assert 0 < left.stats.candidates < 1e6
    # With the model they are peeled off before anything is searched.
    peeled = reconstruct(batch.observation, jax.random.key(0), config, model=batch.network)
    assert (peeled.status, peeled.stats.candidates) == (Status.EXACT, 0)
    # Where it would take longer it is not tried.
    far = reconstruct(planted_problem(30, 150, 80, seed=2).observation, jax.random.key(0), config)
    assert (far.status, far.stats.candidates) == (Status.ROUND_BUDGET, 0)


@pytest.mark.parametrize("offset", [0.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_samples_whose_gradients_span_five_decades_are_all_found(offset):
    problem = planted_problem(16, 300, 200, seed=0, spread=5.0, offset=offset)
    result = reconstruct(problem.observation, jax.random.key(0), ReconstructConfig(method="dictionary"))
    assert result.status is Status.EXACT
    order = [np.argmin(np.linalg.norm(problem.inputs - sample, axis=1)) for sample in result.inputs]
    assert sorted(order) == list(range(16))
    np.testing.assert_allclose(result.inputs, problem.inputs[order], atol=1e-5)


@pytest.mark.slow
def test_shuffled_weights_certify_nothing_of_a_skewed_batch():
    options = DictionaryConfig(max_rounds=2)
    for seed in range(3):
        batch = simulate(B, M, in_features=N, seed=seed, inputs=skewed_inputs(seed))
        rows = np.random.default_rng(seed).permutation(M)
        wrong = dataclasses.replace(batch.observation, weight=batch.observation.weight[rows])
        result = reconstruct(wrong, jax.random.key(0), ReconstructConfig(dictionary=options), model=batch.network)
        assert not result.certificate.exact.any()
