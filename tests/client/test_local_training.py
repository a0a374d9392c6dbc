"""Several local steps: what the client sends, and that its batch still comes back, certified or not at all."""

from functools import cache

import jax
import numpy as np
import pytest

import spear_jax as sj
from spear_jax.attacks.dense.certificates import pattern
from spear_jax.attacks.dense.problem import pose
from spear_jax.client.local_training import LocalTraining, simulate_round
from spear_jax.factorization import factorize
from spear_jax.status import Status

BATCH, WIDTH = 8, 120


@cache
def client(seed=0):
    batch = sj.demo_batch(batch_size=BATCH, image_size=12, seed=seed)
    model = sj.MLP((WIDTH, 60), batch.num_classes, param_dtype="float64")
    return model, sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1]), batch


def round_of(training, seed=0, **options):
    model, params, batch = client(seed)
    return simulate_round(model, params, batch, jax.random.key(seed), training, **{"dtype": "float64"} | options)


def summed_grad_z(update, truth):
    """Columns of D in ``weight_grad = D X^T``, solved from the inputs that the server does not have."""
    gradient = np.asarray(update.observation().weight_grad)
    return np.linalg.lstsq(truth.layer_inputs["dense_0"].T, gradient.T, rcond=None)[0].T


@pytest.mark.slow
def test_one_step_over_the_whole_batch_is_the_gradient():
    model, params, batch = client()
    gradient = sj.simulate_update(model, params, batch)[0].observation()
    for kind in ("weights", "delta"):
        update, truth = round_of(LocalTraining(learning_rate=0.1), kind=kind)
        observed = update.observation()
        assert observed.drift == 0
        np.testing.assert_allclose(observed.weight_grad, gradient.weight_grad, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(observed.bias_grad, gradient.bias_grad, rtol=1e-9, atol=1e-14)
        np.testing.assert_array_equal(truth.layer_inputs["dense_0"], batch.inputs)


def test_steps_are_counted_and_keys_shuffle():
    training = LocalTraining(epochs=3, mini_batch=3)
    assert training.steps(BATCH) == 9
    update, _ = round_of(training)
    assert update.local_steps == 9
    model, params, batch = client()
    other, _ = simulate_round(model, params, batch, jax.random.key(1), training, dtype="float64")
    again, _ = round_of(training)
    assert again.sha256 == update.sha256 != other.sha256


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(epochs=2, mini_batch=4),
        pytest.param(LocalTraining(epochs=5), marks=pytest.mark.slow),
        pytest.param(LocalTraining(0.01, epochs=5, mini_batch=2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_federated_round_gives_the_batch_back_certified(training):
    update, truth = round_of(training)
    result = sj.reconstruct(update.observation(), jax.random.key(0), model=update.network())
    assert result.status is Status.EXACT
    scores = sj.evaluate(result.inputs, truth.layer_inputs["dense_0"], certified=result.certificate.exact)
    assert (scores.num_recovered, scores.false_certificates) == (BATCH, 0)


def test_weight_decay_and_momentum_s_first_step_are_no_obstacle():
    for training in (LocalTraining(weight_decay=0.05, epochs=3), LocalTraining(momentum=0.9)):
        update, truth = round_of(training)
        result = sj.reconstruct(update.observation(), jax.random.key(0))
        assert result.status is Status.EXACT
        assert sj.evaluate(result.inputs, truth.layer_inputs["dense_0"]).num_recovered == BATCH


def test_decided_entries_of_the_truth_never_contradict():
    """At the true directions, over learning rates: what the certificate relies on where weights moved."""
    for seed in range(3):
        for rate, epochs, mini_batch in ((0.01, 5, 2), (0.1, 1, 2), (0.1, 5, 4)):
            update, truth = round_of(LocalTraining(rate, epochs, mini_batch), seed)
            observation = update.observation()
            factorization = factorize(observation.weight_grad)
            directions = (np.asarray(factorization.left).T @ summed_grad_z(update, truth)).T
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            verdict = pattern.agree(pose(observation, factorization), directions)
            assert verdict.precise.all()
            assert pattern.is_determined(factorization, directions).all()


def test_mixtures_are_not_determined_by_their_zeros():
    """A mixture of two columns that vanishes on one more row than it must has that row alone to rest on."""
    update, truth = round_of(LocalTraining(0.1, 5, 4))
    factorization = factorize(update.observation().weight_grad)
    grad_z = summed_grad_z(update, truth)
    grad_z[np.abs(grad_z) < 1e-9 * np.abs(grad_z).max(axis=0)] = 0
    mixtures = []
    for first, second in ((0, 1), (2, 5), (7, 3)):
        row = np.flatnonzero(grad_z[:, first] * grad_z[:, second])[4]
        mixtures.append(grad_z[:, first] - grad_z[:, second] * grad_z[row, first] / grad_z[row, second])
    directions = (np.asarray(factorization.left).T @ np.array(mixtures).T).T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert not pattern.is_determined(factorization, directions).any()


@pytest.mark.slow
def test_a_step_that_is_no_multiple_of_the_gradient_is_not_certified():
    for optimizer in ("adam", "sign"):
        with jax.numpy_dtype_promotion("standard"):  # optax counts Adam's steps in int32
            update, _ = round_of(LocalTraining(0.001, optimizer=optimizer))
        result = sj.reconstruct(update.observation(), jax.random.key(0), sj.ReconstructConfig(max_seconds=2.0))
        assert not result.certificate.exact.any()


@pytest.mark.slow
def test_several_steps_that_claim_to_be_one_are_not_certified_wrongly():
    model, params, batch = client()
    update, truth = round_of(LocalTraining(0.1, 5, 2))
    claims = sj.Update(update.global_tensors, update.client_tensors, dict(update.metadata) | {"local_steps": "1"})
    result = sj.reconstruct(claims.observation(), jax.random.key(0), sj.ReconstructConfig(max_seconds=2.0))
    scores = sj.evaluate(result.inputs, truth.layer_inputs["dense_0"], certified=result.certificate.exact)
    assert scores.false_certificates == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer is 'lbfgs'; expected one of sgd, adam, sign"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a positive number"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"mini_batch": 0}, "mini_batch is 0; expected at least 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LocalTraining(**options)


def test_a_single_sample_comes_back_certified_after_several_steps():
    batch = sj.demo_batch(batch_size=1, image_size=12, seed=3)
    model = sj.MLP((WIDTH, 60), batch.num_classes, param_dtype="float64")
    params = sj.init_params(model, jax.random.key(3), batch.inputs.shape[1])
    update, truth = simulate_round(
        model, params, batch, jax.random.key(3), LocalTraining(0.01, epochs=4), dtype="float64"
    )
    result = sj.reconstruct(update.observation(), jax.random.key(0))
    assert result.status is Status.EXACT
    np.testing.assert_allclose(result.inputs, truth.layer_inputs["dense_0"], rtol=1e-6, atol=1e-9)
