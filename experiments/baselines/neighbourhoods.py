"""Neighbourhoods of one and of two hops that lie in row spaces of gradients of a GCN: steps of `depth_first_graphs`.

A convolution gives node i ``f(sum of W x_j / sqrt((d_i + 1) (d_j + 1)) + bias)`` over itself and its neighbours j, d
their degrees, which the rows say; so what each sends, ``W x_j / sqrt(d_j + 1)``, is made once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, combinations, combinations_with_replacement, islice, product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.baselines.gluing import Parts, Pieces
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.layers import activated
from spear_jax.graphs.observation import GraphObservation

# Neighbourhoods that are tested at a time, at all units and at a few, and how many directions these few have.
CHUNK, WIDE, SCREENED = 1024, 4096, 16
# Multiple that other sizes are padded to, so that programs serve many.
PADDED = 32


class SpanTest(NamedTuple):
    """A test of what leaves a convolution, in float64.

    Attributes:
        architecture: of the network.
        layer: number of the convolution.
        basis: (rank, c + width) orthonormal rows of the gradient of what reads its states, behind c columns of rows.
        tolerance: relative distance up to which states pass.
        deadline: on `time.process_time`, after which nothing is tested.
        weight: (width, d) of the convolution.
        bias: (width,) of the convolution, zero where it has none.
    """

    architecture: Architecture
    layer: int
    basis: np.ndarray
    tolerance: float
    deadline: float
    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(
        cls, observation: GraphObservation, layer: int, basis: np.ndarray, tolerance: float, deadline: float
    ) -> SpanTest:
        """With the tensors of a model."""
        weight = np.asarray(observation.params[f"convs.{layer}.weight"], np.float64)
        bias = np.asarray(observation.params.get(f"convs.{layer}.bias", np.zeros(len(weight))), np.float64)
        return cls(observation.architecture, layer, basis, tolerance, deadline, weight, bias)

    @property
    def is_late(self) -> bool:
        """Whether time ran out."""
        return time.process_time() > self.deadline

    def sent(self, states: np.ndarray, degrees: np.ndarray) -> np.ndarray:
        """(m, width) what nodes of some states (m, d) and degrees send to their neighbours and themselves."""
        return states @ self.weight.T / np.sqrt(degrees + 1)[:, None]

    def states(self, sums: np.ndarray, degree: int, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States (k, width) of nodes and their distances (k,).

        Args:
            sums: (k, width) what they and their neighbours send.
            degree: of all of them.
            row: (c,) that stands before the states.
        """
        padded = np.resize(sums, (-(-len(sums) // CHUNK) * CHUNK, sums.shape[1])) / np.sqrt(degree + 1) + self.bias
        found = _distances(self.architecture, self.layer, *map(jnp.asarray, (padded, row, _padded(self.basis))))
        states, distances = (np.asarray(part)[: len(sums)] for part in found)
        return states, distances


@partial(jax.jit, static_argnums=(0, 1))
def _distances(
    architecture: Architecture, layer: int, outputs: jax.Array, row: jax.Array, basis: jax.Array
) -> tuple[jax.Array, jax.Array]:
    states = activated(architecture, outputs, architecture.is_activated[layer])
    joint = jnp.concatenate([jnp.broadcast_to(row, (len(states), len(row))), states], axis=1)
    outside = joint - (joint @ basis.T) @ basis
    return states, jnp.linalg.norm(outside, axis=1) / jnp.maximum(jnp.linalg.norm(joint, axis=1), 1e-300)


class Stars(NamedTuple):
    """Nodes with their neighbours.

    Attributes:
        pieces: rows of the nodes and of their neighbours.
        states: (m, width) behind the first convolution.
        distances: (m,) of these to the row space.
        is_stopped: whether time ran out.
    """

    pieces: Pieces
    states: np.ndarray
    distances: np.ndarray
    is_stopped: bool


def find_stars(test: SpanTest, rows: np.ndarray, degrees: np.ndarray) -> Stars:
    """Rows with all choices of as many neighbours as they say, those that pass.

    Args:
        test: of the first convolution.
        rows: (k, columns).
        degrees: (k,) of these; rows of degree -1 are left out.
    """
    sent, pieces = test.sent(rows, np.maximum(degrees, 0)), Pieces([], [])
    screen, found, is_stopped = _Screen(test, sent), [(np.zeros((0, sent.shape[1])), np.zeros(0))], False
    for degree in np.unique(degrees[degrees >= 0]).tolist():
        centres = np.flatnonzero(degrees == degree)
        for near in _multisets(np.flatnonzero(degrees > 0), degree):
            is_stopped = is_stopped or test.is_late
            if is_stopped:
                break
            may_fit = screen.passes(near, centres)
            for centre, chosen in ((centres[place], near[may_fit[place]]) for place in np.flatnonzero(may_fit.any(1))):
                states, distances = test.states(sent[centre] + sent[chosen].sum(axis=1), degree, np.zeros(0))
                fits = distances < test.tolerance
                found.append((states[fits], distances[fits]))
                pieces.kinds.extend([int(centre)] * int(fits.sum()))
                pieces.near.extend(map(tuple, chosen[fits].tolist()))
    states, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Stars(pieces, states, distances, is_stopped)


class _Screen:
    """A look at a few units of the hidden layer before the test at all of them; it changes no result.

    Of any ``rank + k`` units k directions are orthogonal to the row space. What a state has along them bounds its
    distance from below. Its length is at most that of what the node and its neighbours send, as long as the activation
    makes nothing larger, as ReLU, GELU and SiLU do not.
    """

    def __init__(self, test: SpanTest, sent: np.ndarray) -> None:
        units = min(len(_padded(test.basis)) + SCREENED, len(test.bias))
        outside = np.linalg.svd(test.basis[:, :units])[2][len(test.basis) :][:SCREENED]
        self.tables = tuple(map(jnp.asarray, (_padded(sent[:, :units]), test.bias[:units], outside)))
        self.longest = float(np.linalg.norm(sent, axis=1).max(initial=0))
        self.test = test

    def passes(self, near: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """(c, k) whether neighbours (k, degree) of centres (c,) may fit."""
        degree = near.shape[1]
        factor = 1 / np.sqrt(degree + 1)
        bound = self.test.tolerance * ((degree + 1) * factor * self.longest + np.linalg.norm(self.test.bias))
        slots = jnp.asarray(np.resize(near, (WIDE, degree)))
        off = _off(self.test.architecture, self.tables, slots, jnp.asarray(_padded(centres, 8)), factor)
        return np.asarray(off)[: len(centres), : len(near)] < bound


@partial(jax.jit, static_argnums=0)
def _off(
    architecture: Architecture, tables: tuple[jax.Array, ...], near: jax.Array, centres: jax.Array, factor: float
) -> jax.Array:
    """(c, k) lengths along the directions outside of the row space."""
    sent, bias, outside = tables
    sums = jnp.zeros((len(near), sent.shape[1]))
    for place in range(near.shape[1]):
        sums = sums + sent[near[:, place]]

    def of_centre(centre: jax.Array) -> jax.Array:
        outputs = factor * (sums + jnp.broadcast_to(sent[centre], sums.shape)) + jnp.broadcast_to(bias, sums.shape)
        states = activated(architecture, outputs, architecture.is_activated[0])
        return jnp.linalg.norm(states @ outside.T, axis=1)

    return jax.lax.map(of_centre, centres)


def _padded(array: np.ndarray, multiple: int = PADDED) -> np.ndarray:
    """With zeros behind its rows."""
    return np.pad(array, ((0, -len(array) % multiple),) + ((0, 0),) * (array.ndim - 1))


def find_blocks(test: SpanTest, stars: Stars, rows: np.ndarray) -> tuple[Parts, np.ndarray, bool]:
    """What of the neighbourhoods of nodes and of their neighbours fits together.

    Args:
        test: of the second convolution.
        stars: neighbourhoods.
        rows: (k, columns) of features, which stand before the states.

    Returns:
        of each neighbourhood, all parts of the multisets of its neighbours' that pass; (m,) the least distance of
        these; whether time ran out.
    """
    pieces, degrees = stars.pieces, np.array([len(near) for near in stars.pieces.near], int)
    sent = test.sent(stars.states, degrees)
    parts: Parts = [set() for _ in pieces.kinds]
    nearest, is_stopped = np.full(len(parts), np.inf), False
    for star, kind in enumerate(pieces.kinds):
        for chosen in _chunks(_fillings(pieces, star), int(degrees[star])):
            is_stopped = is_stopped or test.is_late
            if is_stopped:
                break
            _, distances = test.states(sent[star] + sent[chosen].sum(axis=1), int(degrees[star]), rows[kind])
            nearest[star] = min(nearest[star], distances.min())
            for block in np.sort(chosen[distances < test.tolerance], axis=1).tolist():
                parts[star] |= {part for size in range(len(block) + 1) for part in combinations(block, size)}
    return parts, nearest, is_stopped


def _fillings(pieces: Pieces, star: int) -> Iterator[tuple[int, ...]]:
    """Neighbourhoods of all neighbours, each of which names the node itself."""
    kind, near = pieces.kinds[star], pieces.near[star]
    around = [(pieces.naming(kind, other), near.count(other)) for other in sorted(set(near))]
    each = [combinations_with_replacement(some, count) for some, count in around]
    return (tuple(chain(*chosen)) for chosen in product(*each))


def _multisets(kinds: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """All choices (k, size) of some kinds with repetition, `WIDE` at a time."""
    if not size:
        yield np.zeros((1, 0), int)
        return
    pending = np.zeros((0, size), int)
    for start in _chunks(combinations_with_replacement(range(len(kinds)), size - 1), size - 1):
        first = start[:, -1] if size > 1 else np.zeros(len(start), int)
        counts = len(kinds) - first
        last = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
        pending = np.concatenate([pending, np.column_stack([np.repeat(start, counts, axis=0), last])])
        while len(pending) > WIDE:
            yield kinds[pending[:WIDE]]
            pending = pending[WIDE:]
    if len(pending):
        yield kinds[pending]


def _chunks(tuples: Iterable[tuple[int, ...]], size: int) -> Iterator[np.ndarray]:
    """Arrays (k, size) of at most `CHUNK` tuples."""
    left = iter(tuples)
    while some := list(islice(left, CHUNK)):
        yield np.array(some, int).reshape(len(some), size)
