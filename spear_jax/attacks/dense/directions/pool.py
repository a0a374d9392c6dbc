"""From hits to a pool of verified directions (SPEAR, Sec. 3: the sparsity filter).

What the float32 search lets through is recomputed from its rows in float64, polished on all rows where it is zero,
counted again on live rows and merged up to sign and scale. Nothing in the pool rests on float32 arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.directions.null_vectors import null_vectors_float64
from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.stages import stage
from spear_jax.types import CandidatePool, Factorization

# Zeros beyond those of any null vector, its own rank - 1 rows, that make a direction: the float32 zero test lets that
# many through by chance less than once in 1e6 candidates at 1000 rows.
SPARE_ZEROS = 5
# A hit's null vector lies this close to the polished direction that explains it.
LOOSE_ANGLE = 1e-2
SAME = float(np.cos(numerics.SAME_DIRECTION_ANGLE))


def empty_pool(capacity: int, rank: int) -> CandidatePool:
    """A pool with every place unused."""
    return CandidatePool(
        directions=np.zeros((capacity, rank)),
        zero_count=np.full(capacity, CandidatePool.EMPTY),
        hits=np.zeros(capacity, np.int64),
    )


class Verified(NamedTuple):
    """Directions that hits turned out to be.

    Attributes:
        directions: (k, r) float64 unit directions, polished, none twice.
        zero_count: (k,) their zeros on live rows.
        hits: (k,) hits that each explains; the other hits were no sparse directions.
    """

    directions: Float[np.ndarray, "k r"]
    zero_count: Int[np.ndarray, " k"]
    hits: Int[np.ndarray, " k"]


def verify(factorization: Factorization, rows: Int[np.ndarray, "hits k"], zero_threshold: int) -> Verified:
    """Recompute hits from their rows in float64 and keep the distinct directions that are sparse.

    Args:
        factorization: its ``left`` is what the rows index.
        rows: (hits, r - 1) rows of each hit.
        zero_threshold: zeros on live rows that a direction must have. A submatrix without a unique null vector gives
            an arbitrary vector of its null space, with too few zeros unless two samples fire alike, which the
            certificate tells.
    """
    raw = null_vectors_float64(np.asarray(factorization.left)[rows])
    sparse = raw[_loose_zero_count(factorization, raw) >= zero_threshold]
    polished = polish(factorization, sparse[first_of_each(sparse)])
    zeros = zero_count(factorization, polished)
    kept = np.flatnonzero(zeros >= zero_threshold)
    kept = kept[first_of_each(polished[kept])]
    directions = polished[kept]
    likeness = np.abs(sparse @ directions.T)
    explained = likeness.max(axis=1, initial=0) > np.cos(LOOSE_ANGLE)
    hits = np.bincount(likeness[explained].argmax(axis=1), minlength=len(kept)) if len(kept) else np.zeros(0, np.int64)
    return Verified(directions, zeros[kept], hits.astype(np.int64))


def zero_count(factorization: Factorization, directions: Float[np.ndarray, "k r"]) -> Int[np.ndarray, " k"]:
    """Zeros of ``left @ directions.T`` on live rows, within the noise."""
    return np.sum(numerics.zero_mask(factorization, directions), axis=0)


@stage("pool")
def merge(
    pool: CandidatePool, directions: Float[np.ndarray, "k r"], zeros: Int[np.ndarray, " k"], hits: Int[np.ndarray, " k"]
) -> CandidatePool:
    """The pool with these directions: known ones gain their hits, new ones enter while they are among the sparsest."""
    if len(directions) == 0:
        return pool
    used = pool.zero_count != CandidatePool.EMPTY
    everything = np.concatenate([pool.directions[used], directions])
    zero_counts = np.concatenate([pool.zero_count[used], zeros])
    all_hits = np.concatenate([pool.hits[used], hits]).astype(np.int64)
    # Stable: of two equally sparse directions the first found stays in front, of two copies the better polished.
    order = np.argsort(-zero_counts, kind="stable")
    everything, zero_counts, all_hits = everything[order], zero_counts[order], all_hits[order]
    keep = first_of_each(everything)
    twin = np.argmax(np.abs(everything @ everything[keep].T), axis=1)
    total = np.bincount(twin, weights=all_hits, minlength=len(keep)).astype(np.int64)
    everything, zero_counts = everything[keep], zero_counts[keep]
    if len(keep) > len(pool.zero_count):
        kept = _kept_places(everything, len(pool.zero_count))
        everything, zero_counts, total = everything[kept], zero_counts[kept], total[kept]
    merged = empty_pool(len(pool.zero_count), pool.directions.shape[1])
    count = len(everything)
    merged.directions[:count], merged.zero_count[:count], merged.hits[:count] = everything, zero_counts, total
    return merged


def contains(pool: CandidatePool, directions: Float[np.ndarray, "k r"]) -> Bool[np.ndarray, " k"]:
    """Which of the unit directions the pool holds already."""
    return np.abs(directions @ pool.directions[: pool.size].T).max(axis=1, initial=0) > SAME


def improves(
    pool: CandidatePool, directions: Float[np.ndarray, "k r"], zeros: Int[np.ndarray, " k"]
) -> Bool[np.ndarray, " k"]:
    """Which of the unit directions are new to the pool, or have more zeros than it gives them."""
    if pool.size == 0:
        return np.ones(len(directions), bool)
    likeness = np.abs(directions @ pool.directions[: pool.size].T)
    return (likeness.max(axis=1) <= SAME) | (zeros > pool.zero_count[likeness.argmax(axis=1)])


def added(before: CandidatePool, after: CandidatePool) -> Float[np.ndarray, "k r"]:
    """Directions that are new in a pool."""
    directions = after.directions[: after.size]
    return directions[~contains(before, directions)]


def independent(directions: Float[np.ndarray, "k r"]) -> Int[np.ndarray, " j"]:
    """Indices of the directions that are no linear combination of earlier ones, at most r of them."""
    rank = directions.shape[1]
    if len(directions) >= rank:
        # R of a QR decomposition has the distances from the span of the earlier ones on its diagonal.
        triangle = linalg.qr(directions[:rank].T, mode="r")
        if np.abs(np.diag(triangle)).min() > numerics.MIN_INDEPENDENT:
            return np.arange(rank)
    basis = np.zeros((0, rank))
    chosen: list[int] = []
    for place, direction in enumerate(directions):
        for _ in range(2):  # once more against the rounding of the first pass
            direction = direction - (direction @ basis.T) @ basis
        length = float(np.linalg.norm(direction))
        if length > numerics.MIN_INDEPENDENT:
            basis = np.concatenate([basis, direction[None] / length])
            chosen.append(place)
        if len(chosen) == rank:
            break
    return np.asarray(chosen, dtype=np.int64)


def _kept_places(directions: Float[np.ndarray, "k r"], capacity: int) -> Int[np.ndarray, " c"]:
    """Which of the directions, sparsest first, stay: the independent ones before all, then the sparsest.

    Samples that fire alike have mixtures with more zeros than other samples' own columns, which must not be lost.
    """
    basis = independent(directions)
    others = np.setdiff1d(np.arange(len(directions)), basis)
    return np.sort(np.concatenate([basis, others])[:capacity])


def first_of_each(directions: Float[np.ndarray, "k r"]) -> Int[np.ndarray, " distinct"]:
    """Indices of the directions that are no multiple of an earlier kept one (`numerics.SAME_DIRECTION_ANGLE`)."""
    same = _is_same(directions)
    kept: list[int] = []
    for index in range(len(directions)):
        if not same[index, kept].any():
            kept.append(index)
    return np.asarray(kept, dtype=np.int64)


def _is_same(directions: Float[np.ndarray, "k r"]) -> Bool[np.ndarray, "k k"]:
    return np.abs(directions @ directions.T) > SAME


def _loose_zero_count(factorization: Factorization, directions: Float[np.ndarray, "k r"]) -> Int[np.ndarray, " k"]:
    """Zeros by the search's own test: unpolished null vectors of noisy rows are not exact yet."""
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    return np.sum(np.abs(left @ directions.T) < numerics.search_tolerance(factorization), axis=0)
