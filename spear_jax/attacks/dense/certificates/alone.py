"""Samples that are certified each on its own, while directions are missing or the patterns of others disagree."""

from __future__ import annotations

import numpy as np

from spear_jax.attacks.dense.certificates import network
from spear_jax.attacks.dense.certificates.next_layer import samples_alone
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.outcome import Outcome, Samples
from spear_jax.attacks.dense.problem import Problem


def certified_alone(problem: Problem, outcome: Outcome) -> Samples:
    """Samples that the next layer's gradient or, in a full set, the network confirms one by one."""
    known = samples_alone(problem, outcome.directions)
    if not problem.is_mended or outcome.agreement is None:
        return known
    return either(known, network.samples(problem, outcome.directions, outcome.agreement))


def either(first: Samples, second: Samples) -> Samples:
    """Samples that one of two certifies, of the same directions in the same order; the first where both do."""
    take = (second.confirmed & ~first.confirmed)[:, None]
    return Samples(
        np.where(take, second.directions, first.directions),
        np.where(take, second.dual, first.dual),
        first.confirmed | second.confirmed,
        np.where(take[:, 0], second.matching, first.matching),
        np.where(take[:, 0], second.error, first.error),
    )


def by_samples_alone(verdict: Verdict, alone: Samples | None) -> Verdict:
    """The verdict with the samples that were certified alone; they are given by their dual vectors."""
    if alone is None or verdict.exact.all():
        return verdict
    added = np.flatnonzero(alone.confirmed & ~verdict.exact[: len(alone.confirmed)])
    dual, exact = verdict.dual.copy(), verdict.exact.copy()
    matching, error = verdict.matching.copy(), verdict.error.copy()
    dual[added], exact[added] = alone.dual[added], True
    matching[added], error[added] = alone.matching[added], alone.error[added]
    approximate = verdict.approximate & ~exact
    return verdict._replace(dual=dual, exact=exact, approximate=approximate, matching=matching, error=error)
