"""What the layers above say of samples: one run forward and one backward, with the label that fits (docs/method.md, 6).

With the whole model at hand the server can run it on a reconstructed input: forward, and backward for a label y. The
sample's gradient ``D(y) = J^T (softmax - e_y)`` must lie in the column space of the weight gradient, which no wrong
input or label achieves.

Labels are found without a backward pass for each: for w outside the column space ``w . D(y) = (J w) . softmax -
(J w)_y``, so one forward derivative of a few random w scores all classes at once. The same for any w gives the size and
the sign of the sample's column beside D(y).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax import numerics
from spear_jax.attacks.dense.above import Layers
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.problem import Problem

# Random vectors that score the labels, and what makes them: part of the algorithm, not of the experiment.
PROBES, PROBE_SEED = 2, 0
# Entries of the arrays of one batch of samples (128 MiB in float64).
BATCH_ENTRIES = 2**24
TINY = float(np.finfo(float).tiny)


class Reply(NamedTuple):
    """What the network says of each sample.

    Attributes:
        confirmed: (r,) whether the sample's gradient lies in the column space of the weight gradient.
        is_refused: (r,) whether it plainly does not, with every neuron above decided: one that is open may have been
            off for the client and fire here.
        labels: (r,) the label for which it comes closest.
        fits: (r, c) the labels for which it does, where it is confirmed: several where their gradients lie on one line,
            as with two classes.
        ratios: (r, c) the sample's column over ``D(y)``: its share of the loss, where the label fits.
        directions: (r, r) unit rows, the direction that the network gives each sample.
        outside: (m, r) the part of ``D(y) / |D(y)|`` outside the column space.
        noise: (r,) norm of that part which noise explains.
    """

    confirmed: Bool[np.ndarray, " r"]
    is_refused: Bool[np.ndarray, " r"]
    labels: Int[np.ndarray, " r"]
    fits: Bool[np.ndarray, "r c"]
    ratios: Float[np.ndarray, "r c"]
    directions: Float[np.ndarray, "r r"]
    outside: Float[np.ndarray, "m r"]
    noise: Float[np.ndarray, " r"]

    @property
    def distance(self) -> Float[np.ndarray, " r"]:
        """Distance of each sample's gradient, of unit norm, from the column space."""
        return np.linalg.norm(self.outside, axis=0)


def judge(problem: Problem, dual: Float[np.ndarray, "r r"]) -> Reply:
    """The network's reply to every sample, in batches of samples.

    Args:
        problem: of the layer, with the model above.
        dual: (r, r) independent p_i, one a row, ``x_i = p_i @ right``.
    """
    left, network = problem.left, layers_of(problem)
    pre_activation = problem.response @ dual.T + problem.bias[:, None]
    probes = np.random.default_rng(PROBE_SEED).standard_normal((len(left), PROBES))
    probes = np.concatenate([probes - left @ (left.T @ probes), probes], axis=1)
    parts = [_judge_batch(network, probes, block, problem.client_eps) for block in _batches(pre_activation, network)]
    gradients, scores = (np.concatenate([part[place] for part in parts], axis=1) for place in (0, 1))
    labels, is_open = (np.concatenate([part[place] for part in parts]) for place in (2, 3))
    inside = left.T @ gradients
    size = np.maximum(np.linalg.norm(gradients, axis=0), TINY)
    outside = (gradients - left @ inside) / size
    found = (inside / np.maximum(np.linalg.norm(inside, axis=0), TINY)).T
    noise = _noise(problem, found)
    tolerance, distance = limits.NETWORK_MARGIN * noise, np.linalg.norm(outside, axis=0)
    can_tell = (tolerance < limits.MAX_ERROR) & np.any(inside != 0, axis=0)
    confirmed = can_tell & (distance <= tolerance)
    missed, whole = (part.T for part in _energies(scores))
    fits = (missed <= (limits.REFUSED * tolerance[:, None]) ** 2 * whole) & (whole > 0)
    fits[np.arange(len(labels)), labels] = True
    columns = (left.T @ probes[:, PROBES:]).T @ np.linalg.inv(dual)  # of the samples, along the same probes
    ratios = np.sum(scores[:, :, PROBES:] * columns.T[None], axis=2).T / np.maximum(whole, TINY)
    return Reply(
        confirmed=confirmed,
        is_refused=can_tell & (distance > limits.REFUSED * tolerance) & ~is_open,
        labels=labels,
        fits=fits & confirmed[:, None],
        ratios=ratios,
        directions=found,
        outside=outside,
        noise=noise,
    )


def layers_of(problem: Problem) -> Layers:
    """The model above, where the caller knows that there is one."""
    assert problem.above is not None
    assert problem.above.layers is not None
    return problem.above.layers


def _noise(problem: Problem, directions: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """What noise moves a sample's gradient, of unit norm, from the noisy column space that it lies in.

    ``D = G w`` for a w of norm ``|S^-1 q|``: noise of norm ``|N|`` moves it by ``|N| |S^-1 q|``, once in D and once in
    the column space. The client's own forward and backward pass rounds in its dtype.
    """
    return problem.factorization.noise_floor * numerics.noise_gain(problem.factorization, directions) + (
        problem.client_eps
    )


def _energies(scores: Float[np.ndarray, "c r p"]) -> tuple[Float[np.ndarray, "c r"], Float[np.ndarray, "c r"]]:
    """What the probes outside the column space and the free ones see of D(y)."""
    outside, whole = np.split(scores**2, 2, axis=2)
    return outside.sum(axis=2), whole.sum(axis=2)


def _batches(pre_activation: Float[np.ndarray, "m r"], network: Layers) -> Iterator[Float[np.ndarray, "m k"]]:
    widest = max(len(pre_activation), *(len(bias) for _, bias in network))
    step = max(1, BATCH_ENTRIES // (2 * PROBES * widest))
    for start in range(0, pre_activation.shape[1], step):
        yield pre_activation[:, start : start + step]


def _judge_batch(
    network: Layers, probes: Float[np.ndarray, "m p"], pre_activation: Float[np.ndarray, "m k"], client_eps: float
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "c k p"], Int[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
    """``D(y)`` (m, k) for the likeliest label y of each sample, ``probe . D(y)`` of all, the labels, and where a neuron
    above is open."""
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
    outside, whole = _energies(scores)
    labels = np.argmin(outside / np.maximum(whole, TINY), axis=0)
    gradient = softmax
    gradient[labels, np.arange(len(labels))] -= 1
    for (weight, _), mask in zip(reversed(network), reversed(masks), strict=True):
        gradient = (weight.T @ gradient) * mask
    return gradient, scores, labels, is_open


def _apply(weight: Float[np.ndarray, "o i"], tangents: Float[np.ndarray, "i k p"]) -> Float[np.ndarray, "o k p"]:
    size = tangents.shape
    return (weight @ tangents.reshape(size[0], -1)).reshape(-1, *size[1:])
