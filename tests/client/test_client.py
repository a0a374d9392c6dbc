"""The simulated client: its gradient against a NumPy backward pass, and what it keeps to itself."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from spear_jax.client.batch import Batch, Column, image_batch
from spear_jax.client.gradient import simulate_update
from spear_jax.client.models import MLP, init_params
from spear_jax.client.truth import Truth
from spear_jax.errors import TruthError
from spear_jax.normalization import Normalization
from spear_jax.update.bundle_file import load_update, save_update

LAYERS = ("dense_0", "dense_1", "dense_2")
FLOAT64_TOLERANCE = 1e-14
FLOAT32_TOLERANCE = 1e-6


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    return image_batch(
        images, np.array([0, 2, 1, 2, 0]), tuple("abcde"), normalization=Normalization.parse("imagenet"), num_classes=3
    )


@pytest.fixture
def model():
    return MLP((12, 9), 3)


def simulate(model, batch, dtype="float64"):
    with jax.enable_x64(True):
        return simulate_update(model, init_params(model, jax.random.key(1), batch.inputs.shape[1]), batch, dtype=dtype)


def numpy_backward(global_tensors, batch):
    """Inputs, pre-activation gradients and parameter gradients of every layer, by hand in float64."""
    weights = [(global_tensors[f"{n}/kernel"].astype(float), global_tensors[f"{n}/bias"].astype(float)) for n in LAYERS]
    inputs, outputs = [batch.inputs], []
    for kernel, bias in weights:
        outputs.append(inputs[-1] @ kernel + bias)
        inputs.append(np.maximum(outputs[-1], 0))
    logits = outputs[-1] - outputs[-1].max(1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    grad = (probabilities - np.eye(3)[batch.labels]) / len(batch.labels)
    grad_z = {}
    for index in reversed(range(3)):
        grad_z[LAYERS[index]] = grad.T
        if index:
            grad = (grad @ weights[index][0].T) * (outputs[index - 1] > 0)
    return dict(zip(LAYERS, inputs, strict=False)), grad_z


@pytest.mark.parametrize(("dtype", "atol"), [("float64", FLOAT64_TOLERANCE), ("float32", FLOAT32_TOLERANCE)])
def test_gradient_and_truth_agree_with_a_numpy_backward_pass(model, batch, dtype, atol):
    update, truth = simulate(model, batch, dtype)
    inputs, grad_z = numpy_backward(update.global_tensors, batch)
    assert list(truth.layer_inputs) == list(LAYERS)
    for name in LAYERS:
        observation = update.observation(name)
        assert observation.weight_grad.dtype == dtype
        np.testing.assert_allclose(truth.layer_inputs[name], inputs[name], atol=10 * atol)
        np.testing.assert_allclose(truth.grad_z[name], grad_z[name], atol=atol)
        np.testing.assert_allclose(observation.weight_grad, grad_z[name] @ inputs[name], atol=atol)
        np.testing.assert_allclose(observation.bias_grad, grad_z[name].sum(1), atol=atol)


def test_the_oracle_notices_a_wrong_label(model, batch):
    update, _ = simulate(model, batch)
    wrong = Batch(**{**vars(batch), "labels": np.roll(batch.labels, 1)})
    inputs, grad_z = numpy_backward(update.global_tensors, wrong)
    assert np.abs(update.observation().weight_grad - grad_z["dense_0"] @ inputs["dense_0"]).max() > 1e-3


def test_grad_z_is_exactly_zero_where_relu_is_off(model, batch):
    update, truth = simulate(model, batch)
    for name in LAYERS[:-1]:
        observation = update.observation(name)
        pre_activation = observation.weight @ truth.layer_inputs[name].T + observation.bias[:, None]
        np.testing.assert_array_equal(truth.grad_z[name] != 0, pre_activation > 0)


def test_gradient_does_not_depend_on_the_order_of_the_batch(model, batch):
    order = np.array([3, 0, 4, 1, 2])
    permuted = Batch(**{**vars(batch), "inputs": batch.inputs[order], "labels": batch.labels[order]})
    expected, got = (simulate(model, b)[0].observation() for b in (batch, permuted))
    np.testing.assert_allclose(got.weight_grad, expected.weight_grad, atol=FLOAT64_TOLERANCE)


def test_update_survives_its_file_and_says_how_it_was_made(model, batch, tmp_path):
    update, _ = simulate(model, batch)
    save_update(update, tmp_path / "update.safetensors")
    loaded = load_update(tmp_path / "update.safetensors")
    assert loaded.sha256 == update.sha256
    expected = {"num_examples": "5", "framework": "flax", "kind": "gradient", "format_version": "1"}
    assert expected.items() <= loaded.metadata.items()
    assert loaded.normalization == Normalization.parse("imagenet")
    assert loaded.image_shape == (4, 4, 3)
    assert sorted(loaded.client_tensors) == sorted(f"{name}/{leaf}" for name in LAYERS for leaf in ("kernel", "bias"))


def test_update_holds_nothing_private(model, batch):
    update, _ = simulate(model, batch)
    sizes = {tensor.shape for side in (update.global_tensors, update.client_tensors) for tensor in side.values()}
    assert not any(len(batch.labels) in shape for shape in sizes)
    assert not any(name in str(update.metadata) for name in ("labels", "names"))


@pytest.mark.parametrize("extension", [".safetensors", ".npz"])
def test_truth_survives_its_file(model, batch, tmp_path, extension):
    _, truth = simulate(model, batch)
    truth.save(tmp_path / f"truth{extension}")
    loaded = Truth.load(tmp_path / f"truth{extension}")
    assert (loaded.names, loaded.normalization, loaded.image_shape) == (
        batch.names,
        batch.normalization,
        batch.image_shape,
    )
    np.testing.assert_array_equal(loaded.images, batch.images)
    np.testing.assert_array_equal(loaded.labels, batch.labels)
    for field in ("layer_inputs", "grad_z"):
        assert list(getattr(loaded, field)) == list(LAYERS)
        for name in LAYERS:
            np.testing.assert_array_equal(getattr(loaded, field)[name], getattr(truth, field)[name])


def test_truth_of_a_table_keeps_its_columns_and_has_no_images(model, batch, tmp_path):
    columns = (Column("age", "numeric", 0, mean=38.5, std=13.0), Column("sex", "categorical", 1, categories=("f", "m")))
    table = Batch(**{**vars(batch), "images": None, "normalization": None, "image_shape": None, "columns": columns})
    update, truth = simulate(model, table)
    truth.save(tmp_path / "truth.safetensors")
    loaded = Truth.load(tmp_path / "truth.safetensors")
    assert loaded.columns == columns
    assert loaded.images is loaded.normalization is loaded.image_shape is None
    assert update.normalization is update.image_shape is None


def test_an_update_is_no_truth(model, batch, tmp_path):
    save_update(simulate(model, batch)[0], tmp_path / "update.safetensors")
    with pytest.raises(TruthError, match=r"update\.safetensors is no truth file"):
        Truth.load(tmp_path / "update.safetensors")
    with pytest.raises(TruthError, match="does not exist"):
        Truth.load(tmp_path / "missing.safetensors")


@pytest.mark.slow
def test_float64_without_x64_is_refused_with_the_remedy(model, batch):
    with jax.enable_x64(False):
        params = init_params(model, jax.random.key(1), 48)
        with pytest.raises(ValueError, match="float64 needs JAX with x64"):
            simulate_update(model, params, batch)
        simulate_update(model, params, batch, dtype="float32")


def test_batches_that_do_not_fit_the_model_are_refused(model, batch):
    params = init_params(model, jax.random.key(1), 47)
    with pytest.raises(ValueError, match="takes 47 inputs but a sample of the batch has 48"):
        simulate_update(model, params, batch, dtype="float32")
    small = MLP((12, 9), 2)
    with pytest.raises(ValueError, match="labels run from 0 to 2 but the model has 2 classes"):
        simulate_update(small, init_params(small, jax.random.key(1), 48), batch, dtype="float32")
