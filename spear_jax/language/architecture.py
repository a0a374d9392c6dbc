"""What a checkpoint's ``config.json`` says of a decoder: its family and sizes, or in one sentence why it is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spear_jax.errors import SpearError

# Model types by family: the families differ in their tensors, the types only in what their config.json says.
FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "llama", "smollm2": "llama", "gpt2": "gpt2"}
# Beyond these no file holds a model, and counting up to them would never end.
MOST_LAYERS, MOST = 10_000, 2**31
ENCODERS = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Family and sizes of a decoder-only language model.

    Attributes:
        family: ``"llama"`` (RMSNorm, rotary positions, gated feed-forward layers; Llama, Mistral, Qwen2, SmolLM2) or
            ``"gpt2"`` (LayerNorm, learned positions).
        layers: number of blocks.
        width: d, length of a token's state.
        heads: number of query heads.
        kv_heads: number of key and value heads, each shared by ``heads / kv_heads`` query heads.
        head_width: length of one head's query, key or value.
        hidden: width of the feed-forward layers.
        vocabulary: V, number of tokens that the embedding has.
        positions: longest sequence that the model takes; where attention reaches back over a sliding window only, its
            length, up to which there is no difference.
        epsilon: added to the variance by the norms.
        rope_base: base of the rotary positions' wavelengths.
        rope_scaling: ``(factor, low_frequency_factor, high_frequency_factor, original_positions)`` of Llama 3's scaling
            of long wavelengths; None without.
        is_tied: whether the output layer is the embedding.
        classes: outputs of a classification head; 0 for a model that predicts the next token.
        prefix: what stands before the names of the model's own tensors, such as ``"model."``.
    """

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocabulary: int
    positions: int
    epsilon: float = 1e-5
    rope_base: float = 1e4
    rope_scaling: tuple[float, float, float, float] | None = None
    is_tied: bool = True
    classes: int = 0
    prefix: str = ""


def from_config(config: Mapping[str, Any], names: Mapping[str, Any] | None = None) -> Architecture:
    """The architecture that a ``config.json`` describes.

    Args:
        config: of the checkpoint, parsed.
        names: the checkpoint's tensors by name, of which the prefix and the classification head are read off.

    Raises:
        SpearError: a model type that is no decoder known here, an entry that is missing, or one that asks for something
            not supported, each in one sentence.
    """
    kind = config.get("model_type")
    if kind in ENCODERS:
        raise SpearError(
            f"model_type is {kind!r}, an encoder: each of its states depends on the whole sentence; expected a decoder "
            "(llama, mistral, qwen2 or gpt2)."
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise SpearError(f"model_type is {kind!r}; expected one of {', '.join(sorted(FAMILIES))}.")
    _require_plain_weights(config)
    try:
        found = _gpt2(config) if FAMILIES[kind] == "gpt2" else _llama(config)
    except KeyError as error:
        missing = error.args[0]
        raise SpearError(f"config.json of a {kind} model has no entry {missing!r}; take the whole file.") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, SpearError):
            raise
        raise SpearError(f"config.json of a {kind} model cannot be used ({error}); take the file as saved.") from error
    _check_sizes(found)
    return found if names is None else _fitted(found, names)


def _require_plain_weights(config: Mapping[str, Any]) -> None:
    """Refuse weights that stand for others: what the layers computed with is not in the file."""
    packed = config.get("quantization_config")
    if not packed:
        return
    packed = packed if isinstance(packed, Mapping) else {}
    bits = next((bits for bits in (4, 8) if packed.get(f"load_in_{bits}bit") or packed.get("bits") == bits), None)
    kind = f"{bits}-bit" if bits else f"quantised ({packed.get('quant_method', 'no method is named')})"
    raise SpearError(f"the sent model is {kind}; give the dequantised weights the clients computed with.")


def _check_sizes(found: Architecture) -> None:
    sizes = ("layers", "width", "heads", "kv_heads", "head_width", "hidden", "vocabulary", "positions")
    for name in sizes:
        size, most = getattr(found, name), MOST_LAYERS if name == "layers" else MOST
        if type(size) is not int or not 1 <= size <= most:
            raise SpearError(f"config.json makes {name} {size!r}; expected a whole number from 1 to {most}.")
    if found.heads % found.kv_heads:
        raise SpearError(
            f"config.json has {found.heads} attention heads for {found.kv_heads} of keys and values; "
            "expected a multiple of these."
        )
    if found.family == "gpt2" and found.heads * found.head_width != found.width:
        raise SpearError(f"n_embd={found.width} is no multiple of n_head={found.heads}; take config.json as saved.")
    if found.family == "llama" and found.head_width % 2:
        raise SpearError(f"a head is {found.head_width} wide; expected an even number: rotary positions turn pairs.")


def _llama(config: Mapping[str, Any]) -> Architecture:
    if config.get("hidden_act", "silu") != "silu":
        raise SpearError(f"hidden_act is {config['hidden_act']!r}; expected 'silu', as models of the Llama type have.")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    return Architecture(
        family="llama",
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or width // heads,
        hidden=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        positions=_positions(config),
        epsilon=config.get("rms_norm_eps", 1e-6),
        rope_base=float(rope.get("rope_theta", config.get("rope_theta", 1e4))),
        rope_scaling=_scaling(config.get("rope_scaling") or rope),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        prefix="model.",
    )


def _positions(config: Mapping[str, Any]) -> int:
    """Longest sequence in which every token sees all before it."""
    positions, window = config.get("max_position_embeddings", 2048), config.get("sliding_window")
    # Qwen2's files name a window that only use_sliding_window turns on; Mistral's have no such entry.
    is_on = window is not None and config.get("use_sliding_window", config["model_type"] != "qwen2")
    return min(positions, window) if is_on else positions


def _scaling(scaling: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise SpearError(f"the rotary positions are scaled by {kind!r}; expected none, or 'llama3'.")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, original = (float(scaling[name]) for name in names)
    return factor, low, high, original


def _gpt2(config: Mapping[str, Any]) -> Architecture:
    activation = config.get("activation_function", "gelu_new")
    if activation not in ("gelu_new", "gelu_pytorch_tanh"):
        raise SpearError(f"activation_function is {activation!r}; expected 'gelu_new', as GPT-2 has.")
    for option, plain in (
        ("scale_attn_by_inverse_layer_idx", False),
        ("scale_attn_weights", True),
        ("add_cross_attention", False),
    ):
        if config.get(option, plain) != plain:
            raise SpearError(f"config.json sets {option} to {config[option]}; expected GPT-2's plain attention.")
    width, heads = config["n_embd"], config["n_head"]
    return Architecture(
        family="gpt2",
        layers=config["n_layer"],
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        hidden=config.get("n_inner") or 4 * width,
        vocabulary=config["vocab_size"],
        positions=config["n_positions"],
        epsilon=config.get("layer_norm_epsilon", 1e-5),
        is_tied=bool(config.get("tie_word_embeddings", True)),
        prefix="transformer.",
    )


def _fitted(architecture: Architecture, names: Mapping[str, Any]) -> Architecture:
    """The architecture with what only the tensors tell: files come with and without the prefix."""
    is_bare = not any(name.startswith(architecture.prefix) for name in names)
    score = names.get("score.weight")
    return dataclasses.replace(
        architecture,
        prefix="" if is_bare else architecture.prefix,
        classes=0 if score is None else int(score.shape[0]),
    )
