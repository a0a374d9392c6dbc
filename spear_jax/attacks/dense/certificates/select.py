"""From the pool to r directions: SPEAR's greedy selection in two steps (Sec. 4.2).

A true column has at least as many zeros as any mixture that contains it, so the sparsest independent set, which
greedy choice finds exactly (a matroid), is the true one as soon as the pool holds it. With few rows chance breaks
that; the second step then swaps chosen directions for others while the matching score rises.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from spear_jax.attacks.dense.certificates.pattern import certify
from spear_jax.attacks.dense.directions.pool import independent
from spear_jax.attacks.dense.problem import Problem
from spear_jax.numerics import MIN_INDEPENDENT
from spear_jax.types import CandidatePool, Certificate

# Swaps that are judged at most: a pool of skewed samples holds many mixtures.
MAX_TRIALS = 256


def sparsest_independent(pool: CandidatePool) -> Int[np.ndarray, " k"]:
    """Places of the sparsest linearly independent directions, at most r of them, in falling order of zeros."""
    return independent(pool.directions[: pool.size])


def select(
    problem: Problem, pool: CandidatePool, *, may_swap: bool = True
) -> tuple[Int[np.ndarray, " k"], Certificate | None]:
    """Choose r directions of the pool, or as many as are independent.

    Args:
        problem: whose patterns judge a choice.
        pool: verified directions, sparsest first.
        may_swap: whether to take the second step, which judges every swap.

    Returns:
        places in the pool and the certificate of the choice; no certificate while fewer than r are independent.
    """
    chosen = sparsest_independent(pool)
    if len(chosen) < pool.directions.shape[1]:
        return chosen, None
    certificate = certify(problem, pool.directions[chosen])
    return _swap(problem, pool, chosen, certificate) if may_swap else (chosen, certificate)


def _swap(
    problem: Problem, pool: CandidatePool, chosen: Int[np.ndarray, " r"], certificate: Certificate
) -> tuple[Int[np.ndarray, " r"], Certificate]:
    """Swap a chosen direction for another of the pool while that raises the matching score."""
    improved, trials = True, 0
    while improved and not certificate.exact.all():
        improved = False
        for slot in np.argsort(certificate.matching, kind="stable"):
            if certificate.exact[slot]:
                continue
            for place in np.setdiff1d(np.arange(pool.size), chosen):
                if (trials := trials + 1) > MAX_TRIALS:
                    return chosen, certificate
                trial = chosen.copy()
                trial[slot] = place
                if np.linalg.svd(pool.directions[trial], compute_uv=False)[-1] < MIN_INDEPENDENT:
                    continue
                after = certify(problem, pool.directions[trial])
                if after.matching_score > certificate.matching_score:
                    chosen, certificate, improved = trial, after, True
                    break
            if improved:
                break
    return chosen, certificate
