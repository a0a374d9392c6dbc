"""Sequences grown from their beginnings: a prefix goes on with every token that fits what each layer saw next.

Each input of a decoder's block depends on the prefix alone, so a right prefix lies in every view's row space and a
wrong one in none. All prefixes of one length are extended by all tokens together; queries, keys and values of the first
block do not depend on the prefix, so the first test costs an attention and no product with a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.views import View
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params
from spear_jax.language.transformer import (
    Past,
    attend_after,
    behind_attention,
    block_params,
    embedding_params,
    family,
)
from spear_jax.row_space import FITS, Space, misfit
from spear_jax.stages import stage

# Extensions that go through a block at a time, and prefixes that are extended at a time: the fewest that hold them.
CHUNKS, PREFIXES = (8, 64, 256), (1, 8)
# Prefixes that are kept at most, per direction of the views: there is one direction for each that was there.
MOST_KEPT = 4
# A run of one token at the beginning has the same states at every length where positions are relative: none is longer.
LONGEST_RUN = 8


class Node(NamedTuple):
    """A prefix: its last token after another prefix.

    Attributes:
        parent: place of the prefix without its last token among the nodes; -1 for the empty one.
        token: id of the last token.
        depth: number of tokens before it.
    """

    parent: int
    token: int
    depth: int


class Grown(NamedTuple):
    """What grew.

    Attributes:
        nodes: all prefixes that fit, parents before children.
    """

    nodes: list[Node]

    def tokens(self, place: int) -> np.ndarray:
        """The tokens of one prefix."""
        found = []
        while place >= 0:
            found.append(self.nodes[place].token)
            place = self.nodes[place].parent
        return np.array(found[::-1])

    def leaves(self) -> list[int]:
        """Places of the prefixes that no other one continues."""
        parents = {node.parent for node in self.nodes}
        return [place for place in range(len(self.nodes)) if place not in parents]


@stage("text: prefixes")
def grow(architecture: Architecture, params: Params, views: Sequence[View], tokens: np.ndarray, longest: int) -> Grown:
    """All prefixes of the batch whose every input fits its view.

    Args:
        architecture: of the model.
        params: its tensors by name.
        views: of the first blocks, in the order in which their inputs are computed; without any nothing grows.
        tokens: (u,) ids of the distinct tokens.
        longest: tokens of a prefix at most.
    """
    if not views:
        return Grown([])
    forest = _Forest(architecture, params, views, tokens)
    while forest.alive and forest.depth < longest and len(forest.nodes) < MOST_KEPT * forest.rank:
        forest.extend()
    return Grown(forest.nodes)


class _Forest:
    """Prefixes of one length with the keys and values that what comes next attends to."""

    def __init__(self, architecture: Architecture, params: Params, views: Sequence[View], tokens: np.ndarray) -> None:
        self.architecture, self.params, self.tokens = architecture, params, tokens
        self.rank = max(view.rank for view in views)
        self.layers = range(max(view.layer for view in views) + 1)
        self.spaces = [{view.role: view.space for view in views if view.layer == layer} for layer in self.layers]
        self.blocks = [block_params(architecture, params, layer) for layer in self.layers]
        self.embeddings = embedding_params(architecture, params)
        self.nodes: list[Node] = []
        self.alive, self.depth = [-1], 0
        shape = (1, 0, architecture.kv_heads, architecture.head_width)
        dtype = params[family(architecture).embedding_name(architecture)].dtype
        self.pasts = [(np.zeros(shape, dtype), np.zeros(shape, dtype)) for _ in self.layers]

    def extend(self) -> None:
        """Replace the prefixes by those of one more token."""
        parents, picked = self._screened()
        misfits, fresh = self._through_blocks(parents, picked)
        kept = np.flatnonzero(misfits <= FITS)
        kept = kept[~self._is_long_run(parents[kept], picked[kept])]
        kept = kept[np.argsort(misfits[kept])[: self.rank]]
        born = [Node(self.alive[parents[place]], int(self.tokens[picked[place]]), self.depth) for place in kept]
        self.pasts = [
            tuple(_longer(old[parents[kept]], new[kept]) for old, new in zip(past, added, strict=True))
            for past, added in zip(self.pasts, fresh, strict=True)
        ]
        self.alive = list(range(len(self.nodes), len(self.nodes) + len(born)))
        self.nodes += born
        self.depth += 1

    def _screened(self) -> tuple[np.ndarray, np.ndarray]:
        """Prefixes and tokens whose first attention fits, as places among those alive and among the tokens."""
        pairs = np.ones((len(self.alive), len(self.tokens)), bool)
        if "o" in self.spaces[0]:
            states = self._embedded(_padded(self.tokens, 64))
            size = _fewest(PREFIXES, len(self.alive))
            for start in range(0, len(self.alive), size):
                past = self._past(0, np.arange(start, min(start + size, len(self.alive))), size)
                found = np.asarray(
                    _first_attention(self.architecture, self.blocks[0], self.spaces[0]["o"], states, past)
                )[: len(self.alive) - start, : len(self.tokens)]
                pairs[start : start + size] = found <= FITS
        parents, picked = np.nonzero(pairs)
        return parents, picked

    def _through_blocks(
        self, parents: np.ndarray, picked: np.ndarray
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
        """Largest misfit of each extension, and its keys and values in each block."""
        worst = np.zeros(len(parents))
        width = (len(parents), self.architecture.kv_heads, self.architecture.head_width)
        fresh = [tuple(np.zeros(width, past[0].dtype) for _ in range(2)) for past in self.pasts]
        size = _fewest(CHUNKS, len(parents))
        for start in range(0, len(parents), size):
            part = slice(start, start + size)
            count = len(parents[part])
            state = self._embedded(_padded(self.tokens[picked[part]], size))
            for layer in self.layers:
                past = self._past(layer, parents[part], size)
                found, *added, state = _one_block(
                    self.architecture, self.blocks[layer], self.spaces[layer], state, past
                )
                worst[part] = np.maximum(worst[part], np.asarray(found)[:count])
                for kept, new in zip(fresh[layer], added, strict=True):
                    kept[part] = np.asarray(new)[:count]
        return worst, fresh

    def _is_long_run(self, parents: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """Which extensions are runs of one token from the beginning that are longer than can be told."""
        if self.depth < LONGEST_RUN or self.architecture.family == "gpt2":
            return np.zeros(len(parents), bool)
        runs = np.array([self._run_of(place) for place in self.alive])
        return runs[parents] == self.tokens[picked]

    def _run_of(self, place: int) -> int:
        """The token that a prefix consists of; -1 for one of several tokens."""
        token = self.nodes[place].token
        while place >= 0:
            if self.nodes[place].token != token:
                return -1
            place = self.nodes[place].parent
        return token

    def _embedded(self, tokens: np.ndarray) -> jax.Array:
        """States (u, d) of tokens at the present position."""
        return _embed(self.architecture, self.embeddings, jnp.asarray(tokens), jnp.asarray(self.depth))

    def _past(self, layer: int, parents: np.ndarray, size: int) -> Past:
        """What follows each of these prefixes attends to, filled up to fixed sizes."""
        length = _next_size(self.depth)
        keys, values = (
            jnp.asarray(np.pad(kept[parents], ((0, size - len(parents)), (0, length - self.depth), (0, 0), (0, 0))))
            for kept in self.pasts[layer]
        )
        is_there = jnp.broadcast_to(jnp.arange(length) < self.depth, (size, length))
        return Past(keys, values, is_there)


@partial(jax.jit, static_argnums=0)
def _embed(architecture: Architecture, params: Params, tokens: jax.Array, depth: jax.Array) -> jax.Array:
    return family(architecture).embed(architecture, params, tokens, jnp.broadcast_to(depth, tokens.shape))


@partial(jax.jit, static_argnums=0)
def _first_attention(
    architecture: Architecture, params: Params, space: Space, states: jax.Array, past: Past
) -> jax.Array:
    """Misfit (l, u) of what the first attention's output layer reads of u tokens after l prefixes."""
    prefixes = past.is_there.shape[0]
    states = jnp.broadcast_to(states[None], (prefixes, *states.shape))
    return misfit(space, attend_after(architecture, params, 0, states, past).mixed)


@partial(jax.jit, static_argnums=0)
def _one_block(
    architecture: Architecture, params: Params, spaces: dict[str, Space], state: jax.Array, past: Past
) -> tuple[jax.Array, ...]:
    """Largest misfit (k,) of a block's inputs, keys and values of its attention, and the state behind it."""
    attended = attend_after(architecture, params, 0, state[:, None], past)
    seen, after = behind_attention(architecture, params, 0, state[:, None], attended)
    worst = jnp.zeros(len(state), state.dtype)
    for role, space in spaces.items():
        worst = jnp.maximum(worst, misfit(space, seen[role][:, 0]))
    return worst, attended.key[:, 0], attended.value[:, 0], after[:, 0]


def _longer(past: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Keys or values (k, p, ...) with those of one more token (k, ...)."""
    return np.concatenate([past, fresh[:, None]], axis=1)


def _fewest(sizes: tuple[int, ...], count: int) -> int:
    """The first of the sizes that holds so many, else the last."""
    return next((size for size in sizes if count <= size), sizes[-1])


def _next_size(length: int) -> int:
    size = 16
    while size < length:
        size *= 2
    return size


def _padded(tokens: np.ndarray, multiple: int) -> np.ndarray:
    return np.pad(tokens, (0, -len(tokens) % multiple))
