"""Merged samples: how often each recovered input was in the batch, and with which labels.

Equal inputs fire the same neurons, so their columns of D have the same support, and one direction stands for all of
them: ``D_1 x^T + D_2 x^T = (D_1 + D_2) x^T``. What comes back is x, exact, and the merged column ``d = D_1 + D_2``.
With the layers above (`network`) the server can run x itself. For label y the sample's gradient is ``D(y) = J^T
(softmax - e_y)``, J being the logits' derivative by the pre-activations. With n_y copies of label y in a batch of B
samples, over which the loss is a mean,

    B d = sum_y n_y D(y) = J^T (N softmax - n),    N = sum_y n_y.

d has one equation per neuron that fires, n one unknown whole number per class. As ``sum_y softmax_y D(y) = 0``, real
numbers n would be open by multiples of the softmax; only that they are whole and not negative settles them. Where a
multiple of the softmax is whole within the noise, as for a sample that the model classifies with certainty, copies
cannot be counted, and the result says so.

B is known to most servers. If not, it is the number for which most samples come out whole; were every input in the
batch twice, half of it would do as well, and nothing in the gradient tells the two apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.above import Layers, Network, check_network
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.own_gradient import logits_of
from spear_jax.errors import SpearError
from spear_jax.factorization import column_blocks
from spear_jax.observation import LayerObservation
from spear_jax.types import Result

# Copies of one input that are tried.
MAX_COPIES = 64


class Copies(NamedTuple):
    """How often each recovered input was in the batch.

    Attributes:
        counts: (r, c) copies by label, one row per row of ``result.inputs``: those that fit best.
        residual: (r,) ``|B d - sum_y n_y D(y)| / |B d|``; infinite where nothing could be said.
        is_certain: (r,) whether the counts, and no others, explain the sample's column within the noise. It says
            nothing of the input itself, which the certificate does.
        batch_size: B, as given or inferred; 0 where it could not be.
    """

    counts: Int[np.ndarray, "r c"]
    residual: Float[np.ndarray, " r"]
    is_certain: Bool[np.ndarray, " r"]
    batch_size: int


class _Column(NamedTuple):
    """One sample's merged column d (m,), its gradients D(y) by label (c, m), and how far apart noise may put them."""

    merged: Float[np.ndarray, " m"]
    gradients: Float[np.ndarray, "c m"]
    tolerance: float


def count_copies(
    observation: LayerObservation, network: Network, result: Result, *, batch_size: int | None = None
) -> Copies:
    """Count the copies of each recovered input, by label.

    Args:
        observation: of the layer that ``result`` is of, one step's gradient.
        network: the dense layers above as ``[(W2, b2), ...]``, kernels (out, in), ReLU between, softmax cross-entropy
            on top.
        result: with every input; they may lack a certificate, as samples merged across labels do that the network
            certificate takes one by one.
        batch_size: B, what the client divided the sum of its losses by (1 for a sum); None infers it.

    Returns:
        the counts. Without every input, or without any B that fits, nothing is certain.

    Raises:
        SpearError: an observation over several steps, a network that does not fit, a batch size below one.
    """
    if observation.drift:
        raise SpearError("the observation sums several local steps; copies can be counted in one step's gradient only.")
    if batch_size is not None and batch_size < 1:
        raise SpearError(f"batch_size is {batch_size}; expected a positive integer, or None to infer it.")
    layers = check_network(network, observation.out_features)
    inputs = np.asarray(result.inputs, np.float64)
    if not np.isfinite(inputs).all():
        return _nothing(len(inputs), len(layers[-1][1]))
    columns = _columns(observation, layers, result, inputs)
    if batch_size is not None:
        return _count(columns, batch_size)
    trials = [_count(columns, candidate) for candidate in _candidates(columns)]
    return max(trials, key=lambda copies: copies.is_certain.sum(), default=_nothing(len(inputs), len(layers[-1][1])))


def label_gradients(layers: Layers, pre_activation: Float[np.ndarray, " m"]) -> Float[np.ndarray, "c m"]:
    """``D(y) = J^T (softmax - e_y)`` of one sample for every label y, one a row.

    Args:
        layers: above the observed one, as `above.check_network` returns them.
        pre_activation: (m,) of the observed layer.
    """
    logits, jacobian = logits_of(layers, pre_activation)
    return (softmax(logits) @ jacobian)[None, :] - jacobian


def _columns(
    observation: LayerObservation, layers: Layers, result: Result, inputs: Float[np.ndarray, "r n"]
) -> list[_Column]:
    """Column, gradients and noise of each sample; ``D = G X^+``, as the rows of X are independent."""
    inverse = linalg.pinv(inputs)
    times = lambda matrix, factor: np.asarray(sum(column_blocks(matrix, lambda part, block: block @ factor[part])))
    grad_z = times(observation.weight_grad, inverse)
    pre_activation = times(observation.weight, inputs.T) + np.asarray(observation.bias, np.float64)[:, None]
    size = np.linalg.norm(grad_z, axis=0)
    error = np.minimum(result.certificate.error, 1.0)  # beyond its own size nothing is known of an input
    client_eps = float(jnp.finfo(observation.weight_grad.dtype).eps)
    # Noise of G and the errors of all inputs reach a column through X^+, its own input's besides through the network.
    spoiled = result.noise_floor + np.linalg.norm(size * np.linalg.norm(inputs, axis=1) * error)
    noise = np.linalg.norm(inverse, axis=0) * spoiled / np.maximum(size, np.finfo(float).tiny) + error + client_eps
    return [
        _Column(grad_z[:, place], label_gradients(layers, pre_activation[:, place]), limits.NETWORK_MARGIN * noise_)
        for place, noise_ in enumerate(noise.tolist())
    ]


def _candidates(columns: list[_Column]) -> list[int]:
    """What B would be if a sample was in the batch once, for each sample whose column points along a single D(y)."""
    found = set()
    for merged, gradients, tolerance in columns:
        size = np.linalg.norm(gradients, axis=1)
        cosine = gradients @ merged / np.maximum(size * np.linalg.norm(merged), np.finfo(float).tiny)
        label = int(np.argmax(cosine))
        if np.sqrt(max(1 - cosine[label] ** 2, 0)) <= max(tolerance, np.sqrt(numerics.EPS64)):
            found.add(max(round(float(size[label] / np.linalg.norm(merged))), 1))
    return sorted(found)


def _count(columns: list[_Column], batch_size: int) -> Copies:
    """Counts of all samples for one B."""
    fits = [_count_one(column, batch_size) for column in columns]
    counts, residual, is_certain = (np.stack(part) for part in zip(*fits, strict=True))
    return Copies(counts, residual, is_certain, batch_size)


def _count_one(column: _Column, batch_size: int) -> tuple[np.ndarray, float, bool]:
    """The counts that leave least, what they leave, and whether no others would do."""
    target, gradients = batch_size * column.merged, column.gradients
    trials = _whole_counts(gradients @ gradients.T, gradients @ target)
    size = float(np.linalg.norm(target))
    if not size:
        return trials[0], np.inf, False
    residuals = np.linalg.norm(target - trials @ gradients, axis=1) / size
    fits = residuals <= column.tolerance
    # One copy more or less of any label must show.
    shows = np.linalg.norm(gradients, axis=1).min() > 2 * column.tolerance * size
    best = int(np.argmin(residuals))
    return trials[best], float(residuals[best]), bool(fits.sum() == 1 and shows)


def _whole_counts(gram: Float[np.ndarray, "c c"], shares: Float[np.ndarray, " c"]) -> Int[np.ndarray, "k c"]:
    """Whole counts of sum N that leave the least of a target, for each N up to `MAX_COPIES`.

    Grown one copy at a time; after each, copies change their label while that helps.

    Args:
        gram: of the gradients D(y).
        shares: their inner products with the target.
    """
    counts, trials = np.zeros(len(gram), np.int64), []
    for _ in range(MAX_COPIES):
        counts[np.argmin(np.diag(gram) - 2 * (shares - gram @ counts))] += 1
        _relabel(gram, shares, counts)
        trials.append(counts.copy())
    return np.stack(trials)


def _relabel(gram: Float[np.ndarray, "c c"], shares: Float[np.ndarray, " c"], counts: Any) -> None:
    """Move single copies from one label to another, in place, while less is left of the target."""
    squares = np.diag(gram)
    while True:
        pull, held = shares - gram @ counts, np.flatnonzero(counts)
        change = squares[held, None] + squares[None, :] - 2 * gram[held] + 2 * (pull[held, None] - pull[None, :])
        place, label = np.unravel_index(np.argmin(change), change.shape)
        if change[place, label] >= -numerics.ROUNDING * numerics.EPS64 * squares.max() * counts.sum() ** 2:
            return
        counts[held[place]] -= 1
        counts[label] += 1


def _nothing(rank: int, num_classes: int) -> Copies:
    return Copies(np.zeros((rank, num_classes), np.int64), np.full(rank, np.inf), np.zeros(rank, bool), 0)
