"""Models of random weights: tensors that the forward passes take, of the usual deviations, and adapters beside them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.client.random_model import adapted_modules, init_adapter, random_model, tiny_gpt2, tiny_llama
from spear_jax.errors import SpearError
from spear_jax.language.transformer import final_states, logits

MODELS = [tiny_llama(50), tiny_gpt2(50), dataclasses.replace(tiny_llama(50), is_tied=False), tiny_gpt2(50, classes=3)]
TOKENS = [[1, 2, 3, 4]]


@pytest.fixture(autouse=True)
def _broadcasting():
    with jax.numpy_rank_promotion("allow"):
        yield


def on_device(params):
    return {name: jnp.asarray(tensor) for name, tensor in params.items()}


def outputs(architecture, params):
    states = final_states(architecture, params, jnp.asarray(TOKENS), jnp.ones((1, 4), bool))
    return logits(architecture, params, states)


@pytest.mark.parametrize("architecture", MODELS, ids=["llama", "gpt2", "untied", "classes"])
def test_a_random_model_has_every_tensor_that_its_pass_reads_and_no_other(architecture):
    params, read = on_device(random_model(architecture, jax.random.key(0))), set()

    class Noted(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    found = jax.eval_shape(lambda: outputs(architecture, Noted(params)))
    assert found.shape == (1, 4, architecture.classes or 50)
    assert read == set(params)


def test_deviations_are_those_that_training_starts_from():
    params = random_model(tiny_gpt2(), jax.random.key(0))
    np.testing.assert_allclose(params["transformer.wte.weight"].std(), 0.02, rtol=0.01)
    np.testing.assert_allclose(params["transformer.h.1.mlp.c_fc.weight"].std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(params["transformer.h.1.mlp.c_proj.weight"].std(), 0.01, rtol=0.02)
    np.testing.assert_array_equal(params["transformer.h.0.ln_1.weight"], 1)
    np.testing.assert_array_equal(params["transformer.h.0.attn.c_attn.bias"], 0)
    assert {tensor.dtype for tensor in params.values()} == {np.dtype(np.float32)}


def test_every_tensor_is_drawn_apart_and_the_key_decides():
    params = random_model(tiny_llama(), jax.random.key(0))
    up, gate = (params[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("up", "gate"))
    assert not np.allclose(up, gate)
    again, other = (random_model(tiny_llama(), jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(again["model.embed_tokens.weight"], params["model.embed_tokens.weight"])
    assert not np.allclose(other["model.embed_tokens.weight"], params["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("architecture", "name", "out", "inputs"),
    [
        (tiny_llama(), "model.layers.2.self_attn.v_proj", 48, 96),
        (tiny_llama(), "model.layers.0.mlp.down_proj", 96, 256),
        (tiny_gpt2(), "transformer.h.1.attn.c_attn", 288, 96),
        (tiny_gpt2(), "transformer.h.0.mlp.c_proj", 96, 384),
    ],
)
def test_an_adapter_has_the_sizes_of_its_kernel_and_the_deviations_of_peft(architecture, name, out, inputs):
    params, module = random_model(architecture, jax.random.key(0)), name.split(".", 3)[3]
    adapter = init_adapter(architecture, params, jax.random.key(1), 8, modules=(module,), alpha=32.0)
    A, B = adapter[f"{name}.lora_A.weight"], adapter[f"{name}.lora_B.weight"]
    assert (A.shape, B.shape) == ((8, inputs), (out, 8))
    assert adapter[f"{name}.lora_scale"] == 4
    assert len(adapter) == 3 * architecture.layers
    assert 0.95 < np.abs(A).max() * np.sqrt(inputs) <= 1
    np.testing.assert_allclose(B.std(), 0.01, rtol=0.1)


def test_an_adapter_at_its_start_changes_nothing_and_a_trained_one_does():
    architecture = dataclasses.replace(tiny_llama(50), layers=1)
    params = random_model(architecture, jax.random.key(0))
    start, trained = (
        init_adapter(architecture, params, jax.random.key(1), 4, lora_B=lora_B) for lora_B in ("zero", "trained")
    )
    plain, same, other = (outputs(architecture, on_device(params | adapter)) for adapter in ({}, start, trained))
    np.testing.assert_array_equal(same, plain)
    assert not np.allclose(other, plain, atol=1e-7)


def test_modules_go_by_their_names_and_short_names():
    llama, gpt2 = tiny_llama(), tiny_gpt2()
    assert adapted_modules(llama, ("v", "q")) == ["self_attn.q_proj", "self_attn.v_proj"]
    assert adapted_modules(llama, ("mlp.gate_proj", "down")) == ["mlp.gate_proj", "mlp.down_proj"]
    assert adapted_modules(gpt2, ("mlp.c_proj",)) == ["mlp.c_proj"]
    assert adapted_modules(gpt2, ("c_proj", "c_attn")) == ["attn.c_attn", "attn.c_proj", "mlp.c_proj"]
    with pytest.raises(SpearError, match="no module 'q' in a gpt2 block; it has attn.c_attn"):
        adapted_modules(gpt2, ("q",))


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 2, "lora_B": "ones"}])
def test_options_of_an_adapter_out_of_range_are_refused(options):
    with pytest.raises(SpearError, match="expected at least 1, and 'zero' or 'trained'"):
        init_adapter(tiny_llama(), {}, jax.random.key(0), **options)
