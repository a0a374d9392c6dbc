"""What no gradient tells: sequences that could be others with the same states, whatever the certificate of the batch.

Four things are the same to a model. Tokens with equal rows of the embedding, as padding of a vocabulary has them. Where
positions are relative, a beginning of one token repeated: its states are those of the single token, so that ``a a`` and
``a b`` together have the gradient of ``a a b``, and a masked ``a a`` before ``b`` that of ``a b``. Labels with equal
rows of an output layer that was frozen. And a class that was smoothed, which is several with weights.

No gradient tells how a text was split, either: what is certified goes up to the last prediction that the loss weighs,
and a prompt that was masked in one sequence may stand in another one.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.sequences import Sequence
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params, product
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import first_inputs, first_params, output_name
from spear_jax.row_space import filled

# Inputs of the first block that agree to this part of their length are those of one token.
SAME_INPUT = 1e-4
# A mistake in one of N predictions changes the gradient by this part of 1 / N at least (of a thousand that were made).
MISTAKE = 0.5
# Rows of the vocabulary that are compared at a time.
CHUNK = 8192


def could_be_another(
    observation: TextObservation, params: Params, sequences: list[Sequence], limit: float
) -> np.ndarray:
    """Which sequences (s,) could be others with the same gradient, to what the certificate of the batch leaves open.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        sequences: the whole batch.
        limit: part of the gradients that the batch may leave unexplained.
    """
    architecture = observation.architecture
    # A mistake changes the gradient by MISTAKE of one prediction's share, one with a near token by as much less.
    near = limit * sum(one.predictions for one in sequences) / MISTAKE
    used = np.unique(np.concatenate([one.inputs for one in sequences]))
    doubtful = set(used[twins(architecture, params, used, max(near, SAME_INPUT)) > 1].tolist())
    has_twin = np.array([not doubtful.isdisjoint(one.inputs.tolist()) for one in sequences])
    is_run = np.zeros(len(sequences), bool) if architecture.family == "gpt2" else _runs(sequences)
    has_other_end = np.zeros(len(sequences), bool)
    if output_name(architecture) not in observation.gradients:
        has_other_end = _near_labels(jnp.asarray(params[output_name(architecture)]), sequences, near)
    return has_twin | is_run | has_other_end | _ends_twice(sequences)


def twins(architecture: Architecture, params: Params, tokens: np.ndarray, distance: float = SAME_INPUT) -> np.ndarray:
    """How many tokens of the vocabulary (u,) have the first input of each token, itself included.

    Args:
        architecture: of the model.
        params: its tensors on the device.
        tokens: (u,) ids.
        distance: up to which inputs, scaled to length one, are the same.
    """
    parts = first_params(architecture, params)
    size = min(CHUNK, architecture.vocabulary)
    found = np.zeros(len(tokens), int)
    wanted = jnp.asarray(np.resize(tokens, filled(len(tokens))))
    for start in range(0, architecture.vocabulary, size):
        ids = np.arange(start, start + size) % architecture.vocabulary
        same = np.asarray(_same(architecture, parts, jnp.asarray(ids), wanted, jnp.asarray(distance)))[: len(tokens)]
        found += np.sum(same[:, : architecture.vocabulary - start], axis=1)
    return found


def _runs(sequences: list[Sequence]) -> np.ndarray:
    """Which sequences are one token repeated before their end: as many times as it may be, the states are the same."""
    return np.array([len(set(one.inputs.tolist())) == 1 for one in sequences])


def _ends_twice(sequences: list[Sequence]) -> np.ndarray:
    """Which texts have several classes: a target that was smoothed has the gradient of several that were not."""
    texts = [None if one.label is None else tuple(one.tokens.tolist()) for one in sequences]
    return np.array([text is not None and texts.count(text) > 1 for text in texts])


def _near_labels(outputs: jax.Array, sequences: list[Sequence], near: float) -> np.ndarray:
    """Which sequences end in a label with another one near it, in units of the usual distance of two labels."""
    labels = np.array([one.tokens[-1] if one.label is None else one.label for one in sequences])
    squares = np.array(_distances(outputs, jnp.asarray(np.resize(labels, filled(len(labels))))))[: len(labels)]
    usual = np.median(squares, axis=1)
    squares[np.arange(len(labels)), labels] = np.inf
    rounding = 16 * float(jnp.finfo(outputs.dtype).eps)
    return np.min(squares, axis=1) <= max(near**2, rounding) * usual


@jax.jit
def _distances(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """(s, V) squared distances of rows of the output layer (V, d)."""
    rows = outputs[labels]
    squares = jnp.sum(jnp.square(rows), axis=1)[:, None] + jnp.sum(jnp.square(outputs), axis=1)[None]
    return squares - 2 * product(rows, outputs.T)


@partial(jax.jit, static_argnums=0)
def _same(
    architecture: Architecture, params: Params, ids: jax.Array, tokens: jax.Array, distance: jax.Array
) -> jax.Array:
    """Which of some tokens (c,) have the first input of others (u,), as (u, c)."""

    def first(ids: jax.Array) -> jax.Array:
        inputs = first_inputs(architecture, params, ids, jnp.zeros_like(ids))
        return inputs / jnp.linalg.norm(inputs, axis=-1, keepdims=True)

    # |a - b|^2 = 2 - 2 a.b of unit vectors, known to a few units in the last place.
    return 1 - product(first(tokens), first(ids).T) <= distance**2 / 2 + 16 * float(jnp.finfo(jnp.float32).eps)
