"""Updates of networks with any activation, in NumPy with derivatives written by hand: an independent client."""

from typing import NamedTuple

import numpy as np
from scipy.special import erf, expit

from spear_jax.observation import LayerObservation


def _gelu(z):
    share = (1 + erf(z / np.sqrt(2))) / 2
    return z * share, share + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def _gelu_tanh(z):
    inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
    return z * (1 + np.tanh(inner)) / 2, (1 + np.tanh(inner)) / 2 + z * slope / np.cosh(inner) ** 2 / 2


def _exponential(z, scale=1.0, alpha=1.0):
    below = alpha * np.exp(np.minimum(z, 0))
    return scale * np.where(z > 0, z, below - alpha), scale * np.where(z > 0, 1.0, below)


def _rectified(slope):
    return lambda z: (np.where(z > 0, z, slope * z), np.where(z > 0, 1.0, slope))


def _hardswish(z):
    middle = (z > -3) & (z < 3)
    return np.where(middle, z * (z + 3) / 6, np.maximum(z, 0)), np.where(middle, (2 * z + 3) / 6, 1.0 * (z > 0))


# Value and derivative.
ACTIVATIONS = {
    "relu": _rectified(0.0),
    "leaky_relu": _rectified(0.01),
    "leaky_relu(0.2)": _rectified(0.2),
    "prelu": _rectified(0.25),
    "relu6": lambda z: (np.clip(z, 0, 6), 1.0 * ((z > 0) & (z < 6))),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda z: (z * expit(z), expit(z) * (1 + z * (1 - expit(z)))),
    "elu": _exponential,
    "selu": lambda z: _exponential(z, 1.0507009873554805, 1.6732632423543772),
    "softplus": lambda z: (np.logaddexp(0, z), expit(z)),
    "tanh": lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2),
    "sigmoid": lambda z: (expit(z), expit(z) * (1 - expit(z))),
    "hardswish": _hardswish,
}


class Seen(NamedTuple):
    """The layers as the server sees them, first to last, the inputs, and ``dL/dZ`` of the first layer, (m, b)."""

    layers: list
    inputs: np.ndarray
    grad_z: np.ndarray


def simulate(
    activation, batch_size, width, *, in_features=100, depth=2, classes=10, seed=0, dtype="float64", inputs=None,
    labels=None, has_biases=True, start=None,
):  # fmt: skip
    """Mean cross-entropy of a network with this activation, Gaussian inputs, PyTorch's or given weights."""
    rng, act = np.random.default_rng(seed), ACTIVATIONS[activation]
    sizes = [in_features, *[width] * depth, classes]
    layers = []
    for inner, outer in zip(sizes, sizes[1:], strict=False):
        bound = 1 / np.sqrt(inner)
        layers.append((rng.uniform(-bound, bound, (outer, inner)), has_biases * rng.uniform(-bound, bound, outer)))
    layers = layers if start is None else start
    layers = [(weight.astype(dtype).astype(float), bias.astype(dtype).astype(float)) for weight, bias in layers]
    inputs = rng.normal(size=(batch_size, in_features)) if inputs is None else inputs
    labels = rng.integers(0, classes, batch_size) if labels is None else np.asarray(labels)
    hidden, slopes = [inputs], []
    for weight, bias in layers:
        logits = hidden[-1] @ weight.T + bias
        value, slope = act(logits)
        hidden.append(value)
        slopes.append(slope)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    grad = odds / odds.sum(axis=1, keepdims=True)
    grad[np.arange(batch_size), labels] -= 1
    grad /= batch_size
    cast, seen = (lambda array: array.astype(dtype)), []
    for index in range(depth, -1, -1):
        weight, bias = layers[index]
        seen.insert(
            0,
            LayerObservation(
                weight=cast(weight), bias=cast(bias), weight_grad=cast(grad.T @ hidden[index]),
                bias_grad=cast(grad.sum(axis=0)),
            ),
        )  # fmt: skip
        grad_z = grad
        if index:
            grad = (grad @ weight) * slopes[index - 1]
    return Seen(seen, inputs, grad_z.T)


def errors(result, inputs):
    """(r,) distance of each reconstructed input to the nearest true one, relative to its norm; inf where none is."""
    found = np.nan_to_num(np.asarray(result.inputs), nan=np.inf)
    with np.errstate(invalid="ignore"):
        distance = np.linalg.norm(found[:, None] - inputs[None], axis=2) / np.linalg.norm(inputs, axis=1)
    return np.nan_to_num(distance.min(axis=1), nan=np.inf)


def local_steps(activation, batch_size, width, *, lr, steps, batches=None, **options):
    """The layers as the server sees them after SGD steps on the same inputs, or on those of each batch of a list."""
    first = simulate(activation, batch_size, width, **options)
    batches = [np.arange(batch_size)] * steps if batches is None else batches
    weights = [(np.asarray(layer.weight), np.asarray(layer.bias)) for layer in first.layers]
    labels = np.random.default_rng(9).integers(0, 10, batch_size)
    now = weights
    for batch in batches:
        inputs = first.inputs[batch]
        step = simulate(
            activation, len(batch), width, start=now, **options | {"inputs": inputs, "labels": labels[batch]}
        )
        grads = [(np.asarray(layer.weight_grad), np.asarray(layer.bias_grad)) for layer in step.layers]
        now = [(w - lr * g, b - lr * h) for (w, b), (g, h) in zip(now, grads, strict=True)]
    layers = [
        LayerObservation(
            weight=w, bias=b, weight_grad=(w - v) / lr, bias_grad=(b - c) / lr, drift=lr,
            rounding=1e-17 / lr,
        )
        for (w, b), (v, c) in zip(weights, now, strict=True)
    ]  # fmt: skip
    return first._replace(layers=layers)
