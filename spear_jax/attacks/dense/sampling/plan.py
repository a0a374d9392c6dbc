"""What a sampling search will do, decided before it starts: which rows, which sampler, how large a round, which filter.

Rank, live rows and noise alone decide; the cost of each choice is that of `cost`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from spear_jax import numerics
from spear_jax.attacks.dense.directions.pool import SPARE_ZEROS
from spear_jax.attacks.dense.sampling import cost
from spear_jax.attacks.dense.sampling.samplers import candidates_per_chain
from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS, MAX_SHARE
from spear_jax.config import ReconstructConfig
from spear_jax.devices import INDEX_BITS
from spear_jax.types import Factorization

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
# A search that overruns its expectation to twice, four times, ... takes the columns to have this share of the zeros
# assumed so far: neurons of deep layers fire for most samples, and such columns fall short of the first threshold.
OVERRUN_SHARE = 0.8


class SamplingPlan(NamedTuple):
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

    def next_size(self, candidates: int, config: ReconstructConfig) -> int:
        """Candidates of the round after this many: a whole one, or none without budget; only the first may be cut."""
        left = max(config.max_candidates - candidates, 0)
        if left >= self.round_size:
            return self.round_size
        return left // self.granularity * self.granularity * (candidates == 0)

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
        by_rate = cost.zero_threshold(config.false_rejection, len(self.live_rows), share)
        return max(by_rate, rank - 1 + SPARE_ZEROS)


def plan_search(factorization: Factorization, config: ReconstructConfig) -> SamplingPlan:
    """Rows, way to sample, round size and expected cost from rank, live rows and noise alone.

    A walk that was asked for where none is possible is planned flat; `search` refuses it when it comes to that.
    """
    live_rows = np.flatnonzero(np.asarray(factorization.live_mask))
    rank, live = factorization.rank, len(live_rows)
    expected = cost.planned_candidates(rank, live, config.zero_share) if live >= rank else math.inf
    if not _walks(factorization, live, expected, config):
        size = config.round_size or _round_size(expected)
        return SamplingPlan(live_rows, "flat", size, granularity=1, expected=expected, efficiency=1.0, walk_threshold=0)
    noise = numerics.relative_noise(factorization)
    worth = lambda threshold: cost.walk_efficiency(threshold, rank, live, config.zero_share, noise)
    few, many = WALK_THRESHOLDS
    threshold = few if expected <= MANY_CANDIDATES * worth(few) else many
    efficiency, per_chain = worth(threshold), candidates_per_chain(rank)
    size = _num_chains(expected / efficiency, per_chain, config) * per_chain
    return SamplingPlan(live_rows, "walk", size, per_chain, expected, efficiency, threshold)


def expected_remaining(rank: int, found: int, plan: SamplingPlan, candidates: int, config: ReconstructConfig) -> float:
    """Expected candidates of the plan's sampler for the directions still missing, those with the fewest zeros."""
    if found >= rank:
        return 0.0
    if math.isinf(plan.expected):
        return math.inf
    share = plan.zero_share(candidates, config)
    zeros = np.sort(cost.planned_zero_counts(rank, len(plan.live_rows), share))[: rank - found]
    independent = cost.expected_candidates(cost.hit_probability(zeros, len(plan.live_rows), rank))
    return independent / plan.efficiency


def _walks(factorization: Factorization, live: int, expected: float, config: ReconstructConfig) -> bool:
    """Whether candidates are drawn by pivot walks."""
    is_possible = factorization.rank > 2 and live >= factorization.rank + CHECK_ROWS and not math.isinf(expected)
    is_worth_it = expected >= WALK_EXPECTED and numerics.relative_noise(factorization) <= WALK_NOISE
    return is_possible and (config.sampler == "walk" or (config.sampler == "auto" and is_worth_it))


def _round_size(expected: float) -> int:
    share = min(max(expected / ROUNDS_PER_SEARCH, MIN_ROUND), MAX_ROUND)
    size = 2 ** math.ceil(math.log2(share))
    assert 2**INDEX_BITS % size == 0  # a round never straddles the end of the 32-bit indices
    return size


def _num_chains(candidates: float, per_chain: int, config: ReconstructConfig) -> int:
    """Chains of a round of a walk that is expected to draw this many candidates."""
    wanted = min(max(candidates / ROUNDS_PER_SEARCH / per_chain, MIN_CHAINS), MAX_CHAINS)
    if config.round_size is not None:
        wanted = max(config.round_size / per_chain, MAX_SHARE)
    return 2 ** math.ceil(math.log2(wanted))
