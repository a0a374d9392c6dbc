"""The second proposer: all directions found together, in polynomial time, with the help of the known weights.

Rounds of tied EM (`tied_em`), release from orthogonality (`release`) and exact polish (`pool`); what is accepted is
known for good and projected out of the next round. Where the inputs are not centred the EM sees the rows of low offset
only (`row_model`), and a sparse direction must also fire as one input would (`half_space`). With k of r directions
known the missing dual vectors lie exactly in the null space of the known ones, so the last ones are sought in r - k
dimensions from many starts at once, and the very last one is free: its dual vector is known, and with it the neurons
that are off.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax.attacks.dense.certificates.pattern import is_determined
from spear_jax.attacks.dense.dictionary.rounds import Problem, accept_into, one_round, rest_round
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.directions.select import Judge, select
from spear_jax.attacks.dense.outcome import Outcome, Progress, SearchState, initial_state, is_late, settled
from spear_jax.attacks.dense.problem import Evidence
from spear_jax.attacks.dense.regime import row_model
from spear_jax.attacks.dense.remainder import Deflated, deflate
from spear_jax.config import ReconstructConfig
from spear_jax.devices import compile_seconds, select_devices
from spear_jax.status import Status
from spear_jax.types import Certificate, Factorization

# Where there are so many rows per direction the first rounds find most: so many that find none say that there is none.
MANY_ROWS, FRUITLESS_ROUNDS = 6, 8

Mend = Callable[[Float[np.ndarray, "r r"], Certificate], Float[np.ndarray, "k r"]]


def dictionary_search(
    factorization: Factorization,
    evidence: Evidence,
    judge: Judge,
    key: jax.Array,
    config: ReconstructConfig,
    *,
    mend: Mend | None = None,
    state: SearchState | None = None,
    on_round: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Rounds until the choice certifies whole, or the rounds or the time run out.

    Args:
        factorization: of the weight gradient.
        evidence: of the observation; its response is the tie.
        judge: certificate of r directions, one a row.
        key: round i uses ``fold_in(key, i)``.
        config: of the reconstruction, its ``dictionary`` part above all.
        mend: what the layers above make of r directions that do not certify: directions, some of them better.
        state: where to go on, None for the start.
        on_round: called after each round.
    """
    state = initial_state(factorization.rank, config)._replace(method="dictionary") if state is None else state
    devices = select_devices(config.num_devices)
    started, compiled = time.perf_counter(), compile_seconds()
    problem = Problem(evidence, row_model(evidence), config, is_mended=mend is not None)
    _, chosen, certificate = _choose(problem, state.pool, judge, None)
    while (status := _ended(evidence, state, certificate, started, config)) is None:
        directions = state.pool.directions[chosen]
        is_known = _is_known(evidence, directions, certificate)
        known, round_key = directions[is_known], jax.random.fold_in(key, state.next_round)
        if len(known) == factorization.rank:
            status = Status.PARTIAL  # every direction follows from its zeros, but their patterns do not agree
            break
        grown = state.pool
        if problem.is_skewed and mend is None and certificate is not None:
            # What was found since may be what is mixed into those that do not agree.
            grown = accept_into(problem, grown, directions[~is_known], screen=False)
        if np.array_equal(grown.directions, state.pool.directions):
            rest = None if certificate is None else _without(evidence, directions, is_known)
            if rest is None:
                grown = one_round(problem, state.pool, known, round_key, state.next_round)
            else:
                grown = rest_round(problem, state.pool, rest, round_key, state.next_round)
        is_same = np.array_equal(grown.directions, state.pool.directions)
        if not is_same:
            grown, chosen, certificate = _choose(problem, grown, judge, mend)
        state = state._replace(pool=grown, next_round=state.next_round + 1)
        if on_round is not None:
            elapsed = time.perf_counter() - started
            on_round(Progress(state, len(chosen), factorization.rank, float("nan"), elapsed, 0))
        if is_same and len(known) == factorization.rank - 1 and not problem.is_skewed:
            # Its dual vector is known and nothing in the round was random: another one would be the same.
            status = Status.ROUND_BUDGET if certificate is None else Status.PARTIAL
            break
    return Outcome(
        state=state,
        directions=state.pool.directions[chosen],
        certificate=certificate,
        status=status,
        compile_seconds=compile_seconds() - compiled,
        search_seconds=time.perf_counter() - started - (compile_seconds() - compiled),
        devices=(len(devices), devices[0].device_kind),
    )


def _choose(
    problem: Problem, grown: pool.CandidatePool, judge: Judge, mend: Mend | None
) -> tuple[pool.CandidatePool, Int[np.ndarray, " k"], Certificate | None]:
    """The choice of a pool and its certificate; where it does not certify whole, the pool gains what mends it."""
    chosen, certificate = select(grown, judge, may_swap=mend is None)
    if mend is None or certificate is None or settled(certificate) is not None:
        return grown, chosen, certificate
    factorization = problem.evidence.factorization
    mended = polish(factorization, mend(grown.directions[chosen], certificate))
    grown = pool.merge(grown, mended, pool.zero_count(factorization, mended), np.ones(len(mended), np.int64))
    return grown, *select(grown, judge)


def _ended(
    evidence: Evidence,
    state: SearchState,
    certificate: Certificate | None,
    started: float,
    config: ReconstructConfig,
) -> Status | None:
    """How the search ended, None while there is more to find and something left to spend."""
    if (ended := settled(certificate)) is not None:
        return ended
    if certificate is not None and certificate.matching.min() == 1:
        return Status.PARTIAL  # every pattern agrees, but the noise leaves the inputs open
    left = evidence.factorization.left
    if state.next_round >= FRUITLESS_ROUNDS and state.pool.size == 0 and len(left) >= MANY_ROWS * left.shape[1]:
        return Status.NOT_SPARSE
    if state.next_round >= config.dictionary.max_rounds:
        return Status.ROUND_BUDGET
    return Status.TIME_BUDGET if is_late(started, config) else None


def _is_known(
    evidence: Evidence, directions: Float[np.ndarray, "k r"], certificate: Certificate | None
) -> Bool[np.ndarray, " k"]:
    """The directions to build on: a full set that does not certify holds mixtures, whose patterns do not agree."""
    if certificate is None:
        return np.ones(len(directions), bool)
    is_known = certificate.exact | certificate.approximate | (certificate.matching == 1)
    if evidence.drift:
        is_known[~is_known] = is_determined(evidence.factorization, directions[~is_known])
    return is_known


def _without(
    evidence: Evidence, directions: Float[np.ndarray, "r r"], is_known: Bool[np.ndarray, " r"]
) -> Deflated | None:
    """What is left of the problem without known samples: mixtures among the others leave their dual vectors alone."""
    dual = dual_vectors(evidence.factorization, evidence.bias_grad, directions)
    if not is_known.any() or dual is None:
        return None
    return deflate(evidence, directions[is_known], dual[is_known])
