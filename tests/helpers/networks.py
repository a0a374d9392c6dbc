"""Batches through a small network in NumPy: an independent gradient, with everything that the server must not see."""

import dataclasses
from typing import NamedTuple

import numpy as np

from spear_jax.observation import LayerObservation


class Simulated(NamedTuple):
    """A first layer as the server sees it, what lies above, and the truth."""

    observation: LayerObservation
    network: list
    next_weight_grad: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    grad_z: np.ndarray


def simulate(
    batch_size, width, *, in_features=100, depth=3, classes=20, seed=0, dtype="float64", inputs=None, labels=None,
    zero_bias=False, open_by=None, spread=0.0, equal_rows=False,
):  # fmt: skip
    """Mean cross-entropy of a ReLU network of ``depth`` hidden layers, Gaussian inputs, PyTorch's initialisation.

    With ``open_by`` neuron 0 of the second layer is so far above zero for sample 0, yet it was off for the client. With
    ``spread`` the samples' gradients shrink evenly over so many decades, as in a network that has learned some of them.
    With ``equal_rows`` the first two classes have the same output weights.
    """
    rng = np.random.default_rng(seed)
    sizes = [in_features, *[width] * depth, classes]
    layers = []
    for inner, outer in zip(sizes, sizes[1:], strict=False):
        bound = 1 / np.sqrt(inner)
        layers.append((rng.uniform(-bound, bound, (outer, inner)), rng.uniform(-bound, bound, outer)))
    layers = [(weight.astype(dtype).astype(float), bias.astype(dtype).astype(float)) for weight, bias in layers]
    if zero_bias:
        layers = [(weight, 0 * bias) for weight, bias in layers]
    drawn, drawn_labels = rng.normal(size=(batch_size, in_features)), rng.integers(0, classes, batch_size)
    inputs = drawn if inputs is None else inputs
    labels = drawn_labels if labels is None else np.asarray(labels)
    if equal_rows:
        for part in layers[-1]:
            part[1] = part[0]
    hidden, masks = [inputs], []
    for index, (weight, bias) in enumerate(layers):
        if open_by is not None and index == 1:
            bias[0] = open_by - weight[0] @ hidden[-1][0]
        pre_activation = hidden[-1] @ weight.T + bias
        if open_by is not None and index == 1:
            pre_activation[0, 0] = -abs(pre_activation[0, 0])
        masks.append(pre_activation > 0)
        hidden.append(np.maximum(pre_activation, 0))
    odds = np.exp(pre_activation)
    grad = odds / odds.sum(axis=1, keepdims=True)
    grad[np.arange(batch_size), labels] -= 1
    grad *= np.logspace(0, -spread, batch_size)[:, None] / batch_size
    grads = []
    for index in range(depth, -1, -1):
        grads.insert(0, grad)
        if index:
            grad = (grad @ layers[index][0]) * masks[index - 1]
    cast = lambda array: array.astype(dtype)
    observation = LayerObservation(
        weight=cast(layers[0][0]), bias=cast(layers[0][1]),
        weight_grad=cast(grads[0].T @ inputs), bias_grad=cast(grads[0].sum(axis=0)),
    )  # fmt: skip
    return Simulated(observation, layers[1:], cast(grads[1].T @ hidden[1]), inputs, labels, grads[0].T)


def with_above(problem, network=None, next_weight_grad=None):
    """The problem with layers above, as `reconstruct` checks them."""
    from spear_jax.attacks.dense.above import Above, check_gradient, check_network

    m = len(problem.left)
    layers = None if network is None else check_network(network, m)
    gradient = None if next_weight_grad is None else check_gradient(next_weight_grad, m)
    return dataclasses.replace(problem, above=Above(layers, gradient))
