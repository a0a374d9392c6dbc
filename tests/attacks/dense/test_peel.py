"""Single-sample neurons against the truth: what they propose is right, and what mixes samples proposes nothing."""

import numpy as np
import pytest

from spear_jax.attacks.dense.dictionary.single_samples import TRIED, peel
from spear_jax.attacks.dense.problem import pose
from spear_jax.factorization import factorize
from tests.helpers.networks import simulate
from tests.properties.test_skewed import N, skewed_inputs


def problem(seed, inputs):
    """The problem, true unit directions as rows, and how many samples each neuron fired for."""
    batch = simulate(len(inputs), 300, in_features=N, seed=seed, inputs=inputs)
    factorization = factorize(batch.observation.weight_grad)
    evidence = pose(batch.observation, factorization)
    directions = np.asarray(factorization.left).T @ batch.grad_z
    return evidence, (directions / np.linalg.norm(directions, axis=0)).T, batch.grad_z != 0


@pytest.mark.parametrize("seed", range(4))
def test_the_samples_of_single_sample_neurons_are_found_and_nothing_wrong(seed):
    evidence, directions, fires = problem(seed, skewed_inputs(seed, 16))
    lowest = evidence.live_rows[np.argsort(evidence.offset[evidence.live_rows], kind="stable")]
    tried = lowest[: round(TRIED * len(lowest))]
    single = tried[fires[tried].sum(axis=1) == 1]
    likeness = np.abs(peel(evidence) @ directions.T)
    assert 0 < len(set(fires[single].argmax(axis=1))) <= 16
    assert set(fires[single].argmax(axis=1)) <= set(likeness.argmax(axis=1))
    np.testing.assert_allclose(likeness.max(axis=1), 1, atol=1e-10)


def test_centred_inputs_have_no_such_neurons():
    inputs = np.random.default_rng(0).normal(size=(16, N))
    evidence, _, fires = problem(0, inputs)
    assert not (fires.sum(axis=1) == 1).any()
    assert len(peel(evidence)) == 0
