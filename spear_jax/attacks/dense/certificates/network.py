"""The network certificate: each sample on its own, through the layers above (docs/method.md, Sec. 6).

With the whole model at hand the server can run it on a reconstructed input: forward, and backward for a label y. The
sample's gradient ``D(y) = J^T (softmax - e_y)`` must lie in the column space of the weight gradient, which no wrong
input or label achieves. That certifies the sample without the others, names its label and gives its exact direction,
which mends the samples whose dual vector a wrong direction had spoiled.

Labels are found without a backward pass for each: for w outside the column space ``w . D(y) = (J w) . softmax -
(J w)_y``, so one forward derivative of a few random w scores all classes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax import numerics
from spear_jax.attacks.dense.above import Layers
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.pattern import agree, by_pattern
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.outcome import Agreement, Samples, no_samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.types import NO_LABEL

# Random vectors that score the labels, and what makes them: part of the algorithm, not of the experiment.
PROBES, PROBE_SEED = 2, 0
# Entries of the arrays of one batch of samples (128 MiB in float64).
BATCH_ENTRIES = 2**24
MAX_PASSES = 3


class Reply(NamedTuple):
    """What the network says of each sample.

    Attributes:
        confirmed: (r,) whether the sample's gradient lies in the column space of the weight gradient.
        is_refused: (r,) whether it plainly does not, with every neuron above decided: one that is open may have been
            off for the client and fire here.
        labels: (r,) the label for which it does, `NO_LABEL` without one.
        directions: (r, r) unit rows, the direction that the network gives each sample.
    """

    confirmed: Bool[np.ndarray, " r"]
    is_refused: Bool[np.ndarray, " r"]
    labels: Int[np.ndarray, " r"]
    directions: Float[np.ndarray, "r r"]


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
    directions, agreement, reply = mend(problem, verdict.directions, verdict.agreement)
    verdict = by_pattern(directions, agreement)._replace(labels=reply.labels)
    if verdict.is_whole:
        refused = reply.is_refused & reply.confirmed.any()
        return verdict._replace(exact=verdict.exact & ~refused, approximate=verdict.approximate & ~refused)
    return verdict._replace(exact=reply.confirmed & _would_notice(problem, directions, reply))


def mend(
    problem: Problem, directions: Float[np.ndarray, "r r"], agreement: Agreement
) -> tuple[Float[np.ndarray, "r r"], Agreement, Reply]:
    """Replace directions that do not agree by those that the network gives, until nothing changes.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        agreement: theirs.

    Returns:
        directions, their agreement, and the network's reply to them.
    """
    reply = judge(problem, directions)
    for _ in range(MAX_PASSES):
        replaced = reply.confirmed & ~agreement.precise
        trial = np.where(replaced[:, None], reply.directions, directions)
        if not replaced.any() or np.linalg.svd(trial, compute_uv=False)[-1] < numerics.MIN_INDEPENDENT:
            break
        again, after = agree(problem, trial), judge(problem, trial)
        if np.sum(again.precise | after.confirmed) <= np.sum(agreement.precise | reply.confirmed):
            break
        directions, agreement, reply = trial, again, after
    return directions, agreement, reply


def samples(problem: Problem, directions: Float[np.ndarray, "r r"], agreement: Agreement) -> Samples:
    """The samples of r directions that the network confirms, each on its own, with the directions it gives them.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        agreement: theirs.
    """
    verdict = by_network(problem, by_pattern(directions, agreement))
    dual = dual_vectors(problem.factorization, problem.bias_grad, verdict.directions)
    if dual is None:
        return no_samples(verdict.directions)
    return Samples(verdict.directions, dual, verdict.exact, verdict.matching, verdict.error)


def judge(problem: Problem, directions: Float[np.ndarray, "r r"], taint: float = 0.0, seed: int = 0) -> Reply:
    """The network's reply to every sample that these directions give, in batches of samples.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions, one a row.
        taint: share of its norm by which each input is moved along a random mixture of all.
        seed: of that mixture.
    """
    factorization, left, network = problem.factorization, problem.left, _layers(problem)
    nobody = np.zeros(len(directions), bool)
    nothing = Reply(nobody, nobody, np.full(len(directions), NO_LABEL), directions)
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
    tolerance = _tolerance(problem, found)
    can_tell = (tolerance < limits.MAX_ERROR) & np.any(inside != 0, axis=0)
    confirmed = can_tell & (distance <= tolerance)
    refused = can_tell & (distance > limits.REFUSED * tolerance) & ~is_open
    return Reply(confirmed, refused, np.where(confirmed, labels, NO_LABEL), found)


def _tolerance(problem: Problem, directions: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """Largest distance of a sample's gradient, of unit norm, from the noisy column space that it lies in.

    ``D = G w`` for a w of norm ``|S^-1 q|``: noise of norm ``|N|`` moves it by ``|N| |S^-1 q|``, once in D and once in
    the column space. The client's own forward and backward pass rounds in its dtype.
    """
    noise = problem.factorization.noise_floor * numerics.noise_gain(problem.factorization, directions)
    return limits.NETWORK_MARGIN * (noise + problem.client_eps)


def _layers(problem: Problem) -> Layers:
    """The model above, where the caller knows that there is one."""
    assert problem.above is not None
    assert problem.above.layers is not None
    return problem.above.layers


def _would_notice(problem: Problem, directions: Float[np.ndarray, "r r"], reply: Reply) -> np.ndarray:
    """Whether the network refuses each sample once it is moved by the error that a certificate excludes.

    With two classes or a saturated softmax D(y) depends on little more than which neurons fire.
    """
    noticed = np.ones(len(directions), bool)
    if reply.confirmed.any():
        for seed in range(limits.TAINTS):
            noticed &= ~judge(problem, directions, limits.MAX_ERROR, seed).confirmed
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
        is_open |= np.any(np.abs(hidden) <= limits.OPEN * client_eps * size, axis=0)
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
