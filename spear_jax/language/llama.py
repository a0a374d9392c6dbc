"""Parts of a block of the Llama type: RMSNorm, rotary positions, shared keys, gated feed-forward (Touvron et al. 2023).

Each function takes the architecture, the checkpoint's tensors by name, and a layer's number where it belongs to one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params, linear
from spear_jax.types import Array

# What reads each input of a block, by the field's short names: modules that share an input stand together.
MODULES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
IS_IN_OUT = False
# The norm before the attention, as the names of its tensors begin within a block.
ATTENTION_NORM = "input_layernorm."


def block(architecture: Architecture, layer: int) -> str:
    """What the names of a block's tensors begin with."""
    return f"{architecture.prefix}layers.{layer}."


def embedding_name(architecture: Architecture) -> str:
    """Name of the token embedding, (V, d)."""
    return f"{architecture.prefix}embed_tokens.weight"


def embed(architecture: Architecture, params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """State (..., d) that enters the first block; positions come in later, as rotations."""
    return jnp.asarray(params[embedding_name(architecture)])[tokens]


def attention_input(architecture: Architecture, params: Params, layer: int, state: jax.Array) -> jax.Array:
    """What queries, keys and values are computed from, (..., d)."""
    return _norm(architecture, params[f"{block(architecture, layer)}input_layernorm.weight"], state)


def heads(
    architecture: Architecture, params: Params, layer: int, inputs: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries (..., heads, h), keys and values (..., kv_heads, h) before their rotation."""
    split = lambda flat: flat.reshape(*flat.shape[:-1], -1, architecture.head_width)
    begin = block(architecture, layer)
    query, key, value = (split(linear(params, begin + name, inputs)) for name in MODULES["qkv"])
    return query, key, value


def rotate(architecture: Architecture, vectors: jax.Array, positions: jax.Array) -> jax.Array:
    """Queries or keys (..., heads, h) turned by their positions (...): Su et al. 2021, halves paired."""
    frequencies = jnp.asarray(_frequencies(architecture), vectors.dtype)
    angles = positions[..., None, None].astype(vectors.dtype) * jnp.broadcast_to(
        frequencies, (*positions.shape, 1, len(frequencies))
    )
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(vectors, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def mlp_input(architecture: Architecture, params: Params, layer: int, state: jax.Array) -> jax.Array:
    """What the feed-forward layers are computed from, (..., d)."""
    return _norm(architecture, params[f"{block(architecture, layer)}post_attention_layernorm.weight"], state)


def mlp_hidden(architecture: Architecture, params: Params, layer: int, inputs: jax.Array) -> jax.Array:
    """What the last of the feed-forward layers reads, (..., hidden)."""
    gate, up = (linear(params, block(architecture, layer) + name, inputs) for name in MODULES["up"])
    return jax.nn.silu(gate) * up


def final_norm(architecture: Architecture, params: Params, state: jax.Array) -> jax.Array:
    """What the output layer reads, (..., d)."""
    return _norm(architecture, params[f"{architecture.prefix}norm.weight"], state)


def _norm(architecture: Architecture, weight: Array, state: jax.Array) -> jax.Array:
    scale = jax.lax.rsqrt(jnp.mean(state**2, axis=-1, keepdims=True) + architecture.epsilon)
    return jnp.broadcast_to(jnp.asarray(weight), state.shape) * (state * scale)


def _frequencies(architecture: Architecture) -> np.ndarray:
    """(h / 2,) angle by which each pair turns from one position to the next."""
    width = architecture.head_width
    frequencies = architecture.rope_base ** -(np.arange(0, width, 2) / width)
    if architecture.rope_scaling is None:
        return frequencies
    factor, low, high, original = architecture.rope_scaling
    turns = original * frequencies / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)  # 1: short wavelengths, which stay as they are
    return frequencies * (share + (1 - share) / factor)
