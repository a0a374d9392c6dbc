"""Roots that an independent client got certified wrong: each kind, and an ordinary batch beside it that stays whole."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import ReconstructConfig, SpanConfig
from spear_jax.errors import SpearError
from spear_jax.status import Scale, Status
from spear_jax.types import MAX_ERROR
from tests.helpers.spans import errors, simulate

B, M, N = 6, 80, 100
KEY = jax.random.key(0)
SEEDS = range(6)


def solve(name, seen, num_examples=None, layers=None):
    layers = seen.layers if layers is None else layers
    config = ReconstructConfig(
        activation=name, method="span", num_devices=1, num_examples=num_examples, span=SpanConfig(dry_rounds=3)
    )
    return reconstruct(layers[0], KEY, config, layers_above=layers[1:2])


def noisy(seen, noise, seed):
    rng = np.random.default_rng(seed)
    shake = lambda array: array + noise * np.sqrt(np.mean(array**2)) * rng.normal(size=array.shape)
    layers = [
        dataclasses.replace(layer, weight_grad=shake(layer.weight_grad), bias_grad=shake(layer.bias_grad))
        for layer in seen.layers
    ]
    return seen._replace(layers=layers) if noise else seen


def nothing_is_wrong(result, inputs):
    """Whether no exact sample is off, and no error more than four times its bar."""
    certificate, error = result.certificate, errors(result, inputs)
    known = certificate.exact | certificate.approximate
    return not (error[certificate.exact] > MAX_ERROR).any() and not (error[known] > 4 * certificate.error[known]).any()


def near_pair(rng, distance):
    inputs = rng.normal(size=(B, N))
    inputs[1] = inputs[0] + distance * rng.normal(size=N)
    return inputs


@pytest.mark.parametrize(
    ("name", "distance", "noise", "dtype", "seeds"),
    [
        ("leaky_relu", 1e-2, 1e-4, "float64", SEEDS), ("relu", 1e-2, 1e-5, "float64", SEEDS),
        ("relu6", 1e-2, 1e-5, "float64", SEEDS), ("elu", 3e-3, 1e-4, "float64", SEEDS),
        ("relu", 3e-3, 0.0, "float32", SEEDS), ("leaky_relu", 1e-2, 1e-6, "float64", SEEDS),
        ("leaky_relu", 0.2, 2e-2, "float64", SEEDS), ("relu", 5e-2, 1e-2, "float64", [0, 1, 3, 4, 5]),
        # The fit of all samples together goes on for most of its rounds.
        pytest.param("relu", 5e-2, 1e-2, "float64", [2], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_noise_does_not_tell_a_near_pair_apart(name, distance, noise, dtype, seeds):
    """The weakest direction of the row space is the pair's difference: its noise looks like information."""
    for seed in seeds:
        inputs = near_pair(np.random.default_rng(seed), distance)
        labels = [0, 1, 2, 3, 4, 5]
        seen = noisy(simulate(name, B, M, seed=seed, inputs=inputs, labels=labels, dtype=dtype), noise, seed)
        with contextlib.suppress(SpearError):  # the next layer may show fewer samples than this one
            assert nothing_is_wrong(solve(name, seen), inputs)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "relu6"])
def test_neurons_that_fire_for_all_or_none_hold_nothing(name):
    """Skewed inputs: most equations are met on the whole plane, the others fix one unknown each and none checks."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(8, N)) + 8 * rng.normal(size=N)
        assert nothing_is_wrong(solve(name, simulate(name, 8, M, seed=seed, inputs=inputs)), inputs)


def test_few_equations_beyond_the_unknowns_certify_nothing_wrong():
    for seed in SEEDS:
        seen = noisy(simulate("relu", 6, 11, seed=seed), 1e-6, seed)
        assert nothing_is_wrong(solve("relu", seen), seen.inputs)


def test_a_sample_hidden_in_noise_sticks_out_and_takes_the_bars():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(B, N))
        inputs[2] = 0.1 * inputs[0] + 0.9 * inputs[1]
        seen = noisy(simulate("gelu", B, M, seed=seed, inputs=inputs), 1e-2, seed)
        assert nothing_is_wrong(solve("gelu", seen), inputs)


@pytest.mark.parametrize(("noise", "dtype"), [(1e-4, "float64"), (0.0, "float32")])
def test_a_merged_pair_is_within_its_bar_where_nobody_counted(noise, dtype):
    merged = 0
    for seed in SEEDS:
        inputs = near_pair(np.random.default_rng(seed), 3e-3)
        seen = noisy(
            simulate("gelu", B, M, seed=seed, inputs=inputs, labels=[0] * 2 + [1] * 4, dtype=dtype), noise, seed
        )
        result = solve("gelu", seen)
        merged += result.batch_size < B
        assert nothing_is_wrong(result, inputs)
    assert merged


def test_a_scale_that_no_layer_sees_is_not_claimed():
    seen = simulate("leaky_relu", B, M, seed=5, has_biases=False)
    layers = [dataclasses.replace(layer, bias_grad=1.3 * layer.bias_grad) for layer in seen.layers]
    assert solve("leaky_relu", seen, layers=layers).certificate.scale is Scale.BIAS_GRADIENT
    assert solve("leaky_relu", simulate("leaky_relu", B, M, seed=5)).certificate.scale is Scale.NEXT_LAYER


@pytest.mark.parametrize("width", [80, 200])
def test_one_equation_that_contradicts_all_others_widens_the_bar(width):
    """The server's weights are not quite the client's: the bias gradients feel that most."""
    seen = simulate("leaky_relu", B, width, seed=6, dtype="float32")
    layers = [dataclasses.replace(layer, weight=layer.weight * np.float32(1 - 1e-5)) for layer in seen.layers]
    assert nothing_is_wrong(solve("leaky_relu", seen, layers=layers), seen.inputs)


@pytest.mark.parametrize("name", ["gelu", "relu", "leaky_relu", "elu"])
@pytest.mark.parametrize(("noise", "dtype"), [(0.0, "float64"), (0.0, "float32"), (1e-5, "float64")])
def test_ordinary_batches_stay_certified(name, noise, dtype):
    """The control of all of the above."""
    for seed in SEEDS:
        seen = noisy(simulate(name, B, M, seed=seed, dtype=dtype), noise, seed)
        result = solve(name, seen, B)
        assert result.status is Status.EXACT
        assert nothing_is_wrong(result, seen.inputs)
