"""SPEAR's proposer: null vectors of random submatrices, thousands at a time (SPEAR, Thm. 3.3 and Alg. 1).

A candidate is a set of r - 1 distinct rows of ``left``. If all of them are rows where column i of ``D = dL/dZ`` is
zero, their null vector is column i of Q up to scale, and ``left @ q`` is zero on about half of the rows; any other
set gives a vector that is zero on its own r - 1 rows only. Candidate i draws its key as ``fold_in(key, i)``, i being
its global index, so the set of candidates depends on (key, count) alone.

The functions describe one candidate. `null_vector` also takes trailing batch axes and is written for them: the batch
in the minor dimension makes every step of the elimination one fused loop over contiguous candidates, where `vmap`
over a leading axis would leave a loop over matrices of a few hundred entries. Unlike the paper, the search
returns indices of candidates only; `verify` recomputes what passed in float64 from its rows.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Integer

from spear_jax.devices import Sizes, Stretch
from spear_jax.numerics import search_matmul

PIVOT_WINDOW = 4


class Hits(NamedTuple):
    """Candidates of a round that passed the float32 filter, in order of their index.

    Attributes:
        offset: (capacity,) int32 index within the round, the first ``count`` of them in use.
        zero_count: (capacity,) int32 zeros among the live rows.
        count: () int32 hits of the round, those that did not fit included.
    """

    offset: jax.Array
    zero_count: jax.Array
    count: jax.Array


def draw_rows(key: jax.Array, num_rows: int, count: int) -> Int[Array, " count"]:
    """A uniformly random set of distinct rows by Floyd's algorithm, one random number per row.

    Args:
        key: consumed.
        num_rows: rows to draw from.
        count: rows to draw.

    Returns:
        (count,) int32, distinct, in no particular order.

    References:
        Bentley and Floyd, "A sample of brilliance", Communications of the ACM 30(9), 1987.
    """
    # 24 bits per draw: a set's probability is off by at most num_rows / 2^24 of itself.
    uniform = (jax.random.bits(key, (count,), jnp.uint32) >> 8).astype(jnp.float32) * 2.0**-24
    rows: list[jax.Array] = []
    for place in range(count):
        last = num_rows - count + place
        row = jnp.minimum((uniform[place] * (last + 1)).astype(jnp.int32), last)
        taken = jnp.zeros((), bool)
        for earlier in rows:
            taken |= earlier == row
        rows.append(jnp.where(taken, last, row))
    return jnp.stack(rows) if rows else jnp.zeros((0,), jnp.int32)


def null_vector(rows: Float[Array, "k r *batch"]) -> Float[Array, " r *batch"]:
    """Unit vector orthogonal to k = r - 1 rows: elimination with column pivoting, then back substitution.

    The pivot is the largest of the first `PIVOT_WINDOW` entries of a row: masks that move a pivot cost as much as the
    elimination itself when they span the row.

    Args:
        rows: (r - 1, r, *batch); the matrices may be a batch in trailing axes.

    Returns:
        (r, *batch), of arbitrary sign; not finite where a matrix is exactly singular.
    """
    upper, pivots = [], []
    for _ in range(rows.shape[0]):
        window = min(PIVOT_WINDOW, rows.shape[1])
        head = rows[0, :window]
        place = lax.argmax(jnp.abs(head), 0, jnp.int32)
        is_pivot = lax.broadcasted_iota(jnp.int32, head.shape, 0) == place[None]
        pivot = jnp.sum(jnp.where(is_pivot, head, 0), axis=0, keepdims=True)
        column = jnp.sum(jnp.where(is_pivot[None], rows[1:, :window], 0), axis=1, keepdims=True)
        # Column 0 takes the pivot's place, then both are dropped: the matrix shrinks by one row and one column.
        moved = jnp.where(is_pivot[None, 1:], rows[:, :1], rows[:, 1:window])
        rest = jnp.concatenate([moved, rows[:, window:]], axis=1)
        first = rest[0] / pivot
        rows = rest[1:] - column * first[None]
        upper.append(first)
        pivots.append(is_pivot)
    vector = jnp.ones_like(rows, shape=(1, *rows.shape[2:]))
    for first, is_pivot in zip(reversed(upper), reversed(pivots), strict=True):
        entry = -jnp.sum(first * vector, axis=0, keepdims=True)
        inside = vector[: is_pivot.shape[0] - 1]
        swapped = jnp.sum(jnp.where(is_pivot[1:], inside, 0), axis=0, keepdims=True)
        head = jnp.where(is_pivot[:1], entry, swapped)
        moved = jnp.where(is_pivot[1:], entry, inside)
        vector = jnp.concatenate([head, moved, vector[inside.shape[0] :]])
    return vector / jnp.sqrt(jnp.sum(vector**2, axis=0, keepdims=True))


def null_vector_qr(rows: Float[Array, "k r"]) -> Float[Array, " r"]:
    """Unit vector orthogonal to k = r - 1 rows by Householder QR of their transpose: slower, backward stable."""
    return jnp.linalg.qr(rows.T, mode="complete")[0][:, -1]


def candidate_rows(key: jax.Array, index: jax.Array, num_rows: int, count: int) -> Int[Array, " count"]:
    """Rows of the candidate with this global index."""
    return draw_rows(jax.random.fold_in(key, index), num_rows, count)


def propose(
    left: Float[Array, "m r"], key: jax.Array, index: Integer[Array, " chunk"], tolerance: jax.Array
) -> tuple[Float[Array, "r chunk"], Int[Array, " chunk"]]:
    """Directions and zero counts of a chunk of candidates.

    Args:
        left: (m, r) float32 rows of the left factor, each of unit norm.
        key: the search's key.
        index: (chunk,) global indices.
        tolerance: magnitude below which an entry of ``left @ q`` is zero.

    Returns:
        (r, chunk) unit directions and (chunk,) their zero counts over all m rows.
    """
    m, rank = left.shape
    rows = jax.vmap(lambda i: candidate_rows(key, i, m, rank - 1), out_axes=1)(index)
    matrices = jnp.moveaxis(left[rows], -1, 1)
    directions = null_vector(matrices)
    # A singular matrix gives NaN, which compares false with everything: no zeros, never a hit.
    zero_count = jnp.sum(jnp.abs(search_matmul(left, directions)) < tolerance, axis=0, dtype=jnp.int32)
    return directions, zero_count


def search_range(
    left: Float[Array, "m r"], key: jax.Array, stretch: Stretch, limits: tuple[jax.Array, jax.Array], sizes: Sizes
) -> Hits:
    """Hits among the candidates of a stretch, chunk by chunk.

    Args:
        left: (m, r) float32, rows of unit norm.
        key: the search's key.
        stretch: candidates by their global index.
        limits: () float32 magnitude below which an entry is zero, and () int32 zeros that make a hit.
        sizes: shape of the loop and of the buffer.
    """
    tolerance, threshold = limits
    num_chunks, chunk_size, capacity = sizes
    places = jnp.arange(chunk_size, dtype=jnp.int32)

    def one_chunk(hits: Hits, start: jax.Array) -> tuple[Hits, None]:
        inside = start + places
        _, zero_count = propose(left, key, stretch.first + inside.astype(jnp.uint32), tolerance)
        is_hit = (zero_count >= threshold) & (inside < stretch.end)
        place = jnp.where(is_hit, hits.count + jnp.cumsum(is_hit, dtype=jnp.int32) - 1, capacity)
        return Hits(
            offset=hits.offset.at[place].set(inside, mode="drop"),
            zero_count=hits.zero_count.at[place].set(zero_count, mode="drop"),
            count=hits.count + jnp.sum(is_hit, dtype=jnp.int32),
        ), None

    empty = Hits(
        offset=jnp.zeros((capacity,), jnp.int32),
        zero_count=jnp.zeros((capacity,), jnp.int32),
        count=jnp.zeros((), jnp.int32),
    )
    starts = stretch.offset + jnp.arange(num_chunks, dtype=jnp.int32) * chunk_size
    return lax.scan(one_chunk, empty, starts)[0]


@partial(jax.jit, static_argnames=("num_rows", "count"))
def hit_rows(key: jax.Array, index: Integer[Array, " hits"], *, num_rows: int, count: int) -> Int[Array, "hits count"]:
    """Rows of the candidates with these global indices: what a hit is verified from."""
    return jax.vmap(lambda i: candidate_rows(key, i, num_rows, count))(index)
