"""DP-SGD against single-sample gradients clipped one by one in NumPy, and its epsilon against the exact one."""

from __future__ import annotations

import dataclasses
import math
import sys

import jax
import numpy as np
import pytest
from scipy import optimize, stats

from spear_jax.client.batch import Batch
from spear_jax.client.dp_sgd import dp_epsilon, dp_sgd_update
from spear_jax.client.gradient import simulate_update
from spear_jax.client.models import MLP, init_params

STANDARD_ERRORS = 5


def key(seed=0):
    return jax.random.key(seed)


def joined(update):
    return np.concatenate([update.client_tensors[name].ravel() for name in sorted(update.client_tensors)])


@pytest.fixture(scope="module")
def client():
    """A model, its parameters and a batch of seven."""
    generator = np.random.default_rng(0)
    batch = Batch(
        inputs=generator.normal(size=(7, 10)), labels=generator.integers(0, 3, 7), images=None, names=tuple("abcdefg"),
        normalization=None, image_shape=None, num_classes=3,
    )  # fmt: skip
    model = MLP((12, 9), 3)
    return model, init_params(model, key(1), 10), batch


def samples_of(batch):
    for index in range(batch.size):
        one = slice(index, index + 1)
        yield dataclasses.replace(batch, inputs=batch.inputs[one], labels=batch.labels[one], names=batch.names[one])


@pytest.mark.parametrize(
    ("dtype", "atol", "chunk_size"),
    [pytest.param("float64", 1e-14, 3, marks=pytest.mark.slow), ("float64", 1e-14, 100), ("float32", 1e-6, 1)],
)
def test_dp_sgd_without_noise_and_clipping_is_the_plain_gradient(client, dtype, atol, chunk_size):
    expected, _ = simulate_update(*client, dtype=dtype)
    got = dp_sgd_update(*client, key(), clip_norm=1e9, noise_multiplier=0.0, dtype=dtype, chunk_size=chunk_size)
    assert got.metadata == dict(expected.metadata) | {"defence": "dp_sgd(clip_norm=1000000000.0, noise_multiplier=0.0)"}
    assert {tensor.dtype for tensor in got.client_tensors.values()} == {np.dtype(dtype)}
    np.testing.assert_allclose(joined(got), joined(expected), rtol=0, atol=atol)


def test_dp_sgd_clips_each_sample_over_all_tensors(client):
    model, params, batch = client
    gradients = [joined(simulate_update(model, params, one)[0]) for one in samples_of(batch)]
    norms = [float(np.linalg.norm(gradient)) for gradient in gradients]
    mean = np.mean(gradients, axis=0)
    for clip_norm, clipped in ((min(norms) / 5, 7), (float(np.median(norms)), 3)):
        factors = [min(1, clip_norm / norm) for norm in norms]
        assert sum(factor < 1 for factor in factors) == clipped
        expected = sum(factor * gradient for factor, gradient in zip(factors, gradients, strict=True)) / batch.size
        got = joined(dp_sgd_update(*client, key(), clip_norm=clip_norm, noise_multiplier=0.0))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
        # Control: clipping the mean is something else.
        assert np.abs(got - mean * min(1, clip_norm / np.linalg.norm(mean))).max() > 1e-4


def test_dp_sgd_noise_is_sigma_c_over_b(client):
    quiet = joined(dp_sgd_update(*client, key(), clip_norm=0.5, noise_multiplier=0.0))
    draws = [joined(dp_sgd_update(*client, key(s), clip_norm=0.5, noise_multiplier=3.0)) - quiet for s in range(20)]
    noise, std = np.concatenate(draws), 3.0 * 0.5 / 7
    assert abs(noise.mean()) < STANDARD_ERRORS * std / math.sqrt(noise.size)
    assert abs(noise.std() - std) < STANDARD_ERRORS * std / math.sqrt(2 * noise.size)
    np.testing.assert_array_equal(
        joined(dp_sgd_update(*client, key(3), clip_norm=0.5, noise_multiplier=3.0)) - quiet, draws[3]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0, "noise_multiplier": 1.0}, "clip_norm is 0.0; expected a positive number"),
        ({"clip_norm": 1.0, "noise_multiplier": -1.0}, "noise_multiplier is -1.0; expected a number >= 0"),
        ({"clip_norm": 1.0, "noise_multiplier": 1.0, "chunk_size": 0}, "chunk_size is 0"),
        ({"clip_norm": 1.0, "noise_multiplier": 1.0, "dtype": "float16"}, "dtype is float16"),
    ],
)
def test_dp_sgd_refuses_numbers_out_of_range(client, options, message):
    with pytest.raises(ValueError, match=message):
        dp_sgd_update(*client, key(), **options)


def gaussian_epsilon(mu, delta):
    """Exact epsilon of the Gaussian mechanism with sensitivity over deviation mu (Balle and Wang 2018, Thm. 8)."""
    excess = lambda e: stats.norm.cdf(mu / 2 - e / mu) - math.exp(e) * stats.norm.cdf(-mu / 2 - e / mu) - delta
    return optimize.brentq(excess, 0, 100)


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (4.0, 10), (30.0, 100)])
def test_epsilon_bounds_the_exact_one_of_the_gaussian_mechanism(sigma, steps):
    pytest.importorskip("dp_accounting")
    exact = gaussian_epsilon(math.sqrt(steps) / sigma, 1e-5)
    assert exact <= dp_epsilon(sigma, 1.0, steps, 1e-5) <= 1.15 * exact
    assert dp_epsilon(sigma, 0.01, steps, 1e-5) < 0.5 * exact


def test_epsilon_without_noise_is_infinite():
    pytest.importorskip("dp_accounting")
    assert dp_epsilon(0.0, 0.1, 10, 1e-5) == math.inf


def test_epsilon_says_what_to_install_and_what_is_out_of_range(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'spear-jax\[privacy\]'"):
        dp_epsilon(1.0, 0.1, 10, 1e-5)
    for wrong in ((-1.0, 0.1, 10, 1e-5), (1.0, 0.0, 10, 1e-5), (1.0, 0.1, 0, 1e-5), (1.0, 0.1, 10, 1.0)):
        with pytest.raises(ValueError, match="; expected"):
            dp_epsilon(*wrong)
