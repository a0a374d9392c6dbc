"""From the pool to r directions: SPEAR's greedy selection in two steps (Sec. 4.2).

A true column has at least as many zeros as any mixture that contains it, so the sparsest independent set, which
greedy choice finds exactly (a matroid), is the true one as soon as the pool holds it. With few rows chance breaks
that; the second step then swaps chosen directions for others while the matching score rises.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from spear_jax import linalg
from spear_jax.attacks.dense.certificates.pattern import agree
from spear_jax.attacks.dense.directions.pool import independent
from spear_jax.attacks.dense.outcome import Agreement
from spear_jax.attacks.dense.problem import Problem
from spear_jax.numerics import MIN_INDEPENDENT
from spear_jax.stages import stage
from spear_jax.types import CandidatePool

# Swaps that are judged at most: a pool of skewed samples holds many mixtures.
MAX_TRIALS = 256


def sparsest_independent(pool: CandidatePool) -> Int[np.ndarray, " k"]:
    """Places of the sparsest linearly independent directions, at most r of them, in falling order of zeros."""
    return independent(pool.directions[: pool.size])


@stage("select")
def select(
    problem: Problem, pool: CandidatePool, *, may_swap: bool = True
) -> tuple[Int[np.ndarray, " k"], Agreement | None]:
    """Choose r directions of the pool, or as many as are independent.

    Args:
        problem: whose patterns judge a choice.
        pool: verified directions, sparsest first.
        may_swap: whether to take the second step, which judges every swap.

    Returns:
        places in the pool and the agreement of the choice, None while fewer than r are independent.
    """
    chosen = sparsest_independent(pool)
    if len(chosen) < pool.directions.shape[1]:
        return chosen, None
    agreement = agree(problem, pool.directions[chosen])
    return _swap(problem, pool, chosen, agreement) if may_swap else (chosen, agreement)


def _swap(
    problem: Problem, pool: CandidatePool, chosen: Int[np.ndarray, " r"], agreement: Agreement
) -> tuple[Int[np.ndarray, " r"], Agreement]:
    """Swap a chosen direction for another of the pool while that raises the matching score."""
    improved, trials = True, 0
    while improved and not agreement.precise.all():
        improved = False
        for slot in np.argsort(agreement.matching, kind="stable"):
            if agreement.precise[slot]:
                continue
            for place in np.setdiff1d(np.arange(pool.size), chosen):
                if (trials := trials + 1) > MAX_TRIALS:
                    return chosen, agreement
                trial = chosen.copy()
                trial[slot] = place
                if linalg.svd(pool.directions[trial], compute_uv=False)[-1] < MIN_INDEPENDENT:
                    continue
                after = agree(problem, pool.directions[trial])
                if after.matching_score > agreement.matching_score:
                    chosen, agreement, improved = trial, after, True
                    break
            if improved:
                break
    return chosen, agreement
