"""The attack end to end against planted truths, and the same bits on any number of devices."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from spear_jax import LayerObservation, ReconstructConfig, Status, evaluate, reconstruct
from spear_jax.testing import planted_problem
from tests.helpers.networks import simulate

ONE = ReconstructConfig(num_devices=1, chunk_size=1024)


def error_of(result, inputs):
    """Largest deviation of the matched samples; infinite where one was not found or found twice."""
    distance = np.abs(np.asarray(result.inputs)[:, None] - inputs[None]).max(axis=2)
    match = distance.argmin(axis=1)
    return distance.min(axis=1).max() if sorted(match) == list(range(len(inputs))) else np.inf


def attack(problem, config=ONE, seed=0, **options):
    return reconstruct(problem.observation, jax.random.key(seed), config, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("batch_size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_batch_comes_back_and_is_certified(batch_size, dtype, tolerance):
    right = []
    for seed in range(2):
        problem = planted_problem(batch_size, 100, 50, seed=seed, dtype=dtype)
        result = attack(problem, seed=seed)
        assert result.status is Status.EXACT
        assert result.batch_size == result.directions_found == batch_size
        assert result.certificate.weight_residual < tolerance
        right.append(result.certificate.exact.all() and error_of(result, problem.inputs) < tolerance)
    assert right == [True] * 2


@pytest.mark.parametrize("options", [{"spread": 2.0}, {"dead_rows": 20}, {"offset": 0.3}, {"noise": 1e-8}], ids=str)
def test_the_harder_batches_come_back(options):
    problem = planted_problem(3, 100, 50, seed=1, **options)
    result = attack(problem)
    assert result.certificate.exact.all()
    assert error_of(result, problem.inputs) < (1e-4 if "noise" in options else 1e-8)


@pytest.mark.slow
def test_a_batch_of_eight_comes_back():
    problem = planted_problem(8, 150, 60, seed=10)
    result = attack(problem)
    assert result.status is Status.EXACT
    assert error_of(result, problem.inputs) < 1e-10


@pytest.mark.slow
def test_devices_and_mapper_do_not_change_a_bit():
    problem = planted_problem(3, 100, 50, seed=2)
    reference = attack(problem)
    for options in ({"num_devices": 2}, {"num_devices": 8}, {"num_devices": 8, "mapper": "pmap"}):
        other = attack(problem, dataclasses.replace(ONE, **options))
        np.testing.assert_array_equal(other.inputs, reference.inputs)
        np.testing.assert_array_equal(other.directions, reference.directions)
        assert other.stats.candidates == reference.stats.candidates
        assert other.stats.devices == options["num_devices"]


def test_a_common_factor_of_the_gradients_leaves_the_inputs():
    problem = planted_problem(3, 100, 50)
    observation = problem.observation
    scaled = dataclasses.replace(
        observation, weight_grad=-1e-6 * observation.weight_grad, bias_grad=-1e-6 * observation.bias_grad
    )
    result = reconstruct(scaled, jax.random.key(0), ONE)
    assert result.status is Status.EXACT
    assert error_of(result, problem.inputs) < 1e-9


def test_duplicated_inputs_come_back_but_without_the_model_nobody_can_say_that_they_were_equal():
    problem = planted_problem(4, 100, 50, seed=5)
    inputs = problem.inputs.copy()
    inputs[3] = inputs[0]
    z = problem.observation.weight @ inputs.T + problem.observation.bias[:, None]
    grad_z = np.random.default_rng(0).normal(size=z.shape) * (z > 0)
    observation = dataclasses.replace(problem.observation, weight_grad=grad_z @ inputs, bias_grad=grad_z.sum(axis=1))
    result = reconstruct(observation, jax.random.key(0), dataclasses.replace(ONE, num_examples=4))
    assert result.status is Status.MERGED
    assert not (result.certificate.exact | result.certificate.approximate).any()
    assert result.batch_size == 3
    assert error_of(result, inputs[:3]) < 1e-10


def test_duplicated_inputs_are_exact_where_the_model_counts_them():
    inputs = np.random.default_rng(5).normal(size=(4, 50))
    inputs[3] = inputs[0]
    batch = simulate(4, 100, in_features=50, seed=1, inputs=inputs, labels=[3, 1, 4, 3])
    config = dataclasses.replace(ONE, num_examples=4)
    result = reconstruct(batch.observation, jax.random.key(0), config, model=batch.network)
    assert result.status is Status.EXACT_VISIBLE
    assert sorted(result.certificate.mean_of) == [1, 1, 2]
    assert error_of(result, inputs[:3]) < 1e-8


def test_means_of_samples_that_fire_the_same_neurons_are_not_certified():
    # One large column decides what fires: with two classes the gradients of such samples are parallel, and one
    # direction gives their weighted mean, which no look at the gradient tells from a sample.
    wrong, means = {None: 0, 6: 0}, 0
    for seed in (6, 9):
        inputs = np.random.default_rng(seed).normal(size=(6, 30))
        inputs[:, 0] = 1e3 * np.random.default_rng(seed).uniform(1, 2, 6)
        batch = simulate(6, 100, in_features=30, classes=2, seed=seed, inputs=inputs)
        helpers = {"model": batch.network, "next_weight_grad": batch.next_weight_grad}
        for reported in wrong:
            config = dataclasses.replace(ONE, num_examples=reported)
            result = reconstruct(batch.observation, jax.random.key(0), config, **helpers)
            assert result.batch_size < 6
            scores = evaluate(result.inputs, batch.inputs, certified=result.certificate.exact)
            wrong[reported] += scores.false_certificates
            found = result.inputs[np.isfinite(result.inputs).all(axis=1)]
            distance = np.linalg.norm(found[:, None] - batch.inputs, axis=2) / np.linalg.norm(batch.inputs, axis=1)
            means += int(np.sum(distance.min(axis=1) > 1e-3))
    assert wrong == {None: 0, 6: 0}
    assert means > 0


def test_full_rank_is_refused_in_a_sentence():
    result = attack(planted_problem(40, 30, 60))
    assert result.status is Status.RANK_FULL
    assert np.isnan(result.inputs).all()
    assert not result.certificate.exact.any()
    assert result.directions_found == 0


def test_a_spent_budget_says_what_is_missing():
    seen = []
    problem = planted_problem(8, 150, 60)
    result = attack(problem, dataclasses.replace(ONE, max_candidates=32), on_round=seen.append)
    assert result.status is Status.CANDIDATE_BUDGET
    assert np.isnan(result.inputs).all()
    assert 0 < result.stats.expected_remaining < np.inf
    assert (len(seen), result.stats.rounds) == (1, 0)  # a round cut short by the budget is not a whole one
    assert result.directions_found < 8


def test_a_smooth_activation_gives_nothing_exact():
    problem = planted_problem(3, 100, 50)
    grad_z = np.random.default_rng(0).normal(size=problem.grad_z.shape)
    observation = dataclasses.replace(
        problem.observation, weight_grad=grad_z @ problem.inputs, bias_grad=grad_z.sum(axis=1)
    )
    result = reconstruct(observation, jax.random.key(0), dataclasses.replace(ONE, max_candidates=4096))
    assert not result.status.is_complete
    assert not result.certificate.exact.any()


def test_the_wrong_server_weights_give_nothing_exact():
    problem = planted_problem(3, 100, 50)
    other = planted_problem(3, 100, 50, seed=99).observation
    observation = dataclasses.replace(problem.observation, weight=other.weight)
    result = reconstruct(observation, jax.random.key(0), dataclasses.replace(ONE, max_candidates=4096))
    assert isinstance(observation, LayerObservation)
    assert not result.certificate.exact.any()
    assert not result.status.is_complete


def test_it_works_without_x64():
    code = """
import jax, numpy as np
from spear_jax import Status, reconstruct
from spear_jax.testing import planted_problem
for dtype in ("float64", "float32"):
    problem = planted_problem(2, 100, 50, seed=1, dtype=dtype)
    result = reconstruct(problem.observation, jax.random.key(0))
    assert result.status is Status.EXACT and result.stats.float64 == "numpy", result.status
    assert result.inputs.dtype == np.float32
    assert max(np.abs(result.inputs - x).max(axis=1).min() for x in problem.inputs) < 1e-5
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"JAX_ENABLE_X64": "0"})
