"""What a search carries between two rounds and what it came to: every proposer takes up and returns these."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.directions import pool
from spear_jax.config import ReconstructConfig
from spear_jax.devices import agree
from spear_jax.errors import SpearError
from spear_jax.status import Status
from spear_jax.types import CandidatePool, Certificate


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

    @property
    def spent(self) -> float:
        """Seconds of the time budget that went by."""
        return self.compile_seconds + self.search_seconds

    def after(self, before: Outcome) -> Outcome:
        """The outcome with the seconds of the stage before."""
        return self._replace(
            compile_seconds=before.compile_seconds + self.compile_seconds,
            search_seconds=before.search_seconds + self.search_seconds,
        )


def initial_state(rank: int, config: ReconstructConfig) -> SearchState:
    """The state before the first round; the only direction of a batch of one is known from the start."""
    capacity = config.pool_capacity or 8 * rank + 64
    if capacity < rank:
        raise SpearError(f"pool_capacity is {capacity}; expected at least {rank}, one place for each direction.")
    start = pool.empty_pool(capacity, rank)
    if rank == 1:
        start = pool.merge(start, np.ones((1, 1)), np.zeros(1, np.int64), np.ones(1, np.int64))
    return SearchState(pool=start)


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
