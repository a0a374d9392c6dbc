"""Sample by sample to the end: what is found gives its inputs, these leave a smaller problem, and so on.

A batch too large for its layer yields its first directions only. Each gives one exact sample through the layer above
(`next_layer`), and the model confirms samples of a full set one by one (`network`); without these samples (`deflate`)
the rest has the same rows and fewer columns, which is easier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from spear_jax.attacks.dense.certificates import pattern
from spear_jax.attacks.dense.certificates.next_layer import Samples
from spear_jax.attacks.dense.dictionary.search import Mend, dictionary_search
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.attacks.dense.directions.select import Judge, select
from spear_jax.attacks.dense.outcome import Outcome, is_done
from spear_jax.attacks.dense.problem import Evidence
from spear_jax.attacks.dense.remainder import deflate
from spear_jax.attacks.dense.sampling.plan import SPARE_ZEROS
from spear_jax.config import ReconstructConfig
from spear_jax.status import Status

# Rounds of the reduced search before the samples it found are taken out too: few, and where these find none, more.
ROUNDS_PER_PASS = (2, 8)
# Separates the keys of the passes from those of the rounds before.
PASS_KEY = 2**20


def unroll(
    evidence: Evidence,
    certified: Callable[[Outcome], Samples],
    outcome: Outcome,
    config: ReconstructConfig,
    *,
    judge: Judge,
    key: jax.Array,
    mend_of: Callable[[Evidence], Mend] | None = None,
) -> tuple[Outcome, Samples]:
    """Go on from an outcome that is not whole, for as long as it grows.

    Args:
        evidence: of the observation.
        certified: which samples of an outcome's directions are certified on their own.
        outcome: of the search so far.
        config: of the reconstruction.
        judge: certificate of r directions.
        key: of the search.
        mend_of: what mends the directions of a reduced problem, see `dictionary_search`.

    Returns:
        the outcome with what was added, and the samples certified on their own.
    """
    alone, number, patience = certified(outcome), 0, 0
    while patience < len(ROUNDS_PER_PASS) and _may_grow(outcome, alone, config):
        pass_key = jax.random.fold_in(key, PASS_KEY + number)
        grown = _pass(evidence, alone, outcome, judge, pass_key, config, ROUNDS_PER_PASS[patience], mend_of)
        after, number = certified(grown), number + 1
        if after.exact.sum() <= alone.exact.sum() and len(grown.directions) <= len(outcome.directions):
            spent = {"compile_seconds": grown.compile_seconds, "search_seconds": grown.search_seconds}
            outcome, patience = outcome._replace(**spent), patience + 1
        else:
            outcome, alone, patience = grown, after, 0
    return outcome, alone


def is_whole(outcome: Outcome, alone: Samples) -> bool:
    """Whether every sample is certified, by the patterns of all or each on its own."""
    return is_done(outcome.certificate) or int(alone.exact.sum()) == outcome.directions.shape[1]


def _may_grow(outcome: Outcome, alone: Samples, config: ReconstructConfig) -> bool:
    is_late = config.max_seconds is not None and outcome.spent > config.max_seconds
    return not is_whole(outcome, alone) and not is_late and bool(alone.exact.any())


def _pass(
    evidence: Evidence,
    alone: Samples,
    outcome: Outcome,
    judge: Judge,
    key: jax.Array,
    config: ReconstructConfig,
    rounds: int,
    mend_of: Callable[[Evidence], Mend] | None,
) -> Outcome:
    """The certified samples taken out, a search in what is left, and its directions in the pool."""
    known = alone.exact
    few = dataclasses.replace(config.dictionary, max_rounds=rounds)
    left = dataclasses.replace(config, dictionary=few).after(outcome.spent)
    rest = deflate(evidence, alone.directions[known], alone.dual[known], alone.error[known])
    if rest.evidence.factorization.live_mask.sum() < rest.evidence.factorization.rank + SPARE_ZEROS:
        return outcome  # what was taken out drowns the rest
    inner = dictionary_search(
        rest.evidence.factorization, rest.evidence, lambda directions: pattern.certify(rest.evidence, directions), key,
        left, mend=None if mend_of is None else mend_of(rest.evidence),
    )  # fmt: skip
    factorization = evidence.factorization
    found = polish(factorization, np.concatenate([inner.directions @ rest.lift.T, alone.directions[known]]))
    zeros = pool.zero_count(factorization, found)
    merged = pool.merge(outcome.state.pool, found, zeros, np.ones(len(found), np.int64))
    chosen, certificate = select(merged, judge)
    return outcome._replace(
        state=outcome.state._replace(pool=merged),
        directions=merged.directions[chosen],
        certificate=certificate,
        status=Status.EXACT if is_done(certificate) else outcome.status,
        compile_seconds=outcome.compile_seconds + inner.compile_seconds,
        search_seconds=outcome.search_seconds + inner.search_seconds,
    )
