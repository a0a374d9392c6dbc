"""The span method: batches behind any activation, whole and certified, from the layer and the next one alone."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import ReconstructConfig, SpanConfig
from spear_jax.errors import SpearError
from spear_jax.status import Status
from tests.helpers.spans import errors, simulate

B, M = 12, 60
KEY = jax.random.key(0)
ONE = ReconstructConfig(num_devices=1, method="span")


def solve(seen, activation=None, config=ONE, key=KEY):
    config = dataclasses.replace(config, activation=activation)
    return reconstruct(seen.layers[0], key, config, layers_above=seen.layers[1:2])


def assert_whole(result, seen, tolerance):
    assert result.status is Status.EXACT
    error = errors(result, seen.inputs)
    assert error.max() < tolerance
    assert (error <= 2 * result.certificate.error + 1e-15).all()
    distance = np.linalg.norm(result.inputs[:, None] - seen.inputs[None], axis=2)
    assert sorted(distance.argmin(axis=1)) == list(range(len(seen.inputs)))


@pytest.mark.parametrize(
    "name",
    ["relu", "leaky_relu(0.2)", "gelu", "gelu_tanh", "silu", "elu", "selu", "softplus", "tanh", "sigmoid", "hardswish"],
)
def test_a_batch_behind_any_activation_comes_back_whole(name):
    seen = simulate(name, B, M, seed=1)
    result = solve(seen, name)
    assert_whole(result, seen, 1e-7)
    assert result.stats.method == "span"
    assert result.stats.activations[0] == name


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(2))
def test_gelu_in_either_precision_centred_and_not(seed, dtype, offset):
    inputs = np.random.default_rng(seed + 10).normal(size=(B, 100)) + offset
    seen = simulate("gelu", B, M, seed=seed, dtype=dtype, inputs=inputs.astype(dtype).astype(float))
    assert_whole(solve(seen, "gelu"), seen, 1e-9 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
def test_the_equations_tell_the_activation(name):
    seen = simulate(name, B, M, seed=2)
    result = solve(seen)
    assert_whole(result, seen, 1e-8)
    assert result.stats.activations[0] == name
    assert "sigmoid" not in result.stats.activations


@pytest.mark.parametrize("wrong", ["tanh", "silu", "relu"])
def test_a_wrong_activation_finds_nothing(wrong):
    seen = simulate("gelu", B, M, seed=3)
    config = dataclasses.replace(ONE, span=SpanConfig(starts=32, dry_rounds=2))
    result = solve(seen, wrong, config)
    assert not (result.certificate.exact | result.certificate.approximate).any()
    assert result.directions_found == 0


def test_auto_takes_it_where_the_activation_is_smooth_and_says_why():
    seen = simulate("silu", B, M, seed=4)
    result = solve(seen, "silu", dataclasses.replace(ONE, method="auto"))
    assert_whole(result, seen, 1e-8)
    assert result.stats.reason.startswith("span: 12 samples, 60 + 1 - 12 equations each, silu")


def test_without_the_next_layer_a_smooth_activation_is_refused_in_a_sentence():
    seen = simulate("gelu", B, M)
    for config in (ONE, dataclasses.replace(ONE, method="auto")):
        with pytest.raises(SpearError, match="for gelu.* needs the gradients of the next dense layer"):
            reconstruct(seen.layers[0], KEY, dataclasses.replace(config, activation="gelu"))


def test_layers_that_do_not_chain_are_refused_in_a_sentence():
    seen = simulate("gelu", B, M)
    with pytest.raises(
        SpearError, match=r"layers_above: layer 2 has a kernel of shape \(60, 100\); expected \(k, 60\)"
    ):
        reconstruct(seen.layers[0], KEY, ONE, layers_above=seen.layers[:1])


def test_it_is_the_same_on_any_number_of_devices_and_another_with_another_key():
    seen = simulate("gelu", B, M, seed=5)
    config = dataclasses.replace(ONE, span=SpanConfig(starts=128))
    one, two, eight = (solve(seen, "gelu", dataclasses.replace(config, num_devices=n)) for n in (1, 2, 8))
    for other in (two, eight):
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.certificate.error, other.certificate.error)
    assert not np.array_equal(one.inputs, solve(seen, "gelu", config, jax.random.key(1)).inputs)


def test_a_search_goes_on_where_it_was_with_the_same_bytes():
    seen = simulate("tanh", B, M, seed=6)
    states = []
    config = dataclasses.replace(ONE, activation="tanh")
    above = {"layers_above": seen.layers[1:2]}
    whole = reconstruct(seen.layers[0], KEY, config, **above, on_round=lambda progress: states.append(progress.state))
    assert len(states) > 1
    again = reconstruct(seen.layers[0], KEY, config, **above, state=states[0])
    np.testing.assert_array_equal(whole.inputs, again.inputs)
    assert whole.status is again.status is Status.EXACT


def test_the_order_of_the_batch_and_the_unit_of_the_gradient_do_not_matter():
    seen = simulate("gelu", B, M, seed=7)
    layers = [
        dataclasses.replace(layer, weight_grad=-3e-5 * layer.weight_grad, bias_grad=-3e-5 * layer.bias_grad)
        for layer in seen.layers
    ]
    assert_whole(solve(seen._replace(layers=layers), "gelu"), seen, 1e-8)


def test_copies_are_one_root_that_is_the_input():
    inputs = np.random.default_rng(8).normal(size=(B, 100))
    inputs[1] = inputs[0]
    seen = simulate("gelu", B, M, seed=8, inputs=inputs)
    result = solve(seen, "gelu")
    assert result.batch_size == B - 1
    assert result.certificate.exact.all()
    assert errors(result, inputs).max() < 1e-9


def test_one_sample_needs_no_search():
    seen = simulate("gelu", 1, M)
    result = solve(seen, "gelu")
    assert result.certificate.exact.all()
    assert errors(result, seen.inputs).max() < 1e-9
