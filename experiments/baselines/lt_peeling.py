"""LT-code peeling: samples are taken off the gradient one after another, as symbols off a fountain code.

"Cascading Gradient Inversion via LT-Code Inspired Peeling in Federated Learning" (Shariati and Alambardar Meybodi,
2026; facts, section 4.1, "S"), its passive attacker. Single-sample neurons of the residual gradient give candidates;
the known model certifies them, with their labels; their gradients are subtracted, which leaves new single-sample
neurons. Published for inputs in [0, 1] that are not centred, W ~ N(0, 0.5^2), no biases, one hidden layer of 1000,
float64: 99.7 %, 94.7 % and 17.5 % of 64, 128 and 256 ImageNet photos. Its attacker knows the batch size and the loss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

import spear_jax as sj
from experiments.baselines import Reconstruction, batch_size
from experiments.baselines.ratio_rule import equal_rows, is_new, ratios, representatives

# What a float64 bias gradient of order 1 is off by after some subtractions: a tolerance of ours, not of the paper.
ROUNDING = 1e-13
Network = list[tuple[np.ndarray, np.ndarray]]


class Options(NamedTuple):
    """Thresholds, absolute as published, for float64 gradients of inputs in [0, 1] (facts, section 4.1).

    Attributes:
        min_bias_grad: smaller entries of the residual bias gradient count as zero.
        merge_distance: candidates this close are one.
        max_mismatch: of predicted and residual bias gradient, on each neuron of a candidate that is certified. Where
            sensitivities are small (deep networks) or labels many, the published value admits mixtures: a candidate of
            one neuron has one equation, and every label is a try. `ROUNDING` does not.
        max_iterations: of peeling.
    """

    min_bias_grad: float = 1e-10
    merge_distance: float = 1e-6
    max_mismatch: float = 1e-8
    max_iterations: int = 30


class Known(NamedTuple):
    """What peeling's attacker knows beside the gradient.

    Attributes:
        weight, bias: of the first layer, (m, n) and (m,).
        network: the layers above, kernels (out, in).
        batch_size: b.
    """

    weight: Float[np.ndarray, "m n"]
    bias: Float[np.ndarray, " m"]
    network: Network
    batch_size: int


class Residual(NamedTuple):
    """The first layer's gradient less that of the samples found so far.

    Attributes:
        weight_grad, bias_grad: (m, n) and (m,).
    """

    weight_grad: Float[np.ndarray, "m n"]
    bias_grad: Float[np.ndarray, " m"]


def lt_peeling(update: sj.Update, options: Options = Options()) -> Reconstruction:
    """All samples that peeling certifies, until there are b of them (a stop of ours); others are not returned.

    Args:
        update: of one step's gradient of the mean cross-entropy, with the weights of every layer; float64.
        options: thresholds.

    Raises:
        ValueError: no batch size, or no layers above the first.
    """
    known, residual = _start(update)
    found = np.zeros((0, known.weight.shape[1]))
    for _ in range(options.max_iterations):
        inputs, labels = _certified(known, residual, found, options)
        if not len(inputs):
            break
        found = np.concatenate([found, inputs])
        if len(found) >= known.batch_size:
            break
        residual = _peel(known, residual, inputs, labels)
    return Reconstruction(found, np.ones(len(found), bool))


def _start(update: sj.Update) -> tuple[Known, Residual]:
    observation, network = update.observation(), update.network()
    if network is None:
        raise ValueError("peeling runs the model on its candidates, and the update does not hold the layers above.")
    wide = lambda array: np.asarray(array, np.float64)
    above = [(wide(weight), wide(bias)) for weight, bias in network]
    known = Known(wide(observation.weight), wide(observation.bias), above, batch_size(update))
    return known, Residual(wide(observation.weight_grad), wide(observation.bias_grad))


def _certified(
    known: Known, residual: Residual, found: Float[np.ndarray, "j n"], options: Options
) -> tuple[Float[np.ndarray, "k n"], Int[np.ndarray, " k"]]:
    """New samples that single-sample neurons of the residual give, and their labels."""
    neurons = np.flatnonzero(np.abs(residual.bias_grad) > options.min_bias_grad)
    if not len(neurons):
        return found[:0], np.zeros(0, int)
    bias_grad = residual.bias_grad[neurons]
    candidates = ratios(residual.weight_grad[neurons], bias_grad)
    groups = equal_rows(candidates, options.merge_distance)
    candidates = candidates[representatives(groups, np.abs(bias_grad))]
    pre_activation = candidates @ known.weight.T + known.bias
    mismatch = label_mismatch(known.network, pre_activation, groups, neurons, known.batch_size * bias_grad)
    fits = mismatch.min(axis=1) <= known.batch_size * options.max_mismatch
    fits &= is_new(candidates, found, options.merge_distance)
    return candidates[fits], mismatch.argmin(axis=1)[fits]


def _peel(
    known: Known, residual: Residual, inputs: Float[np.ndarray, "k n"], labels: Int[np.ndarray, " k"]
) -> Residual:
    """The residual less the gradients of these samples."""
    grad_z = layer_grad(known.network, inputs @ known.weight.T + known.bias, labels) / known.batch_size
    return Residual(residual.weight_grad - grad_z.T @ inputs, residual.bias_grad - grad_z.sum(axis=0))


def label_mismatch(
    network: Network,
    pre_activation: Float[np.ndarray, "k m"],
    groups: Int[np.ndarray, " j"],
    neurons: Int[np.ndarray, " j"],
    sensitivity: Float[np.ndarray, " j"],
) -> Float[np.ndarray, "k c"]:
    """How badly each label of each candidate explains the neurons that the candidate came from.

    If candidate k with label y is the only sample of these neurons, the bias gradient there is that of the sample
    alone, ``(J^T softmax)_j - J_yj`` with J the derivatives of the logits by the first layer's pre-activations.

    Args:
        network: the layers above the first, kernels (out, in).
        pre_activation: of the first layer, per candidate.
        groups: candidate that each neuron belongs to; every candidate has one at least.
        neurons: which ones.
        sensitivity: the residual bias gradient there, of the sum over samples.

    Returns:
        the largest difference over a candidate's neurons, per label.
    """
    logits, masks = _forward(network, pre_activation)
    tangents = masks[0][groups, neurons][:, None] * network[0][0][:, neurons].T
    for mask, (weight, _) in zip(masks[1:], network[1:], strict=True):
        tangents = (mask[groups] * tangents) @ weight.T
    predicted = np.einsum("jc,jc->j", _softmax(logits)[groups], tangents)[:, None] - tangents
    difference = np.abs(predicted - sensitivity[:, None])
    order = np.argsort(groups, kind="stable")
    starts = np.unique(groups[order], return_index=True)[1]
    return np.maximum.reduceat(difference[order], starts, axis=0)


def layer_grad(
    network: Network, pre_activation: Float[np.ndarray, "k m"], labels: Int[np.ndarray, " k"]
) -> Float[np.ndarray, "k m"]:
    """Gradient of each sample's cross-entropy by the first layer's pre-activations."""
    logits, masks = _forward(network, pre_activation)
    grad = _softmax(logits)
    grad[np.arange(len(labels)), labels] -= 1
    for (weight, _), mask in zip(reversed(network), reversed(masks), strict=True):
        grad = (grad @ weight) * mask
    return grad


def _forward(
    network: Network, pre_activation: Float[np.ndarray, "k m"]
) -> tuple[Float[np.ndarray, "k c"], list[Bool[np.ndarray, "k _"]]]:
    """Logits, and where each layer's ReLU is on."""
    masks = []
    for weight, bias in network:
        masks.append(pre_activation > 0)
        pre_activation = np.maximum(pre_activation, 0) @ weight.T + bias
    return pre_activation, masks


def _softmax(logits: Float[np.ndarray, "k c"]) -> Float[np.ndarray, "k c"]:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
