"""From the steps of a pivot walk to the submatrices that its hits stand for.

On the device: which steps of which chains are hits, and all exchanges of these chains. On the host: the walk replayed
in row indices, and the pair of columns that agrees found in float64, so that nothing rests on the walk's arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from spear_jax import linalg
from spear_jax.attacks.dense.sampling import walk
from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS, STEPS, TESTED_ROWS
from spear_jax.devices import Sizes, Stretch

# Share of their size by which quotients that agree may differ in float64: what the noise of float32 gradients, up to
# 1e-6 of a row, comes to in a tableau.
AGREEMENT = 1e-4
# Check rows, of all, in which the columns of a pair must agree: a true pair does in nearly half of them.
MIN_AGREEING = 4
# Entries of one array while hits are turned into submatrices: a core's cache.
BLOCK_ENTRIES = 2**17


class WalkHits(NamedTuple):
    """Steps whose best pair agreed in enough rows, in order of chain and step.

    Attributes:
        offset: (capacity,) int32 ``chain * STEPS + step`` within the round, the first ``count`` of them in use.
        rows: (capacity, n) int32 first rows of the chain, the basis in front.
        is_exchanged: (capacity, STEPS) exchanges that the chain made.
        count: () int32 hits, those that did not fit included.
    """

    offset: Int[Array, " capacity"]
    rows: Int[Array, "capacity n"]
    is_exchanged: Bool[Array, "capacity steps"]
    count: Int[Array, ""]


def walk_range(left: Float[Array, "m r"], key: Array, stretch: Stretch, limits: tuple[Array], sizes: Sizes) -> WalkHits:
    """Hits among the chains of a stretch, chunk by chunk.

    Args:
        left: (m, r) float32, rows of unit norm.
        key: the search's key.
        stretch: chains by their number.
        limits: () int32 tested rows, without the entering one, that the columns of a hit agree in.
        sizes: shape of the loop and of the buffer.
    """
    (threshold,) = limits
    num_chunks, chunk_size, capacity = sizes
    places = jnp.arange(chunk_size, dtype=jnp.int32)
    # The entering row agrees in every pair.
    is_tested = walk.exchange_places(key, left.shape[1])[:, 0] < TESTED_ROWS
    limit = TESTED_ROWS - threshold - is_tested.astype(jnp.int32)

    def one_chunk(hits: WalkHits, start: Array) -> tuple[WalkHits, None]:
        return lax.cond(start < stretch.end, lambda: with_chunk(hits, start), lambda: hits), None

    def with_chunk(hits: WalkHits, start: Array) -> WalkHits:
        inside = start + places
        steps = walk.walk(left, key, stretch.first + inside.astype(jnp.uint32))
        is_hit = ((steps.mismatches.astype(jnp.int32) <= limit[:, None]) & (inside < stretch.end)[None]).T
        add = lambda: _append(hits, is_hit, steps, start)
        return lax.cond(jnp.any(is_hit), add, lambda: hits)

    empty = WalkHits(
        offset=jnp.zeros((capacity,), jnp.int32),
        rows=jnp.zeros((capacity, left.shape[1] + CHECK_ROWS), jnp.int32),
        is_exchanged=jnp.zeros((capacity, STEPS), bool),
        count=jnp.zeros((), jnp.int32),
    )
    starts = stretch.offset + jnp.arange(num_chunks, dtype=jnp.int32) * chunk_size
    return lax.scan(one_chunk, empty, starts)[0]


def _append(hits: WalkHits, is_hit: Bool[Array, "chains steps"], steps: walk.Walk, start: Array) -> WalkHits:
    """The hits with those of one chunk behind them."""
    capacity = hits.offset.shape[0]
    (found,) = jnp.nonzero(is_hit.reshape(-1), size=capacity, fill_value=-1)
    found = found.astype(jnp.int32)
    place = jnp.where(found >= 0, hits.count + jnp.arange(capacity, dtype=jnp.int32), capacity)
    chain = found // STEPS
    return WalkHits(
        offset=hits.offset.at[place].set(start * STEPS + found, mode="drop"),
        rows=hits.rows.at[place].set(steps.rows.T[chain], mode="drop"),
        is_exchanged=hits.is_exchanged.at[place].set(steps.is_exchanged.T[chain], mode="drop"),
        count=hits.count + jnp.sum(is_hit, dtype=jnp.int32),
    )


def hit_subsets(
    left: Float[np.ndarray, "m r"],
    places: Int[np.ndarray, "steps 2"],
    offset: Int[np.ndarray, " hits"],
    rows: Int[np.ndarray, "hits n"],
    is_exchanged: Bool[np.ndarray, "hits steps"],
) -> tuple[Int[np.ndarray, "k q"], Int[np.ndarray, " k"]]:
    """The submatrices that hits stand for, without the hits that float64 does not confirm.

    Args:
        left: (m, r) float64, the rows that were walked on.
        places: (STEPS, 2) of `walk.exchange_places`.
        offset, rows, is_exchanged: of `WalkHits`, those in use.

    Returns:
        (k, r - 1) rows of each submatrix and (k,) the hit that it is from.
    """
    rank = left.shape[1]
    step = offset % STEPS
    rows = _replay(rows, is_exchanged, step, places, rank)
    entering = places[step, 0]
    size = max(1, BLOCK_ENTRIES // (CHECK_ROWS * rank))
    subsets, confirmed = [np.zeros((0, rank - 1), np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        part, kept = _subsets(left, rows[block], entering[block], rank)
        subsets.append(part)
        confirmed.append(start + kept)
    return np.concatenate(subsets), np.concatenate(confirmed)


def _replay(
    rows: Int[np.ndarray, "hits n"],
    is_exchanged: Bool[np.ndarray, "hits steps"],
    step: Int[np.ndarray, " hits"],
    places: Int[np.ndarray, "steps 2"],
    rank: int,
) -> Int[np.ndarray, "hits n"]:
    """Basis and check rows of each chain before its step."""
    rows = rows.copy()
    for number in range(int(step.max(initial=0))):
        moved = np.flatnonzero(is_exchanged[:, number] & (number < step))
        check, basis = rank + places[number, 0], places[number, 1]
        rows[np.ix_(moved, [check, basis])] = rows[np.ix_(moved, [basis, check])]
    return rows


def _subsets(
    left: Float[np.ndarray, "m r"], rows: Int[np.ndarray, "hits n"], entering: Int[np.ndarray, " hits"], rank: int
) -> tuple[Int[np.ndarray, "k q"], Int[np.ndarray, " k"]]:
    """Of each confirmed hit the basis without the pair of rows whose columns agree best, and with the entering row."""
    hits = np.arange(len(rows))
    basis, check = np.swapaxes(left[rows[:, :rank]], 1, 2), np.swapaxes(left[rows[:, rank:]], 1, 2)
    is_regular = np.abs(np.linalg.det(basis)) > np.finfo(np.float64).tiny
    basis[~is_regular] = np.eye(rank)
    tableau = np.swapaxes(linalg.solve(basis, check), 1, 2)
    with np.errstate(all="ignore"):
        quotient = tableau / tableau[hits, entering][:, None, :]
    pair, count = _best_pair(quotient)
    # The entering row agrees in every pair.
    kept = np.flatnonzero(is_regular & (count > MIN_AGREEING))
    pair = pair[kept]
    is_left = np.ones((len(kept), rank), bool)
    np.put_along_axis(is_left, pair, False, axis=1)
    remaining = rows[kept, :rank][is_left].reshape(len(kept), rank - 2)
    return np.concatenate([remaining, rows[kept, rank + entering[kept]][:, None]], axis=1), kept


def _best_pair(
    quotient: Float[np.ndarray, "hits w r"],
) -> tuple[Int[np.ndarray, "hits 2"], Int[np.ndarray, " hits"]]:
    """The two columns that agree in most rows, and in how many, for each hit."""
    hits, _, rank = quotient.shape
    allowed = AGREEMENT * np.abs(quotient)
    best, pair = np.full(hits, -1), np.zeros((hits, 2), np.int64)
    for distance in range(1, rank // 2 + 1):
        with np.errstate(invalid="ignore"):
            agrees = np.abs(quotient - np.roll(quotient, -distance, axis=2)) < allowed
        count = agrees.sum(axis=1)
        column = count.argmax(axis=1)
        most = count[np.arange(hits), column]
        better = most > best
        best[better] = most[better]
        pair[better] = np.stack([column, (column + distance) % rank], axis=1)[better]
    return pair, best
