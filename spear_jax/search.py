"""The sampling search: rounds of candidates until everything certifies or a budget runs out (SPEAR, Alg. 1).

The state between two rounds is small and whole: the next round and the pool. A run that is stopped and resumed goes
through the same states as one that never was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from spear_jax import numerics, planning, pool
from spear_jax.config import ReconstructConfig
from spear_jax.devices import INDEX_BITS, RoundHits, agree, compile_round
from spear_jax.sampling import hit_rows
from spear_jax.select import Judge, select
from spear_jax.status import Status
from spear_jax.types import CandidatePool, Certificate, Factorization

# A round is about this share of the expected search, within bounds that keep a round between a blink and a second.
ROUNDS_PER_SEARCH = 8
MIN_ROUND, MAX_ROUND = 2**10, 2**17
MIN_HITS = 2**8
# Zeros beyond those of any null vector, its own rank - 1 rows: the float32 zero test lets that many through by chance
# less than once in 1e6 candidates at 1000 rows.
SPARE_ZEROS = 5
# A search that overruns its expectation to twice, four times, ... takes the columns to have this share of the zeros
# assumed so far: neurons of deep layers fire for most samples, and such columns fall short of the first threshold.
OVERRUN_SHARE = 0.8
# All directions found, not all certified, and this many times the expected candidates drawn: more will not mend it.
OVERRUN_LIMIT = 1024
# Elimination is unrolled, and 2^48 candidates are out of reach of any machine.
MAX_RANK = 48


class SearchState(NamedTuple):
    """Where a search stands between two rounds.

    Attributes:
        pool: verified directions.
        method: the proposer that is at work, ``"sampling"`` or ``"dictionary"``.
        next_round: rounds of it that are done, for sampling those of this shard.
        candidates: candidates drawn in them.
        hits, hits_dropped, false_hits: see `SearchStats`.
    """

    pool: CandidatePool
    method: str = "sampling"
    next_round: int = 0
    candidates: int = 0
    hits: int = 0
    hits_dropped: int = 0
    false_hits: int = 0


class Plan(NamedTuple):
    """What a search will do, known before it starts.

    Attributes:
        live_rows: (live,) rows of ``left`` that candidates draw from.
        round_size: candidates of a round.
        expected: expected candidates for all directions.
    """

    live_rows: Int[np.ndarray, " live"]
    round_size: int
    expected: float

    def zero_share(self, candidates: int, config: ReconstructConfig) -> float:
        """Zero share that the model assumes after this many candidates, `OVERRUN_SHARE` of it for each overrun."""
        overruns = math.floor(math.log2(max(candidates * config.shard[1] / self.expected, 1.0)))
        return config.zero_share * OVERRUN_SHARE**overruns

    def zero_threshold(self, rank: int, candidates: int, config: ReconstructConfig) -> int:
        """Zeros that make a hit: tau from the false-rejection rate, always more than a generic null vector has."""
        share = self.zero_share(candidates, config)
        by_rate = planning.zero_threshold(config.false_rejection, len(self.live_rows), share)
        return max(by_rate, rank - 1 + SPARE_ZEROS)


class Progress(NamedTuple):
    """What a callback learns after each round.

    Attributes:
        state: the state to save.
        found: independent directions in the pool.
        rank: directions there are.
        expected_remaining: expected candidates still needed.
        seconds: of search so far, in this process.
        candidates: candidates drawn in this process.
    """

    state: SearchState
    found: int
    rank: int
    expected_remaining: float
    seconds: float
    candidates: int


class Outcome(NamedTuple):
    """What a search came to.

    Attributes:
        state: the last state.
        directions: (k, r) chosen directions, k <= r.
        certificate: of the r chosen directions, None while some are missing.
        status: how it ended.
        compile_seconds, search_seconds, solve_seconds: wall-clock time of compilation, rounds and host arithmetic.
        devices: number and kind of the devices.
    """

    state: SearchState
    directions: Float[np.ndarray, "k r"]
    certificate: Certificate | None
    status: Status
    compile_seconds: float = 0.0
    search_seconds: float = 0.0
    solve_seconds: float = 0.0
    devices: tuple[int, str] = (0, "none")


def plan_search(factorization: Factorization, config: ReconstructConfig) -> Plan:
    """Rows, round size and expected cost from rank and live rows alone."""
    rank = factorization.rank
    live_rows = np.flatnonzero(np.asarray(factorization.live_mask))
    is_reachable = len(live_rows) >= rank
    expected = planning.planned_candidates(rank, len(live_rows), config.zero_share) if is_reachable else math.inf
    return Plan(
        live_rows=live_rows,
        round_size=config.round_size or _round_size(expected),
        expected=expected,
    )


def initial_state(rank: int, config: ReconstructConfig) -> SearchState:
    """The state before the first round; the only direction of a batch of one is known from the start."""
    capacity = config.pool_capacity or 8 * rank + 64
    if capacity < rank:
        raise ValueError(f"pool_capacity is {capacity}; expected at least {rank}, one place for each direction.")
    start = pool.empty_pool(capacity, rank)
    if rank == 1:
        start = pool.merge(start, np.ones((1, 1)), np.zeros(1, np.int64), np.ones(1, np.int64))
    return SearchState(pool=start)


def search(
    factorization: Factorization,
    judge: Judge,
    key: jax.Array,
    config: ReconstructConfig,
    *,
    state: SearchState | None = None,
    on_round: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Draw rounds of candidates until the choice certifies whole, or a budget runs out.

    Args:
        factorization: of the weight gradient.
        judge: certificate of r directions, one a row.
        key: the search's key; candidate i derives its own from (key, i).
        config: budgets, shapes and devices.
        state: where to go on, None for the start.
        on_round: called after each round, before the budgets are looked at.
    """
    plan = plan_search(factorization, config)
    state = initial_state(factorization.rank, config) if state is None else state
    chosen, certificate = select(state.pool, judge)
    if is_done(certificate):
        return Outcome(state, state.pool.directions[chosen], certificate, Status.EXACT)
    if (stop := _no_search(factorization.rank, plan, state, config)) is not None:
        return Outcome(state, state.pool.directions[chosen], certificate, stop)
    left = np.asarray(factorization.left)[plan.live_rows]
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    tolerance = numerics.search_tolerance(factorization)
    runner = compile_round(left, key, tolerance, plan.round_size, config)
    started, solving, drawn_before = time.perf_counter(), 0.0, state.candidates
    status = None
    while status is None:
        size = _next_size(plan, state, config)
        threshold = plan.zero_threshold(factorization.rank, state.candidates, config)
        hits = runner.run(key, _first_candidate(state, plan, config), size, threshold)
        solve_started = time.perf_counter()
        grown, state = _absorb(factorization, plan, state, hits, size, threshold)
        if grown:
            chosen, certificate = select(state.pool, judge)
        solving += time.perf_counter() - solve_started
        if on_round is not None:
            remaining = expected_remaining(factorization.rank, len(chosen), plan, state.candidates, config)
            elapsed = time.perf_counter() - started
            on_round(
                Progress(state, len(chosen), factorization.rank, remaining, elapsed, state.candidates - drawn_before)
            )
        if is_done(certificate):
            status = Status.EXACT
        elif is_late(started, config):
            status = Status.TIME_BUDGET
        elif _next_size(plan, state, config) == 0:
            status = Status.CANDIDATE_BUDGET
        elif certificate is not None and state.candidates * config.shard[1] > OVERRUN_LIMIT * plan.expected:
            status = Status.PARTIAL
    return Outcome(
        state=state,
        directions=state.pool.directions[chosen],
        certificate=certificate,
        status=status,
        compile_seconds=runner.compile_seconds,
        search_seconds=time.perf_counter() - started - solving,
        solve_seconds=solving,
        devices=(len(runner.devices), runner.devices[0].device_kind),
    )


def _no_search(rank: int, plan: Plan, state: SearchState, config: ReconstructConfig) -> Status | None:
    """Why nothing is to be drawn, before anything is compiled, or None."""
    if rank == 1:
        return Status.PARTIAL
    if math.isinf(plan.expected) or rank > MAX_RANK:
        return Status.UNREACHABLE
    return Status.CANDIDATE_BUDGET if _next_size(plan, state, config) == 0 else None


def _next_size(plan: Plan, state: SearchState, config: ReconstructConfig) -> int:
    """Candidates of the next round: a whole one, or none without budget for it; only the first may be cut short."""
    left = config.max_candidates - state.candidates
    return plan.round_size if left >= plan.round_size else max(left, 0) * (state.candidates == 0)


def expected_remaining(rank: int, found: int, plan: Plan, candidates: int, config: ReconstructConfig) -> float:
    """Expected candidates for the directions still missing, taken to be those with the fewest zeros in the model."""
    if found >= rank:
        return 0.0
    if math.isinf(plan.expected):
        return math.inf
    share = plan.zero_share(candidates, config)
    zeros = np.sort(planning.planned_zero_counts(rank, len(plan.live_rows), share))[: rank - found]
    return planning.expected_candidates(planning.hit_probability(zeros, len(plan.live_rows), rank))


def _absorb(
    factorization: Factorization, plan: Plan, state: SearchState, hits: RoundHits, size: int, threshold: int
) -> tuple[bool, SearchState]:
    """The state after a round, and whether the pool gained a direction."""
    before, verified = state.pool, None
    merged = before
    if len(hits.index):
        verified = pool.verify(factorization, _rows_of(factorization, plan, hits), threshold)
        merged = pool.merge(before, *verified)
    explained = 0 if verified is None else int(verified.hits.sum())
    return not np.array_equal(merged.directions, before.directions), state._replace(
        pool=merged,
        # A round that the budget cut short is drawn again, whole, when the budget grows.
        next_round=state.next_round + int(size == plan.round_size),
        candidates=state.candidates + size,
        hits=state.hits + hits.count,
        hits_dropped=state.hits_dropped + hits.count - len(hits.index),
        false_hits=state.false_hits + len(hits.index) - explained,
    )


def _rows_of(factorization: Factorization, plan: Plan, hits: RoundHits) -> Int[np.ndarray, "hits k"]:
    """Rows of ``left`` that each hit was drawn from; padded to a power of two, so that few shapes are compiled."""
    padded = np.zeros(2 ** math.ceil(math.log2(max(len(hits.index), MIN_HITS))), np.uint32)
    padded[: len(hits.index)] = hits.index
    rows = hit_rows(hits.key, padded, num_rows=len(plan.live_rows), count=factorization.rank - 1)
    return plan.live_rows[np.asarray(rows)[: len(hits.index)]]


def _first_candidate(state: SearchState, plan: Plan, config: ReconstructConfig) -> int:
    """Global index of the next round's first candidate: shards take the rounds in turn."""
    index, count = config.shard
    return (state.next_round * count + index) * plan.round_size


def _round_size(expected: float) -> int:
    share = min(max(expected / ROUNDS_PER_SEARCH, MIN_ROUND), MAX_ROUND)
    size = 2 ** math.ceil(math.log2(share))
    assert 2**INDEX_BITS % size == 0  # a round never straddles the end of the 32-bit indices
    return size


def is_late(started: float, config: ReconstructConfig) -> bool:
    """Whether the time budget of a search that started at this `time.perf_counter` is spent, the same on every host."""
    return config.max_seconds is not None and agree(time.perf_counter() - started > config.max_seconds)


def is_done(certificate: Certificate | None) -> bool:
    """Whether all directions are found and all samples certified."""
    return certificate is not None and bool(certificate.exact.all())
