"""One hidden layer: samples by their own gradients, and the output layer's gradient as the witness of all."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import ReconstructConfig, SpanConfig
from spear_jax.status import Status
from tests.helpers.spans import errors, simulate

B, M = 14, 80
KEY = jax.random.key(0)


def solve(name, layers, num_examples=B, **fields):
    config = ReconstructConfig(
        activation=name, method="span", num_devices=1, num_examples=num_examples, span=SpanConfig(**fields)
    )
    return reconstruct(layers[0], KEY, config, layers_above=layers[1:])


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus", "tanh"])
def test_a_batch_of_more_samples_than_classes_comes_back_whole(name):
    seen = simulate(name, B, M, depth=1, seed=1)
    result = solve(name, seen.layers)
    assert result.status is Status.EXACT
    assert errors(result, seen.inputs).max() < 1e-8
    assert (errors(result, seen.inputs) < 4 * result.certificate.error).all()
    assert "for their own gradients" in result.stats.reason


def test_float32_has_bars_that_hold():
    seen = simulate("gelu", B, M, depth=1, seed=2, dtype="float32")
    result = solve("gelu", seen.layers)
    known = result.certificate.exact | result.certificate.approximate
    assert known.all()
    assert (errors(result, seen.inputs) < 4 * result.certificate.error).all()


@pytest.mark.parametrize("what", ["gradients", "a class"])
def test_an_output_layer_of_another_batch_takes_every_certificate(what):
    """Its column space is all that the search needs of it, and is nearly the same; its rows are the witness."""
    seen, other = (simulate("gelu", B, M, depth=1, seed=3, inputs=inputs) for inputs in (None, np.ones((B, 100))))
    last = seen.layers[1]
    gradient = np.asarray(last.weight_grad).copy()
    gradient = 1.1 * gradient + np.asarray(other.layers[1].weight_grad) if what == "gradients" else gradient
    if what == "a class":
        gradient[0] *= 1.01
    layers = [seen.layers[0], dataclasses.replace(last, weight_grad=gradient)]
    result = solve("gelu", layers)
    assert not (result.certificate.exact | result.certificate.approximate).any()


def test_a_part_of_the_batch_is_not_certified():
    seen = simulate("gelu", B, M, depth=1, seed=1)
    result = solve("gelu", seen.layers, max_rounds=1, starts=32)
    assert result.directions_found < B
    assert not (result.certificate.exact | result.certificate.approximate).any()


def test_a_wrong_activation_certifies_nothing():
    seen = simulate("silu", B, M, depth=1, seed=4)
    result = solve("gelu", seen.layers, dry_rounds=2)
    assert not (result.certificate.exact | result.certificate.approximate).any()


def test_near_duplicates_are_not_told_apart_wrongly():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(B, 100))
        inputs[1] = inputs[0] + 1e-3 * rng.normal(size=100)
        seen = simulate("gelu", B, M, depth=1, seed=seed, inputs=inputs, labels=np.arange(B) // 2 % 10)
        result = solve("gelu", seen.layers, num_examples=None)
        error, known = errors(result, inputs), result.certificate.exact | result.certificate.approximate
        assert not (error[result.certificate.exact] > 1e-3).any()
        assert not (error[known] > 4 * result.certificate.error[known]).any()
