"""GGUF files are the same models as the folders that they were made of."""

import numpy as np
import pytest

from tests.helpers.golden_models import GOLDEN

gguf = pytest.importorskip("gguf", reason="reading GGUF files needs the package gguf")


def read(path):
    from spear_jax.update.language_model import read_language_model

    return read_language_model(path)


def interleaved(weight, heads):
    """As llama.cpp's converter keeps queries and keys."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(path, name):
    """The GGUF file that llama.cpp's converter makes of a folder, and the model in the folder."""
    model = read(GOLDEN / name)
    kind, sizes = "qwen2" if name == "qwen2" else model.architecture.family, model.architecture
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(sizes.layers)
    writer.add_embedding_length(sizes.width)
    writer.add_feed_forward_length(sizes.hidden)
    writer.add_head_count(sizes.heads)
    writer.add_context_length(sizes.positions)
    if kind == "gpt2":
        writer.add_layer_norm_eps(sizes.epsilon)
    else:
        writer.add_head_count_kv(sizes.kv_heads)
        writer.add_layer_norm_rms_eps(sizes.epsilon)
        writer.add_rope_freq_base(sizes.rope_base)
    add_tensors(writer, model, is_interleaved=kind == "llama")
    add_tokenizer(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def add_tensors(writer, model, *, is_interleaved):
    """Under the names that the package itself gives Hugging Face's."""
    sizes = model.architecture
    kind = gguf.MODEL_ARCH.GPT2 if sizes.family == "gpt2" else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(kind, sizes.layers)
    heads = {"self_attn.q_proj": sizes.heads, "self_attn.k_proj": sizes.kv_heads}
    for name, tensor in model.params.items():
        part = ".".join(name.split(".")[-3:-1])
        if is_interleaved and part in heads:
            tensor = interleaved(tensor, heads[part])
        if ".c_" in name and name.endswith(".weight"):
            tensor = np.ascontiguousarray(tensor.T)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor)
        if name == "transformer.wte.weight":
            writer.add_tensor("output.weight", tensor)


def add_tokenizer(writer):
    tokens = ["<end>", *(chr(97 + index) for index in range(26)), "Ġ", "th", "the", "Ġthe"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["t h", "th e", "Ġ the"])
    writer.add_eos_token_id(0)


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gpt2"])
def test_it_is_the_model_it_was_made_of(tmp_path, name):
    expected = write(tmp_path / "model.gguf", name)
    found = read(tmp_path / "model.gguf")
    assert found.architecture == expected.architecture
    assert set(found.params) == set(expected.params)
    for key, tensor in expected.params.items():
        np.testing.assert_array_equal(found.params[key], tensor, key)
    assert found.eos == 0


def test_its_tokens_are_text_again(tmp_path):
    pytest.importorskip("tokenizers", reason="tokens become text by the package tokenizers")
    write(tmp_path / "model.gguf", "llama")
    tokenizer = read(tmp_path / "model.gguf").tokenizer
    assert tokenizer.size == 31
    assert tokenizer.encode("the the") == [29, 30]
    assert tokenizer.decode([29, 30, 0]) == "the the<end>"


def test_scaled_positions_are_found_by_their_divisors():
    from spear_jax.update.readers.gguf_files import _scaling

    divisors = np.array([1, 3, 32], np.float32)
    assert _scaling(np.ones(3, np.float32)) is None
    assert _scaling(divisors) == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_a_damaged_file_is_one_sentence(tmp_path):
    from spear_jax.errors import UpdateError

    write(tmp_path / "model.gguf", "llama")
    whole = (tmp_path / "model.gguf").read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 100):
        (tmp_path / "model.gguf").write_bytes(whole[:length])
        with pytest.raises(UpdateError, match=r"model.gguf"):
            read(tmp_path / "model.gguf")
    with pytest.raises(UpdateError, match="does not exist"):
        read(tmp_path / "other.gguf")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    from spear_jax.errors import UpdateError

    write(tmp_path / "model.gguf", "llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UpdateError, match=r"pip install 'spear-jax\[text\]'"):
        read(tmp_path / "model.gguf")
