"""Batches that once came back certified and wrong: nothing is called exact that is off by more than MAX_ERROR."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from spear_jax.attacks.dense.certificates import network, pattern
from spear_jax.attacks.dense.directions.recover import disaggregation
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.config import DictionaryConfig, ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Status
from spear_jax.testing import planted_problem
from spear_jax.types import MAX_ERROR
from tests.helpers.networks import simulate, with_above

CONFIG = ReconstructConfig(max_candidates=2**11, dictionary=DictionaryConfig(max_rounds=2, starts=4))


def false_certificates(batch, config=CONFIG, **helpers):
    """Certified samples that are no private input."""
    result = reconstruct(batch.observation, jax.random.key(0), config, **helpers)
    certified = result.inputs[result.certificate.exact]
    rms = np.sqrt(np.mean(batch.inputs**2))
    distance = np.sqrt(np.mean((certified[:, None] - batch.inputs[None]) ** 2, axis=2))
    return int(np.sum(distance.min(axis=1, initial=np.inf) > MAX_ERROR * rms)) if len(certified) else 0


def helpers_of(batch):
    """Nothing but the layer; the model; a wrong model."""
    shuffled = [
        (np.random.default_rng(0).permutation(batch.network[0][0].T).T, batch.network[0][1]),
        *batch.network[1:],
    ]
    yield {}
    yield {"model": batch.network}
    yield {"model": shuffled}


@pytest.mark.parametrize("noise", [1e-2, pytest.param(1e-1, marks=pytest.mark.slow)])
def test_noise_that_closes_the_gap(noise):
    for seed in range(1):
        batch = simulate(4, 200, seed=seed)
        gradient = batch.observation.weight_grad
        gradient = gradient + noise * np.sqrt(np.mean(gradient**2)) * np.random.default_rng(seed).normal(
            size=gradient.shape
        )
        batch = batch._replace(observation=dataclasses.replace(batch.observation, weight_grad=gradient))
        assert [false_certificates(batch, **helpers) for helpers in helpers_of(batch)] == [0] * 3


@pytest.mark.parametrize("rank", [2, *(pytest.param(rank, marks=pytest.mark.slow) for rank in (3, 5))])
def test_a_rank_that_is_not_the_batch_s(rank):
    batch = simulate(4, 100, seed=1)
    config = dataclasses.replace(CONFIG, rank=rank)
    assert [false_certificates(batch, config, **helpers) for helpers in helpers_of(batch)] == [0] * 3


@pytest.mark.parametrize(
    "kind",
    [
        "collinear",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("zero image", "near duplicate", "contrast pair")),
    ],
)
def test_samples_that_share_what_tells_them_apart(kind):
    for seed in range(2):
        inputs = np.random.default_rng(seed).normal(size=(5, 100))
        other = np.random.default_rng(seed + 100).normal(size=100)
        inputs[4] = {
            "zero image": 0 * inputs[4],
            "near duplicate": inputs[3] + 3e-3 * other,
            "contrast pair": 0.5 * inputs[3] + 1e-4 * other,
            "collinear": 0.8 * inputs[3],
        }[kind]
        batch = simulate(5, 200, seed=seed, inputs=inputs, zero_bias=kind != "near duplicate")
        assert [false_certificates(batch, **helpers) for helpers in helpers_of(batch)] == [0] * 3


@pytest.mark.parametrize(("depth", "classes"), [(1, 2), (2, 2), (3, 10)])
@pytest.mark.parametrize("share", [1e-2, 3e-3])
def test_a_network_that_would_not_notice_does_not_vouch(depth, classes, share):
    wrong = 0
    for seed in range(6):
        batch = simulate(5, 100, depth=depth, classes=classes, seed=seed, dtype="float32")
        factorization = factorize(batch.observation.weight_grad)
        evidence = pose(batch.observation, factorization)
        directions = np.asarray(factorization.left).T @ batch.grad_z
        scales = np.linalg.norm(directions, axis=0)
        directions = (directions / scales).T
        directions[1] -= share * scales[0] / scales[1] * directions[0]
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        layers = batch.network
        before = pattern.by_pattern(directions, pattern.agree(evidence, directions))
        after = network.by_network(with_above(evidence, layers), before)
        mixing = disaggregation(factorization, evidence.bias_grad / after.common_factor, after.directions)
        inputs = np.linalg.solve(mixing, factorization.right)
        error = np.linalg.norm(inputs[0] - batch.inputs[0]) / np.linalg.norm(batch.inputs[0])
        wrong += int(after.exact[0] and error > 2 * MAX_ERROR)
    assert wrong == 0


@pytest.mark.parametrize(
    ("size", "method"), [pytest.param((12, 120), "dictionary", marks=pytest.mark.slow), ((4, 60), "sampling")]
)
def test_an_activation_other_than_relu_is_named(size, method):
    """GELU's derivative is zero nowhere; the same batch under ReLU comes back."""
    problem = planted_problem(*size, 200, seed=0)
    observation, rng = problem.observation, np.random.default_rng(0)
    assert reconstruct(observation, jax.random.key(0), ReconstructConfig(method=method)).status is Status.EXACT
    pre_activation = observation.weight @ problem.inputs.T + observation.bias[:, None]
    slope = stats.norm.cdf(pre_activation) + pre_activation * stats.norm.pdf(pre_activation)
    grad_z = rng.normal(size=slope.shape) * slope
    smooth = dataclasses.replace(observation, weight_grad=grad_z @ problem.inputs, bias_grad=grad_z.sum(axis=1))
    result = reconstruct(smooth, jax.random.key(0), ReconstructConfig(method=method))
    assert result.status is Status.NOT_SPARSE
    assert "GELU" in result.status.value
    assert not result.certificate.exact.any()
