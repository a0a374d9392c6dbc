"""One round of the dictionary method, over all that is missing or in what known samples leave."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.dictionary.admission import accept
from spear_jax.attacks.dense.dictionary.basis import unit_rows
from spear_jax.attacks.dense.dictionary.full_round import full_round
from spear_jax.attacks.dense.dictionary.round import Round
from spear_jax.attacks.dense.dictionary.single_samples import peel
from spear_jax.attacks.dense.dictionary.subspace_round import last_direction, subspace_round
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import initial_state
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.remainder import Remainder

# With at most this share of the directions missing, the subspace round is the better one from the start.
FEW_MISSING = 0.25
# Up to this rank what known samples leave is sampled, by so many draws.
MAX_DRAWN_RANK, DRAWS = 4, 1024


def one_round(round_: Round, grown: pool.CandidatePool, known: Float[np.ndarray, "k r"]) -> pool.CandidatePool:
    """One round: single-sample neurons; the last direction by its mask; EM in all dimensions or in the missing ones.

    Args:
        round_: of the problem.
        grown: the pool.
        known: (k, r) unit directions of it to build on.

    Returns:
        the pool with what was found.
    """
    rank, basis = known.shape[1], round_.basis()
    if round_.is_skewed and len(known) == 0:
        before, grown = grown, accept(round_, grown, peel(round_.problem), screen=False)
        known = pool.added(before, grown)
        known = known[pool.independent(known)]
    missing = rank - len(known)
    if missing == 0:
        return grown
    if missing == 1:
        before, grown = grown, accept(round_, grown, last_direction(basis, known), screen=False)
        if len(pool.added(before, grown)):
            return grown
    is_small = missing <= FEW_MISSING * rank
    if (round_.index < round_.config.dictionary.full_rounds and not is_small) or len(known) == 0:
        return full_round(round_, basis, grown, known)
    found = subspace_round(basis, known, round_.key, round_.subspace_schedule(), round_.config)
    return accept(round_, grown, found, screen=True)


def rest_round(round_: Round, known: pool.CandidatePool, rest: Remainder) -> pool.CandidatePool:
    """One round in what known samples leave, its directions polished on all that is there."""
    rank = rest.problem.rank
    if rank == 1:
        found = np.ones((1, 1))
    elif rank <= MAX_DRAWN_RANK:
        found = _drawn(rest.problem, round_.key)
    else:
        inner, start = round_._replace(problem=rest.problem), initial_state(rank, round_.config).pool
        grown = one_round(inner, start, np.zeros((0, rank)))
        found = grown.directions[: grown.size]
    return accept(round_, known, unit_rows(found @ rest.lift.T), screen=False)


def _drawn(problem: Problem, key: jax.Array) -> Float[np.ndarray, "k r"]:
    """Sparse directions of a very small problem: null vectors of rows drawn at random, as SPEAR has it."""
    live, rank = problem.live_rows, problem.rank
    draws = jax.random.randint(key, (DRAWS, rank - 1), 0, len(live))
    found = pool.verify(problem.factorization, live[np.asarray(draws)], rank - 1 + pool.SPARE_ZEROS)
    return found.directions[np.argsort(-found.zero_count, kind="stable")[: 2 * rank]]
