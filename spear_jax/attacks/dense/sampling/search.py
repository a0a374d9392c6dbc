"""The sampling search: rounds of candidates until everything certifies or a budget runs out (SPEAR, Alg. 1).

The state between two rounds is small and whole: the next round and the pool. A run that is stopped and resumed goes
through the same states as one that never was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from spear_jax import numerics
from spear_jax.attacks.dense.certificates.select import select
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import Agreement, Outcome, Progress, Run, SearchState, initial_state, settled
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.sampling.plan import SamplingPlan, expected_remaining
from spear_jax.attacks.dense.sampling.samplers import Drawn, Sampler, flat_sampler, walk_sampler
from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.status import Status
from spear_jax.types import Factorization

# All directions found, not all certified, and this many times the expected candidates drawn: more will not mend it.
OVERRUN_LIMIT = 1024
# 2^48 candidates are out of reach of any machine.
MAX_RANK = 48


def sample(problem: Problem, plan: SamplingPlan, run: Run, state: SearchState | None = None) -> Outcome:
    """Draw rounds of candidates until every pattern agrees, or a budget runs out.

    Args:
        problem: of the layer.
        plan: rows, sampler and round size.
        run: candidate i derives its key from (key, i); the callback comes before the budgets are looked at.
        state: where to go on, None for the start.

    Raises:
        SpearError: a walk was asked for that has too few rows.
    """
    config, rank = run.config, problem.rank
    state = initial_state(rank, config) if state is None else state
    chosen, agreement = select(problem, state.pool)
    status = settled(agreement)
    if status is None:
        status = _no_search(rank, plan, state, config)
    if status is not None:
        return Outcome(state, state.pool.directions[chosen], agreement, status)
    sampler = _compile(problem, plan, run)
    started, solving, drawn_before = time.perf_counter(), 0.0, state.candidates
    rounds = _rounds(sampler, rank, plan, state, config)
    while status is None:
        round_ = next(rounds)  # there is one: `_ending` has looked at the budget
        solve_started = time.perf_counter()
        grown, state = _absorb(problem.factorization, plan, state, round_)
        if grown:
            chosen, agreement = select(problem, state.pool)
        solving += time.perf_counter() - solve_started
        if run.on_round is not None:
            remaining = expected_remaining(rank, len(chosen), plan, state.candidates, config)
            elapsed, candidates = time.perf_counter() - started, state.candidates - drawn_before
            run.on_round(Progress(state, len(chosen), rank, remaining, elapsed, candidates))
        status = _ending(plan, state, agreement, run, started)
    return Outcome(
        state=state,
        directions=state.pool.directions[chosen],
        agreement=agreement,
        status=status,
        compile_seconds=sampler.compile_seconds,
        search_seconds=time.perf_counter() - started - solving,
        solve_seconds=solving,
        devices=(len(sampler.devices), sampler.devices[0].device_kind),
    )


def _no_search(rank: int, plan: SamplingPlan, state: SearchState, config: ReconstructConfig) -> Status | None:
    """Why nothing is to be drawn, before anything is compiled, or None."""
    if rank == 1:
        return Status.PARTIAL
    if math.isinf(plan.expected) or rank > MAX_RANK:
        return Status.UNREACHABLE
    return None if plan.next_size(state.candidates, config) else Status.CANDIDATE_BUDGET


def _ending(
    plan: SamplingPlan, state: SearchState, agreement: Agreement | None, run: Run, started: float
) -> Status | None:
    """How the search ended with this round, None where another follows."""
    if (ended := settled(agreement)) is not None:
        return ended
    config = run.config
    if run.is_late(started):
        return Status.TIME_BUDGET
    if plan.next_size(state.candidates, config) == 0:
        return Status.CANDIDATE_BUDGET
    is_overrun = plan.independent(state.candidates, config) > OVERRUN_LIMIT * plan.expected
    if is_overrun and state.pool.size == 0:
        return Status.NOT_SPARSE
    return Status.PARTIAL if agreement is not None and is_overrun else None


def _compile(problem: Problem, plan: SamplingPlan, run: Run) -> Sampler:
    """The sampler that was planned, compiled for the rows that it draws from."""
    config = run.config
    if config.sampler == "walk" and plan.sampler != "walk":
        raise SpearError(
            f"sampler is 'walk', which needs rank 3 or more and at least {CHECK_ROWS} live rows beyond the rank; this "
            f"layer has rank {problem.rank} and {len(plan.live_rows)} live rows: use sampler 'flat' or 'auto'."
        )
    left = problem.left[plan.live_rows]
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    if plan.sampler == "walk":
        return walk_sampler(left, run.key, plan.walk_threshold, plan.round_size, config)
    return flat_sampler(left, run.key, numerics.search_tolerance(problem.factorization), plan.round_size, config)


class _Round(NamedTuple):
    """A round that was drawn: its candidates, the zeros asked of them, and the hits."""

    size: int
    threshold: int
    drawn: Drawn


def _rounds(
    sampler: Sampler, rank: int, plan: SamplingPlan, state: SearchState, config: ReconstructConfig
) -> Iterator[_Round]:
    """The rounds that follow on a state, while there is budget.

    What is drawn does not depend on what was found: an accelerator need not wait for the host.
    """

    def start(state: SearchState) -> tuple[int, int, Callable[[], Drawn]] | None:
        if (size := plan.next_size(state.candidates, config)) == 0:
            return None
        threshold = plan.zero_threshold(rank, state.candidates, config)
        return size, threshold, sampler.draw(_round_number(state, config), size, threshold)

    running = start(state)
    while running is not None:
        size, threshold, wait = running
        drawn = wait()
        state = _counted(plan, state, size)
        ahead = start(state) if _works_ahead(sampler) else None
        yield _Round(size, threshold, drawn)
        running = ahead or start(state)


def _works_ahead(sampler: Sampler) -> bool:
    """Whether the devices draw the next round while the host looks at the last.

    Not where they are the host's cores, and not in joined processes, which must start collectives in one order.
    """
    return jax.process_count() == 1 and sampler.devices[0].platform != "cpu"


def _counted(plan: SamplingPlan, state: SearchState, size: int) -> SearchState:
    """The state with a round of this size counted; a round that the budget cut short is drawn again, whole."""
    return state._replace(
        next_round=state.next_round + int(size == plan.round_size), candidates=state.candidates + size
    )


def _absorb(
    factorization: Factorization, plan: SamplingPlan, state: SearchState, round_: _Round
) -> tuple[bool, SearchState]:
    """The state after a round, and whether the pool gained a direction."""
    size, threshold, drawn = round_
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
