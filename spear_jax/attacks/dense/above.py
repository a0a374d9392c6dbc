"""The layers above the observed one: the model and the next layer's gradient, by which samples are certified alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Float

from spear_jax.errors import SpearError
from spear_jax.factorization import factorize
from spear_jax.observation import LayerObservation
from spear_jax.types import Array

Network = Sequence[tuple[Array, Array]]
# From the pre-activations (m,) and the input (n,) of one sample to what the next dense layer sees of it, (m2,).
Between = Callable[[jax.Array, jax.Array], jax.Array]
Layers = list[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Above:
    """What is known of the layers above; at least one of the first three is there.

    Attributes:
        layers: kernels (out, in) and biases in float64, from the next layer to the logits; None without the model.
        weight_grad: (j, m) gradient of the next layer's kernel, (out, in); None without it.
        observed: the next layers as the server sees them, lowest first; empty where none came back.
        between: what the lowest of them sees of the layer, where that is more than an activation.
    """

    layers: Layers | None
    weight_grad: np.ndarray | None
    observed: tuple[LayerObservation, ...] = ()
    between: Between | None = None

    @property
    def confirms(self) -> bool:
        """Whether samples that zeros give are confirmed by it."""
        return self.layers is not None or self.weight_grad is not None

    @cached_property
    def kernel_norms(self) -> list[np.ndarray]:
        """Norm of each row of each kernel of `layers`."""
        return [np.linalg.norm(weight, axis=1) for weight, _ in self.layers or ()]

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


def known_above(
    observation: LayerObservation,
    model: Network | None,
    next_weight_grad: Array | None,
    observed: Sequence[LayerObservation] | None = None,
    between: Between | None = None,
) -> Above | None:
    """The layers above, checked; None where nothing is known of them.

    Where the client took several steps only what the next layer saw is used, the weights that were sent among all.

    Args:
        observation: of the observed layer.
        model: ``[(W2, b2), ..., (WL, bL)]``, see `check_network`.
        next_weight_grad: (j, m) gradient of the next layer's kernel, see `check_gradient`.
        observed: the next layers, lowest first; the lowest one's kernel gradient stands for ``next_weight_grad``.
        between: from pre-activations (m,) and input (n,) of a sample to what the lowest of them sees of it.

    Raises:
        SpearError: one of them does not fit the layer.
    """
    others = check_chain(observed or (), seen_width(observation, between, observed or ()))
    if others and (between is not None or observation.drift):
        # Nothing but the span equations knows what stands between, or what several steps made of the layers above.
        return Above(None, None, others, between)
    if next_weight_grad is None and others:
        next_weight_grad = np.asarray(others[0].weight_grad)
    layers = None if model is None else check_network(model, observation.out_features)
    gradient = None if next_weight_grad is None else check_gradient(next_weight_grad, observation.out_features)
    if observation.drift or (layers is None and gradient is None):
        return None
    return Above(layers, gradient, others)


def seen_width(observation: LayerObservation, between: Between | None, observed: Sequence[LayerObservation]) -> int:
    """How many values the next layer sees of a sample.

    Raises:
        SpearError: ``between`` is no map of pre-activations and inputs to a vector, or there is no layer after it.
    """
    if between is None:
        return observation.out_features
    if not observed:
        raise SpearError("between= needs layers_above=, the gradients of the layer that reads what it gives.")
    z, x = (jax.ShapeDtypeStruct((size,), np.float32) for size in observation.weight_grad.shape)
    try:
        seen = jax.eval_shape(between, z, x)
    except Exception as error:  # it is the user's own
        raise SpearError(
            f"between: {type(error).__name__} for pre-activations {z.shape} and inputs {x.shape} of one sample: {error}"
        ) from error
    if getattr(seen, "ndim", None) != 1:
        raise SpearError(f"between gives {seen}; expected a vector, what the next layer sees of one sample.")
    return seen.shape[0]


def check_chain(observed: Sequence[LayerObservation], out_features: int) -> tuple[LayerObservation, ...]:
    """The next layers as observed, each reading what the one before it gives.

    Raises:
        SpearError: something else than observations, or shapes that do not chain.
    """
    width = out_features
    for number, layer in enumerate(observed, start=2):
        if not isinstance(layer, LayerObservation):
            raise SpearError(
                f"layers_above holds a {type(layer).__name__}; expected LayerObservations, the next layer's first."
            )
        if layer.in_features != width:
            raise SpearError(
                f"layers_above: layer {number} has a kernel of shape {(layer.out_features, layer.in_features)}; "
                f"expected (k, {width}), as many inputs as the layer below has outputs."
            )
        width = layer.out_features
    return tuple(observed)


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
