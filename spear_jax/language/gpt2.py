"""Parts of a block of GPT-2: LayerNorm, learned positions, one kernel for query, key and value (Radford et al. 2019).

Each function takes the architecture, the checkpoint's tensors by name, and a layer's number where it belongs to one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params, linear

# What reads each input of a block, by the field's short names: one module each.
MODULES = {"qkv": ("attn.c_attn",), "o": ("attn.c_proj",), "up": ("mlp.c_fc",), "down": ("mlp.c_proj",)}
IS_IN_OUT = True
# The norm before the attention, as the names of its tensors begin within a block.
ATTENTION_NORM = "ln_1."


def block(architecture: Architecture, layer: int) -> str:
    """What the names of a block's tensors begin with."""
    return f"{architecture.prefix}h.{layer}."


def embedding_name(architecture: Architecture) -> str:
    """Name of the token embedding, (V, d)."""
    return f"{architecture.prefix}wte.weight"


def embed(architecture: Architecture, params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """State (..., d) that enters the first block."""
    places = jnp.asarray(params[f"{architecture.prefix}wpe.weight"])[positions]
    return jnp.asarray(params[embedding_name(architecture)])[tokens] + places


def attention_input(architecture: Architecture, params: Params, layer: int, state: jax.Array) -> jax.Array:
    """What queries, keys and values are computed from, (..., d)."""
    return _norm(architecture, params, f"{block(architecture, layer)}ln_1", state)


def heads(
    architecture: Architecture, params: Params, layer: int, inputs: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values, each (..., heads, h)."""
    (name,) = MODULES["qkv"]
    flat = linear(params, block(architecture, layer) + name, inputs, is_in_out=IS_IN_OUT)
    split = lambda part: part.reshape(*part.shape[:-1], architecture.heads, architecture.head_width)
    query, key, value = (split(part) for part in jnp.split(flat, 3, axis=-1))
    return query, key, value


def rotate(architecture: Architecture, vectors: jax.Array, positions: jax.Array) -> jax.Array:
    """Queries or keys as they are: positions came in with the embedding."""
    return vectors


def mlp_input(architecture: Architecture, params: Params, layer: int, state: jax.Array) -> jax.Array:
    """What the feed-forward layers are computed from, (..., d)."""
    return _norm(architecture, params, f"{block(architecture, layer)}ln_2", state)


def mlp_hidden(architecture: Architecture, params: Params, layer: int, inputs: jax.Array) -> jax.Array:
    """What the last of the feed-forward layers reads, (..., hidden)."""
    (name,) = MODULES["up"]
    hidden = linear(params, block(architecture, layer) + name, inputs, is_in_out=IS_IN_OUT)
    return jax.nn.gelu(hidden, approximate=True)


def final_norm(architecture: Architecture, params: Params, state: jax.Array) -> jax.Array:
    """What the output layer reads, (..., d)."""
    return _norm(architecture, params, f"{architecture.prefix}ln_f", state)


def _norm(architecture: Architecture, params: Params, name: str, state: jax.Array) -> jax.Array:
    centred = state - jnp.mean(state, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + architecture.epsilon)
    weight, bias = (jnp.broadcast_to(jnp.asarray(params[f"{name}.{part}"]), state.shape) for part in ("weight", "bias"))
    return weight * (centred * scale) + bias
