"""The layers above the observed one: the model and the next layer's gradient, by which samples are certified alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from spear_jax.errors import SpearError
from spear_jax.factorization import factorize
from spear_jax.observation import LayerObservation
from spear_jax.types import Array

Network = Sequence[tuple[Array, Array]]
Layers = list[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Above:
    """What is known of the layers above; at least one of the two is there.

    Attributes:
        layers: kernels (out, in) and biases in float64, from the next layer to the logits; None without the model.
        weight_grad: (j, m) gradient of the next layer's kernel, (out, in); None without it.
    """

    layers: Layers | None
    weight_grad: np.ndarray | None

    @cached_property
    def row_space(self) -> Float[np.ndarray, "m j"] | None:
        """Orthonormal basis of the row space of `weight_grad`, where the activations of the batch lie.

        None without a gradient, and where it hides nothing: it is zero, of full rank, or of one sample.
        """
        if self.weight_grad is None or not np.any(self.weight_grad):
            return None
        found = factorize(self.weight_grad)
        if found.is_full or found.rank < 2:
            return None
        return (np.asarray(found.right) / found.singular_values[: found.rank, None]).T


def layers_above(observation: LayerObservation, model: Network | None, next_weight_grad: Array | None) -> Above | None:
    """The layers above, checked; None where nothing is known of them.

    Nothing of them is used where the client took several steps: they speak of one step at the weights that were sent.

    Args:
        observation: of the observed layer.
        model: ``[(W2, b2), ..., (WL, bL)]``, see `check_network`.
        next_weight_grad: (j, m) gradient of the next layer's kernel, see `check_gradient`.

    Raises:
        SpearError: either does not fit the layer.
    """
    layers = None if model is None else check_network(model, observation.out_features)
    gradient = None if next_weight_grad is None else check_gradient(next_weight_grad, observation.out_features)
    if observation.drift or (layers is None and gradient is None):
        return None
    return Above(layers, gradient)


def check_network(network: Network, out_features: int) -> Layers:
    """The dense layers above in float64.

    Args:
        network: ``[(W2, b2), ..., (WL, bL)]`` with kernels (out, in), ReLU between and softmax cross-entropy on top.
        out_features: m, neurons of the observed layer.

    Raises:
        SpearError: no layer, or shapes that do not chain.
    """
    layers = [(np.asarray(weight, np.float64), np.asarray(bias, np.float64)) for weight, bias in network]
    if not layers:
        raise SpearError("model is empty; expected the dense layers above the observed one, [(W2, b2), ...], or None.")
    width = out_features
    for number, (weight, bias) in enumerate(layers, start=2):
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise SpearError(
                f"model: layer {number} has a kernel of shape {weight.shape} and a bias of shape {bias.shape}; "
                f"expected (k, {width}) and (k,), kernels being (out, in)."
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise SpearError(
                f"model: layer {number} holds NaN or infinite values; pass the model that the server sent."
            )
        width = weight.shape[0]
    if width < 2:
        raise SpearError("model: the last layer has one output; softmax cross-entropy needs at least two classes.")
    return layers


def check_gradient(next_weight_grad: Array, out_features: int) -> np.ndarray:
    """The gradient of the layer above as an array.

    Raises:
        SpearError: of another shape, not floating, not finite.
    """
    gradient = np.asarray(next_weight_grad)
    if gradient.ndim != 2 or gradient.shape[1] != out_features or not np.issubdtype(gradient.dtype, np.floating):
        raise SpearError(
            f"next_weight_grad is {gradient.dtype} of shape {gradient.shape}; expected floating numbers of shape "
            f"(out, {out_features}), the kernel gradient of the layer above."
        )
    if not np.isfinite(gradient).all():
        raise SpearError("next_weight_grad holds NaN or infinite values; leave it out, or pass the client's gradient.")
    return gradient
