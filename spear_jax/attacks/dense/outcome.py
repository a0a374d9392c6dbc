"""What a search carries between two rounds and what it came to: every proposer takes up and returns these."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.roots.found import Found
from spear_jax.config import ReconstructConfig
from spear_jax.devices import agree
from spear_jax.errors import SpearError
from spear_jax.status import Status
from spear_jax.types import CandidatePool


class Agreement(NamedTuple):
    """How well the patterns of each sample agree with ReLU: evidence, by which alone nothing is exact.

    Attributes:
        confirmed: (r,) whether every decided entry agrees, enough are decided, and the expected error is bounded.
        precise: (r,) of these, where nearly all entries are decided and the expected error is as small as an exact
            sample's must be.
        matching: (r,) share of live entries where ``Z > 0`` agrees with ``D != 0``.
        error: (r,) expected error of the input relative to its norm; infinite where nothing bounds it.
        shape_error: (r,) the same up to the scale of each input.
        dropped: (r,) share of the active neurons that a mask behind the ReLU silenced; 0 where none is needed.
        bias_residual: ``|bias_grad - D 1| / |bias_grad|``.
    """

    confirmed: Bool[np.ndarray, " r"]
    precise: Bool[np.ndarray, " r"]
    matching: Float[np.ndarray, " r"]
    error: Float[np.ndarray, " r"]
    shape_error: Float[np.ndarray, " r"]
    dropped: Float[np.ndarray, " r"]
    bias_residual: float

    @property
    def is_masked(self) -> bool:
        """Whether the patterns agree but for a mask behind the ReLU."""
        return bool(self.dropped.any())

    @property
    def matching_score(self) -> float:
        """The paper's lambda (SPEAR, Sec. 4.2), here over live rows."""
        return float(self.matching.mean())


class Samples(NamedTuple):
    """What the layer above tells of each known direction.

    Attributes:
        directions: (k, r) unit directions.
        dual: (k, r) p_i, so that ``x_i = p_i @ right``; NaN rows where nothing could be said.
        confirmed: (k,) whether the sample is certified on its own.
        matching: (k,) share of live entries where ``Z > 0`` agrees with ``D != 0``.
        error: (k,) expected error of the input relative to its norm; infinite where nothing could be said.
    """

    directions: Float[np.ndarray, "k r"]
    dual: Float[np.ndarray, "k r"]
    confirmed: Bool[np.ndarray, " k"]
    matching: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]


def no_samples(directions: Float[np.ndarray, "k r"]) -> Samples:
    """Of these directions nothing is known yet."""
    count = len(directions)
    return Samples(
        directions, np.full(directions.shape, np.nan), np.zeros(count, bool), np.zeros(count), np.full(count, np.inf)
    )


class SearchState(NamedTuple):
    """Where a search stands between two rounds.

    Attributes:
        pool: verified directions.
        method: the proposer that is at work, ``"sampling"``, ``"dictionary"`` or ``"span"``.
        next_round: rounds of it that are done, for sampling those of this shard.
        candidates: candidates drawn in them.
        hits, hits_dropped, false_hits: see `SearchStats`.
        roots: samples that the span method found, None for the others.
        grown_at: round after which that last found one.
        turns: rounds of it that found one at most: after each it measures residuals the other way.
        activation: that it takes to be between the layer and the next one, None for the others.
        apart: not 0 where it does not believe the bias gradients, which the client scaled apart from the others.
    """

    pool: CandidatePool
    method: str = "sampling"
    next_round: int = 0
    candidates: int = 0
    hits: int = 0
    hits_dropped: int = 0
    false_hits: int = 0
    roots: Found | None = None
    grown_at: int = 0
    turns: int = 0
    activation: str | None = None
    apart: int = 0


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


class Run(NamedTuple):
    """How a search is run.

    Attributes:
        key: candidate or round i derives its own from it.
        config: budgets, shapes and devices.
        on_round: called after each round.
    """

    key: jax.Array
    config: ReconstructConfig
    on_round: Callable[[Progress], None] | None = None

    def after(self, seconds: float) -> Run:
        """The run with so much of its time budget spent."""
        return self._replace(config=self.config.after(seconds))

    def few_rounds(self, count: int) -> Run:
        """The run with so many rounds of the dictionary method."""
        options = dataclasses.replace(self.config.dictionary, max_rounds=count)
        return self._replace(config=dataclasses.replace(self.config, dictionary=options))

    def is_late(self, started: float) -> bool:
        """Whether the time budget of a search that started at this `time.perf_counter` is spent, on all hosts alike."""
        limit = self.config.max_seconds
        return limit is not None and agree(time.perf_counter() - started > limit)


class Outcome(NamedTuple):
    """Result of a search.

    Attributes:
        state: the last state.
        directions: (k, r) chosen directions, k <= r.
        agreement: of the r chosen directions, None while some are missing.
        status: how it ended.
        alone: what the layers above tell of each chosen direction, None where they were not asked.
        scale_error: of the scale of all samples, relative, where the span method saw it apart from the bias gradients.
        compile_seconds, search_seconds, solve_seconds: wall-clock time of compilation, rounds and host arithmetic.
        devices: number and kind of the devices.
        activations: between the layer and the next one, those that fit what was found, the likeliest first.
    """

    state: SearchState
    directions: Float[np.ndarray, "k r"]
    agreement: Agreement | None
    status: Status
    alone: Samples | None = None
    scale_error: float = float("inf")
    compile_seconds: float = 0.0
    search_seconds: float = 0.0
    solve_seconds: float = 0.0
    devices: tuple[int, str] = (0, "none")
    activations: tuple[str, ...] = ("relu",)

    @property
    def is_relu(self) -> bool:
        """Whether zeros of the gradient say anything of the samples."""
        return "relu" in self.activations

    @property
    def spent(self) -> float:
        """Seconds of the time budget that went by."""
        return self.compile_seconds + self.search_seconds

    @property
    def is_whole(self) -> bool:
        """Whether every sample is certified, by the patterns of all or each on its own."""
        if is_done(self.agreement):
            return True
        return self.alone is not None and int(self.alone.confirmed.sum()) == self.directions.shape[1]

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


def settled(agreement: Agreement | None) -> Status | None:
    """How a search ended that can find nothing better: every pattern agrees; None while there is more to find."""
    if agreement is None or not agreement.confirmed.all():
        return None
    return Status.EXACT if agreement.precise.all() else Status.APPROXIMATE


def is_done(agreement: Agreement | None) -> bool:
    """Whether all directions are found and every pattern agrees as an exact sample's does."""
    return agreement is not None and bool(agreement.precise.all())
