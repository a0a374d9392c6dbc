"""The verdict of `certify` against the five steps that it replaces, on batches made to be certified wrongly."""

import dataclasses

import jax
import numpy as np
import pytest
from networks import simulate

from spear_jax.attacks.dense import pipeline
from spear_jax.attacks.dense.certificates import certify
from spear_jax.config import DictionaryConfig, ReconstructConfig

CONFIG = ReconstructConfig(max_candidates=2**11, dictionary=DictionaryConfig(max_rounds=2, starts=4))


@pytest.fixture
def compared(monkeypatch):
    """Counts of samples whose old and new verdicts were compared, and that were exact in both."""
    old, counts = pipeline._verdict, {"samples": 0, "exact": 0, "missing": 0}

    def both(problem, outcome, num_examples, observation):
        new = certify(problem, outcome, num_examples)
        outcome, inputs, certificate = old(problem, outcome, num_examples, observation)
        for name in ("exact", "approximate", "matching", "error"):
            np.testing.assert_array_equal(getattr(new, name), getattr(certificate, name), err_msg=name)
        np.testing.assert_array_equal(new.directions, outcome.directions)
        assert (new.labels is None) == (certificate.labels is None)
        if new.labels is not None:
            np.testing.assert_array_equal(new.labels, certificate.labels)
        alone = np.isfinite(new.dual).all(axis=1)
        np.testing.assert_array_equal(inputs[alone], new.dual[alone] @ np.asarray(problem.factorization.right))
        counts["samples"] += len(new.exact)
        counts["exact"] += int(new.exact.sum())
        counts["missing"] += int(new.agreement is None)
        return outcome, inputs, certificate

    monkeypatch.setattr(pipeline, "_verdict", both)
    return counts


def helpers_of(batch):
    """Nothing but the layer; the model; the next layer; both; a wrong model."""
    shuffled = np.random.default_rng(0).permutation(batch.network[0][0].T).T
    yield {}
    yield {"model": batch.network}
    yield {"next_weight_grad": batch.next_weight_grad}
    yield {"model": batch.network, "next_weight_grad": batch.next_weight_grad}
    yield {"model": [(shuffled, batch.network[0][1]), *batch.network[1:]]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["plain", "zero image", "near duplicate", "contrast pair", "collinear", "duplicate"])
def test_old_and_new_verdicts_are_equal(compared, kind, dtype):
    for seed in range(2):
        inputs = np.random.default_rng(seed).normal(size=(5, 100))
        other = np.random.default_rng(seed + 100).normal(size=100)
        inputs[4] = {
            "plain": inputs[4],
            "zero image": 0 * inputs[4],
            "near duplicate": inputs[3] + 3e-3 * other,
            "contrast pair": 0.5 * inputs[3] + 1e-4 * other,
            "collinear": 0.8 * inputs[3],
            "duplicate": inputs[3],
        }[kind]
        batch = simulate(
            5, 200, seed=seed, inputs=inputs, dtype=dtype, zero_bias=kind in ("contrast pair", "collinear")
        )
        for helpers in helpers_of(batch):
            for config in (CONFIG, dataclasses.replace(CONFIG, method="dictionary", num_examples=5)):
                pipeline.reconstruct(batch.observation, jax.random.key(seed), config, **helpers)
    assert compared["samples"] >= 2 * 5 * 2 * 4
    assert compared["exact"] > 0


def test_they_are_equal_while_directions_are_missing(compared):
    few = dataclasses.replace(CONFIG, method="dictionary", dictionary=DictionaryConfig(max_rounds=1, starts=4))
    for seed in range(3):
        batch = simulate(40, 130, seed=seed)
        for helpers in helpers_of(batch):
            pipeline.reconstruct(batch.observation, jax.random.key(seed), few, **helpers)
    assert compared["missing"] > 0


def test_they_are_equal_over_several_steps(compared):
    for seed in range(3):
        batch = simulate(5, 200, seed=seed)
        observation = dataclasses.replace(batch.observation, drift=1e-4)
        for helpers in helpers_of(batch):
            pipeline.reconstruct(observation, jax.random.key(seed), CONFIG, **helpers)
    assert compared["exact"] > 0
