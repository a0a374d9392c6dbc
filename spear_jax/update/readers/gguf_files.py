"""GGUF files of language models, as llama.cpp keeps them: tensors under Hugging Face's names and their configuration.

Quantised tensors are dequantised, which gives the numbers that inference on the file computes with. Needs the optional
package ``gguf``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from spear_jax.errors import SpearError, UpdateError
from spear_jax.language.tokens import Tokenizer, check_size, tokenizer_of_merges
from spear_jax.tensor_files import existing_file

SUFFIX = ".gguf"
_LLAMA_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_LLAMA = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GPT2_BLOCK = {
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
    "attn_norm": "ln_1",
    "ffn_norm": "ln_2",
}
_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
# Divisors of the rotary frequencies where Llama 3 scales them; its other numbers are the same in all its models.
_ROPE_DIVISORS = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_ORDINARY, _SPECIAL = "gpt2", (3, 4)  # the byte-pair tokenizer; types of control and user-defined tokens


class GgufFile(NamedTuple):
    """What a GGUF file holds of a model.

    Attributes:
        config: as the ``config.json`` of the same model has it.
        tensors: float32 by Hugging Face's names, q and k for rotary positions whose halves are paired.
        tokenizer: None where it is not byte-pair encoding, or without the package ``tokenizers``.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    tokenizer: Tokenizer | None


def read_gguf(path: Path) -> GgufFile:
    """The language model in a GGUF file.

    Raises:
        UpdateError: the package is missing, the file is damaged, another kind of model.
    """
    package = _package()
    try:
        reader = package.GGUFReader(existing_file(path))
        fields = {field.name: field.contents() for field in reader.fields.values()}
        kind = fields.get("general.architecture")
        if kind not in ("llama", "qwen2", "gpt2"):
            raise UpdateError(f"{path.name} holds a model of type {kind!r}; expected llama, qwen2 or gpt2.")
        stored = {
            tensor.name: package.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in reader.tensors
        }
        config = _config(kind, fields, stored)
        tensors = _gpt2(stored) if kind == "gpt2" else _llama(stored, config, is_interleaved=kind == "llama")
        return GgufFile(config, tensors, _tokenizer(fields, path.name, config["vocab_size"]))
    except SpearError:
        raise
    except KeyError as error:
        raise UpdateError(f"{path.name} has no entry {error.args[0]!r}; convert the model to GGUF again.") from error
    # The package reports what is wrong with a file by whatever error comes first.
    except (ValueError, IndexError, TypeError, OverflowError, NotImplementedError, MemoryError, OSError) as error:
        raise UpdateError(f"{path.name} is not a readable GGUF file (truncated or damaged?): {error}.") from error


def _package() -> ModuleType:
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise UpdateError("reading a .gguf file needs gguf: pip install 'spear-jax[text]'.") from error


def _config(kind: str, fields: dict[str, Any], stored: dict[str, np.ndarray]) -> dict[str, Any]:
    """The entries of a ``config.json`` that `architecture.from_config` reads."""
    entry, embedding = lambda name: fields[f"{kind}.{name}"], stored["token_embd.weight"]
    common = {
        "model_type": kind,
        "vocab_size": len(embedding),
        # Converters write the output layer of some tied models out, as a copy.
        "tie_word_embeddings": np.array_equal(stored.get("output.weight", embedding), embedding),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
    }
    if kind == "gpt2":
        return common | {
            "n_embd": entry("embedding_length"),
            "n_head": entry("attention.head_count"),
            "n_layer": entry("block_count"),
            "n_inner": entry("feed_forward_length"),
            "n_positions": entry("context_length"),
            "layer_norm_epsilon": _shortest(entry("attention.layer_norm_epsilon")),
        }
    heads, width = entry("attention.head_count"), entry("embedding_length")
    scaling = fields.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        raise UpdateError(f"the rotary positions are scaled by {scaling!r}; expected none, or as in Llama 3.")
    return common | {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get(f"{kind}.attention.head_count_kv", heads),
        "head_dim": fields.get(f"{kind}.attention.key_length", width // heads),
        "num_hidden_layers": entry("block_count"),
        "intermediate_size": entry("feed_forward_length"),
        "max_position_embeddings": entry("context_length"),
        "rms_norm_eps": _shortest(entry("attention.layer_norm_rms_epsilon")),
        "rope_theta": fields.get(f"{kind}.rope.freq_base", 1e4),
        "rope_scaling": _scaling(stored.get(_ROPE_DIVISORS)),
    }


def _scaling(divisors: np.ndarray | None) -> dict[str, Any] | None:
    """Llama 3's scaling, of which the file keeps by what each frequency is divided."""
    if divisors is None or np.all(divisors == 1):
        return None
    return {"rope_type": "llama3", "factor": float(divisors.max())} | _LLAMA3


def _llama(stored: dict[str, np.ndarray], config: dict[str, Any], *, is_interleaved: bool) -> dict[str, np.ndarray]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for name, tensor in stored.items():
        stem = name.split(".")
        if is_interleaved and stem[0] == "blk" and stem[2] in heads:
            tensor = _halves(tensor, heads[stem[2]])
        if name != _ROPE_DIVISORS:
            tensors[_name(name, _LLAMA, "model.layers", _LLAMA_BLOCK)] = tensor
    return tensors


def _halves(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head in which neighbours are turned as pairs, sorted so that the halves are."""
    return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _gpt2(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """GPT-2's tensors, the kernels as (in, out) again."""
    tensors = {_name(name, _GPT2, "transformer.h", _GPT2_BLOCK): tensor for name, tensor in stored.items()}
    is_kernel = lambda name: ".c_" in name and name.endswith(".weight")
    return {name: np.ascontiguousarray(t.T) if is_kernel(name) else t for name, t in tensors.items()}


def _name(name: str, whole: dict[str, str], blocks: str, block: dict[str, str]) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".")
        return f"{blocks}.{layer}.{block[part]}.{leaf}" if part in block else name
    return f"{whole[stem]}.{leaf}" if stem in whole else name


def _tokenizer(fields: dict[str, Any], file_name: str, rows: int) -> Tokenizer | None:
    if fields.get("tokenizer.ggml.model") != _ORDINARY or "tokenizer.ggml.merges" not in fields:
        return None
    tokens = fields["tokenizer.ggml.tokens"]
    types = fields.get("tokenizer.ggml.token_type", [])
    special = [token for token, kind in zip(tokens, types, strict=False) if kind in _SPECIAL]
    rule = fields.get("tokenizer.ggml.pre", "default")
    found = tokenizer_of_merges(tokens, fields["tokenizer.ggml.merges"], rule, special)
    if found is not None:
        check_size(found, rows, file_name)
    return found


def _shortest(value: float) -> float:
    """The number that was meant by one that was kept in float32."""
    return float(str(np.float32(value)))
