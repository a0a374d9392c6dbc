"""The losses that a language model is trained with, as federated clients compute them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params
from spear_jax.language.transformer import final_states, logits


def weighted_loss(
    architecture: Architecture, params: Params, tokens: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
    """Sum over places of ``weights`` times the cross-entropy of the outputs at that place with ``targets``.

    Next-token prediction and classification are both of this form: they differ in where the weights are not zero.

    Args:
        architecture: of the model.
        params: its tensors by name.
        tokens: (B, P) int, padding at the end.
        targets: (B, P) int, the next token or the class; anything where the weight is zero.
        weights: (B, P) floating.

    Returns:
        a number.
    """
    length = jnp.arange(tokens.shape[1])[None]
    # A place is a token where it or a later one has a weight: nothing else reaches the loss.
    last = jnp.max(jnp.where(weights != 0, length, -1), axis=1, keepdims=True)
    scores = logits(architecture, params, final_states(architecture, params, tokens, length <= last))
    return cross_entropy(scores, targets, weights)


def cross_entropy(scores: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum over places of ``weights`` (B, P) times the cross-entropy of ``scores`` (B, P, V) with ``targets`` (B, P)."""
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (jax.nn.logsumexp(scores, axis=-1) - chosen))
