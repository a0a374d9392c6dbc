"""The network certificate: each sample on its own, through the layers above (docs/method.md, Sec. 6).

A sample whose gradient the model reproduces (`reply`) is certified without the others, with its label and its exact
direction, which mends the samples whose dual vector a wrong direction had spoiled. It is asked for the scale too
(`scale`), which else rests on the bias gradient alone, and for how many samples each one stands (`means`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.contradiction import fits_another_loss
from spear_jax.attacks.dense.certificates.means import read_shares
from spear_jax.attacks.dense.certificates.moves import moved, ways
from spear_jax.attacks.dense.certificates.pattern import agree, by_pattern
from spear_jax.attacks.dense.certificates.reply import Reply, judge
from spear_jax.attacks.dense.certificates.scale import Factors, find_factors, shared_factor
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.outcome import Agreement, Samples, no_samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.status import Reason, Scale

MAX_PASSES = 3


def by_network(problem: Problem, verdict: Verdict, num_examples: int | None = None) -> Verdict:
    """The verdict with what the model says of each sample, and its labels.

    Where all patterns agree, samples that the network plainly refuses are struck out. Where it refuses all, another
    scale is tried; if none will do the batch contradicts the model and nothing is certified. Where patterns disagree a
    wrong direction may taint other samples by less than their patterns show; then only the network's word counts, for
    samples where it would notice.

    Args:
        problem: of the layer; without a model above the verdict stays.
        verdict: by the patterns, of which it stays while directions are missing.
        num_examples: batch size as the client reports it, None where it does not.
    """
    if not problem.is_mended or verdict.agreement is None or verdict.agreement.is_masked:
        return verdict
    dual = dual_vectors(problem.factorization, problem.bias_grad, verdict.directions)
    if dual is None:
        return verdict
    directions, agreement, reply = mend(problem, verdict.directions, verdict.agreement)
    dual = dual_vectors(problem.factorization, problem.bias_grad, directions)
    assert dual is not None
    if not (reply.confirmed | reply.is_refused).any():
        return by_pattern(directions, agreement)  # noise leaves it nothing to say
    factors = find_factors(problem, dual, reply)
    shape_error = agreement.shape_error  # what is left of an input moves its gradient as its scale does
    factors = factors._replace(error=np.hypot(factors.error, np.where(np.isfinite(shape_error), shape_error, 0.0)))
    common = factors.common
    if not common.is_seen:
        common = shared_factor(problem, dual, reply)
    if verdict.factor is None and common.is_seen and common.is_not(1.0) and not factors.deviates(common.value).any():
        # One factor for all: as if the client's bias gradient had been this much larger.
        scaled = dataclasses.replace(problem, bias_grad=problem.bias_grad / common.value)
        again = by_pattern(directions, agree(scaled, directions))
        return by_network(scaled, again._replace(factor=common.value, factor_error=common.error), num_examples)
    is_contradicted = bool(reply.is_refused.any() and not factors.reply.confirmed.any())
    if is_contradicted and fits_another_loss(problem, directions):
        return by_pattern(directions, agreement)._replace(reason=Reason.ANOTHER_LOSS)
    found = by_pattern(directions, agreement)._replace(factor=verdict.factor, factor_error=verdict.factor_error)
    found = found._replace(error=np.hypot(found.error, found.factor_error))
    if factors.deviates(1.0).any() or not reply.confirmed.any():
        is_right = factors.reply.confirmed & ~factors.deviates(1.0) & bool(common.is_seen and not common.is_not(1.0))
        found = _each_at_its_scale(problem, found, dual, factors, is_right)
    elif found.is_whole:
        found = found._replace(exact=found.exact & ~reply.is_refused, approximate=found.approximate & ~reply.is_refused)
    else:
        found = _one_by_one(problem, found, dual, reply)
    shares = read_shares(factors.reply, np.minimum(found.error, 1.0), num_examples)
    struck = shares.is_odd | reply.is_refused
    return found._replace(
        struck=struck,
        exact=found.exact & ~shares.is_odd,
        approximate=found.approximate & ~shares.is_odd,
        labels=shares.labels,
        possible_labels=shares.fits,
        mean_of=shares.mean_of,
        scale=Scale.NETWORK if common.is_seen else Scale.BIAS_GRADIENT,
        is_contradicted=is_contradicted,
    )


def _one_by_one(problem: Problem, verdict: Verdict, dual: Float[np.ndarray, "r r"], reply: Reply) -> Verdict:
    """Only the network's word, with an error bar from what it would notice where the patterns give none."""
    noticed, error = _would_notice(problem, dual, reply)
    error = np.where(np.isfinite(verdict.error), verdict.error, error)
    exact = reply.confirmed & noticed & (error <= limits.MAX_ERROR / limits.ERROR_MARGIN)
    return verdict._replace(exact=exact, approximate=np.zeros_like(exact), error=np.where(exact, error, verdict.error))


def _each_at_its_scale(
    problem: Problem,
    verdict: Verdict,
    dual: Float[np.ndarray, "r r"],
    factors: Factors,
    is_right: Bool[np.ndarray, " r"],
) -> Verdict:
    """Every sample that the network confirms at a scale of its own, which the bias gradient does not give.

    Those that are right as they are stay so.
    """
    assert verdict.agreement is not None
    scaled = dual * factors.value[:, None]
    noticed, seen = _would_notice(problem, scaled, factors.reply)
    shape = np.where(np.isfinite(verdict.agreement.shape_error), verdict.agreement.shape_error, seen)
    error = np.hypot(shape, factors.error)
    known = factors.reply.confirmed & noticed & (limits.DEVIATES * factors.error <= limits.MAX_ERROR) & ~is_right
    exact = known & (error <= limits.MAX_ERROR / limits.ERROR_MARGIN)
    stays = is_right & verdict.exact
    return verdict._replace(
        dual=np.where(known[:, None], scaled, verdict.dual),
        exact=exact | stays,
        approximate=is_right & verdict.approximate,
        error=np.where(exact, error, np.where(is_right, verdict.error, np.inf)),
        factor=float("nan") if exact.any() else None,
    )


def mend(
    problem: Problem, directions: Float[np.ndarray, "r r"], agreement: Agreement
) -> tuple[Float[np.ndarray, "r r"], Agreement, Reply]:
    """Replace directions that do not agree by those that the network gives, until nothing changes.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row, none of whose scales vanishes.
        agreement: theirs.

    Returns:
        directions, their agreement, and the network's reply to them.
    """
    reply = _judge(problem, directions)
    assert reply is not None
    for _ in range(MAX_PASSES):
        replaced = reply.confirmed & ~agreement.precise
        trial = np.where(replaced[:, None], reply.directions, directions)
        if not replaced.any() or linalg.svd(trial, compute_uv=False)[-1] < numerics.MIN_INDEPENDENT:
            break
        again, after = agree(problem, trial), _judge(problem, trial)
        if after is None:
            break
        if np.sum(again.precise | after.confirmed) <= np.sum(agreement.precise | reply.confirmed):
            break
        directions, agreement, reply = trial, again, after
    return directions, agreement, reply


def _judge(problem: Problem, directions: Float[np.ndarray, "r r"]) -> Reply | None:
    dual = dual_vectors(problem.factorization, problem.bias_grad, directions)
    return None if dual is None else judge(problem, dual)


def samples(problem: Problem, directions: Float[np.ndarray, "r r"], agreement: Agreement) -> Samples:
    """The samples of r directions that the network confirms, each on its own, with the directions it gives them.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        agreement: theirs.
    """
    verdict = by_network(problem, by_pattern(directions, agreement))
    dual = dual_vectors(problem.factorization, problem.bias_grad / verdict.common_factor, verdict.directions)
    if dual is None:
        return no_samples(directions)
    dual = np.where(np.isfinite(verdict.dual), verdict.dual, dual)
    return Samples(verdict.directions, dual, verdict.exact, verdict.matching, verdict.error)


def _would_notice(
    problem: Problem, dual: Float[np.ndarray, "r r"], reply: Reply
) -> tuple[Bool[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Whether the network refuses each sample once it is moved by the error that a certificate excludes, and the error
    that it leaves open.

    With two classes or a saturated softmax D(y) depends on little more than which neurons fire. And at the mean of two
    samples of one label it is the mean of theirs, up to the square of their distance: it is blind towards a neighbour.
    """
    noticed, least = reply.confirmed.copy(), np.full(len(dual), np.inf)
    groups = (reply.confirmed & ~reply.is_alone, None), (reply.confirmed & reply.is_alone, reply.labels)
    for places, labels in groups:
        for along in ways(dual, problem.spectrum) if places.any() else ():
            near = moved(dual, problem.spectrum, along)[places]
            after = judge(problem, near, None if labels is None else labels[places])
            noticed[places] &= ~after.confirmed
            least[places] = np.minimum(least[places], after.distance)
    error = limits.MAX_ERROR * np.hypot(reply.noise, reply.distance) / np.maximum(least, np.finfo(float).tiny)
    return noticed, error
