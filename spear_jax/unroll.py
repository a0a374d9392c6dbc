"""Sample by sample to the end: what is found gives its inputs, these leave a smaller problem, and so on.

A batch too large for its layer yields its first directions only. Each gives one exact sample through the layer above
(`next_layer`); without these samples (`deflate`) the rest has the same rows and fewer columns, which is easier.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from spear_jax import certify, pool
from spear_jax.config import ReconstructConfig
from spear_jax.deflate import deflate
from spear_jax.dictionary import dictionary_search
from spear_jax.next_layer import Samples, samples_alone
from spear_jax.polish import polish
from spear_jax.search import Outcome, is_done
from spear_jax.select import Judge, select
from spear_jax.status import Status
from spear_jax.types import Array

# Rounds of the reduced search before the samples it found are taken out too.
ROUNDS_PER_PASS = 8
# Separates the keys of the passes from those of the rounds before.
PASS_KEY = 2**20


def unroll(
    evidence: certify.Evidence,
    next_weight_grad: Array,
    outcome: Outcome,
    judge: Judge,
    key: jax.Array,
    config: ReconstructConfig,
) -> tuple[Outcome, Samples | None]:
    """Go on from an outcome that is not whole, for as long as it grows.

    Args:
        evidence: of the observation.
        next_weight_grad: (j, m) kernel gradient of the layer above.
        outcome: of the search so far.
        judge: certificate of r directions.
        key: of the search.
        config: of the reconstruction.

    Returns:
        the outcome with what was added, and the samples known alone where directions are still missing.
    """
    rounds = dataclasses.replace(config.dictionary, max_rounds=ROUNDS_PER_PASS)
    factorization, number = evidence.factorization, 0
    while True:
        alone = samples_alone(evidence, next_weight_grad, outcome.directions)
        known = alone.exact
        if is_done(outcome.certificate) or not known.any() or known.sum() == factorization.rank:
            return outcome, alone
        if config.max_seconds is not None and outcome.compile_seconds + outcome.search_seconds > config.max_seconds:
            return outcome, alone
        rest = deflate(evidence, outcome.directions[known], alone.dual[known])
        inner = dictionary_search(
            rest.evidence.factorization, rest.evidence, lambda q, of=rest.evidence: certify.certify(of, q),
            jax.random.fold_in(key, PASS_KEY + number), dataclasses.replace(config, dictionary=rounds),
        )  # fmt: skip
        number += 1
        found = polish(factorization, inner.directions @ rest.lift.T)
        zeros = pool.zero_count(factorization, found)
        merged = pool.merge(outcome.state.pool, found, zeros, np.ones(len(found), np.int64))
        chosen, certificate = select(merged, judge)
        if len(chosen) == len(outcome.directions) and (certificate is None) == (outcome.certificate is None):
            return outcome, alone
        outcome = outcome._replace(
            state=outcome.state._replace(pool=merged),
            directions=merged.directions[chosen],
            certificate=certificate,
            status=Status.EXACT if is_done(certificate) else outcome.status,
            compile_seconds=outcome.compile_seconds + inner.compile_seconds,
            search_seconds=outcome.search_seconds + inner.search_seconds,
        )
