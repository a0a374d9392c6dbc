"""From a sparse mixture of samples to one of them.

Where supports nearly nest, ``q_i + a q_j`` is nearly as sparse as q_i and a hyperplane cuts its support out too. Two
signs give it away. With a small a the rows where only sample j fires hold a cluster of tiny entries: fitted as zeros
they leave q_i (`widen`). With q_j known, these rows have one and the same ratio a to its entries: subtracting leaves
q_i (`subtract`). Either way zeros are gained, which nothing but the truth does: a result with fewer is dropped.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.dictionary.basis import unit_rows
from spear_jax.attacks.dense.directions import pool
from spear_jax.stages import stage
from spear_jax.types import Factorization

# Entries above the zeros, below this share of a column's rms and followed by a gap of this ratio are tried as zeros.
SMALL, GAP = 1e-2, 3.0
# So many rows of one ratio are no chance, the ratios being equal to this share.
SAME_RATIO_ROWS, RATIO_SPREAD = 8, 1e-4
# A direction this close to the span of two others is a mixture of them.
SAME_SPAN = 1e-3
# Others to subtract that are tried in each step, those first that would leave most zeros.
MAX_STEPS, TRIED = 4, 3
# Inverse iterations: the zeros of a direction hold it a million times better than those of any other.
SOLVES = 3


@stage("unmix")
def unmix(
    factorization: Factorization, directions: Float[np.ndarray, "k r"], others: Float[np.ndarray, "j r"]
) -> Float[np.ndarray, "k r"]:
    """Each direction less what it holds of others, as long as that gains zeros.

    Args:
        factorization: of the weight gradient.
        directions: (k, r) sparse unit directions, polished.
        others: (j, r) what to look for in them; those that are the same direction are passed over.

    Returns:
        (k, r) unit directions with canonical sign, none with fewer zeros than it had.
    """
    directions = directions.copy()
    zeros = pool.zero_count(factorization, directions)
    active = np.arange(len(directions))
    for _ in range(MAX_STEPS):
        tried = [_sparsest(factorization, directions[place], others) for place in active]
        tried = np.array(tried).reshape(len(active), directions.shape[1])
        gained = (found := pool.zero_count(factorization, tried)) > zeros[active]
        active = active[gained]
        directions[active], zeros[active] = tried[gained], found[gained]
    return numerics.canonical_sign(directions)


def _sparsest(
    factorization: Factorization, direction: Float[np.ndarray, " r"], others: Float[np.ndarray, "j r"]
) -> Float[np.ndarray, " r"]:
    """The proposal for one direction that vanishes on most rows."""
    proposals = np.array([direction, *_widen(factorization, direction), *_subtract(factorization, direction, others)])
    return proposals[np.argmax(pool.zero_count(factorization, proposals))]


def _widen(factorization: Factorization, direction: Float[np.ndarray, " r"]) -> list[Float[np.ndarray, " r"]]:
    """The direction fitted to its zeros and to the small entries below the widest gap above them."""
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    entries = np.abs(left @ direction)
    order = np.argsort(entries, kind="stable")
    entries = entries[order]
    first = int(np.searchsorted(entries, numerics.zero_tolerance(factorization, direction[None])[0]))
    last = int(np.searchsorted(entries, SMALL * np.sqrt(np.mean(entries**2))))
    if last <= first or last == len(entries):
        return []
    ratios = entries[first + 1 : last + 1] / entries[first:last]
    widest = int(np.argmax(ratios))
    if ratios[widest] <= GAP:
        return []
    return [null_vector(left[order[: first + widest + 1]], direction)]


def _subtract(
    factorization: Factorization, direction: Float[np.ndarray, " r"], others: Float[np.ndarray, "j r"]
) -> list[Float[np.ndarray, " r"]]:
    """The direction less a multiple of each other one to which many rows have one ratio."""
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    others = others[np.abs(others @ direction) < pool.SAME]
    if len(others) == 0:
        return []
    entries, theirs = left @ direction, left @ others.T
    is_on = np.abs(entries) > numerics.zero_tolerance(factorization, direction[None])
    are_on = np.abs(theirs) > numerics.zero_tolerance(factorization, others)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(is_on[:, None] & are_on, entries[:, None] / theirs, np.inf)
    ratios = np.sort(ratios, axis=0)
    with np.errstate(invalid="ignore"):
        spread = (ratios[SAME_RATIO_ROWS - 1 :] - ratios[: 1 - SAME_RATIO_ROWS]) / np.abs(ratios[: 1 - SAME_RATIO_ROWS])
    narrowest = np.nanargmin(np.where(np.isfinite(spread), spread, np.inf), axis=0)
    places = np.flatnonzero(np.take_along_axis(spread, narrowest[None], axis=0)[0] < RATIO_SPREAD)
    ratio = np.take_along_axis(ratios, narrowest[None] + SAME_RATIO_ROWS // 2, axis=0)[0, places]
    taken = ratio * theirs[:, places]
    zero = np.where(
        are_on[:, places], np.abs(entries[:, None] - taken) <= RATIO_SPREAD * np.abs(taken), ~is_on[:, None]
    )
    count = np.sum(zero, axis=0)
    best = np.argsort(-count, kind="stable")[:TRIED]
    best = best[count[best] >= len(direction)]
    proposals = [null_vector(left[zero[:, place]], direction) for place in best]
    # What is known already counts only where it is what the subtraction left: it has more zeros than most.
    return [
        proposal
        for place, proposal in zip(best, proposals, strict=True)
        if np.abs(others @ proposal).max() < pool.SAME
        or _distance(proposal, direction, others[places[place]]) < SAME_SPAN
    ]


def _distance(vector: Float[np.ndarray, " r"], *span: Float[np.ndarray, " r"]) -> float:
    """Distance of a unit vector from the span of others."""
    basis = linalg.qr(np.array(span).T)[0]
    return float(np.linalg.norm(vector - basis @ (basis.T @ vector)))


def null_vector(rows: Float[np.ndarray, "z r"], start: Float[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    """Unit vector that the rows, each at unit norm, come closest to annihilating, by inverse iteration."""
    triangle = np.asarray(linalg.qr(unit_rows(rows), mode="r"))
    diagonal = np.diag(triangle)
    floor = numerics.EPS64 * np.abs(diagonal).max()
    np.fill_diagonal(triangle, np.where(np.abs(diagonal) < floor, floor, diagonal))
    for _ in range(SOLVES):
        start = solve_triangular(triangle, solve_triangular(triangle, start, trans=1))
        start = start / np.linalg.norm(start)
    return start
