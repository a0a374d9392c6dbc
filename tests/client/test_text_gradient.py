"""The gradient of a language model's client: against finite differences, and what it must not depend on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.client import text_gradient as module
from spear_jax.client.random_model import init_adapter, random_model, tiny_gpt2, tiny_llama
from spear_jax.client.text_batch import TextBatch, arrays
from spear_jax.client.text_gradient import as_dtype, one_step, text_gradient, trained_names
from spear_jax.errors import SpearError
from spear_jax.language.loss import weighted_loss
from tests.helpers.golden_models import CLASS_LABELS, difference, read

VOCABULARY, CLASSES = 23, 3
SMALL = {"layers": 2, "width": 12, "heads": 2, "head_width": 6, "hidden": 16, "positions": 9}
LLAMA = dataclasses.replace(tiny_llama(VOCABULARY), **SMALL, kv_heads=1)
GPT2 = dataclasses.replace(tiny_gpt2(VOCABULARY), **SMALL, kv_heads=2)
MODELS = {"llama": LLAMA, "gpt2": GPT2, "untied": dataclasses.replace(LLAMA, is_tied=False)}
SEQUENCES = (np.array([3, 1, 4, 1, 5]), np.array([9, 2]), np.array([6, 5, 3, 5, 8, 9, 7]))
SHALLOW = dataclasses.replace(LLAMA, layers=1)
BATCH = TextBatch(SEQUENCES)
LABELLED = TextBatch(SEQUENCES, np.array([2, 0, 1]))
# Central differences of a float64 loss at this step leave about their square and 1e-16 divided by them.
STEP, DIFFERENCE_TOLERANCE = 1e-5, 1e-8
FLOAT64_TOLERANCE = 1e-13


@pytest.fixture(autouse=True)
def _broadcasting():
    with jax.numpy_rank_promotion("allow"):
        yield


def weights(architecture, dtype=np.float64, scale=8.0):
    """Random weights, large enough that every layer is far from linear."""
    params = random_model(architecture, jax.random.key(0))
    return {name: (tensor * (scale if tensor.ndim == 2 else 1)).astype(dtype) for name, tensor in params.items()}


def adapted(architecture, modules):
    params = weights(architecture)
    adapter = init_adapter(architecture, params, jax.random.key(1), 2, modules=modules, alpha=3.0)
    return params | {name: tensor.astype(np.float64) for name, tensor in adapter.items()}


def assert_same(found, expected, tolerance=FLOAT64_TOLERANCE):
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=tolerance * np.abs(gradient).max(), err_msg=name)


def loss_of(architecture, batch):
    rows = arrays(batch, architecture)
    return jax.jit(lambda params: weighted_loss(architecture, params, *map(jnp.asarray, rows)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [BATCH, LABELLED], ids=["next token", "classes"])
def test_gradient_is_the_slope_of_the_loss(name, batch):
    """Along a random direction of each tensor."""
    architecture = dataclasses.replace(MODELS[name], classes=0 if batch.labels is None else CLASSES)
    params, generator = weights(architecture), np.random.default_rng(1)
    gradients, loss = text_gradient(architecture, params, batch), loss_of(architecture, batch)
    assert list(gradients) == list(params)
    for name, tensor in params.items():
        direction = generator.normal(size=tensor.shape)
        ahead, behind = (loss(params | {name: tensor + sign * STEP * direction}) for sign in (1, -1))
        slope = (ahead - behind) / (2 * STEP)
        np.testing.assert_allclose(np.sum(gradients[name] * direction), slope, atol=DIFFERENCE_TOLERANCE, err_msg=name)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2_classes"])
def test_gradient_is_what_transformers_trains_with(name):
    model, expected = read(name)
    sequences = tuple(row[mask] for row, mask in zip(expected["tokens"], expected["mask"], strict=True))
    batch = TextBatch(sequences, np.array(CLASS_LABELS) if model.architecture.classes else None)
    gradients = text_gradient(model.architecture, model.params, batch)
    theirs = {key.removeprefix("grad/"): value for key, value in expected.items() if key.startswith("grad/")}
    assert set(gradients) == set(theirs)
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for key, gradient in theirs.items():
        # The key's bias changes no attention: its gradient is rounding alone.
        if np.abs(gradient).max() > 1e-6 * largest:
            assert difference(gradients[key], gradient) < 1e-5, key


@pytest.mark.parametrize("batch", [BATCH, LABELLED], ids=["next token", "classes"])
def test_chunks_change_memory_alone(monkeypatch, batch):
    architecture = dataclasses.replace(SHALLOW, classes=0 if batch.labels is None else CLASSES)
    whole = text_gradient(architecture, weights(architecture), batch)
    for most in (1, 2 * 7 * (architecture.classes or VOCABULARY)):
        monkeypatch.setattr(module, "_CHUNK_OUTPUTS", most)
        assert_same(text_gradient(architecture, weights(architecture), batch), whole)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_stands_in_the_padding_does_not_matter(name):
    architecture, params = MODELS[name], weights(MODELS[name])
    tokens, targets, share = arrays(BATCH, architecture)
    is_padding = np.arange(tokens.shape[1]) >= np.array([[5], [2], [7]])
    gradient = jax.jit(jax.grad(lambda *rows: weighted_loss(architecture, rows[0], *rows[1:])))
    filled = gradient(params, np.where(is_padding, 17, tokens), np.where(is_padding, 11, targets), share)
    longer = gradient(params, *(np.pad(rows, ((0, 0), (0, 2))) for rows in (tokens, targets, share)))
    expected = text_gradient(architecture, params, BATCH)
    for found in (filled, longer):
        assert_same({name: found[name] for name in expected}, expected)


def test_order_of_the_batch_does_not_matter():
    turned = TextBatch(SEQUENCES[::-1])
    assert_same(text_gradient(GPT2, weights(GPT2), turned), text_gradient(GPT2, weights(GPT2), BATCH))


def test_gradient_of_a_sum_is_the_sum_over_sequences():
    gradient = lambda *sequences: text_gradient(SHALLOW, weights(SHALLOW), TextBatch(sequences), reduction="sum")
    single = [gradient(sequence) for sequence in SEQUENCES[:2]]
    assert_same(gradient(*SEQUENCES[:2]), {name: single[0][name] + single[1][name] for name in single[0]})


@pytest.mark.parametrize(
    ("architecture", "modules", "is_in_out"),
    [(LLAMA, ("q", "k", "v", "o", "gate", "up", "down"), False), (GPT2, ("c_attn", "c_fc", "c_proj"), True)],
    ids=["llama", "gpt2"],
)
def test_gradient_of_an_adapter_is_that_of_the_merged_kernel_contracted(architecture, modules, is_in_out):
    params = adapted(architecture, modules)
    gradients = text_gradient(architecture, params, BATCH)
    adapters = [name.removesuffix(".lora_A.weight") for name in params if name.endswith(".lora_A.weight")]
    assert list(gradients) == [f"{name}.lora_{side}.weight" for name in adapters for side in "AB"]
    merged = {name: tensor for name, tensor in params.items() if ".lora_" not in name}
    for name in adapters:
        change = params[f"{name}.lora_scale"] * params[f"{name}.lora_B.weight"] @ params[f"{name}.lora_A.weight"]
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + (change.T if is_in_out else change)
    kernels = text_gradient(architecture, merged, BATCH, trained=[f"{name}.weight" for name in adapters])
    expected = {}
    for name in adapters:
        kernel = kernels[f"{name}.weight"].T if is_in_out else kernels[f"{name}.weight"]
        A, B, scale = (params[name + end] for end in (".lora_A.weight", ".lora_B.weight", ".lora_scale"))
        expected |= {f"{name}.lora_A.weight": scale * B.T @ kernel, f"{name}.lora_B.weight": scale * kernel @ A.T}
    assert_same(gradients, expected)


def test_only_what_is_trained_has_a_gradient_the_same_as_among_all():
    names = ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"]
    found = text_gradient(LLAMA, weights(LLAMA), BATCH, trained=names)
    everything = text_gradient(LLAMA, weights(LLAMA), BATCH)
    assert_same(found, {name: everything[name] for name in everything if name in names})


def test_float32_agrees_with_float64_and_half_precision_is_widened():
    exact = text_gradient(GPT2, weights(GPT2), BATCH)
    single = text_gradient(GPT2, weights(GPT2, np.float32), BATCH)
    assert {gradient.dtype for gradient in single.values()} == {np.dtype(np.float32)}
    assert_same(single, exact, 1e-4)
    half = as_dtype(weights(GPT2), "bfloat16")
    widened = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    assert_same(text_gradient(GPT2, half, BATCH), text_gradient(GPT2, widened, BATCH), 0)


def test_float64_without_x64_is_refused():
    with jax.enable_x64(False), pytest.raises(SpearError, match="JAX_ENABLE_X64"):
        text_gradient(GPT2, weights(GPT2), BATCH)


def test_integer_buffers_are_not_trained_and_unknown_names_are_refused():
    params = {"mask": np.ones(3, bool), "kernel": np.ones((2, 2), np.float32)}
    assert trained_names(params) == ["kernel"]
    with pytest.raises(SpearError, match="kernels is to be trained"):
        trained_names(params, ["kernels"])
    with pytest.raises(SpearError, match="nothing is to be trained"):
        trained_names(params, [])


def test_a_step_goes_down_the_gradient_in_the_dtype_of_the_weights():
    params = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([1.0], np.float32)}
    stepped = one_step(params, {"a": np.array([0.5, -0.5], np.float32)}, 0.5)
    assert list(stepped) == ["a"]
    np.testing.assert_array_equal(stepped["a"], np.array([0.75, 2.25], np.float32))
    assert one_step(as_dtype(params, "bfloat16"), {"b": np.ones(1, np.float32)}, 0.1)["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(("dtype", "step"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11), ("float32", 2.0**-24)])
def test_rounding_is_to_the_nearest(dtype, step):
    values = 1 + np.random.default_rng(0).random(100)
    rounded = as_dtype({"a": values}, dtype)["a"]
    assert str(rounded.dtype) == dtype
    assert np.abs(rounded.astype(np.float64) - values).max() <= step


def test_values_without_room_in_a_dtype_are_refused():
    with pytest.raises(SpearError, match="a holds values that float16 has no room for"):
        as_dtype({"a": np.array([1e6], np.float32)}, "float16")
    with pytest.raises(SpearError, match="expected one of float64, float32, bfloat16, float16"):
        as_dtype({}, "int8")
