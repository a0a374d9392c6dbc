"""The second proposer: all directions found together, in polynomial time, with the help of the known weights.

Rounds of tied EM (`tied_em`), release from orthogonality (`release`) and exact polish (`pool`); what is accepted is
known for good and projected out of the next round. With k of r directions known the missing dual vectors lie exactly
in the null space of the known ones, so the last ones are sought in r - k dimensions from many starts at once, and the
very last one is free: its dual vector is known, and with it the neurons that are off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Float

from spear_jax import pool
from spear_jax.basis import Basis, make_basis
from spear_jax.certify import Evidence, is_determined
from spear_jax.compile_clock import compile_seconds
from spear_jax.config import ReconstructConfig
from spear_jax.devices import select_devices
from spear_jax.full_round import full_round
from spear_jax.polish import polish
from spear_jax.search import Outcome, Progress, SearchState, initial_state, is_late, settled
from spear_jax.select import Judge, select
from spear_jax.status import Status
from spear_jax.subspace import last_direction, subspace_round
from spear_jax.types import Factorization

# Zeros beyond the r - 1 of a generic null vector that make a direction; entries below this share of the largest count
# in the test before the polish.
SPARE_ZEROS = 5
LOOSE_ZERO, LOOSE_SHARE = 1e-2, 0.25
# With at most this share of the directions missing, the subspace round is the better one from the start.
FEW_MISSING = 0.25


def dictionary_search(
    factorization: Factorization,
    evidence: Evidence,
    judge: Judge,
    key: jax.Array,
    config: ReconstructConfig,
    *,
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
        state: where to go on, None for the start.
        on_round: called after each round.
    """
    rank, options = factorization.rank, config.dictionary
    state = initial_state(rank, config)._replace(method="dictionary") if state is None else state
    devices = select_devices(config.num_devices)
    started, compiled = time.perf_counter(), compile_seconds()
    basis = make_basis(evidence)
    chosen, certificate = select(state.pool, judge)
    status = None
    while status is None:
        if (ended := settled(certificate)) is not None:
            status = ended
        elif certificate is not None and certificate.matching.min() == 1:
            status = Status.PARTIAL  # every pattern agrees, but the noise leaves the inputs open
        elif state.next_round >= options.max_rounds:
            status = Status.ROUND_BUDGET
        elif is_late(started, config):
            status = Status.TIME_BUDGET
        else:
            known = state.pool.directions[chosen]
            if certificate is not None:
                # A full set that does not certify holds mixtures: known are those whose own pattern agrees.
                is_known = certificate.exact | certificate.approximate | (certificate.matching == 1)
                if evidence.drift:
                    is_known[~is_known] = is_determined(factorization, known[~is_known])
                known = known[is_known]
                if len(known) == rank:
                    status = Status.PARTIAL  # every direction follows from its zeros, but their patterns do not agree
                    break
            merged, before, grown = state.pool, state.pool, False
            round_key = jax.random.fold_in(key, state.next_round)
            for proposed in _proposals(factorization, basis, known, round_key, state.next_round, config):
                merged = accept(factorization, before, proposed, screen=len(known) < rank - 1)
                if grown := not np.array_equal(merged.directions, before.directions):
                    break
            state = state._replace(pool=merged, next_round=state.next_round + 1)
            if grown:
                chosen, certificate = select(state.pool, judge)
            elif len(known) == rank - 1:
                # Its dual vector is known and nothing in the round was random: another one would be the same.
                status = Status.ROUND_BUDGET if certificate is None else Status.PARTIAL
            if on_round is not None:
                elapsed = time.perf_counter() - started
                on_round(Progress(state, len(chosen), rank, float("nan"), elapsed, 0))
    return Outcome(
        state=state,
        directions=state.pool.directions[chosen],
        certificate=certificate,
        status=status,
        compile_seconds=compile_seconds() - compiled,
        search_seconds=time.perf_counter() - started - (compile_seconds() - compiled),
        devices=(len(devices), devices[0].device_kind),
    )


def accept(
    factorization: Factorization, known: pool.CandidatePool, proposed: Float[np.ndarray, "k r"], *, screen: bool
) -> pool.CandidatePool:
    """The pool with those proposals that, polished, have more zeros than a generic null vector.

    Args:
        factorization: of the weight gradient.
        known: the pool.
        proposed: (k, r) unit directions.
        screen: whether to polish only proposals that are nearly sparse already; those of a hard mask are not yet.
    """
    live = np.asarray(factorization.live_mask)
    rank = factorization.rank
    if screen and len(proposed):
        entries = np.abs(np.asarray(factorization.left)[live] @ proposed.T)
        loose = np.sum(entries < LOOSE_ZERO * entries.max(axis=0), axis=0)
        proposed = proposed[loose >= min(rank + SPARE_ZEROS - 1, LOOSE_SHARE * live.sum())]
    polished = polish(factorization, proposed[pool.first_of_each(proposed)])
    zeros = pool.zero_count(factorization, polished)
    kept = zeros >= rank - 1 + SPARE_ZEROS
    return pool.merge(known, polished[kept], zeros[kept], np.ones(int(kept.sum()), np.int64))


def _proposals(
    factorization: Factorization,
    basis: Basis,
    known: Float[np.ndarray, "k r"],
    key: jax.Array,
    index: int,
    config: ReconstructConfig,
) -> Iterator[Float[np.ndarray, "j r"]]:
    """Proposals of one round, until some are accepted: EM in all dimensions first, then in the missing ones."""
    options = config.dictionary
    missing = factorization.rank - len(known)
    schedule = options.subspace_schedules[index % len(options.subspace_schedules)]
    if missing == 1:
        yield last_direction(basis, known)
    is_small = missing <= FEW_MISSING * factorization.rank
    if (index < options.full_rounds and not is_small) or len(known) == 0:
        yield full_round(basis, known, key, options.full_schedules[index % len(options.full_schedules)])
    else:
        yield subspace_round(basis, known, key, schedule, config)
