"""Samples that merge, and labels whose gradients lie on one line: told by shares of the loss, or left open."""

import numpy as np
import pytest

from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.attacks.dense.problem import pose
from spear_jax.factorization import factorize
from spear_jax.types import NO_LABEL
from tests.attacks.dense.test_scale import certified, planted
from tests.helpers.networks import simulate, with_above

M, N = 100, 60


def pair(distance, seed, *, factor=1.0, labels=(3, 3, 1, 7), classes=10, dtype="float32", depth=2):
    """A batch of four, the second a copy of the first with another brightness and a little of something else."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(4, N))
    inputs[1] = factor * inputs[0] + distance * rng.normal(size=N)
    return simulate(
        4, M, in_features=N, depth=depth, classes=classes, inputs=inputs, labels=labels, seed=seed, dtype=dtype
    )


def found(batch):
    """The problem and what a search would find: true columns, merged where the rank says so, polished."""
    factorization = factorize(batch.observation.weight_grad)
    columns = np.asarray(factorization.left).T @ batch.grad_z
    if factorization.rank == 3:
        columns = np.column_stack([columns[:, 0] + columns[:, 1], columns[:, 2:]])
    directions = polish(factorization, (columns / np.linalg.norm(columns, axis=0)).T)
    return pose(batch.observation, factorization), directions


def vertex(batch, problem):
    """The wrong direction that vanishes on one row more than the true one, where both samples of the pair fire."""
    columns, grad_z = problem.left.T @ batch.grad_z, batch.grad_z
    row = np.flatnonzero((grad_z[:, 0] != 0) & (grad_z[:, 1] != 0))[0]
    columns[:, 0] -= grad_z[row, 0] / grad_z[row, 1] * columns[:, 1]
    return polish(problem.factorization, (columns / np.linalg.norm(columns, axis=0)).T)


def worst(batch, verdict, inputs):
    """Largest relative error of a sample that is called exact, 0 without any."""
    distance = np.linalg.norm(inputs[:, None] - batch.inputs[None], axis=2) / np.linalg.norm(batch.inputs, axis=1)
    return distance.min(axis=1)[verdict.exact].max(initial=0.0)


@pytest.mark.parametrize("helper", ["layer", "next layer", "model"])
@pytest.mark.parametrize(("factor", "distance"), [(1.0, 1e-2), (1.0, 3e-2), (0.8, 1e-3), (0.8, 3e-3), (0.8, 1e-2)])
def test_near_duplicates_and_copies_of_another_brightness_are_right_or_not_certified(factor, distance, helper):
    certified_at_all = 0
    for seed in range(8):
        batch = pair(distance, seed, factor=factor, labels=(3, 5, 1, 7))
        problem, directions = found(batch)
        if len(directions) < 4:
            continue
        if helper == "next layer":
            problem = with_above(problem, next_weight_grad=batch.next_weight_grad)
        if helper == "model":
            problem = with_above(problem, batch.network)
        for start in (directions, vertex(batch, problem)):
            if np.linalg.svd(start, compute_uv=False)[-1] < 1e-6:
                continue
            verdict, inputs = certified(problem, start)
            assert worst(batch, verdict, inputs) < 1e-3
            certified_at_all += int(verdict.exact.sum())
    assert certified_at_all or helper == "layer"  # the others of the batch


def test_pairs_that_are_plainly_apart_are_certified():
    for seed in range(5):
        batch = pair(1.0, seed)
        verdict, _ = certified(*found(batch))
        assert verdict.exact.all()


@pytest.mark.parametrize("reported", [None, 4])
def test_the_mean_of_two_samples_of_one_label_says_that_it_is_one(reported):
    merged = 0
    for seed in range(10):
        batch = pair(1e-3, seed)
        problem, directions = found(batch)
        if len(directions) == 4:
            continue
        merged += 1
        verdict, inputs = certified(with_above(problem, batch.network), directions, reported)
        assert verdict.mean_of.tolist() == [2, 1, 1]
        assert verdict.exact[1:].all()
        assert worst(batch, verdict, inputs) < 1e-3
        error = np.linalg.norm(inputs[0] - batch.inputs[0]) / np.linalg.norm(batch.inputs[0])
        assert error < 4 * verdict.error[0]
        alone, _ = certified(problem, directions, 4)  # without the model nobody can count
        assert not alone.exact.any()
    assert merged >= 5


def test_an_input_that_was_there_three_times_is_counted():
    batch = simulate(
        5, M, in_features=N, seed=1, dtype="float64", labels=[2, 2, 2, 1, 0],
        inputs=np.random.default_rng(0).normal(size=(5, N))[[0, 0, 0, 1, 2]],
    )  # fmt: skip
    factorization = factorize(batch.observation.weight_grad)
    columns = np.asarray(factorization.left).T @ batch.grad_z[:, [0, 3, 4]]
    problem = with_above(pose(batch.observation, factorization), batch.network)
    verdict, _ = certified(problem, (columns / np.linalg.norm(columns, axis=0)).T, 5)
    assert verdict.mean_of.tolist() == [3, 1, 1]
    assert verdict.exact.all()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_labels_of_two_classes_are_right_or_not_named(depth):
    named = 0
    for seed in range(20):
        batch = simulate(4, M, in_features=N, depth=depth, classes=2, seed=seed, dtype="float32")
        problem, directions = planted(batch)
        verdict, _ = certified(with_above(problem, batch.network), directions)
        known = verdict.labels != NO_LABEL
        assert (verdict.labels[known] == batch.labels[known]).all()
        assert verdict.possible_labels[np.arange(4), batch.labels].all()
        named += int(known.sum())
    assert named >= 70  # of 80: shares of the loss tell most


def test_classes_with_equal_output_rows_are_given_as_a_set():
    batch = simulate(4, M, in_features=N, classes=6, labels=[0, 1, 2, 3], equal_rows=True)
    problem, directions = planted(batch)
    verdict, _ = certified(with_above(problem, batch.network), directions)
    assert verdict.labels.tolist() == [NO_LABEL, NO_LABEL, 2, 3]
    assert np.flatnonzero(verdict.possible_labels[0]).tolist() == [0, 1]


def test_one_sample_of_two_classes_has_no_label():
    batch = simulate(1, M, in_features=N, classes=2, seed=0)
    problem, directions = planted(batch)
    verdict, _ = certified(with_above(problem, batch.network), directions)
    assert verdict.labels.tolist() == [NO_LABEL]
    assert verdict.possible_labels.all()
