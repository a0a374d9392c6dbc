"""Samples that are certified each on its own, while directions are missing or the patterns of others disagree."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.certificates import limits, network
from spear_jax.attacks.dense.certificates.next_layer import next_layer_factor, samples_alone
from spear_jax.attacks.dense.certificates.pattern import agree, by_pattern
from spear_jax.attacks.dense.certificates.scale import UNSEEN
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.outcome import Outcome, Samples, no_samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.numerics import SAME_DIRECTION_ANGLE
from spear_jax.status import Scale


def certified_alone(problem: Problem, outcome: Outcome) -> Samples:
    """Samples confirmed before, and those that the next layer's gradient or, in a full set, the network confirms."""
    known = samples_alone(problem, outcome.directions)
    if outcome.alone is not None:
        known = either(in_order(outcome.alone, outcome.directions), known)
    if not problem.is_mended or outcome.agreement is None:
        return known
    return either(known, network.samples(problem, outcome.directions, outcome.agreement))


def in_order(known: Samples, directions: Float[np.ndarray, "k r"]) -> Samples:
    """What is known of each of these directions, which are others or in another order."""
    nothing = no_samples(directions)
    if len(known.confirmed) == 0 or len(directions) == 0:
        return nothing
    likeness = np.abs(directions @ known.directions.T) * known.confirmed
    twin, is_same = likeness.argmax(axis=1), likeness.max(axis=1) > np.cos(SAME_DIRECTION_ANGLE)
    return either(nothing, Samples(*(part[twin] for part in known))._replace(confirmed=is_same))


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


def by_next_layer(problem: Problem, verdict: Verdict) -> Verdict:
    """The verdict at the scale that the next layer's gradient sees, where no network has been asked for it."""
    if problem.is_mended or problem.above is None or verdict.agreement is None:
        return verdict
    dual = dual_vectors(problem.factorization, problem.bias_grad, verdict.directions)
    factor = UNSEEN if dual is None else next_layer_factor(problem, verdict.directions, dual)
    if not factor.is_seen:
        return verdict
    if not factor.is_not(1.0):
        return verdict._replace(scale=Scale.NEXT_LAYER)
    scaled = dataclasses.replace(problem, bias_grad=problem.bias_grad / factor.value)
    again = by_pattern(verdict.directions, agree(scaled, verdict.directions))
    return again._replace(
        error=np.hypot(again.error, factor.error),
        scale=Scale.NEXT_LAYER,
        factor=factor.value,
        factor_error=factor.error,
    )


def by_samples_alone(verdict: Verdict, alone: Samples | None) -> Verdict:
    """The verdict with the samples that were certified alone; they are given by their dual vectors.

    One whose error is too large to be called exact is approximate, or a picture without a bar where nothing bounds it.
    """
    is_scaled = verdict.scale is not Scale.BIAS_GRADIENT and verdict.factor is not None
    if alone is None or verdict.exact.all() or is_scaled:
        return verdict  # at another scale than the bias gradient's, which may be all that they had
    struck = np.zeros(len(verdict.exact), bool) if verdict.struck is None else verdict.struck
    added = np.flatnonzero(alone.confirmed & ~(verdict.exact | struck)[: len(alone.confirmed)])
    added = added[~(verdict.approximate[added] & (verdict.error[added] <= alone.error[added]))]
    dual, exact, approximate = verdict.dual.copy(), verdict.exact.copy(), verdict.approximate.copy()
    matching, error = verdict.matching.copy(), verdict.error.copy()
    dual[added], matching[added], error[added] = alone.dual[added], alone.matching[added], alone.error[added]
    exact[added] = error[added] <= limits.MAX_ERROR / limits.ERROR_MARGIN
    approximate[added] = ~exact[added] & (error[added] <= limits.MAX_APPROXIMATE_ERROR)
    return verdict._replace(dual=dual, exact=exact, approximate=approximate, matching=matching, error=error)
