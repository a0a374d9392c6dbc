"""Samples one by one, the smaller problem they leave, and batches that come back only that way."""

import jax
import numpy as np
import pytest

from spear_jax import numerics
from spear_jax.attacks.dense.certificates.next_layer import samples_alone
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.remainder import deflate
from spear_jax.config import DictionaryConfig, ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Status
from tests.helpers.networks import simulate, with_above

B, M = 10, 120


def known(batch):
    """Evidence and true unit directions as rows."""
    factorization = factorize(batch.observation.weight_grad)
    directions = np.asarray(factorization.left).T @ batch.grad_z
    directions = (directions / np.linalg.norm(directions, axis=0)).T
    return pose(batch.observation, factorization), directions


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-3)])
def test_one_direction_gives_one_sample(dtype, tolerance):
    batch = simulate(B, M, seed=1, dtype=dtype)
    evidence, directions = known(batch)
    for place in (0, 7):
        alone = samples_alone(with_above(evidence, None, batch.next_weight_grad), directions[place : place + 1])
        assert alone.confirmed.all()
        found = alone.dual @ np.asarray(evidence.factorization.right)
        np.testing.assert_allclose(found[0], batch.inputs[place], atol=tolerance)


def test_without_biases_the_bias_gradient_gives_the_scale():
    batch = simulate(B, M, seed=1, zero_bias=True)
    evidence, directions = known(batch)
    for place in (0, 7):
        alone = samples_alone(with_above(evidence, None, batch.next_weight_grad), directions[place : place + 1])
        assert alone.confirmed.all()
        found = alone.dual @ np.asarray(evidence.factorization.right)
        np.testing.assert_allclose(found[0], batch.inputs[place], atol=1e-10)


@pytest.mark.parametrize("zero_bias", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_wrong_directions_and_wrong_gradients_certify_nothing(seed, zero_bias):
    batch = simulate(B, M, seed=seed, zero_bias=zero_bias)
    evidence, directions = known(batch)
    mixed = directions + 0.5 * np.roll(directions, 1, axis=0)
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    assert not samples_alone(with_above(evidence, None, batch.next_weight_grad), mixed).confirmed.any()
    shuffled = np.random.default_rng(seed).permutation(batch.next_weight_grad.T).T
    assert not samples_alone(with_above(evidence, None, shuffled), directions).confirmed.any()


@pytest.mark.parametrize("seed", range(3))
def test_small_gradients_near_the_noise_do_not_hide_large_ones(seed):
    # In float32 the smallest sample's gradient is ten times the rounding of the largest one's.
    batch = simulate(B, M, seed=seed, dtype="float32", spread=6.0)
    evidence, directions = known(batch)
    alone = samples_alone(with_above(evidence, None, batch.next_weight_grad), directions)
    assert alone.confirmed[: B // 2].all()
    found = alone.dual[alone.confirmed] @ np.asarray(evidence.factorization.right)
    np.testing.assert_allclose(found, batch.inputs[alone.confirmed], atol=5e-3)
    mixed = directions + 1e-2 * np.roll(directions, 1, axis=0)
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    assert not samples_alone(with_above(evidence, None, batch.next_weight_grad), mixed).confirmed.any()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda gradient: gradient[:, :-1], r"\(out, 120\)"),
        (lambda gradient: gradient.astype(int), "int64"),
        (lambda gradient: gradient * np.nan, "NaN"),
    ],
)
def test_a_gradient_that_cannot_be_the_next_layer_s_is_refused(spoil, said):
    batch = simulate(B, M)
    with pytest.raises(ValueError, match=said):
        reconstruct(batch.observation, jax.random.key(0), next_weight_grad=spoil(batch.next_weight_grad))


def test_a_next_gradient_of_zeros_gives_no_sample():
    batch = simulate(B, M)
    evidence, directions = known(batch)
    assert not samples_alone(with_above(evidence, None, 0 * batch.next_weight_grad), directions).confirmed.any()


def test_what_deflation_leaves_is_the_gradient_of_the_rest():
    batch = simulate(B, M, seed=2)
    evidence, directions = known(batch)
    alone = samples_alone(with_above(evidence, None, batch.next_weight_grad), directions[:4])
    rest = deflate(evidence, directions[:4], alone.dual)
    left, right = np.asarray(rest.problem.factorization.left), np.asarray(rest.problem.factorization.right)
    expected = batch.grad_z[:, 4:] @ batch.inputs[4:]
    np.testing.assert_allclose(left @ right, expected, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(left.T @ left, np.eye(B - 4), atol=1e-12)
    np.testing.assert_allclose(rest.problem.bias_grad, batch.grad_z[:, 4:].sum(axis=1), atol=1e-14)
    np.testing.assert_allclose(rest.problem.response, batch.observation.weight @ right.T, atol=1e-10)
    small = left.T @ batch.grad_z[:, 4:]
    lifted = rest.lift @ (small / np.linalg.norm(small, axis=0))
    np.testing.assert_allclose(np.abs(np.sum(lifted.T * directions[4:], axis=1)), 1, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 3])
def test_near_duplicates_that_fire_the_same_neurons_are_told_apart_or_refused(depth):
    certified = 0
    for seed, distance in ((seed, distance) for seed in range(6) for distance in (3e-3, 1e-2)):
        inputs = np.random.default_rng(seed).normal(size=(B, 100))
        inputs[1] = inputs[0] + distance * np.random.default_rng(seed + 100).normal(size=100)
        batch = simulate(B, 160, seed=seed, depth=depth, dtype="float32", inputs=inputs)
        evidence, directions = known(batch)
        if len(directions) != evidence.factorization.rank:
            continue
        alone = samples_alone(with_above(evidence, None, batch.next_weight_grad), directions)
        found = alone.dual[alone.confirmed] @ np.asarray(evidence.factorization.right)
        error = np.linalg.norm(found - inputs[alone.confirmed], axis=1) / np.linalg.norm(
            inputs[alone.confirmed], axis=1
        )
        assert (error < 1e-3).all()
        certified += alone.confirmed.sum()
    assert certified > 40


def test_errors_of_what_is_taken_out_are_noise_of_the_rest():
    batch = simulate(B, M, seed=2, spread=4.0)
    evidence, directions = known(batch)
    spectrum = np.asarray(evidence.factorization.singular_values[:B])
    taken, rest, error = slice(4), slice(4, B), 1e-6
    inputs = (
        samples_alone(with_above(evidence, None, batch.next_weight_grad), directions).dual[taken] * spectrum
    )  # in orthonormal rows
    noise = np.random.default_rng(0).normal(size=inputs.shape)
    inputs += error * np.linalg.norm(inputs, axis=1, keepdims=True) * noise / np.linalg.norm(noise, axis=1)[:, None]
    off = batch.grad_z[:, rest] == 0

    def seen(error):
        left = deflate(evidence, directions[taken], inputs / spectrum, error).problem.factorization
        true = np.asarray(left.left).T @ batch.grad_z[:, rest]
        zero = numerics.zero_mask(left, (true / np.linalg.norm(true, axis=0)).T)
        return zero[off].mean(), zero[~off].mean()

    share, wrongly = seen(np.full(4, error))
    assert share > 0.95
    assert wrongly < 0.1
    assert seen(None)[0] < 0.7


@pytest.mark.slow
def test_a_batch_that_stays_partial_alone_comes_back_through_the_layer_above():
    batch = simulate(32, 104, in_features=200, seed=0)
    config = ReconstructConfig(method="dictionary", dictionary=DictionaryConfig(max_rounds=3))
    without = reconstruct(batch.observation, jax.random.key(0), config)
    assert not without.status.is_complete
    result = reconstruct(batch.observation, jax.random.key(0), config, next_weight_grad=batch.next_weight_grad)
    assert 0 < result.certificate.exact.sum()
    assert (result.certificate.error[result.certificate.exact] < 1e-3).all()
    distance = np.abs(result.inputs[result.certificate.exact][:, None] - batch.inputs[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-8
    missing = ~result.certificate.exact
    assert (result.status is Status.EXACT) == (not missing.any())
