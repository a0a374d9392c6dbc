"""The network certificate: each sample on its own, through the layers above (docs/method.md, Sec. 6).

With the whole model at hand the server can run it on a reconstructed input: forward, and backward for a label y. The
sample's gradient ``D(y) = J^T (softmax - e_y)`` must lie in the column space of the weight gradient, which no wrong
input or label achieves. That certifies the sample without the others, names its label and gives its exact direction,
which mends the samples whose dual vector a wrong direction had spoiled.

Labels are found without a backward pass for each: for w outside the column space ``w . D(y) = (J w) . softmax -
(J w)_y``, so one forward derivative of a few random w scores all classes at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax import numerics
from spear_jax.attacks.dense.above import Layers
from spear_jax.attacks.dense.certificates.pattern import all_or_none, by_pattern, certify
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.outcome import Agreement, Samples, agreement_of, no_samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.types import NO_LABEL, Certificate

# Random vectors that score the labels, and what makes them: part of the algorithm, not of the experiment.
PROBES, PROBE_SEED = 2, 0
# Entries of the arrays of one batch of samples (128 MiB in float64).
BATCH_ENTRIES = 2**24
MAX_PASSES = 3
# A distance this many times the tolerance is a plain no: large logits alone bring right samples to ten times.
REFUSED = 100.0
# A pre-activation within so many client roundings of zero, relative to what is summed up, may have fired or not.
OPEN = 8.0
# Random errors that the network must notice before its word counts alone.
TAINTS = 2


class Verdicts(NamedTuple):
    """What the network says of each sample.

    Attributes:
        exact: (r,) whether the sample's gradient lies in the column space of the weight gradient.
        is_refused: (r,) whether it plainly does not, with every neuron above decided: one that is open may have been
            off for the client and fire here.
        labels: (r,) the label for which it does, `NO_LABEL` without one.
        directions: (r, r) unit rows, the direction that the network gives each sample.
    """

    exact: Bool[np.ndarray, " r"]
    is_refused: Bool[np.ndarray, " r"]
    labels: Int[np.ndarray, " r"]
    directions: Float[np.ndarray, "r r"]


def repair(
    problem: Problem, directions: Float[np.ndarray, "r r"], certificate: Certificate
) -> tuple[Float[np.ndarray, "r r"], Certificate]:
    """Replace directions that do not certify by the network's, until nothing changes, and add labels.

    Where all patterns agree, samples that the network plainly refuses are struck out, provided that it confirms any: a
    client with another loss is confirmed nowhere. Where patterns disagree a wrong direction may taint other samples by
    less than their patterns show; then only the network's word counts, for samples where it would notice.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        certificate: theirs.

    Returns:
        the directions and their certificate, with labels.
    """
    directions, certificate, verdicts = mend(problem, directions, certificate)
    certificate = all_or_none(certificate)
    if (certificate.exact | certificate.approximate).all():
        refused = verdicts.is_refused & verdicts.exact.any()
        exact, approximate = certificate.exact & ~refused, certificate.approximate & ~refused
    else:
        exact = verdicts.exact & _would_notice(problem, directions, verdicts)
        approximate = certificate.approximate
    return directions, dataclasses.replace(certificate, exact=exact, approximate=approximate, labels=verdicts.labels)


def by_network(problem: Problem, verdict: Verdict) -> Verdict:
    """The verdict with what the model says of each sample, and its labels.

    Where all patterns agree, samples that the network plainly refuses are struck out, provided that it confirms any: a
    client with another loss is confirmed nowhere. Where patterns disagree a wrong direction may taint other samples by
    less than their patterns show; then only the network's word counts, for samples where it would notice.

    Args:
        problem: of the layer; without a model above the verdict stays.
        verdict: by the patterns, of which it stays while directions are missing.
    """
    if not problem.is_mended or verdict.agreement is None:
        return verdict
    directions, agreement, reply = _mended(problem, verdict.directions, verdict.agreement)
    verdict = by_pattern(directions, agreement)._replace(labels=reply.labels)
    if verdict.is_whole:
        refused = reply.is_refused & reply.exact.any()
        return verdict._replace(exact=verdict.exact & ~refused, approximate=verdict.approximate & ~refused)
    return verdict._replace(exact=reply.exact & _would_notice(problem, directions, reply))


def _mended(
    problem: Problem, directions: Float[np.ndarray, "r r"], agreement: Agreement
) -> tuple[Float[np.ndarray, "r r"], Agreement, Verdicts]:
    reply = judge(problem, directions)
    for _ in range(MAX_PASSES):
        replaced = reply.exact & ~agreement.precise
        trial = np.where(replaced[:, None], reply.directions, directions)
        if not replaced.any() or np.linalg.svd(trial, compute_uv=False)[-1] < numerics.MIN_INDEPENDENT:
            break
        again, after = agreement_of(certify(problem, trial)), judge(problem, trial)
        if np.sum(again.precise | after.exact) <= np.sum(agreement.precise | reply.exact):
            break
        directions, agreement, reply = trial, again, after
    return directions, agreement, reply


def mend(
    problem: Problem, directions: Float[np.ndarray, "r r"], certificate: Certificate
) -> tuple[Float[np.ndarray, "r r"], Certificate, Verdicts]:
    """The replacing alone, for a search that goes on: directions, certificate by patterns, the network's verdicts.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        certificate: theirs.
    """
    verdicts = judge(problem, directions)
    for _ in range(MAX_PASSES):
        replaced = verdicts.exact & ~certificate.exact
        trial = np.where(replaced[:, None], verdicts.directions, directions)
        if not replaced.any() or np.linalg.svd(trial, compute_uv=False)[-1] < numerics.MIN_INDEPENDENT:
            break
        again, after = certify(problem, trial), judge(problem, trial)
        if np.sum(again.exact | after.exact) <= np.sum(certificate.exact | verdicts.exact):
            break
        directions, certificate, verdicts = trial, again, after
    return directions, certificate, verdicts


def samples(problem: Problem, directions: Float[np.ndarray, "r r"], certificate: Certificate) -> Samples:
    """The samples of r directions that the network confirms, each on its own, with the directions it gives them.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        certificate: theirs.
    """
    directions, certificate = repair(problem, directions, certificate)
    dual = dual_vectors(problem.factorization, problem.bias_grad, directions)
    if dual is None:
        return no_samples(directions)
    return Samples(directions, dual, certificate.exact, certificate.matching, certificate.error)


def judge(problem: Problem, directions: Float[np.ndarray, "r r"], taint: float = 0.0, seed: int = 0) -> Verdicts:
    """The network's verdict on every sample that these directions give, in batches of samples.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        taint: share of its norm by which each input is moved along a random mixture of all.
        seed: of that mixture.
    """
    factorization, left, network = problem.factorization, problem.left, _layers(problem)
    nobody = np.zeros(len(directions), bool)
    nothing = Verdicts(nobody, nobody, np.full(len(directions), NO_LABEL), directions)
    dual = dual_vectors(factorization, problem.bias_grad, directions)
    if dual is None:
        return nothing
    if taint:
        dual = _tainted(dual, problem.spectrum, taint, seed)
    pre_activation = problem.response @ dual.T + problem.bias[:, None]
    probes = np.random.default_rng(PROBE_SEED).standard_normal((len(left), PROBES))
    probes = np.concatenate([probes - left @ (left.T @ probes), probes], axis=1)
    parts = [_judge_batch(network, probes, block, problem.client_eps) for block in _batches(pre_activation, network)]
    gradients = np.concatenate([part[0] for part in parts], axis=1)
    labels, is_open = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    inside = left.T @ gradients
    size = np.linalg.norm(gradients, axis=0)
    distance = np.linalg.norm(gradients - left @ inside, axis=0) / np.where(size > 0, size, 1)
    found = (inside / np.maximum(np.linalg.norm(inside, axis=0), np.finfo(float).tiny)).T
    tolerance = numerics.network_tolerance(factorization, found, problem.client_eps)
    can_tell = (tolerance < numerics.MAX_ERROR) & np.any(inside != 0, axis=0)
    exact = can_tell & (distance <= tolerance)
    refused = can_tell & (distance > REFUSED * tolerance) & ~is_open
    return Verdicts(exact, refused, np.where(exact, labels, NO_LABEL), found)


def _layers(problem: Problem) -> Layers:
    """The model above, where the caller knows that there is one."""
    assert problem.above is not None
    assert problem.above.layers is not None
    return problem.above.layers


def _would_notice(problem: Problem, directions: Float[np.ndarray, "r r"], verdicts: Verdicts) -> np.ndarray:
    """Whether the network refuses each sample once it is moved by the error that a certificate excludes.

    With two classes or a saturated softmax D(y) depends on little more than which neurons fire.
    """
    noticed = np.ones(len(directions), bool)
    if verdicts.exact.any():
        for seed in range(TAINTS):
            noticed &= ~judge(problem, directions, numerics.MAX_ERROR, seed).exact
    return noticed


def _tainted(
    dual: Float[np.ndarray, "r r"], spectrum: Float[np.ndarray, " r"], taint: float, seed: int
) -> Float[np.ndarray, "r r"]:
    size = np.linalg.norm(dual * spectrum, axis=1, keepdims=True)
    mixture = np.random.default_rng(seed).standard_normal(dual.shape) @ (dual / size)
    return dual + taint * mixture * size / np.linalg.norm(mixture * spectrum, axis=1, keepdims=True)


def _batches(pre_activation: Float[np.ndarray, "m r"], network: Layers) -> Iterator[Float[np.ndarray, "m k"]]:
    widest = max(len(pre_activation), *(len(bias) for _, bias in network))
    step = max(1, BATCH_ENTRIES // (2 * PROBES * widest))
    for start in range(0, pre_activation.shape[1], step):
        yield pre_activation[:, start : start + step]


def _judge_batch(
    network: Layers, probes: Float[np.ndarray, "m p"], pre_activation: Float[np.ndarray, "m k"], client_eps: float
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
    """``D(y)`` (m, k) for the likeliest label y of each sample, the labels, and where a neuron above is open."""
    # The forward pass carries the derivatives along the probes beside the activations: (width, k, p).
    masks = [pre_activation > 0]
    hidden = np.maximum(pre_activation, 0)
    tangents = probes[:, None, :] * masks[0][:, :, None]
    is_open = np.zeros(pre_activation.shape[1], bool)
    for weight, bias in network[:-1]:
        size = np.linalg.norm(weight, axis=1)[:, None] * np.linalg.norm(hidden, axis=0) + np.abs(bias)[:, None]
        hidden = weight @ hidden + bias[:, None]
        is_open |= np.any(np.abs(hidden) <= OPEN * client_eps * size, axis=0)
        masks.append(hidden > 0)
        hidden = np.maximum(hidden, 0)
        tangents = _apply(weight, tangents) * masks[-1][:, :, None]
    weight, bias = network[-1]
    logits = weight @ hidden + bias[:, None]
    odds = np.exp(logits - logits.max(axis=0))
    softmax = odds / odds.sum(axis=0)
    scores = _apply(weight, tangents)
    scores = np.einsum("ck,ckp->kp", softmax, scores)[None] - scores
    outside, whole = (np.sum(part**2, axis=2) for part in np.split(scores, 2, axis=2))
    labels = np.argmin(outside / np.maximum(whole, np.finfo(float).tiny), axis=0)
    gradient = softmax
    gradient[labels, np.arange(len(labels))] -= 1
    for (weight, _), mask in zip(reversed(network), reversed(masks), strict=True):
        gradient = (weight.T @ gradient) * mask
    return gradient, labels, is_open


def _apply(weight: Float[np.ndarray, "o i"], tangents: Float[np.ndarray, "i k p"]) -> Float[np.ndarray, "o k p"]:
    size = tangents.shape
    return (weight @ tangents.reshape(size[0], -1)).reshape(-1, *size[1:])
