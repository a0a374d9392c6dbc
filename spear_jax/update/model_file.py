"""What a reader hands on of one model file, and names for a file that holds a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np


class ModelFile(NamedTuple):
    """The tensors of a model file.

    Attributes:
        tensors: real arrays by name, in their stored dtype and in the order of the file, possibly read-only.
        framework: ``"pytorch"``, ``"flax"`` or what else the file tells; None where it does not.
        left_out: why a tensor of the file is not among ``tensors``, by name: no real numbers, an optimiser's.
        is_ordered: whether the order says anything: safetensors and HDF5 sort by name.
        positions: where the file is a list, the place in it of each of ``tensors``; None for tensors by name.
        activation: between the dense layers, where the model's configuration names it; None where it does not.
    """

    tensors: dict[str, np.ndarray]
    framework: str | None
    left_out: Mapping[str, str] = MappingProxyType({})
    is_ordered: bool = True
    positions: tuple[int, ...] | None = None
    activation: str | None = None


def name_by_order(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Names for a list of arrays, as far as its order tells what they are.

    Args:
        arrays: parameters in the order of the layers, as Flower's clients send them.

    Returns:
        The arrays in their order: a matrix and a vector behind it that fits are ``layer_00.weight`` and
        ``layer_00.bias`` (``layer_00/kernel`` and ``layer_00/bias`` where the vectors tell that kernels are (in, out),
        as in Keras and Flax), counted by layer; any other array is ``arr_<position>``. A matrix without bias before the
        scale of a normalisation layer looks like a dense layer: give names to such a model.
    """
    starts = [
        index
        for index, (matrix, vector) in enumerate(zip(arrays, arrays[1:], strict=False))
        if matrix.ndim == 2 and vector.ndim == 1 and len(vector) in matrix.shape
    ]
    fits = lambda axis: all(len(arrays[index + 1]) == arrays[index].shape[axis] for index in starts)
    separator, leaf = ("/", "kernel") if fits(1) and not fits(0) else (".", "weight")
    names = [f"arr_{index}" for index in range(len(arrays))]
    for layer, index in enumerate(starts):
        names[index] = f"layer_{layer:02d}{separator}{leaf}"
        names[index + 1] = f"layer_{layer:02d}{separator}bias"
    return dict(zip(names, arrays, strict=True))


def few(items: Sequence[str], shown: int = 3) -> str:
    """The first few of many names, and how many more there are."""
    more = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {more} more" if more > 0 else "")
