"""The network certificate against batches whose labels and directions are known."""

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.above import check_network
from spear_jax.attacks.dense.certificates import network, pattern
from spear_jax.attacks.dense.certificates.reply import judge
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.factorization import factorize
from spear_jax.status import Status
from spear_jax.types import NO_LABEL
from tests.helpers.networks import simulate, with_above

B, M = 6, 80


def reply_to(problem, directions):
    """The network's reply to the samples that directions give."""
    return judge(problem, dual_vectors(problem.factorization, problem.bias_grad, directions))


@pytest.fixture(scope="module", params=["float64", "float32"])
def solved(request):
    """A batch through three layers, what the server knows of it, and the true directions as rows."""
    batch = simulate(B, M, seed=3, dtype=request.param)
    factorization = factorize(batch.observation.weight_grad)
    evidence = pose(batch.observation, factorization)
    directions = np.asarray(factorization.left).T @ batch.grad_z
    return batch, evidence, (directions / np.linalg.norm(directions, axis=0)).T


def test_true_directions_give_every_label(solved):
    batch, evidence, directions = solved
    verdicts = reply_to(with_above(evidence, batch.network), directions)
    assert verdicts.confirmed.all()
    np.testing.assert_array_equal(verdicts.labels, batch.labels)
    assert (np.abs(np.sum(verdicts.directions * directions, axis=1)) > 1 - 1e-8).all()


def test_a_mixed_direction_is_found_out_and_replaced(solved):
    batch, evidence, directions = solved
    mixed = directions.copy()
    mixed[2] = mixed[2] + 0.3 * mixed[4]
    mixed[2] /= np.linalg.norm(mixed[2])
    before = pattern.by_pattern(mixed, pattern.agree(evidence, mixed))
    assert not before.exact.any()
    after = network.by_network(with_above(evidence, batch.network), before)
    assert after.exact.all()
    np.testing.assert_array_equal(after.labels, batch.labels)
    assert (np.abs(np.sum(after.directions * directions, axis=1)) > 1 - 1e-8).all()


@pytest.mark.parametrize("seed", range(5))
def test_another_network_certifies_nothing(solved, seed):
    batch, evidence, directions = solved
    layers = batch.network
    shuffled = [(np.random.default_rng(seed).permutation(layers[0][0].T).T, layers[0][1]), *layers[1:]]
    verdicts = reply_to(with_above(evidence, shuffled), directions)
    assert not verdicts.confirmed.any()
    assert not verdicts.fits.any()
    before = pattern.by_pattern(directions, pattern.agree(evidence, directions))
    after = network.by_network(with_above(evidence, shuffled), before)
    assert not after.exact.any()
    assert after.is_contradicted
    assert (after.labels == NO_LABEL).all()


@pytest.mark.parametrize("share", [1e-2, 1e-3])
def test_an_input_tainted_by_another_does_not_pass(share):
    # Less than one sign in m: the pattern of the tainted sample alone would not show it.
    passed = 0
    for seed in range(10):
        batch = simulate(B, M, seed=seed, dtype="float64")
        factorization = factorize(batch.observation.weight_grad)
        evidence = pose(batch.observation, factorization)
        directions = np.asarray(factorization.left).T @ batch.grad_z
        directions[:, 1] += (
            share * np.linalg.norm(directions[:, 1]) / np.linalg.norm(directions[:, 0]) * directions[:, 0]
        )
        directions = (directions / np.linalg.norm(directions, axis=0)).T
        verdicts = reply_to(with_above(evidence, batch.network), directions)
        passed += int(verdicts.confirmed[0])
        assert pattern.by_pattern(directions, pattern.agree(evidence, directions)).exact.sum() == 0
    assert passed == 0


@pytest.mark.parametrize(("open_by", "is_refused"), [(1e-9, False), (1e-2, True)])
def test_a_sample_with_an_open_neuron_above_is_not_refused(open_by, is_refused):
    # The same wrong mask, once within the rounding of a client in float32 and once far from it.
    batch = simulate(B, 150, seed=1, dtype="float32", open_by=open_by)
    factorization = factorize(batch.observation.weight_grad)
    evidence = pose(batch.observation, factorization)
    directions = np.asarray(factorization.left).T @ batch.grad_z
    directions = (directions / np.linalg.norm(directions, axis=0)).T
    layers = batch.network
    verdicts = reply_to(with_above(evidence, layers), directions)
    assert not verdicts.confirmed[0]
    assert verdicts.is_refused[0] == is_refused
    assert verdicts.confirmed[1:].all()
    before = pattern.by_pattern(directions, pattern.agree(evidence, directions))
    assert network.by_network(with_above(evidence, layers), before).exact[0] == (not is_refused)


def test_a_batch_of_which_the_network_refuses_a_sample_is_not_complete():
    # Equal inputs with two labels merge into one column, which is no label's gradient.
    inputs = np.random.default_rng(0).normal(size=(B, 100))
    inputs[1] = inputs[0]
    batch = simulate(B, 150, seed=0, inputs=inputs)
    assert batch.labels[0] != batch.labels[1]
    result = reconstruct(batch.observation, jax.random.key(0), model=batch.network)
    assert result.batch_size == B - 1
    assert result.certificate.exact.sum() == B - 2
    assert result.status is Status.PARTIAL
    assert np.abs(result.inputs[~result.certificate.exact] - inputs[0]).max() < 1e-6


def test_reconstruct_returns_the_labels():
    batch = simulate(B, 150, seed=1)
    result = reconstruct(batch.observation, jax.random.key(0), model=batch.network)
    assert result.status is Status.EXACT
    order = [int(np.abs(batch.inputs - row).max(axis=1).argmin()) for row in result.inputs]
    np.testing.assert_array_equal(result.certificate.labels, batch.labels[order])


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([], "empty"),
        ([(np.ones((3, 7)), np.ones(3))], r"\(k, 80\)"),
        ([(np.full((3, M), np.nan), np.ones(3))], "NaN"),
        ([(np.ones((1, M)), np.ones(1))], "two classes"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(layers, said):
    with pytest.raises(ValueError, match=said):
        check_network(layers, M)
