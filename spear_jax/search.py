"""The sampling search: rounds of candidates until everything certifies or a budget runs out (SPEAR, Alg. 1).

The state between two rounds is small and whole: the next round and the pool. A run that is stopped and resumed goes
through the same states as one that never was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from spear_jax import numerics, planning, pool
from spear_jax.config import ReconstructConfig
from spear_jax.devices import INDEX_BITS, agree
from spear_jax.pivot_walk import CHECK_ROWS, MAX_SHARE
from spear_jax.samplers import Drawn, Sampler, candidates_per_chain, flat_sampler, walk_sampler
from spear_jax.select import Judge, select
from spear_jax.status import Status
from spear_jax.types import CandidatePool, Certificate, Factorization

# A round is about this share of the expected search, within bounds that keep a round between a blink and a second.
ROUNDS_PER_SEARCH = 8
MIN_ROUND, MAX_ROUND = 2**10, 2**17
# The same for chains of a walk, of 128 steps each.
MIN_CHAINS, MAX_CHAINS = 2**7, 2**15
# Expected candidates from which a walk is worth its compilation, and the noise, next to the smallest singular value, up
# to which enough of its quotients agree in their leading twelve bits.
WALK_EXPECTED, WALK_NOISE = 2**16, 1e-3
# Tested rows that must agree in a hit. Three of eight let fewer true and far fewer false ones through than two: worth
# it where so many candidates are drawn that the host could not keep up with the false ones.
WALK_THRESHOLDS, MANY_CANDIDATES = (2, 3), 1e11
# Zeros beyond those of any null vector, its own rank - 1 rows: the float32 zero test lets that many through by chance
# less than once in 1e6 candidates at 1000 rows.
SPARE_ZEROS = 5
# A search that overruns its expectation to twice, four times, ... takes the columns to have this share of the zeros
# assumed so far: neurons of deep layers fire for most samples, and such columns fall short of the first threshold.
OVERRUN_SHARE = 0.8
# All directions found, not all certified, and this many times the expected candidates drawn: more will not mend it.
OVERRUN_LIMIT = 1024
# 2^48 candidates are out of reach of any machine.
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
        sampler: ``"walk"`` or ``"flat"``.
        round_size: candidates of a round.
        granularity: candidates that are drawn or left together: those of a chain.
        expected: expected independent candidates for all directions.
        efficiency: independent candidates that one of the sampler's is worth.
        walk_threshold: tested rows that agree in a hit of a walk.
    """

    live_rows: Int[np.ndarray, " live"]
    sampler: str
    round_size: int
    granularity: int
    expected: float
    efficiency: float
    walk_threshold: int

    def independent(self, candidates: int, config: ReconstructConfig) -> float:
        """Independent candidates that this many of this shard are worth, with those of the other shards."""
        return candidates * self.efficiency * config.shard[1]

    def zero_share(self, candidates: int, config: ReconstructConfig) -> float:
        """Zero share that the model assumes after this many candidates, `OVERRUN_SHARE` of it for each overrun."""
        overruns = math.floor(math.log2(max(self.independent(candidates, config) / self.expected, 1.0)))
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
    """Rows, way to sample, round size and expected cost from rank, live rows and noise alone.

    A walk that was asked for where none is possible is planned flat; `search` refuses it when it comes to that.
    """
    rank = factorization.rank
    live_rows = np.flatnonzero(np.asarray(factorization.live_mask))
    live = len(live_rows)
    expected = planning.planned_candidates(rank, live, config.zero_share) if live >= rank else math.inf
    if not _walks(factorization, live, expected, config):
        size = config.round_size or _round_size(expected)
        return Plan(live_rows, "flat", size, granularity=1, expected=expected, efficiency=1.0, walk_threshold=0)
    noise = numerics.relative_noise(factorization)
    worth = lambda threshold: planning.walk_efficiency(threshold, rank, live, config.zero_share, noise)
    few, many = WALK_THRESHOLDS
    threshold = few if expected <= MANY_CANDIDATES * worth(few) else many
    efficiency = worth(threshold)
    per_chain = candidates_per_chain(rank)
    wanted = min(max(expected / efficiency / ROUNDS_PER_SEARCH / per_chain, MIN_CHAINS), MAX_CHAINS)
    if config.round_size is not None:
        wanted = max(config.round_size / per_chain, MAX_SHARE)
    chains = 2 ** math.ceil(math.log2(wanted))
    return Plan(live_rows, "walk", chains * per_chain, per_chain, expected, efficiency, threshold)


def _walks(factorization: Factorization, live: int, expected: float, config: ReconstructConfig) -> bool:
    """Whether candidates are drawn by pivot walks."""
    is_possible = factorization.rank > 2 and live >= factorization.rank + CHECK_ROWS and not math.isinf(expected)
    is_worth_it = expected >= WALK_EXPECTED and numerics.relative_noise(factorization) <= WALK_NOISE
    return is_possible and (config.sampler == "walk" or (config.sampler == "auto" and is_worth_it))


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

    Raises:
        ValueError: a walk was asked for that has too few rows.
    """
    plan = plan_search(factorization, config)
    state = initial_state(factorization.rank, config) if state is None else state
    chosen, certificate = select(state.pool, judge)
    if (ended := settled(certificate)) is not None:
        return Outcome(state, state.pool.directions[chosen], certificate, ended)
    if (stop := _no_search(factorization.rank, plan, state, config)) is not None:
        return Outcome(state, state.pool.directions[chosen], certificate, stop)
    if config.sampler == "walk" and plan.sampler != "walk":
        raise ValueError(
            f"sampler is 'walk', which needs rank 3 or more and at least {CHECK_ROWS} live rows beyond the rank; this "
            f"layer has rank {factorization.rank} and {len(plan.live_rows)} live rows: use sampler 'flat' or 'auto'."
        )
    sampler = _compile(factorization, plan, key, config)
    begin = partial(_begin, sampler, plan, config, factorization.rank)
    running = begin(state)
    started, solving, drawn_before = time.perf_counter(), 0.0, state.candidates
    status = None
    while status is None:
        assert running is not None
        size, threshold, drawn = running.size, running.threshold, running.wait()
        # What follows does not depend on what was found: an accelerator need not wait for the host.
        after = _counted(plan, state, size)
        running = begin(after) if _works_ahead(sampler) else None
        solve_started = time.perf_counter()
        grown, state = _absorb(factorization, plan, state, drawn, size, threshold)
        if grown:
            chosen, certificate = select(state.pool, judge)
        solving += time.perf_counter() - solve_started
        if on_round is not None:
            remaining = expected_remaining(factorization.rank, len(chosen), plan, state.candidates, config)
            elapsed = time.perf_counter() - started
            on_round(
                Progress(state, len(chosen), factorization.rank, remaining, elapsed, state.candidates - drawn_before)
            )
        if (ended := settled(certificate)) is not None:
            status = ended
        elif is_late(started, config):
            status = Status.TIME_BUDGET
        elif _next_size(plan, state, config) == 0:
            status = Status.CANDIDATE_BUDGET
        elif certificate is not None and plan.independent(state.candidates, config) > OVERRUN_LIMIT * plan.expected:
            status = Status.PARTIAL
        elif running is None:
            running = begin(state)
    return Outcome(
        state=state,
        directions=state.pool.directions[chosen],
        certificate=certificate,
        status=status,
        compile_seconds=sampler.compile_seconds,
        search_seconds=time.perf_counter() - started - solving,
        solve_seconds=solving,
        devices=(len(sampler.devices), sampler.devices[0].device_kind),
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
    left = max(config.max_candidates - state.candidates, 0)
    if left >= plan.round_size:
        return plan.round_size
    return left // plan.granularity * plan.granularity * (state.candidates == 0)


def expected_remaining(rank: int, found: int, plan: Plan, candidates: int, config: ReconstructConfig) -> float:
    """Expected candidates of the plan's sampler for the directions still missing, those with the fewest zeros."""
    if found >= rank:
        return 0.0
    if math.isinf(plan.expected):
        return math.inf
    share = plan.zero_share(candidates, config)
    zeros = np.sort(planning.planned_zero_counts(rank, len(plan.live_rows), share))[: rank - found]
    independent = planning.expected_candidates(planning.hit_probability(zeros, len(plan.live_rows), rank))
    return independent / plan.efficiency


def _compile(factorization: Factorization, plan: Plan, key: jax.Array, config: ReconstructConfig) -> Sampler:
    """The sampler that was planned, compiled for the rows that it draws from."""
    left = np.asarray(factorization.left)[plan.live_rows]
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    if plan.sampler == "walk":
        return walk_sampler(left, key, plan.walk_threshold, plan.round_size, config)
    return flat_sampler(left, key, numerics.search_tolerance(factorization), plan.round_size, config)


class _Running(NamedTuple):
    """A round that was started."""

    size: int
    threshold: int
    wait: Callable[[], Drawn]


def _begin(sampler: Sampler, plan: Plan, config: ReconstructConfig, rank: int, state: SearchState) -> _Running | None:
    """Start the round that follows on this state, None without budget for it."""
    size = _next_size(plan, state, config)
    if size == 0:
        return None
    threshold = plan.zero_threshold(rank, state.candidates, config)
    return _Running(size, threshold, sampler.draw(_round_number(state, config), size, threshold))


def _works_ahead(sampler: Sampler) -> bool:
    """Whether the devices draw the next round while the host looks at the last.

    Not where they are the host's cores, and not in joined processes, which must start collectives in one order.
    """
    return jax.process_count() == 1 and sampler.devices[0].platform != "cpu"


def _counted(plan: Plan, state: SearchState, size: int) -> SearchState:
    """The state with a round of this size counted; a round that the budget cut short is drawn again, whole."""
    return state._replace(
        next_round=state.next_round + int(size == plan.round_size), candidates=state.candidates + size
    )


def _absorb(
    factorization: Factorization, plan: Plan, state: SearchState, drawn: Drawn, size: int, threshold: int
) -> tuple[bool, SearchState]:
    """The state after a round, and whether the pool gained a direction."""
    before, verified = state.pool, None
    merged = before
    if len(drawn.rows):
        verified = pool.verify(factorization, plan.live_rows[drawn.rows], threshold)
        merged = pool.merge(before, *verified)
    explained = 0 if verified is None else int(verified.hits.sum())
    return not np.array_equal(merged.directions, before.directions), _counted(plan, state, size)._replace(
        pool=merged,
        hits=state.hits + drawn.count,
        hits_dropped=state.hits_dropped + drawn.dropped,
        false_hits=state.false_hits + drawn.count - drawn.dropped - explained,
    )


def _round_number(state: SearchState, config: ReconstructConfig) -> int:
    """Global number of the next round: shards take the rounds in turn."""
    index, count = config.shard
    return state.next_round * count + index


def _round_size(expected: float) -> int:
    share = min(max(expected / ROUNDS_PER_SEARCH, MIN_ROUND), MAX_ROUND)
    size = 2 ** math.ceil(math.log2(share))
    assert 2**INDEX_BITS % size == 0  # a round never straddles the end of the 32-bit indices
    return size


def is_late(started: float, config: ReconstructConfig) -> bool:
    """Whether the time budget of a search that started at this `time.perf_counter` is spent, the same on every host."""
    return config.max_seconds is not None and agree(time.perf_counter() - started > config.max_seconds)


def settled(certificate: Certificate | None) -> Status | None:
    """How a search ended that can find nothing better: every pattern agrees; None while there is more to find."""
    if certificate is None or not (certificate.exact | certificate.approximate).all():
        return None
    return Status.EXACT if certificate.exact.all() else Status.APPROXIMATE


def is_done(certificate: Certificate | None) -> bool:
    """Whether all directions are found and all samples certified."""
    return certificate is not None and bool(certificate.exact.all())
