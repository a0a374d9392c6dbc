"""A decoder's forward pass, as a whole and token by token: the same arithmetic for the client and for who audits it.

The attack takes the pass apart: what each linear layer reads is a candidate for the span of its gradient. So a block is
a few functions, and the whole pass is made of them.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from spear_jax.language import gpt2, llama
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params, linear, product

HIGHEST = jax.lax.Precision.HIGHEST

# Inputs of a block's linear layers in the order in which they are computed; see each family's MODULES.
ROLES = ("qkv", "o", "up", "down")


def family(architecture: Architecture) -> ModuleType:
    """The module with the parts of the model's blocks."""
    return gpt2 if architecture.family == "gpt2" else llama


def module_names(architecture: Architecture, layer: int, role: str) -> tuple[str, ...]:
    """Names of the linear layers that read one input of a block."""
    parts = family(architecture)
    return tuple(parts.block(architecture, layer) + name for name in parts.MODULES[role])


def block_params(architecture: Architecture, params: Params, layer: int) -> Params:
    """The tensors of one block under the names of block 0: a program that is compiled for it serves every block."""
    parts = family(architecture)
    begin, first = parts.block(architecture, layer), parts.block(architecture, 0)
    return {first + name.removeprefix(begin): params[name] for name in params if name.startswith(begin)}


def embedding_params(architecture: Architecture, params: Params) -> Params:
    """The embeddings of tokens and, where these are learned, of positions."""
    names = (family(architecture).embedding_name(architecture), f"{architecture.prefix}wpe.weight")
    return {name: params[name] for name in names if name in params}


def top_params(architecture: Architecture, params: Params) -> Params:
    """Final norm and output layer."""
    parts = (output_name(architecture), f"{architecture.prefix}norm.", f"{architecture.prefix}ln_f.")
    return {name: tensor for name, tensor in params.items() if name.startswith(parts)}


def first_params(architecture: Architecture, params: Params) -> Params:
    """What `first_inputs` is computed from: the embeddings, and the norm before the first attention."""
    norm = family(architecture).block(architecture, 0) + family(architecture).ATTENTION_NORM
    of_norm = {name: tensor for name, tensor in params.items() if name.startswith(norm)}
    return {**embedding_params(architecture, params), **of_norm}


def first_inputs(architecture: Architecture, params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """What the first block's queries, keys and values are computed from, (..., d), of tokens (...) at positions."""
    state = family(architecture).embed(architecture, params, tokens, positions)
    return family(architecture).attention_input(architecture, params, 0, state)


class Attended(NamedTuple):
    """The first half of a block, of some tokens.

    Attributes:
        inputs: (..., d) what queries, keys and values are computed from.
        mixed: (..., heads h) what the attention's output layer reads.
        key: (..., kv_heads, h) rotated keys of these tokens.
        value: (..., kv_heads, h).
    """

    inputs: jax.Array
    mixed: jax.Array
    key: jax.Array
    value: jax.Array


class Past(NamedTuple):
    """What tokens attend to besides themselves, in one block.

    Attributes:
        key: (..., p, kv_heads, h) rotated keys.
        value: (..., p, kv_heads, h).
        is_there: (..., p) bool, False where a place is empty.
    """

    key: jax.Array
    value: jax.Array
    is_there: jax.Array


def attend_after(architecture: Architecture, params: Params, layer: int, state: jax.Array, past: Past) -> Attended:
    """The attention of single tokens, each after one of several pasts and none to another.

    Args:
        architecture: of the model.
        params: its tensors by name.
        layer: number of the block.
        state: (l, u, d) that enters the block: u tokens after each of l pasts.
        past: the pasts, (l, p, ...).
    """
    parts = family(architecture)
    positions = jnp.broadcast_to(jnp.sum(past.is_there, axis=1)[:, None], state.shape[:2])
    inputs = parts.attention_input(architecture, params, layer, state)
    query, key, value = parts.heads(architecture, params, layer, inputs)
    query, key = (parts.rotate(architecture, vectors, positions) for vectors in (query, key))
    to_past = _scores(query, past.key)
    to_past = jnp.where(past.is_there[:, None, None, None], to_past, -jnp.inf)
    to_itself = jnp.einsum("lugnh,lugh->lgnu", _grouped(query, key.shape[2]), key, precision=HIGHEST)
    scale = jnp.sqrt(architecture.head_width).astype(query.dtype)
    shares = jax.nn.softmax(jnp.concatenate([to_past, to_itself[..., None] / scale], axis=-1), axis=-1)
    mixed = jnp.einsum("lgnup,lpgh->lugnh", shares[..., :-1], past.value, precision=HIGHEST)
    mixed = mixed + jnp.einsum("lgnu,lugh->lugnh", shares[..., -1], value, precision=HIGHEST)
    return Attended(inputs, mixed.reshape(*state.shape[:2], -1), key, value)


def attend_to_earlier(
    architecture: Architecture, params: Params, layer: int, state: jax.Array, is_token: jax.Array
) -> Attended:
    """The attention of whole sequences, each token to those before it and to itself.

    Args:
        architecture: of the model.
        params: its tensors by name.
        layer: number of the block.
        state: (B, P, d) that enters the block.
        is_token: (B, P) bool, False for padding, which must stand at the end.
    """
    parts, length = family(architecture), state.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), state.shape[:2])
    inputs = parts.attention_input(architecture, params, layer, state)
    query, key, value = parts.heads(architecture, params, layer, inputs)
    query, key = (parts.rotate(architecture, vectors, positions) for vectors in (query, key))
    is_earlier = jnp.tril(jnp.ones((length, length), bool))[None]
    itself = jnp.eye(length, dtype=bool)[None]  # padding sees itself: no softmax over nothing
    mixed = mix(query, key, value, (is_earlier & is_token[:, None, :]) | itself)
    return Attended(inputs, mixed, key, value)


def mix(query: jax.Array, keys: jax.Array, values: jax.Array, is_seen: jax.Array) -> jax.Array:
    """Softmax attention, keys and values shared by groups of query heads.

    Args:
        query: (B, Q, heads, h).
        keys: (B, K, kv_heads, h).
        values: (B, K, kv_heads, h).
        is_seen: (B, Q, K) bool.

    Returns:
        (B, Q, heads h).
    """
    shares = jax.nn.softmax(jnp.where(is_seen[:, None, None], _scores(query, keys), -jnp.inf), axis=-1)
    mixed = jnp.einsum("bgnqk,bkgh->bqgnh", shares, values, precision=HIGHEST)
    return mixed.reshape(*query.shape[:2], -1)


def _scores(query: jax.Array, keys: jax.Array) -> jax.Array:
    """(B, kv_heads, n, Q, K) of queries (B, Q, kv_heads n, h) and keys (B, K, kv_heads, h)."""
    scale = jnp.sqrt(query.shape[-1]).astype(query.dtype)
    return jnp.einsum("bqgnh,bkgh->bgnqk", _grouped(query, keys.shape[2]), keys, precision=HIGHEST) / scale


def _grouped(query: jax.Array, groups: int) -> jax.Array:
    """Query heads (..., heads, h) by the key head that they share, (..., kv_heads, n, h)."""
    return query.reshape(*query.shape[:-2], groups, -1, query.shape[-1])


def after_attention(
    architecture: Architecture, params: Params, layer: int, state: jax.Array, mixed: jax.Array
) -> jax.Array:
    """The state (..., d) with what the attention's output layer adds to it."""
    (name,) = module_names(architecture, layer, "o")
    return state + linear(params, name, mixed, is_in_out=family(architecture).IS_IN_OUT)


def mlp_input(architecture: Architecture, params: Params, layer: int, state: jax.Array) -> jax.Array:
    """What the feed-forward layers of a block are computed from, (..., d)."""
    return family(architecture).mlp_input(architecture, params, layer, state)


def mlp_hidden(architecture: Architecture, params: Params, layer: int, inputs: jax.Array) -> jax.Array:
    """What the last feed-forward layer of a block reads, (..., hidden)."""
    return family(architecture).mlp_hidden(architecture, params, layer, inputs)


def after_mlp(architecture: Architecture, params: Params, layer: int, state: jax.Array, hidden: jax.Array) -> jax.Array:
    """The state (..., d) with what the feed-forward layers add to it."""
    (name,) = module_names(architecture, layer, "down")
    return state + linear(params, name, hidden, is_in_out=family(architecture).IS_IN_OUT)


def behind_attention(
    architecture: Architecture, params: Params, layer: int, state: jax.Array, attended: Attended
) -> tuple[dict[str, jax.Array], jax.Array]:
    """What each linear layer of a block reads, by its role, and the state (..., d) behind the block.

    Args:
        architecture: of the model.
        params: its tensors by name.
        layer: number of the block.
        state: (..., d) that enters the block.
        attended: its attention.
    """
    after = after_attention(architecture, params, layer, state, attended.mixed)
    inputs = mlp_input(architecture, params, layer, after)
    hidden = mlp_hidden(architecture, params, layer, inputs)
    seen = {"qkv": attended.inputs, "o": attended.mixed, "up": inputs, "down": hidden}
    return seen, after_mlp(architecture, params, layer, after, hidden)


def before_last_layer(
    architecture: Architecture, params: Params, layer: int, state: jax.Array, is_token: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The states (B, P, d) behind one block's attention, and what its last linear layer reads, (B, P, hidden)."""
    mixed = attend_to_earlier(architecture, params, layer, state, is_token).mixed
    state = after_attention(architecture, params, layer, state, mixed)
    return state, mlp_hidden(architecture, params, layer, mlp_input(architecture, params, layer, state))


def after_block(
    architecture: Architecture, params: Params, layer: int, state: jax.Array, is_token: jax.Array
) -> jax.Array:
    """The states (B, P, d) of whole sequences behind one block."""
    state, hidden = before_last_layer(architecture, params, layer, state, is_token)
    return after_mlp(architecture, params, layer, state, hidden)


def final_states(architecture: Architecture, params: Params, tokens: jax.Array, is_token: jax.Array) -> jax.Array:
    """What the output layer reads of whole sequences.

    Args:
        architecture: of the model.
        params: its tensors by name.
        tokens: (B, P) int.
        is_token: (B, P) bool, False for padding, which must stand at the end.

    Returns:
        (B, P, d).
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    state = family(architecture).embed(architecture, params, tokens, positions)
    for layer in range(architecture.layers):
        state = after_block(architecture, params, layer, state, is_token)
    return family(architecture).final_norm(architecture, params, state)


def output_name(architecture: Architecture) -> str:
    """Name of the output layer's kernel (V or classes, d): the embedding's where the model has them tied."""
    if architecture.classes:
        return "score.weight"
    return family(architecture).embedding_name(architecture) if architecture.is_tied else "lm_head.weight"


def logits(architecture: Architecture, params: Params, states: jax.Array) -> jax.Array:
    """Outputs (..., V or classes) of what the output layer reads, (..., d)."""
    return product(states, jnp.asarray(params[output_name(architecture)]).T)
