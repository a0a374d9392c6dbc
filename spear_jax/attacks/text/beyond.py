"""Sequences beyond the rank: prefixes that explain the gradients of many blocks together, though no one block tells.

Adapters of rank r show r directions of what a block reads, and a batch has more prefixes than that, so none of them
lies in a row space and no test can refuse any. But all blocks saw the same prefixes. The tree is grown from its best
branch: of all tokens behind all prefixes so far, the one with the largest share of what it adds inside what is left of
the gradients, all blocks together. A wrong one costs a direction and leads nowhere, since its continuations fit no
better than chance; once no more prefixes are missing than there are directions, those that are there fit exactly.
What was taken in vain then explains nothing, and is left out.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.pool import Pool
from spear_jax.attacks.text.prefixes import Grown, Node
from spear_jax.attacks.text.views import View, make_view, telling_roles
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import (
    ROLES,
    Past,
    attend_after,
    attend_to_earlier,
    behind_attention,
    block_params,
    embedding_params,
    family,
)
from spear_jax.row_space import filled
from spear_jax.stages import stage

# Blocks behind the first whose inputs are looked at, and views of these at most.
BLOCKS, VIEWS = 12, 24
# Random sequences of the tokens, and their length, from which it is learned how inputs vary.
SAMPLES, LENGTH = 96, 24
# Continuations of a prefix that are kept, the best ones.
CHILDREN = 32
# Share from which on a candidate is there, and by how much one fits better behind another that was skipped.
SURE, BETTER = 0.98, 1.1
# Prefixes are taken at most: per direction of a view (twice those of the largest batches that came back), and per those
# that can be unique.
PER_DIRECTION, IN_VAIN = 12, 2.0


# Keys and values (blocks, prefixes, places, kv_heads, h) of some prefixes, filled up to a few lengths.
Kept = tuple[jax.Array, jax.Array]


class Branch(NamedTuple):
    """A prefix that was taken.

    Attributes:
        node: its last token and the prefix before.
        past: keys and values of its tokens, those of one prefix.
        inputs: (views, d) what it shows.
    """

    node: Node
    past: Kept
    inputs: np.ndarray


@stage("text: beyond the rank")
def grow_jointly(observation: TextObservation, params: Params, tokens: np.ndarray, longest: int) -> Grown:
    """The prefixes that explain the gradients of many blocks.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        tokens: (u,) ids of the distinct tokens.
        longest: tokens of a prefix at most.
    """
    views = _views(observation)
    if not views:
        return Grown([])
    tree = _Tree(_Blocks(observation.architecture, params, views), tokens, longest)
    most = max(min(IN_VAIN * (view.width + view.rank) / 2, PER_DIRECTION * view.rank) for view in views)
    while len(tree.branches) < most and np.any(tree.pool.directions) and tree.grow():
        pass
    return tree.grown()


def _views(observation: TextObservation) -> list[View]:
    """Views of the first blocks whose inputs have the width of the model, but for that of single tokens."""
    architecture = observation.architecture
    found: list[View] = []
    for layer in range(min(BLOCKS + 1, architecture.layers)):
        for role in telling_roles(architecture, layer):
            view = make_view(observation, layer, role) if (layer, role) != (0, "qkv") else None
            if view is not None and view.width == architecture.width and not view.is_full:
                found.append(view)
    return found[:VIEWS]


class _Blocks:
    """The blocks that the views need, run over single tokens behind a prefix, or over whole sequences."""

    def __init__(self, architecture: Architecture, params: Params, views: list[View]) -> None:
        self.architecture, self.views = architecture, views
        count = max(view.layer for view in views) + 1
        self.stacked = _stacked([block_params(architecture, params, layer) for layer in range(count)])
        self.embeddings = embedding_params(architecture, params)
        self.dtype = params[family(architecture).embedding_name(architecture)].dtype
        self.places = tuple((view.layer, view.role) for view in views)

    def of_sequences(self, tokens: np.ndarray) -> np.ndarray:
        """What the views see of sequences (B, P), as (B P, views, d)."""
        found = _of_sequences(self.architecture, self.places, self.embeddings, self.stacked, jnp.asarray(tokens))
        return np.asarray(found).reshape(-1, *found.shape[2:])

    def behind(self, tokens: np.ndarray, past: Kept, depth: int) -> tuple[jax.Array, Kept]:
        """What the views see of tokens (l, u) behind l prefixes, (l, u, views, d), and their keys and values."""
        return _behind(
            self.architecture, self.places, (self.embeddings, self.stacked), jnp.asarray(tokens), (*past, depth)
        )

    def empty(self) -> Kept:
        """Keys and values of the empty prefix."""
        blocks = next(iter(self.stacked.values())).shape[0]
        shape = (blocks, 1, LENGTH, self.architecture.kv_heads, self.architecture.head_width)
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)


class _Tree:
    """Prefixes that were taken, and the pool of all that could come next."""

    def __init__(self, blocks: _Blocks, tokens: np.ndarray, longest: int) -> None:
        self.blocks, self.tokens, self.longest = blocks, tokens, longest
        rng = np.random.default_rng(0)  # part of the algorithm: any contexts will do
        self.pool = Pool(blocks.views, blocks.of_sequences(rng.choice(tokens, (SAMPLES, min(LENGTH, longest)))))
        self.branches: list[Branch] = []
        self.candidates: list[Node] = []
        self._offer(-1)

    def grow(self) -> bool:
        """Take the best candidate; False where there is none."""
        shares = self.pool.shares()
        place = int(np.argmax(shares))
        if shares[place] <= 0:
            return False
        if shares[place] < SURE and self.candidates[place].depth + 1 < self.longest:
            place = self._skipped(place, shares) or place
        node = self.candidates[place]
        past = self._past(node.parent)
        inputs, fresh = self.blocks.behind(np.array([[node.token]]), past, node.depth)
        seen = np.asarray(inputs[0, 0], np.float64)
        self.pool.take(place, seen)
        self.branches.append(Branch(node, _written(past, fresh, node.depth), seen))
        if node.depth + 1 < self.longest:
            self._offer(len(self.branches) - 1)
        return True

    def _skipped(self, place: int, shares: np.ndarray) -> int | None:
        """The candidate that stands between a prefix and its best continuation: with it before, that one fits better.

        A token of which the model was sure has a small gradient, so that the next one shows before it does.
        """
        node = self.candidates[place]
        beside = [
            other
            for other, candidate in enumerate(self.candidates)
            if candidate.parent == node.parent and other != place and shares[other] > 0
        ]
        if not beside:
            return None
        tokens = np.resize([self.candidates[other].token for other in beside], filled(len(beside)))
        past = self._past(node.parent)
        _, (keys, values) = self.blocks.behind(tokens[None], past, node.depth)
        one_each = tuple(jnp.swapaxes(fresh, 1, 2) for fresh in (keys, values))
        pasts = tuple(jnp.repeat(kept, len(tokens), axis=1) for kept in past)
        pasts = _written((pasts[0], pasts[1]), (one_each[0], one_each[1]), node.depth)
        inputs, _ = self.blocks.behind(np.full((len(tokens), 1), node.token), pasts, node.depth + 1)
        later = self.pool.shares_of(inputs[:, 0])[: len(beside)]
        best = int(np.argmax(later))
        return beside[best] if later[best] > BETTER * shares[place] else None

    def grown(self) -> Grown:
        """The prefixes without those that explain nothing, and lead to none that does."""
        kept = list(range(len(self.branches)))
        while kept:
            needs = self.pool.needs(np.stack([self.branches[place].inputs for place in kept]))
            inner = {self.branches[place].node.parent for place in kept}
            ends = [(need, place) for need, place in zip(needs, kept, strict=True) if place not in inner]
            need, place = min(ends)
            if need > 1:
                break
            kept.remove(place)
        moved = {place: number for number, place in enumerate(kept)}
        nodes = [self.branches[place].node for place in kept]
        return Grown([node._replace(parent=moved.get(node.parent, -1)) for node in nodes])

    def _offer(self, parent: int) -> None:
        """The best tokens behind a prefix become candidates."""
        depth = 0 if parent < 0 else self.branches[parent].node.depth + 1
        padded = np.resize(self.tokens, filled(len(self.tokens)))
        inputs, _ = self.blocks.behind(padded[None], self._past(parent), depth)
        kept = self.pool.put(inputs[0], len(self.tokens), len(self.tokens) if parent < 0 else CHILDREN)
        self.candidates += [Node(parent, int(token), depth) for token in self.tokens[kept]]

    def _past(self, parent: int) -> Kept:
        """Keys and values of a prefix, with room for two more."""
        if parent < 0:
            return self.blocks.empty()
        keys, values = self.branches[parent].past
        length = keys.shape[2]
        if self.branches[parent].node.depth + 3 <= length:
            return keys, values
        longer = lambda kept: jnp.pad(kept, ((0, 0), (0, 0), (0, length), (0, 0), (0, 0)))
        return longer(keys), longer(values)


def _stacked(blocks: list[Params]) -> Params:
    """The tensors of several blocks as one each; a block without an adapter that another one has gets one of zeros."""
    shapes = {name: jnp.asarray(tensor) for block in blocks for name, tensor in block.items()}
    return {
        name: jnp.stack([jnp.asarray(block[name]) if name in block else jnp.zeros_like(like) for block in blocks])
        for name, like in shapes.items()
    }


def _written(past: Kept, fresh: Kept, depth: int) -> Kept:
    """Keys and values of prefixes with those of one more token each."""
    keys, values = (kept.at[:, :, depth].set(new[:, :, 0]) for kept, new in zip(past, fresh, strict=True))
    return keys, values


@partial(jax.jit, static_argnums=(0, 1))
def _of_sequences(
    architecture: Architecture,
    places: tuple[tuple[int, str], ...],
    embeddings: Params,
    blocks: Params,
    tokens: jax.Array,
) -> jax.Array:
    """What the views see of sequences (B, P), as (B, P, views, d)."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    is_token = jnp.ones(tokens.shape, bool)
    state = family(architecture).embed(architecture, embeddings, tokens, positions)
    roles = _roles(places)

    def through(state: jax.Array, block: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        attended = attend_to_earlier(architecture, block, 0, state, is_token)
        seen, state = behind_attention(architecture, block, 0, state, attended)
        return state, {role: seen[role] for role in roles}

    seen = jax.lax.scan(through, state, blocks)[1]
    return jnp.stack([seen[role][layer] for layer, role in places], axis=2)


@partial(jax.jit, static_argnums=(0, 1))
def _behind(
    architecture: Architecture,
    places: tuple[tuple[int, str], ...],
    model: tuple[Params, Params],
    tokens: jax.Array,
    past: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, Kept]:
    """What the views see of tokens (l, u) behind l prefixes, (l, u, views, d), and their keys and values."""
    embeddings, blocks = model
    keys, values, depth = past
    is_there = jnp.broadcast_to(jnp.arange(keys.shape[2]) < depth, (len(tokens), keys.shape[2]))
    state = family(architecture).embed(architecture, embeddings, tokens, jnp.broadcast_to(depth, tokens.shape))
    roles = _roles(places)

    def through(
        state: jax.Array, given: tuple[Params, jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array, jax.Array]]:
        block, key, value = given
        attended = attend_after(architecture, block, 0, state, Past(key, value, is_there))
        seen, state = behind_attention(architecture, block, 0, state, attended)
        return state, ({role: seen[role] for role in roles}, attended.key, attended.value)

    seen, keys, values = jax.lax.scan(through, state, (blocks, keys, values))[1]
    return jnp.stack([seen[role][layer] for layer, role in places], axis=2), (keys, values)


def _roles(places: tuple[tuple[int, str], ...]) -> tuple[str, ...]:
    """The roles among the views, each once."""
    return tuple(role for role in ROLES if any(role == other for _, other in places))
