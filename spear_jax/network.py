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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spear_jax import numerics
from spear_jax.certify import Evidence, certify
from spear_jax.recover import disaggregation
from spear_jax.types import Array, Certificate

Network = Sequence[tuple[Array, Array]]
Layers = list[tuple[np.ndarray, np.ndarray]]
NO_LABEL = -1
# Random vectors that score the labels, and what makes them: part of the algorithm, not of the experiment.
PROBES, PROBE_SEED = 2, 0
# Entries of the arrays of one batch of samples (128 MiB in float64).
BATCH_ENTRIES = 2**24
MAX_PASSES = 3


class Verdicts(NamedTuple):
    """What the network says of each sample.

    Attributes:
        exact: (r,) whether the sample's gradient lies in the column space of the weight gradient.
        labels: (r,) the label for which it does, `NO_LABEL` without one.
        directions: (r, r) unit rows, the direction that the network gives each sample.
    """

    exact: np.ndarray
    labels: Int[np.ndarray, " r"]
    directions: Float[np.ndarray, "r r"]


def check_network(network: Network, out_features: int) -> Layers:
    """The dense layers above in float64.

    Args:
        network: ``[(W2, b2), ..., (WL, bL)]`` with kernels (out, in), ReLU between and softmax cross-entropy on top.
        out_features: m, neurons of the observed layer.

    Raises:
        ValueError: no layer, or shapes that do not chain.
    """
    layers = [(np.asarray(weight, np.float64), np.asarray(bias, np.float64)) for weight, bias in network]
    if not layers:
        raise ValueError("model is empty; expected the dense layers above the observed one, [(W2, b2), ...], or None.")
    width = out_features
    for number, (weight, bias) in enumerate(layers, start=2):
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"model: layer {number} has a kernel of shape {weight.shape} and a bias of shape {bias.shape}; "
                f"expected (k, {width}) and (k,), kernels being (out, in)."
            )
        width = weight.shape[0]
    return layers


def repair(
    evidence: Evidence, network: Layers, directions: Float[np.ndarray, "r r"], certificate: Certificate
) -> tuple[Float[np.ndarray, "r r"], Certificate]:
    """Replace directions that do not certify by the network's, until nothing changes, and add labels.

    Args:
        evidence: of the observation.
        network: as `check_network` returns it.
        directions: (r, r) unit directions, one a row.
        certificate: theirs.

    Returns:
        the directions and their certificate: exact are all where all patterns agree, else those that the network says.
    """
    verdicts = judge(evidence, network, directions)
    for _ in range(MAX_PASSES):
        replaced = verdicts.exact & ~certificate.exact
        if not replaced.any():
            break
        trial = np.where(replaced[:, None], verdicts.directions, directions)
        if np.linalg.svd(trial, compute_uv=False)[-1] < numerics.MIN_INDEPENDENT:
            break
        again = certify(evidence, trial)
        after = judge(evidence, network, trial)
        if np.sum(again.exact | after.exact) <= np.sum(certificate.exact | verdicts.exact):
            break
        directions, certificate, verdicts = trial, again, after
    # A wrong direction may taint other samples by less than their patterns show: then only the network's word counts.
    exact = certificate.exact if certificate.exact.all() else verdicts.exact
    return directions, dataclasses.replace(certificate, exact=exact, labels=verdicts.labels)


def judge(evidence: Evidence, network: Layers, directions: Float[np.ndarray, "r r"]) -> Verdicts:
    """The network's verdict on every sample that these directions give, in batches of samples."""
    factorization = evidence.factorization
    left = np.asarray(factorization.left)
    mixing = disaggregation(factorization, evidence.bias_grad, directions)
    pre_activation = evidence.response @ np.linalg.inv(mixing).T + evidence.bias[:, None]
    probes = np.random.default_rng(PROBE_SEED).standard_normal((len(left), PROBES))
    probes = np.concatenate([probes - left @ (left.T @ probes), probes], axis=1)
    parts = [_judge_batch(network, probes, block) for block in _batches(pre_activation, network)]
    gradients, labels = np.concatenate([part[0] for part in parts], axis=1), np.concatenate([part[1] for part in parts])
    inside = left.T @ gradients
    size = np.linalg.norm(gradients, axis=0)
    size = np.where(size > 0, size, 1)
    distance = np.linalg.norm(gradients - left @ inside, axis=0) / size
    found = (inside / np.maximum(np.linalg.norm(inside, axis=0), np.finfo(float).tiny)).T
    # The client's own arithmetic and the noise, which tilts the column space that it is compared with.
    exact = distance <= numerics.network_tolerance(factorization, found, evidence.client_eps)
    exact &= np.any(inside != 0, axis=0)
    return Verdicts(exact, np.where(exact, labels, NO_LABEL), found)


def _batches(pre_activation: Float[np.ndarray, "m r"], network: Layers) -> Iterator[Float[np.ndarray, "m k"]]:
    widest = max(len(pre_activation), *(len(bias) for _, bias in network))
    step = max(1, BATCH_ENTRIES // (2 * PROBES * widest))
    for start in range(0, pre_activation.shape[1], step):
        yield pre_activation[:, start : start + step]


def _judge_batch(
    network: Layers, probes: Float[np.ndarray, "m p"], pre_activation: Float[np.ndarray, "m k"]
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, " k"]]:
    """``D(y)`` (m, k) for the likeliest label y of each sample, and the labels."""
    # The forward pass carries the derivatives along the probes beside the activations: (width, k, p).
    masks = [pre_activation > 0]
    hidden = np.maximum(pre_activation, 0)
    tangents = probes[:, None, :] * masks[0][:, :, None]
    for weight, bias in network[:-1]:
        hidden = weight @ hidden + bias[:, None]
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
    return gradient, labels


def _apply(weight: Float[np.ndarray, "o i"], tangents: Float[np.ndarray, "i k p"]) -> Float[np.ndarray, "o k p"]:
    size = tangents.shape
    return (weight @ tangents.reshape(size[0], -1)).reshape(-1, *size[1:])
