"""What certificates must not say though each piece of evidence looks right: cases that an independent client found."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import ReconstructConfig
from spear_jax.status import Reason
from tests.helpers.networks import simulate

KEY = jax.random.key(0)
ONE = ReconstructConfig(num_devices=1, max_seconds=3.0)


def wrong(result, batch):
    """Samples that are called exact, as one sample each, and are none; and how many are called exact."""
    found = np.nan_to_num(np.asarray(result.inputs), nan=np.inf)
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.linalg.norm(batch.inputs, axis=1), 1e-12)
        distance = np.linalg.norm(found[:, None] - batch.inputs[None], axis=2) / size
    exact = result.certificate.exact & (result.certificate.mean_of < 2)
    return int(np.sum(exact & ~(distance.min(axis=1) < 1e-3))), int(exact.sum())


@pytest.mark.parametrize("classes", [2, 10])
def test_in_a_batch_of_pairs_no_mean_is_called_a_sample(classes):
    """All shares are equal, as those of single samples are; only the number that was reported tells."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        first = rng.normal(size=(4, 100))
        inputs, labels = np.concatenate([first, first + 2e-2 * rng.normal(size=(4, 100))]), rng.integers(0, classes, 4)
        batch = simulate(
            8, 60, depth=1, classes=classes, seed=seed, inputs=inputs.astype("f4").astype(float),
            labels=np.tile(labels, 2), dtype="float32",
        )  # fmt: skip
        result = reconstruct(
            batch.observation, KEY, dataclasses.replace(ONE, num_examples=8), model=batch.network,
            next_weight_grad=batch.next_weight_grad,
        )  # fmt: skip
        assert wrong(result, batch)[0] == 0


def test_what_the_network_strikes_does_not_come_back_as_certified_alone():
    """Two samples of two classes that fire the same neurons merge to a point far beyond both."""
    certified = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(9, 100))
        inputs[8] = inputs[0] + 0.03 * rng.normal(size=100)
        labels = rng.integers(0, 2, 9)
        labels[8] = 1 - labels[0]
        batch = simulate(9, 60, depth=1, classes=2, seed=seed, inputs=inputs, labels=labels)
        result = reconstruct(batch.observation, KEY, ONE, model=batch.network)
        false, count = wrong(result, batch)
        assert false == 0
        certified += count
    assert certified > 0


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_noise_that_raises_the_rank_is_no_sample_and_spoils_the_others(noise):
    for seed in range(3):
        batch = simulate(6, 100, depth=1, seed=seed)
        grad = np.asarray(batch.observation.weight_grad).copy()
        rng = np.random.default_rng(seed)
        grad[:, :10] += noise * np.sqrt(np.mean(grad**2)) * rng.normal(size=(100, 10))
        observation = dataclasses.replace(batch.observation, weight_grad=grad)
        for reported in (6, None):
            config = dataclasses.replace(ONE, num_examples=reported)
            result = reconstruct(observation, KEY, config, model=batch.network)
            assert result.batch_size > 6
            assert wrong(result, batch)[0] == 0


@pytest.mark.parametrize("kind", ["zero input", "brighter copy"])
def test_inputs_of_a_wrong_scale_are_not_blamed_on_batch_normalization(kind):
    for seed in range(3):
        inputs = np.random.default_rng(seed).normal(size=(7, 100))
        inputs[6] = 0 if kind == "zero input" else 1.5 * inputs[0]
        batch = simulate(7, 120, depth=1, classes=10, seed=seed, inputs=inputs)
        result = reconstruct(batch.observation, KEY, ONE)
        assert result.certificate.reason is not Reason.BATCH_NORM
        assert wrong(result, batch)[0] == 0
