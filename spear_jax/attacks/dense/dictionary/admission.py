"""What enters the dictionary method's pool: proposals polished, counted and, in a skewed batch, unmixed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from spear_jax import numerics
from spear_jax.attacks.dense.dictionary.basis import unit_rows
from spear_jax.attacks.dense.dictionary.half_space import is_half_space
from spear_jax.attacks.dense.dictionary.mixtures import unmix
from spear_jax.attacks.dense.dictionary.round import Round
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.directions.polish import LITTLE_PATIENCE, PATIENCE, polish
from spear_jax.attacks.dense.problem import Problem

# In the test before the polish entries below this share of the largest count as zeros, and this share of the live rows
# is enough of them.
LOOSE_ZERO, LOOSE_SHARE = 1e-2, 0.25


def accept(
    round_: Round, known: pool.CandidatePool, proposed: Float[np.ndarray, "k r"], *, screen: bool
) -> pool.CandidatePool:
    """The pool with those proposals that, polished, have more zeros than a generic null vector.

    In a skewed batch sparse mixtures are to be expected: the rows where a direction is not zero must be those where one
    input fires, and mixtures that pass this too are taken apart, unless the model mends them.

    Args:
        round_: whose proposals they are.
        known: the pool.
        proposed: (k, r) unit directions.
        screen: whether to polish only proposals that are nearly sparse already. False for directions from
            `last_direction`, which become sparse only after the polish.
    """
    problem = round_.problem
    factorization = problem.factorization
    live, rank = problem.live_mask, problem.rank
    if screen and len(proposed):
        rows = unit_rows(problem.left[live])
        entries = np.abs(rows @ proposed.T)
        loose = np.sum(entries < LOOSE_ZERO * entries.max(axis=0), axis=0)
        proposed = proposed[loose >= min(rank + pool.SPARE_ZEROS - 1, LOOSE_SHARE * live.sum())]
    patience = LITTLE_PATIENCE if screen and round_.is_skewed else PATIENCE
    polished = polish(factorization, proposed[pool.first_of_each(proposed)], patience)
    zeros = pool.zero_count(factorization, polished)
    kept = zeros >= rank - 1 + pool.SPARE_ZEROS
    if round_.is_skewed:
        found = polished[kept]
        return _merge_skewed(problem, known, found if problem.is_mended else _with_parts(problem, known, found))
    return pool.merge(known, polished[kept], zeros[kept], np.ones(int(kept.sum()), np.int64))


def _with_parts(
    problem: Problem, known: pool.CandidatePool, found: Float[np.ndarray, "k r"]
) -> Float[np.ndarray, "j r"]:
    """What was found, what is mixed into it, and what it shows to be mixed into what is known."""
    factorization, before = problem.factorization, known.directions[: known.size]
    found = np.concatenate([found, unmix(factorization, found, np.concatenate([before, found]))])
    return np.concatenate([found, unmix(factorization, before, found)])


def _merge_skewed(problem: Problem, known: pool.CandidatePool, found: Float[np.ndarray, "k r"]) -> pool.CandidatePool:
    """The pool with those that fire as one input would.

    A mixture stays: it has fewer zeros than what it is made of, so that it is chosen only while that is missing.
    """
    zeros = pool.zero_count(problem.factorization, found)
    order = np.argsort(-zeros, kind="stable")
    found, zeros = found[order], zeros[order]
    kept = pool.first_of_each(found)
    kept = kept[pool.improves(known, found[kept], zeros[kept])]
    supports = ~numerics.zero_mask(problem.factorization, found[kept])
    kept = kept[is_half_space(problem, supports)]
    return pool.merge(known, found[kept], zeros[kept], np.ones(len(kept), np.int64))
