"""The tensors that a decoder consists of, by their names in its checkpoint, and their shapes."""

from __future__ import annotations

from spear_jax.language.architecture import Architecture

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(architecture: Architecture) -> Shapes:
    """Shapes of the tensors that a decoder cannot do without, by their names; biases of Llama's type are optional."""
    parts = _gpt2_shapes(architecture) if architecture.family == "gpt2" else _llama_shapes(architecture)
    shapes = {architecture.prefix + name: shape for name, shape in parts.items()}
    if architecture.classes:
        return shapes | {"score.weight": (architecture.classes, architecture.width)}
    return (
        shapes if architecture.is_tied else shapes | {"lm_head.weight": (architecture.vocabulary, architecture.width)}
    )


def _llama_shapes(architecture: Architecture) -> Shapes:
    width, hidden = architecture.width, architecture.hidden
    queries, keys = (count * architecture.head_width for count in (architecture.heads, architecture.kv_heads))
    block = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
    }
    shapes: Shapes = {"embed_tokens.weight": (architecture.vocabulary, width)}
    for layer in range(architecture.layers):
        shapes |= {f"layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"norm.weight": (width,)}


def _gpt2_shapes(architecture: Architecture) -> Shapes:
    width, hidden = architecture.width, architecture.hidden
    block: Shapes = {}
    for name, (inputs, outputs) in {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, hidden),
        "mlp.c_proj": (hidden, width),
    }.items():
        block |= {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}
    block |= {f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    shapes: Shapes = {
        "wte.weight": (architecture.vocabulary, width),
        "wpe.weight": (architecture.positions, width),
    }
    for layer in range(architecture.layers):
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | {f"ln_f.{part}": (width,) for part in ("weight", "bias")}
