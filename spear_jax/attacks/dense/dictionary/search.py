"""The second proposer: all directions found together, in polynomial time, with the help of the known weights.

Rounds of tied EM (`em`), release from orthogonality (`release`) and exact polish (`polish`); what is accepted is
known for good and projected out of the next round. Where the inputs are not centred the EM sees the rows of low offset
only (`low_rows`), and a sparse direction must also fire as one input would (`half_space`). With k of r directions
known the missing dual vectors lie exactly in the null space of the known ones, so the last ones are sought in r - k
dimensions from many starts at once, and the very last one is free: its dual vector is known, and with it the neurons
that are off.
"""

from __future__ import annotations

import time

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax.attacks.dense.certificates import network
from spear_jax.attacks.dense.certificates.pattern import is_determined
from spear_jax.attacks.dense.certificates.select import select
from spear_jax.attacks.dense.dictionary.admission import accept
from spear_jax.attacks.dense.dictionary.round import Round
from spear_jax.attacks.dense.dictionary.rounds import one_round, rest_round
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.outcome import Agreement, Outcome, Progress, Run, SearchState, initial_state, settled
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.remainder import Remainder, deflate
from spear_jax.devices import compile_seconds, select_devices
from spear_jax.status import Status

# Where there are so many rows per direction the first rounds find most: so many that find none say that there is none.
MANY_ROWS, FRUITLESS_ROUNDS = 6, 8


def find_together(problem: Problem, run: Run, state: SearchState | None = None) -> Outcome:
    """Rounds until every pattern agrees, or the rounds or the time run out.

    Args:
        problem: of the layer; its response is the tie.
        run: round i uses ``fold_in(key, i)``; of the config its ``dictionary`` part above all.
        state: where to go on, None for the start.
    """
    config, rank = run.config, problem.rank
    state = initial_state(rank, config)._replace(method="dictionary") if state is None else state
    devices = select_devices(config.num_devices)
    started, compiled = time.perf_counter(), compile_seconds()
    chosen, agreement = select(problem, state.pool)
    while (status := _ended(problem, run, state, agreement, started)) is None:
        round_ = Round(problem, config, state.next_round, jax.random.fold_in(run.key, state.next_round))
        directions = state.pool.directions[chosen]
        is_known = _is_known(problem, directions, agreement)
        if is_known.sum() == rank:
            status = Status.PARTIAL  # every direction follows from its zeros, but their patterns do not agree
            break
        grown = _grown(round_, state.pool, directions, is_known, agreement)
        is_same = np.array_equal(grown.directions, state.pool.directions)
        if not is_same:
            grown, chosen, agreement = _choose(problem, grown)
        state = state._replace(pool=grown, next_round=state.next_round + 1)
        if run.on_round is not None:
            elapsed = time.perf_counter() - started
            run.on_round(Progress(state, len(chosen), rank, float("nan"), elapsed, 0))
        if is_same and is_known.sum() == rank - 1 and not round_.is_skewed:
            # Its dual vector is known and nothing in the round was random: another one would be the same.
            status = Status.ROUND_BUDGET if agreement is None else Status.PARTIAL
            break
    return Outcome(
        state=state,
        directions=state.pool.directions[chosen],
        agreement=agreement,
        status=status,
        compile_seconds=compile_seconds() - compiled,
        search_seconds=time.perf_counter() - started - (compile_seconds() - compiled),
        devices=(len(devices), devices[0].device_kind),
    )


def _grown(
    round_: Round,
    before: pool.CandidatePool,
    directions: Float[np.ndarray, "k r"],
    is_known: Bool[np.ndarray, " k"],
    agreement: Agreement | None,
) -> pool.CandidatePool:
    """The pool after one round over what is missing, or in what the known samples of a full set leave."""
    problem = round_.problem
    if round_.is_skewed and not problem.is_mended and agreement is not None:
        # What was found since may be what is mixed into those that do not agree.
        grown = accept(round_, before, directions[~is_known], screen=False)
        if not np.array_equal(grown.directions, before.directions):
            return grown
    rest = None if agreement is None else _without(problem, directions, is_known)
    return one_round(round_, before, directions[is_known]) if rest is None else rest_round(round_, before, rest)


def _choose(
    problem: Problem, grown: pool.CandidatePool
) -> tuple[pool.CandidatePool, Int[np.ndarray, " k"], Agreement | None]:
    """The choice of a pool and its agreement; where that is not whole, the pool gains what the model mends."""
    chosen, agreement = select(problem, grown, may_swap=not problem.is_mended)
    if not problem.is_mended or agreement is None or settled(agreement) is not None:
        return grown, chosen, agreement
    mended = network.mend(problem, grown.directions[chosen], agreement)[0]
    mended = polish(problem.factorization, mended)
    grown = pool.merge(grown, mended, pool.zero_count(problem.factorization, mended), np.ones(len(mended), np.int64))
    return grown, *select(problem, grown)


def _ended(
    problem: Problem, run: Run, state: SearchState, agreement: Agreement | None, started: float
) -> Status | None:
    """How the search ended, None while there is more to find and something left to spend."""
    if (ended := settled(agreement)) is not None:
        return ended
    if agreement is not None and agreement.matching.min() == 1:
        return Status.PARTIAL  # every pattern agrees, but the noise leaves the inputs open
    has_many_rows = len(problem.left) >= MANY_ROWS * problem.rank
    if state.next_round >= FRUITLESS_ROUNDS and state.pool.size == 0 and has_many_rows:
        return Status.NOT_SPARSE
    if state.next_round >= run.config.dictionary.max_rounds:
        return Status.ROUND_BUDGET
    return Status.TIME_BUDGET if run.is_late(started) else None


def _is_known(
    problem: Problem, directions: Float[np.ndarray, "k r"], agreement: Agreement | None
) -> Bool[np.ndarray, " k"]:
    """The directions to build on: a full set that does not certify holds mixtures, whose patterns do not agree."""
    if agreement is None:
        return np.ones(len(directions), bool)
    is_known = agreement.confirmed | (agreement.matching == 1)
    if problem.drift:
        is_known[~is_known] = is_determined(problem.factorization, directions[~is_known])
    return is_known


def _without(
    problem: Problem, directions: Float[np.ndarray, "r r"], is_known: Bool[np.ndarray, " r"]
) -> Remainder | None:
    """What is left of the problem without known samples: mixtures among the others leave their dual vectors alone."""
    dual = dual_vectors(problem.factorization, problem.bias_grad, directions)
    if not is_known.any() or dual is None:
        return None
    return deflate(problem, directions[is_known], dual[is_known])
