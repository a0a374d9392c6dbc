"""Which dense layers were trained: those that came back with a change, the others were frozen or not sent back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.dense_layers import DenseLayer

Tensors = Mapping[str, np.ndarray]


def why_untrained(layer: DenseLayer, sent: Tensors, came_back: Tensors, *, is_weights: bool) -> str | None:
    """What became of a layer without a gradient, or None for one that has one.

    Args:
        layer: of the model that was sent.
        sent: the model's tensors.
        came_back: gradients, changes or weights.
        is_weights: whether ``came_back`` holds weights.

    Returns:
        the rest of a sentence that begins with the layer's name.
    """
    if layer.kernel_name not in came_back:
        return "did not come back"
    kernel = came_back[layer.kernel_name]
    is_still = np.array_equal(kernel, sent[layer.kernel_name]) if is_weights else not np.any(kernel)
    return "did not change" if is_still else None


def check_counterparts(layers: Sequence[DenseLayer], sent: Tensors, came_back: Tensors, prefix: str) -> None:
    """Refuse what came back without having been sent, in another shape, or as a bias without its kernel.

    Raises:
        UpdateError: the tensor is named.
    """
    for name, tensor in came_back.items():
        if name not in sent:
            raise UpdateError(f"{name} came back but global/{name} is missing; bundle the model the server sent too.")
        if sent[name].shape != tensor.shape:
            raise UpdateError(f"{name} was sent with shape {sent[name].shape} but came back with shape {tensor.shape}.")
    # A whole layer may stay away, as frozen ones and buffers do, and a bias may be withheld.
    for layer in layers:
        if layer.kernel_name not in came_back and layer.bias_name in came_back:
            name = layer.kernel_name
            raise UpdateError(f"global/{name} has no counterpart {prefix}{name}, while its bias came back.")
