"""Samples that may be means of several, where the client reported more samples than there are directions."""

from __future__ import annotations

import numpy as np

from spear_jax import numerics
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.problem import Problem


def told_apart(problem: Problem, verdict: Verdict, num_examples: int | None) -> Verdict:
    """The verdict without samples that may be means of several.

    Args:
        problem: of the layer.
        verdict: so far.
        num_examples: batch size as the client reports it, None where it does not.
    """
    if num_examples is None or num_examples <= problem.rank:
        return verdict
    fires = (~numerics.zero_mask(problem.factorization, verdict.directions))[problem.live_mask].astype(float)
    differ = fires.T @ (1 - fires) + (1 - fires).T @ fires
    np.fill_diagonal(differ, np.inf if problem.rank > 1 else 0)
    is_apart = np.zeros(problem.rank, bool)
    is_apart[: len(verdict.directions)] = (differ >= limits.MIN_APART).all(axis=1)
    return verdict._replace(exact=verdict.exact & is_apart, approximate=verdict.approximate & is_apart)
