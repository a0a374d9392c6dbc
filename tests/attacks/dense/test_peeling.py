"""Samples peeled off by the known network: what is certified is right, and what mixes samples is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.certificates import samples_by_themselves
from spear_jax.attacks.dense.certificates.own_gradient import own_gradients
from spear_jax.attacks.dense.outcome import Run
from spear_jax.attacks.dense.peeling import peel_samples
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Status
from tests.helpers.networks import simulate, with_above
from tests.properties.test_skewed import N, skewed_inputs

B, M = 16, 300
RUN = Run(jax.random.key(0), ReconstructConfig(num_devices=1))


def known(batch, network=None):
    """The problem with the model above, and the true dual vectors as rows."""
    factorization = factorize(batch.observation.weight_grad)
    problem = with_above(pose(batch.observation, factorization), batch.network if network is None else network)
    return problem, np.linalg.inv(np.asarray(factorization.left).T @ batch.grad_z)


def error_of(problem, batch, dual):
    """Relative distance of each input to the nearest true one."""
    found = dual @ np.asarray(problem.factorization.right)
    distance = np.linalg.norm(found[:, None] - batch.inputs[None], axis=2) / np.linalg.norm(batch.inputs, axis=1)
    return distance.min(axis=1)


@pytest.mark.parametrize(
    ("depth", "dtype", "tolerance"), [(1, "float64", 1e-9), (3, "float64", 1e-9), (1, "float32", 1e-3)]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_that_is_not_centred_peels(seed, depth, dtype, tolerance):
    batch = simulate(B, M, in_features=N, depth=depth, seed=seed, inputs=skewed_inputs(seed, B), dtype=dtype)
    problem, _ = known(batch)
    outcome = peel_samples(problem, RUN)
    taken = outcome.alone.confirmed
    assert taken.sum() >= B // 2
    error = error_of(problem, batch, outcome.alone.dual[taken])
    assert error.max() < tolerance
    assert (error < 2 * outcome.alone.error[taken] + 1e-12).all()
    assert outcome.alone.directions.shape == outcome.directions.shape


def test_what_peels_comes_back_with_its_label_though_the_rest_does_not():
    # Equal inputs of two labels are one column, which is no label's gradient.
    inputs = skewed_inputs(1, B)
    inputs[1] = inputs[0]
    batch = simulate(B, M, in_features=N, depth=1, seed=1, inputs=inputs)
    assert batch.labels[0] != batch.labels[1]
    result = reconstruct(batch.observation, jax.random.key(0), ReconstructConfig(max_seconds=5.0), model=batch.network)
    exact = result.certificate.exact
    assert result.status is Status.PARTIAL
    assert B // 2 <= exact.sum() <= B - 2
    distance = np.linalg.norm(result.inputs[exact][:, None] - batch.inputs[None], axis=2)
    assert distance.min(axis=1).max() < 1e-3
    np.testing.assert_array_equal(result.certificate.labels[exact], batch.labels[distance.argmin(axis=1)])


def test_a_whole_batch_needs_no_search():
    batch = simulate(B, M, in_features=N, depth=1, seed=0, inputs=skewed_inputs(0, B))
    result = reconstruct(batch.observation, jax.random.key(0), model=batch.network)
    assert result.status is Status.EXACT
    assert result.stats.rounds == result.stats.candidates == 0


@pytest.mark.parametrize("seed", range(5))
def test_another_network_certifies_nothing(seed):
    batch = simulate(B, M, in_features=N, depth=2, seed=seed, inputs=skewed_inputs(seed, B))
    layers = batch.network
    shuffled = [(np.random.default_rng(seed).permutation(layers[0][0].T).T, layers[0][1]), *layers[1:]]
    problem, dual = known(batch, shuffled)
    assert not samples_by_themselves(problem, dual).confirmed.any()
    assert len(peel_samples(problem, RUN).directions) == 0


def test_centred_inputs_do_not_peel():
    batch = simulate(B, M, in_features=N, depth=1, seed=0)
    assert len(peel_samples(known(batch)[0], RUN).directions) == 0


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("share", [0.5, 0.1, 1e-2])
def test_a_mean_of_two_samples_of_one_label_is_refused(share, classes):
    batch = simulate(B, M, in_features=N, depth=1, classes=classes, seed=2, inputs=skewed_inputs(2, B))
    problem, dual = known(batch)
    assert samples_by_themselves(problem, dual).confirmed.all()
    same = np.flatnonzero(batch.labels == batch.labels[0])
    assert len(same) > 2
    for first, second in zip(same, np.roll(same, 1), strict=True):
        mixed = dual.copy()
        mixed[first] = (1 - share) * dual[first] + share * dual[second]
        assert not samples_by_themselves(problem, mixed).confirmed[first]


@pytest.mark.parametrize("mixed", [4, 9])
@pytest.mark.parametrize("share", [0.1, 1e-2, 2e-3])
def test_mixtures_of_one_share_do_not_vouch_for_one_another(share, mixed):
    """In a network of two classes every mixture of one pattern has a gradient of the batch: only weights tell."""
    batch = simulate(B, M, in_features=N, depth=1, classes=2, seed=2, inputs=skewed_inputs(2, B))
    problem, dual = known(batch)
    moved = dual.copy()
    for place in range(mixed):
        other = np.flatnonzero((batch.labels == batch.labels[place]) & (np.arange(B) != place))[0]
        moved[place] = (1 - share) * dual[place] + share * dual[other]
    assert not samples_by_themselves(problem, moved).confirmed[:mixed].any()


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 3e-3])
def test_a_mean_of_near_duplicates_is_refused(distance):
    inputs = skewed_inputs(3, B)
    inputs[1] = inputs[0] * (1 + distance * np.random.default_rng(0).normal(size=N))
    batch = simulate(B, M, in_features=N, depth=1, seed=3, inputs=inputs)
    problem, dual = known(batch)
    mean = dual.copy()
    mean[0] = mean[1] = (dual[0] + dual[1]) / 2
    assert not samples_by_themselves(problem, mean[1:]).confirmed[0]


def test_a_neuron_of_two_samples_is_refused():
    batch = simulate(B, M, in_features=N, depth=1, seed=0, inputs=skewed_inputs(0, B))
    problem, _ = known(batch)
    fires = np.sum(batch.grad_z != 0, axis=1)
    candidates = problem.left / np.where(fires > 0, problem.bias_grad, 1)[:, None]
    assert (fires == 2).any()
    assert not samples_by_themselves(problem, candidates[fires == 2]).confirmed.any()
    single = np.flatnonzero(fires == 1)
    first_of_each = single[np.unique(np.argmax(batch.grad_z[single] != 0, axis=1), return_index=True)[1]]
    assert samples_by_themselves(problem, candidates[first_of_each]).confirmed.all()


def test_a_sample_that_the_network_is_sure_of_keeps_its_label():
    """The softmax of its class is 1 to the last bit, and D(y) of that label would be zero but for the others."""
    batch = simulate(B, M, in_features=N, depth=1, seed=0, inputs=skewed_inputs(0, B))
    problem, dual = known(batch)
    ((weight, bias),) = batch.network
    sure = dataclasses.replace(problem, above=with_above(problem, [(400 * weight, bias)]).above)
    own = own_gradients(sure, dual)
    hidden = np.maximum(batch.inputs @ np.asarray(batch.observation.weight).T + np.asarray(batch.observation.bias), 0)
    logits = hidden @ (400 * weight).T + bias
    others = np.exp(logits - logits.max(axis=1, keepdims=True))
    others[np.arange(B), logits.argmax(axis=1)] = 0
    top = own.labels == logits.argmax(axis=1)
    smallest = np.where(top, own.surprise, np.inf).min()
    assert (others.sum(axis=1) < 1e-16).any() or smallest < 1e-8
    assert (np.linalg.norm(own.gradients, axis=0) > 0).all()


def test_samples_that_were_weighted_apart_are_certified_without_a_common_weight():
    batch = simulate(B, M, in_features=N, depth=1, seed=0, inputs=skewed_inputs(0, B), spread=2.0)
    problem, _ = known(batch)
    outcome = peel_samples(problem, RUN)
    taken = outcome.alone.confirmed
    assert taken.sum() > 0
    assert error_of(problem, batch, outcome.alone.dual[taken]).max() < 1e-3
