"""Copies of merged samples against batches in which they were planted."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.copies import count_copies, label_gradients
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import DictionaryConfig, ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem
from tests.helpers.networks import simulate

B, M, N = 12, 90, 40
# Sample 0 is in the batch three times, sample 1 twice.
ORIGINAL = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1])
DISTINCT = 9
# Two classes, few, and more than the neurons that fire for a sample.
CLASSES = (2, 10, 60)


def repeated(classes, seed=0, dtype="float64"):
    """A batch with copies, whose labels are drawn like all others; its truth."""
    inputs = np.random.default_rng(seed).normal(size=(B, N))[ORIGINAL]
    batch = simulate(B, M, in_features=N, classes=classes, seed=seed, dtype=dtype, inputs=inputs)
    counts = np.zeros((DISTINCT, classes), np.int64)
    np.add.at(counts, (ORIGINAL, batch.labels), 1)
    return batch, counts


@pytest.fixture(scope="module")
def any_result():
    """A result to put other inputs into."""
    return reconstruct(planted_problem(1, 40, 20).observation, jax.random.key(0), ReconstructConfig(num_devices=1))


def known(any_result, batch, inputs):
    """The result of a search that ended with these inputs."""
    rank, factorization = len(inputs), factorize(batch.observation.weight_grad)
    nobody = np.zeros(rank, bool)
    certificate = dataclasses.replace(
        any_result.certificate, exact=nobody, approximate=nobody, error=np.full(rank, 1e-7), matching=np.zeros(rank)
    )
    return dataclasses.replace(
        any_result, inputs=inputs, batch_size=rank, certificate=certificate, directions=np.eye(rank),
        directions_found=rank, noise_floor=factorization.noise_floor,
    )  # fmt: skip


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_copy_is_counted_with_its_label(any_result, classes, dtype):
    for seed in range(2):
        batch, counts = repeated(classes, seed, dtype)
        result = known(any_result, batch, batch.inputs[:DISTINCT])
        for batch_size in (B, None):
            copies = count_copies(batch.observation, batch.network, result, batch_size=batch_size)
            assert copies.batch_size == B
            assert copies.is_certain.all()
            np.testing.assert_array_equal(copies.counts, counts)
            assert copies.residual.max() < {"float64": 1e-9, "float32": 1e-3}[dtype]


def test_the_order_of_the_samples_and_the_sum_of_losses_change_nothing(any_result):
    batch, counts = repeated(10)
    order = np.random.default_rng(1).permutation(DISTINCT)
    summed = dataclasses.replace(
        batch.observation, weight_grad=B * batch.observation.weight_grad, bias_grad=B * batch.observation.bias_grad
    )
    result = known(any_result, batch._replace(observation=summed), batch.inputs[order])
    copies = count_copies(summed, batch.network, result, batch_size=1)
    assert copies.is_certain.all()
    np.testing.assert_array_equal(copies.counts, counts[order])


def test_label_gradients_are_those_of_the_loss():
    batch, _ = repeated(5)
    network = [(np.asarray(weight), np.asarray(bias)) for weight, bias in batch.network]
    pre_activation, step = np.random.default_rng(0).normal(size=M), 1e-6

    def loss(z, label):
        hidden = z
        for weight, bias in network:
            hidden = weight @ np.maximum(hidden, 0) + bias
        return np.log(np.exp(hidden).sum()) - hidden[label]

    slopes = [
        [(loss(pre_activation + move, y) - loss(pre_activation - move, y)) / (2 * step) for move in step * np.eye(M)]
        for y in range(5)
    ]
    np.testing.assert_allclose(label_gradients(network, pre_activation), np.array(slopes), atol=1e-8)


def test_another_network_another_batch_size_or_other_inputs_are_not_believed(any_result):
    for seed in range(3):
        batch, _ = repeated(10, seed)
        inputs = batch.inputs[:DISTINCT]
        shuffled = [
            (np.random.default_rng(seed).permutation(batch.network[0][0].T).T, batch.network[0][1]), *batch.network[1:]
        ]  # fmt: skip
        moved = inputs + 1e-2 * np.random.default_rng(seed).normal(size=inputs.shape)
        for network, found, batch_size in (
            (shuffled, inputs, B), (shuffled, inputs, None), (batch.network, inputs, B + 1), (batch.network, moved, B),
        ):  # fmt: skip
            copies = count_copies(batch.observation, network, known(any_result, batch, found), batch_size=batch_size)
            assert not copies.is_certain.any()


def test_a_sample_that_the_model_is_certain_of_cannot_be_counted(any_result):
    batch, _ = repeated(10)
    weight, bias = batch.network[-1]
    certain = [*batch.network[:-1], (1e5 * weight, 1e5 * bias)]
    copies = count_copies(batch.observation, certain, known(any_result, batch, batch.inputs[:DISTINCT]), batch_size=B)
    assert not copies.is_certain.any()


def test_a_batch_in_which_all_is_there_twice_looks_like_half_of_it(any_result):
    # The mean gradient of a batch is that of the batch and its copy.
    once = simulate(4, M, in_features=N, classes=10)
    result = known(any_result, once, once.inputs)
    half, whole = (count_copies(once.observation, once.network, result, batch_size=size) for size in (None, 8))
    assert half.batch_size == 4
    assert half.is_certain.all()
    assert whole.is_certain.all()
    np.testing.assert_array_equal(whole.counts, 2 * half.counts)


@pytest.mark.slow
def test_what_the_network_certificate_refuses_is_told_apart_by_its_counts():
    batch, counts = repeated(10, seed=4)
    assert (counts > 0).sum(axis=1).max() > 1  # some copies differ in their labels
    config = ReconstructConfig(num_devices=1, num_examples=B, dictionary=DictionaryConfig(starts=8))
    result = reconstruct(batch.observation, jax.random.key(0), config, model=batch.network)
    place = [int(np.linalg.norm(result.inputs - row, axis=1).argmin()) for row in batch.inputs[:DISTINCT]]
    np.testing.assert_allclose(result.inputs[place], batch.inputs[:DISTINCT], atol=1e-8)
    copies = count_copies(batch.observation, batch.network, result)
    assert copies.is_certain.all()
    np.testing.assert_array_equal(copies.counts[place], counts)


def test_nothing_is_counted_while_inputs_are_missing_and_several_steps_are_refused(any_result):
    batch, _ = repeated(10)
    missing = batch.inputs[:DISTINCT].copy()
    missing[3] = np.nan
    copies = count_copies(batch.observation, batch.network, known(any_result, batch, missing), batch_size=B)
    assert not copies.is_certain.any()
    assert np.isinf(copies.residual).all()
    result = known(any_result, batch, batch.inputs[:DISTINCT])
    with pytest.raises(ValueError, match="local steps"):
        count_copies(dataclasses.replace(batch.observation, drift=0.1), batch.network, result)
    with pytest.raises(ValueError, match="positive"):
        count_copies(batch.observation, batch.network, result, batch_size=0)
