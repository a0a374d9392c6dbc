"""What stands before a dense layer: tensors whose training over several local steps moves the layer's inputs.

A graph of the model is not in the file, so what *may* stand before a layer counts: to take a tensor for one behind it
costs a false certificate, the other mistake costs a true one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from spear_jax.update.dense_layers import EMBEDDING, DenseLayer, natural_key
from spear_jax.update.layer_order import feeds, same_numbered


def tensors_before(
    shapes: Mapping[str, tuple[int, ...]],
    layers: Sequence[DenseLayer],
    layer: DenseLayer,
    *,
    candidates: Sequence[DenseLayer],
    is_told: bool,
) -> tuple[str, ...]:
    """Names of the tensors that may stand before a layer: of other dense layers, convolutions, embeddings, norms.

    Args:
        shapes: of every floating-point tensor, in the order of the file.
        layers: the dense layers, in order.
        layer: one of them.
        candidates: for the first layer; where it stays open, each may stand before one that another layer feeds.
        is_told: whether the order of the file tells anything.
    """
    dense = {name for other in layers for name in other.tensor_names}
    earlier = list(layers[: layers.index(layer)])
    if layer in candidates and any(feeds(other, layer) for other in layers if other != layer):
        earlier += [other for other in candidates if other != layer]
    before = {name for other in earlier for name in other.tensor_names}
    before |= {name for name in shapes if name not in dense and _may_stand_before(name, shapes, layers, layer, is_told)}
    return tuple(name for name in shapes if name in before)


def takes_outputs(gradient: np.ndarray, of: np.ndarray) -> bool:
    """Whether a layer is seen to take another's outputs: its zero columns are just the neurons that never fired there.

    Args:
        gradient: (k, m) of the layer's kernel.
        of: (m, n) of the other's kernel; where every neuron fired it shows nothing.
    """
    fired, reached = np.any(of, axis=1), np.any(gradient, axis=0)
    return not np.all(fired) and np.array_equal(fired, reached)


def moved_share(sent: Sequence[np.ndarray], changes: Sequence[np.ndarray | None]) -> float:
    """The largest change among tensors relative to their norms, at most 1; 1 where a tensor did not come back."""
    share = 0.0
    for tensor, change in zip(sent, changes, strict=True):
        if change is None:
            return 1.0
        moved, size = float(np.linalg.norm(change)), float(np.linalg.norm(tensor))
        if moved > 0 or not np.isfinite(moved):
            share = max(share, moved / max(moved, size) if np.isfinite(moved) and np.isfinite(size) else 1.0)
    return share


def _may_stand_before(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    layers: Sequence[DenseLayer],
    layer: DenseLayer,
    is_told: bool,
) -> bool:
    """Whether one tensor of no dense layer may stand before a layer.

    Convolutions with their biases, embeddings and what has the size of the layer's inputs alone do, wherever the file
    has them, as they may be registered late. Else its place in the file tells, or a number; without either, the size of
    a vector.
    """
    shape = shapes[name]
    is_input_sized = shape == (layer.in_features,) and all(other.out_features != layer.in_features for other in layers)
    if _is_of_convolution(name, shapes) or EMBEDDING in name.lower() or is_input_sized:
        return True
    if is_told:
        names = list(shapes)
        return names.index(name) < names.index(layer.kernel_name)
    if same_numbered(name) == same_numbered(layer.kernel_name):
        return natural_key(name) < natural_key(layer.kernel_name)
    return len(shape) != 1 or layer.in_features % max(shape[0], 1) == 0


def _is_of_convolution(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a tensor has more than two dimensions, or one beside it does, of which it is the bias."""
    prefix = re.sub(r"[^./]*$", "", name)
    beside = (prefix + leaf for leaf in ("weight", "kernel"))
    return any(len(shapes.get(one, ())) > 2 for one in (name, *beside))
