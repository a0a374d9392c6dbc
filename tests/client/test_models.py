"""Models: architecture, initialization laws, loss and training against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.client.models import MLP, cross_entropy, init_params, layer_name, train


def numpy_forward(params, inputs):
    hidden = np.asarray(inputs, np.float64)
    for index in range(len(params)):
        kernel, bias = (np.asarray(params[layer_name(index)][leaf], np.float64) for leaf in ("kernel", "bias"))
        hidden = (np.maximum(hidden, 0) if index else hidden) @ kernel + bias
    return hidden


@pytest.mark.parametrize("widths", [(), (9, 5, 8)])
def test_forward_pass_is_dense_layers_joined_by_relu(widths):
    model = MLP(widths, num_classes=3)
    params = init_params(model, jax.random.key(0), 11)
    inputs = np.random.default_rng(0).normal(size=(4, 11)).astype(np.float32)
    assert list(params) == [layer_name(index) for index in range(len(widths) + 1)]
    logits = np.asarray(model.apply({"params": params}, inputs))
    np.testing.assert_allclose(logits, numpy_forward(params, inputs), atol=1e-5)


def test_pytorch_initialization_fills_the_fan_in_interval_evenly():
    params = init_params(MLP((500,), 300), jax.random.key(1), 100)
    for name, fan_in in (("dense_0", 100), ("dense_1", 500)):
        for leaf in ("kernel", "bias"):
            values = np.asarray(params[name][leaf]) * np.sqrt(fan_in)
            assert 0.97 < np.abs(values).max() <= 1.0 + 1e-6
            # A uniform variable on (-1, 1) has variance 1/3; five standard errors.
            assert abs(values.var() - 1 / 3) < 5 * np.sqrt(4 / 45 / values.size)


def test_normal_initialization_has_the_stated_deviations_and_zero_biases():
    params = init_params(MLP((400,), 200, initialization="normal"), jax.random.key(2), 300)
    assert np.asarray(params["dense_0"]["kernel"]).std() == pytest.approx(0.5, rel=0.02)
    assert np.asarray(params["dense_1"]["kernel"]).var() == pytest.approx(2 / (400 + 200), rel=0.02)
    assert np.abs(np.asarray(params["dense_1"]["kernel"])).max() <= np.sqrt(6 / 600) + 1e-6
    assert not any(np.asarray(layer["bias"]).any() for layer in params.values())


def test_parameters_depend_on_the_key_and_the_initialization():
    kernels = [
        np.asarray(init_params(MLP((6,), 2, initialization=name), jax.random.key(seed), 5)["dense_0"]["kernel"])
        for name, seed in (("pytorch", 0), ("pytorch", 0), ("pytorch", 1), ("flax", 0))
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert not np.array_equal(kernels[0], kernels[3])


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits = np.array([[0.0, np.log(3.0)], [np.log(4.0), 0.0]], np.float32)
    # By hand: probabilities of the labels are 3/4 and 1/5.
    expected = -(np.log(3 / 4) + np.log(1 / 5)) / 2
    assert float(cross_entropy(logits, np.array([1, 1]))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_training_separates_two_clusters():
    generator = np.random.default_rng(3)
    labels = np.arange(80) % 2
    inputs = generator.normal(size=(80, 4)) + 4.0 * labels[:, None]
    model = MLP((16,), 2)
    params = init_params(model, jax.random.key(3), 4)
    settings = {"steps": 200, "batch_size": 20}
    trained, losses = train(model, params, inputs, labels, learning_rate=0.1, key=jax.random.key(4), **settings)
    assert losses.shape == (200,)
    assert np.mean(losses[-10:]) < 0.1 < np.mean(losses[:10])
    assert (numpy_forward(trained, inputs).argmax(1) == labels).mean() > 0.95
    # Control: without a step size nothing is learned.
    frozen, _ = train(model, params, inputs, labels, learning_rate=0.0, key=jax.random.key(5), **settings)
    np.testing.assert_array_equal(frozen["dense_0"]["kernel"], params["dense_0"]["kernel"])


def test_a_full_batch_step_is_one_gradient_descent_step():
    generator = np.random.default_rng(5)
    inputs, labels = generator.normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 0, 1, 1, 0])
    model = MLP((), 2)
    params = init_params(model, jax.random.key(5), 3)
    trained, _ = train(model, params, inputs, labels, steps=1, learning_rate=0.5, batch_size=6, key=jax.random.key(6))
    logits = numpy_forward(params, inputs)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    step = inputs.T @ (probabilities - np.eye(2)[labels]) / 6
    np.testing.assert_allclose(
        trained["dense_0"]["kernel"], np.asarray(params["dense_0"]["kernel"]) - 0.5 * step, atol=1e-6
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MLP((4,), 2, initialization="xavier"), "initialization is 'xavier'; expected one of pytorch"),
        (MLP((0,), 2), "expected positive integers"),
        (MLP((4,), 2, param_dtype=jnp.bfloat16), "dtype is bfloat16; expected float32 or float64"),
    ],
)
def test_impossible_models_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        init_params(model, jax.random.key(0), 3)


def test_float64_without_x64_is_refused_with_the_remedy():
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        init_params(MLP((4,), 2, param_dtype=jnp.float64), jax.random.key(0), 3)


def test_a_batch_larger_than_the_data_is_refused():
    model = MLP((), 2)
    params = init_params(model, jax.random.key(0), 3)
    with pytest.raises(ValueError, match="batch_size is 9; expected 1 to 4"):
        train(
            model,
            params,
            np.zeros((4, 3)),
            np.zeros(4, int),
            steps=1,
            learning_rate=1.0,
            batch_size=9,
            key=jax.random.key(0),
        )
