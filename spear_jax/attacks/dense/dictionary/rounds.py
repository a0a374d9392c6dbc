"""One round of the dictionary method, over all that is missing or in what known samples leave."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.dictionary.admission import SPARE_ZEROS, accept
from spear_jax.attacks.dense.dictionary.basis import Basis, make_basis, make_row_basis, unit_rows
from spear_jax.attacks.dense.dictionary.full_round import full_round
from spear_jax.attacks.dense.dictionary.single_samples import peel
from spear_jax.attacks.dense.dictionary.subspace_round import last_direction, subspace_round
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import initial_state
from spear_jax.attacks.dense.problem import Evidence
from spear_jax.attacks.dense.regime import RowModel, row_model
from spear_jax.attacks.dense.remainder import Deflated
from spear_jax.config import ReconstructConfig, Schedule
from spear_jax.types import Factorization

# With at most this share of the directions missing, the subspace round is the better one from the start.
FEW_MISSING = 0.25
# Up to this rank what known samples leave is sampled, by so many draws.
MAX_DRAWN_RANK, DRAWS = 4, 1024


class Problem(NamedTuple):
    """What the rounds share.

    Attributes:
        evidence: of the observation.
        model: how often its neurons fire.
        config: of the reconstruction.
        is_mended: whether a model mends mixtures, which otherwise are looked for in a skewed batch (`unmix`).
    """

    evidence: Evidence
    model: RowModel
    config: ReconstructConfig
    is_mended: bool = False

    @property
    def is_skewed(self) -> bool:
        """Whether the inputs are far from centred, or are to be taken so."""
        return self.model.regime(self.config.dictionary.regime) == "skewed"

    def basis(self, index: int) -> Basis:
        """Rows and coordinates of a round."""
        if not self.is_skewed:
            return make_basis(self.evidence)
        fractions = self.config.dictionary.row_fractions
        return make_row_basis(self.evidence, self.model, fractions[index % len(fractions)])

    def full_schedule(self, index: int) -> Schedule:
        """How the EM of a full round runs."""
        options = self.config.dictionary
        schedules = options.skewed_schedules if self.is_skewed else options.full_schedules
        return schedules[index % len(schedules)]


def accept_into(
    problem: Problem, known: pool.CandidatePool, proposed: Float[np.ndarray, "k r"], *, screen: bool
) -> pool.CandidatePool:
    """`accept` by the rules of the problem's regime."""
    rules = {"is_skewed": problem.is_skewed, "may_unmix": not problem.is_mended}
    return accept(problem.evidence, known, proposed, screen=screen, **rules)


def one_round(
    problem: Problem, known_pool: pool.CandidatePool, known: Float[np.ndarray, "k r"], key: jax.Array, index: int
) -> pool.CandidatePool:
    """One round: single-sample neurons; the last direction by its mask; EM in all dimensions or in the missing ones."""
    rank, options = known.shape[1], problem.config.dictionary
    basis, grown = problem.basis(index), known_pool

    def add(proposed: Float[np.ndarray, "k r"], *, screen: bool = True) -> Float[np.ndarray, "j r"]:
        nonlocal grown
        before, grown = grown, accept_into(problem, grown, proposed, screen=screen)
        return pool.added(before, grown)

    if problem.is_skewed and len(known) == 0:
        known = add(peel(problem.evidence, problem.model), screen=False)
        known = known[pool.independent(known)]
    missing = rank - len(known)
    if missing == 0:
        return grown
    if missing == 1 and len(add(last_direction(basis, known), screen=False)):
        return grown
    is_small = missing <= FEW_MISSING * rank
    if (index < options.full_rounds and not is_small) or len(known) == 0:
        full_round(basis, known, key, problem.full_schedule(index), add)
    else:
        schedule = options.subspace_schedules[index % len(options.subspace_schedules)]
        add(subspace_round(basis, known, key, schedule, problem.config))
    return grown


def rest_round(
    problem: Problem, known_pool: pool.CandidatePool, rest: Deflated, key: jax.Array, index: int
) -> pool.CandidatePool:
    """One round in what known samples leave, its directions polished on all that is there."""
    evidence, rank = rest.evidence, rest.evidence.factorization.rank
    if rank == 1:
        found = np.ones((1, 1))
    elif rank <= MAX_DRAWN_RANK:
        found = _drawn(evidence.factorization, key)
    else:
        inner = Problem(evidence, row_model(evidence), problem.config, problem.is_mended)
        grown = one_round(inner, initial_state(rank, problem.config).pool, np.zeros((0, rank)), key, index)
        found = grown.directions[: grown.size]
    lifted = unit_rows(found @ rest.lift.T)
    return accept_into(problem, known_pool, lifted, screen=False)


def _drawn(factorization: Factorization, key: jax.Array) -> Float[np.ndarray, "k r"]:
    """Sparse directions of a very small problem: null vectors of rows drawn at random, as SPEAR has it."""
    live = np.flatnonzero(np.asarray(factorization.live_mask))
    draws = jax.random.randint(key, (DRAWS, factorization.rank - 1), 0, len(live))
    found = pool.verify(factorization, live[np.asarray(draws)], factorization.rank - 1 + SPARE_ZEROS)
    return found.directions[np.argsort(-found.zero_count, kind="stable")[: 2 * factorization.rank]]
