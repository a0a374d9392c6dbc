"""A loss's gradients block by block: one program serves every block, and one block's gradients exist at a time.

Automatic differentiation of the whole pass is one program as long as the model is deep; this is the same derivative,
taken through one block after another from the top, each computed again from the state that entered it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import LORA_SCALE, Params
from spear_jax.language.loss import cross_entropy
from spear_jax.language.transformer import (
    after_block,
    block_params,
    embedding_params,
    family,
    logits,
    top_params,
)


class Batch(NamedTuple):
    """Sequences and what the loss makes of them, see `weighted_loss`.

    Attributes:
        tokens: (B, P) int, padding at the end.
        targets: (B, P) int.
        weights: (B, P) floating.
        is_token: (B, P) bool.
    """

    tokens: jax.Array
    targets: jax.Array
    weights: jax.Array
    is_token: jax.Array


def states(architecture: Architecture, params: Params, tokens: jax.Array, is_token: jax.Array) -> list[jax.Array]:
    """What enters each block, and what leaves the last one, each (B, P, d)."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    found = [_embedded(architecture, outside_blocks(architecture, params), tokens, positions)]
    for layer in range(architecture.layers):
        found.append(_forward(architecture, block_params(architecture, params, layer), found[-1], is_token))
    return found


def gradients(architecture: Architecture, params: Params, batch: Batch) -> Iterator[tuple[str, jax.Array]]:
    """Gradient of `weighted_loss` by each tensor, from the top down; an embedding that is tied comes last, whole.

    Args:
        architecture: of the model.
        params: its tensors by name.
        batch: sequences, targets, weights.
    """
    ends = outside_blocks(architecture, params)
    entered = states(architecture, params, batch.tokens, batch.is_token)
    by_top, flowing = through_top(architecture, ends, entered.pop(), batch)
    shared = family(architecture).embedding_name(architecture)
    at_top = by_top.pop(shared, None)
    yield from by_top.items()
    for layer in reversed(range(architecture.layers)):
        block = block_params(architecture, params, layer)
        found, flowing = _backward(architecture, block, entered.pop(), batch.is_token, flowing)
        first, begin = (family(architecture).block(architecture, place) for place in (0, layer))
        yield from ((begin + name.removeprefix(first), gradient) for name, gradient in found.items())
    for name, gradient in _through_embedding(architecture, ends, batch.tokens, flowing).items():
        yield name, gradient + at_top if name == shared and at_top is not None else gradient


def outside_blocks(architecture: Architecture, params: Params) -> Params:
    """The tensors that belong to no block."""
    inner = family(architecture).block(architecture, 0).removesuffix("0.")
    return {name: tensor for name, tensor in params.items() if not name.startswith(inner)}


@partial(jax.jit, static_argnums=0)
def _embedded(architecture: Architecture, ends: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    return family(architecture).embed(architecture, ends, tokens, positions)


@partial(jax.jit, static_argnums=0)
def _forward(architecture: Architecture, block: Params, state: jax.Array, is_token: jax.Array) -> jax.Array:
    return after_block(architecture, block, 0, state, is_token)


@partial(jax.jit, static_argnums=0)
def _backward(
    architecture: Architecture, block: Params, state: jax.Array, is_token: jax.Array, flowing: jax.Array
) -> tuple[Params, jax.Array]:
    """Gradients of a block's tensors and of the state that entered it, from that of the state behind it."""
    fixed = {name: tensor for name, tensor in block.items() if name.endswith(LORA_SCALE)}
    moving = {name: tensor for name, tensor in block.items() if name not in fixed}
    through = lambda moving, state: after_block(architecture, moving | fixed, 0, state, is_token)
    return jax.vjp(through, moving, state)[1](flowing)


@partial(jax.jit, static_argnums=0)
def through_top(
    architecture: Architecture, ends: Params, state: jax.Array, batch: Batch
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Gradients of final norm and output layer, and of the state behind the last block."""

    def loss(used: Params, state: jax.Array) -> jax.Array:
        scores = logits(architecture, used, family(architecture).final_norm(architecture, used, state))
        return cross_entropy(scores, batch.targets, batch.weights)

    return jax.grad(loss, argnums=(0, 1))(dict(top_params(architecture, ends)), state)


@partial(jax.jit, static_argnums=0)
def _through_embedding(architecture: Architecture, ends: Params, tokens: jax.Array, flowing: jax.Array) -> Params:
    """Gradients of the embeddings, from that of the state that enters the first block."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    used = embedding_params(architecture, ends)
    embed = lambda used: family(architecture).embed(architecture, used, tokens, positions)
    return jax.vjp(embed, used)[1](flowing)[0]
