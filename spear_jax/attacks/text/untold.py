"""What no gradient tells: sequences that could be others with the same states, whatever the certificate of the batch.

Two things are the same to a model. Tokens with equal rows of the embedding, as padding of a vocabulary has them. And,
where positions are relative, a beginning of one token repeated: its states are those of the single token, so that
``a a`` and ``a b`` together have the gradient of ``a a b``.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.sequences import Sequence
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params, product
from spear_jax.language.transformer import first_inputs, first_params
from spear_jax.row_space import filled

# Inputs of the first block that agree to this part of their length are those of one token.
SAME_INPUT = 1e-4
# Rows of the vocabulary that are compared at a time.
CHUNK = 8192


def could_be_another(architecture: Architecture, params: Params, sequences: list[Sequence]) -> np.ndarray:
    """Which sequences (s,) could be others with the same gradient.

    Args:
        architecture: of the model.
        params: its tensors on the device.
        sequences: the whole batch.
    """
    used = np.unique(np.concatenate([one.inputs for one in sequences]))
    doubtful = set(used[twins(architecture, params, used) > 1].tolist())
    has_twin = np.array([not doubtful.isdisjoint(one.inputs.tolist()) for one in sequences])
    return has_twin | (np.zeros(len(sequences), bool) if architecture.family == "gpt2" else _runs(sequences))


def twins(architecture: Architecture, params: Params, tokens: np.ndarray) -> np.ndarray:
    """How many tokens of the vocabulary (u,) have the first input of each token, itself included."""
    parts = first_params(architecture, params)
    size = min(CHUNK, architecture.vocabulary)
    found = np.zeros(len(tokens), int)
    wanted = jnp.asarray(np.resize(tokens, filled(len(tokens))))
    for start in range(0, architecture.vocabulary, size):
        ids = np.arange(start, start + size) % architecture.vocabulary
        same = np.asarray(_same(architecture, parts, jnp.asarray(ids), wanted))[: len(tokens)]
        found += np.sum(same[:, : architecture.vocabulary - start], axis=1)
    return found


def _runs(sequences: list[Sequence]) -> np.ndarray:
    """Which sequences are one token repeated before their end, where some go on with it: one or several of them."""
    starts = [one.tokens[0] if len(set(one.inputs.tolist())) == 1 else -1 for one in sequences]
    repeated = {
        start for start, one in zip(starts, sequences, strict=True) if len(one.tokens) > 1 and one.tokens[1] == start
    }
    return np.array([start in repeated for start in starts])


@partial(jax.jit, static_argnums=0)
def _same(architecture: Architecture, params: Params, ids: jax.Array, tokens: jax.Array) -> jax.Array:
    """Which of some tokens (c,) have the first input of others (u,), as (u, c)."""

    def first(ids: jax.Array) -> jax.Array:
        inputs = first_inputs(architecture, params, ids, jnp.zeros_like(ids))
        return inputs / jnp.linalg.norm(inputs, axis=-1, keepdims=True)

    # |a - b|^2 = 2 - 2 a.b of unit vectors, known to a few units in the last place.
    return 1 - product(first(tokens), first(ids).T) <= SAME_INPUT**2 / 2 + 16 * float(jnp.finfo(jnp.float32).eps)
