"""Text by fixed tolerances: DAGER's test for decoders, restated from its published description alone.

DAGER (Petrov et al., NeurIPS 2024; facts "S"): the rank of the gradients is read off by a fixed tolerance, the largest
of the first ten blocks; a token is one of the batch where its first input, at length one, is nearer than 1e-5 to the
first block's row space. Prefixes then grow by these tokens: each extension goes through the first block as a whole
sequence, nothing kept from before, and stays where all its places are nearer than 1e-3 to the second block's row space.
A prefix that no token extends is a result. It is told the batch size, by which its tolerance of the rank is chosen.

Restated for models whose positions are relative: tokens are tested once, not at each position. Queries, keys and values
are stacked, as GPT-2 stores them: queries alone do not show the first place. Left out: that the best prefixes which
fail are carried along with the others, and that results which are nearly equal are merged. It has no certificate, and
shows no token that is only predicted, so the last one of a sequence is missing. Runs of one token from the beginning,
which have the same states at every length where nothing marks the beginning, are followed to the second place.
"""

from __future__ import annotations

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import after_block, family, module_names

# Sequences that go through the block at a time.
CHUNK = 128


class Options(NamedTuple):
    """The published constants.

    Attributes:
        small_rank_tolerance, rank_tolerance: singular values below these count as none, for up to two sequences and for
            up to sixteen.
        token_distance: relative distance to the first block's row space up to which a token is one of the batch.
        prefix_distance: likewise of each place of a prefix to the second block's.
        rank_blocks: blocks of which the largest rank is taken.
        rank_below: how far the rank stays below the width.
        max_seconds: after which the search is stopped; ours.
        max_alive: prefixes of one length at which it is stopped; ours.
    """

    small_rank_tolerance: float = 1e-7
    rank_tolerance: float = 1e-8
    token_distance: float = 1e-5
    prefix_distance: float = 1e-3
    rank_blocks: int = 10
    rank_below: int = 20
    max_seconds: float = 240.0
    max_alive: int = 4096


class Restated(NamedTuple):
    """What it finds.

    Attributes:
        sequences: prefixes that no token extends.
        tokens: (u,) ids of those that pass the first test.
        rank: of the row spaces.
        is_stopped: whether time or room ran out.
    """

    sequences: list[np.ndarray]
    tokens: np.ndarray
    rank: int
    is_stopped: bool


def fixed_tolerances(observation: TextObservation, batch_size: int, options: Options = Options()) -> Restated:
    """Sequences whose every place fits the first two blocks.

    Args:
        observation: full gradients of a model with relative positions.
        batch_size: B, as the client reports it.
        options: constants.
    """
    started = time.perf_counter()
    architecture = observation.architecture
    stacked = [_stacked(observation, layer) for layer in range(min(options.rank_blocks, architecture.layers))]
    tolerance = options.small_rank_tolerance if batch_size <= 2 else options.rank_tolerance
    ranks = [int(np.linalg.matrix_rank(gradient, tol=tolerance)) for gradient in stacked]
    rank = min(max(ranks), architecture.width - options.rank_below)
    first, second = (jnp.asarray(np.linalg.svd(gradient, full_matrices=False)[2][:rank]) for gradient in stacked[:2])
    params = {name: jnp.asarray(tensor) for name, tensor in observation.params.items()}
    tokens = np.flatnonzero(_token_distances(architecture, params, first) <= options.token_distance)
    alive, found, is_stopped = np.zeros((1, 0), int), [], not len(tokens)
    while len(alive) and not is_stopped and alive.shape[1] < architecture.positions:
        longer, goes_on, together = [], np.zeros(len(alive), bool), max(1, CHUNK // len(tokens))
        for start in range(0, len(alive), together):
            is_stopped = time.perf_counter() - started > options.max_seconds or len(longer) > options.max_alive
            if is_stopped:
                break
            parents = np.repeat(np.arange(start, min(start + together, len(alive))), len(tokens))
            extended = np.column_stack([alive[parents], np.resize(tokens, len(parents))])
            fits = _prefix_distances(architecture, params, second, extended) <= options.prefix_distance
            fits &= ~_is_long_run(extended)
            goes_on[parents[fits]] = True
            longer += list(extended[fits])
        found += [prefix for prefix in alive[~goes_on] if len(prefix) and not _is_run(prefix)]
        alive = np.array(longer, int).reshape(len(longer), alive.shape[1] + 1)
    return Restated([*found, *alive], tokens, rank, is_stopped)


def _is_run(prefix: np.ndarray) -> bool:
    return len(prefix) > 1 and len(set(prefix.tolist())) == 1


def _is_long_run(prefixes: np.ndarray) -> np.ndarray:
    """(k,) bool, more than two places and one token: with relative positions such a run fits at every length."""
    return np.full(len(prefixes), prefixes.shape[1] > 2) & np.all(prefixes == prefixes[:, :1], axis=1)


def _stacked(observation: TextObservation, layer: int) -> np.ndarray:
    """Gradients (rows, d) of a block's queries, keys and values."""
    names = module_names(observation.architecture, layer, "qkv")
    return np.concatenate([np.asarray(observation.gradients[f"{name}.weight"]) for name in names])


def _token_distances(architecture: Architecture, params: Params, basis: jax.Array) -> np.ndarray:
    ids = jnp.arange(architecture.vocabulary)
    state = family(architecture).embed(architecture, params, ids, jnp.zeros_like(ids))
    return np.asarray(_distance(family(architecture).attention_input(architecture, params, 0, state), basis))


def _prefix_distances(architecture: Architecture, params: Params, basis: jax.Array, prefixes: np.ndarray) -> np.ndarray:
    """The largest of all places of each prefix (k, n)."""
    count, length = prefixes.shape
    # Padded to a few shapes, at the end, where nothing earlier sees it.
    padded = np.pad(prefixes, ((0, -count % CHUNK), (0, -length % 8)))
    is_token = jnp.broadcast_to(jnp.arange(padded.shape[1]) < length, (CHUNK, padded.shape[1]))
    parts = [
        _of_prefixes(architecture, params, basis, jnp.asarray(padded[start : start + CHUNK]), is_token)
        for start in range(0, len(padded), CHUNK)
    ]
    return np.concatenate([np.asarray(part) for part in parts] or [np.zeros(0)])[:count]


@partial(jax.jit, static_argnums=0)
def _of_prefixes(architecture, params, basis, tokens, is_token):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    state = family(architecture).embed(architecture, params, tokens, positions)
    state = after_block(architecture, params, 0, state, is_token)
    inputs = family(architecture).attention_input(architecture, params, 1, state)
    return jnp.max(jnp.where(is_token, _distance(inputs, basis), 0.0), axis=1)


def _distance(inputs: jax.Array, basis: jax.Array) -> jax.Array:
    """Of vectors (..., d), each scaled to length one, to the space of rows (k, d)."""
    inputs = inputs / jnp.linalg.norm(inputs, axis=-1, keepdims=True)
    inside = jnp.matmul(inputs, basis.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.linalg.norm(inputs - jnp.matmul(inside, basis, precision=jax.lax.Precision.HIGHEST), axis=-1)
