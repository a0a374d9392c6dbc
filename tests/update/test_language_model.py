"""Decoders as Hugging Face and GGUF keep them, and in one sentence what is wrong with those that cannot be used."""

import json
import shutil

import numpy as np
import pytest
from jax.numpy import bfloat16
from safetensors.numpy import load_file, save_file

from tests.helpers.golden_models import GOLDEN


@pytest.fixture
def folder(tmp_path):
    """A small Llama that may be broken."""
    shutil.copytree(GOLDEN / "llama", tmp_path / "sent")
    return tmp_path / "sent"


def read(path):
    from spear_jax.update.language_model import read_language_model

    return read_language_model(path)


def refusal(path):
    from spear_jax.errors import UpdateError

    with pytest.raises(UpdateError) as caught:
        read(path)
    return str(caught.value)


def configure(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change(folder, **tensors):
    """Other tensors, and none for what is None; underscores are written as dots."""
    path = folder / "model.safetensors"
    new = load_file(path) | tensors
    save_file({name: tensor for name, tensor in new.items() if tensor is not None}, path, {"format": "pt"})


def test_a_folder_is_read_as_it_was_saved(folder):
    model, stored = read(folder), load_file(folder / "model.safetensors")
    assert set(model.params) == set(stored)
    for name, tensor in stored.items():
        np.testing.assert_array_equal(model.params[name], tensor)
    assert (model.architecture.family, model.architecture.layers, model.architecture.kv_heads) == ("llama", 2, 2)
    assert (model.eos, model.tokenizer, model.dropout, model.architecture.is_tied) == (2, None, 0.0, True)


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
def test_half_precision_is_widened(folder, dtype):
    halves = {name: tensor.astype(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    change(folder, **halves)
    for name, tensor in read(folder).params.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, halves[name].astype(np.float32))


def test_pytorchs_own_file_is_read_too():
    model, expected = read(GOLDEN / "llama_bin"), read(GOLDEN / "llama")
    assert set(model.params) == set(expected.params)
    for name, tensor in expected.params.items():
        np.testing.assert_array_equal(model.params[name], tensor.astype(bfloat16).astype(np.float32))


def test_one_double_makes_all_of_them_double(folder):
    name = "model.norm.weight"
    change(folder, **{name: load_file(folder / "model.safetensors")[name].astype(np.float64)})
    assert {tensor.dtype for tensor in read(folder).params.values()} == {np.dtype(np.float64)}


def test_shards_are_put_together(folder):
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(stored)
    places = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: stored[name] for name in names if places[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert all(np.array_equal(stored[name], tensor) for name, tensor in read(folder).params.items())
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors, which is not beside it" in refusal(folder)


def test_what_the_model_does_not_compute_with_is_left_out(folder):
    stored = load_file(folder / "model.safetensors")
    change(folder, **{
        "lm_head.weight": stored["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
    })  # fmt: skip
    assert set(read(folder).params) == set(stored)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_prefix_may_be_missing(tmp_path, name):
    shutil.copytree(GOLDEN / name, tmp_path / name)
    prefix = read(tmp_path / name).architecture.prefix
    stored = load_file(tmp_path / name / "model.safetensors")
    bare = {key.removeprefix(prefix): tensor for key, tensor in stored.items()}
    save_file(bare, tmp_path / name / "model.safetensors")
    model = read(tmp_path / name)
    assert model.architecture.prefix == ""
    assert set(model.params) == set(bare)


def test_biases_and_heads_of_classes_are_found():
    assert read(GOLDEN / "llama_classes").architecture.classes == 3
    assert "model.layers.0.self_attn.q_proj.bias" in read(GOLDEN / "qwen2").params
    assert read(GOLDEN / "gpt2").dropout == 0.1


def test_a_sliding_window_bounds_the_length(folder):
    assert read(GOLDEN / "mistral").architecture.positions == 32
    assert read(GOLDEN / "qwen2").architecture.positions == 64
    configure(folder, sliding_window=None)
    assert read(folder).architecture.positions == 64


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', an encoder"),
        ({"model_type": "mamba"}, "model_type is 'mamba'; expected one of gpt2, llama, mistral, qwen2, smollm2."),
        ({"quantization_config": {"load_in_4bit": True, "load_in_8bit": False}},
         "the sent model is 4-bit; give the dequantised weights the clients computed with."),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "the sent model is 4-bit;"),
        ({"quantization_config": {"quant_method": "fp8"}}, "the sent model is quantised (fp8);"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "scaled by 'yarn'; expected none, or 'llama3'"),
        ({"vocab_size": 65}, "says vocab_size=65, but model.embed_tokens.weight has 64 rows"),
        ({"num_hidden_layers": 3}, "lack model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 0}, "makes layers 0; expected a whole number from 1 to 10000"),
        ({"num_hidden_layers": 10**30}, "expected a whole number from 1 to 10000"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2, "head_dim": 4}, "expected a multiple of these"),
        ({"intermediate_size": 32}, "mlp.gate_proj.weight has shape (24, 16), but config.json makes it (32, 16)"),
        ({"tie_word_embeddings": False}, "lack lm_head.weight"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; expected 'silu'"),
        ({"num_attention_heads": None}, "config.json of a llama model cannot be used"),
    ],
)  # fmt: skip
def test_what_a_configuration_may_not_say(folder, entries, sentence):
    configure(folder, **entries)
    assert sentence in refusal(folder)


def test_what_a_folder_must_hold(folder, tmp_path):
    change(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    assert "lack model.layers.1.mlp.up_proj.weight" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "has no weights; expected one of model.safetensors.index.json" in refusal(folder)
    (folder / "config.json").write_text("[1")
    assert "config.json of sent cannot be read" in refusal(folder)
    (folder / "config.json").unlink()
    assert refusal(folder) == "the model folder sent has no config.json; text needs the model's architecture."
    assert "does not exist; expected the folder of a language model" in refusal(tmp_path / "other")


def test_a_tokenizer_of_another_model_is_refused(folder):
    pytest.importorskip("tokenizers", reason="tokens become text by the package tokenizers")
    from spear_jax.language.tokens import tokenizer_of_merges

    tokens = [chr(0x100 + index) for index in range(65)]
    tokenizer_of_merges(tokens[:64], [], "gpt-2", []).inner.save(str(folder / "tokenizer.json"))
    assert read(folder).tokenizer.size == 64
    tokenizer_of_merges(tokens, [], "gpt-2", []).inner.save(str(folder / "tokenizer.json"))
    assert "tokenizer.json has 65 tokens but the embedding has 64 rows" in refusal(folder)


def test_an_entry_that_is_missing_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json of a llama model has no entry 'intermediate_size'" in refusal(folder)


def test_gpt2_must_be_plain(tmp_path):
    shutil.copytree(GOLDEN / "gpt2", tmp_path / "gpt2")
    configure(tmp_path / "gpt2", scale_attn_by_inverse_layer_idx=True)
    assert "sets scale_attn_by_inverse_layer_idx to True; expected GPT-2's plain attention" in refusal(
        tmp_path / "gpt2"
    )
