"""From what a pickle describes to the arrays of the model in it, every size compared with the file's first."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spear_jax.errors import TensorFileError
from spear_jax.tensor_files import READ_ERRORS, existing_file
from spear_jax.update.model_file import ModelFile
from spear_jax.update.readers import torch_pickle
from spear_jax.update.readers.pickled_calls import SAVE_AGAIN, StoredTensor
from spear_jax.update.readers.pickled_numpy import PickledArray
from spear_jax.update.readers.trees import Found, Opaque, Unreadable, find_model

# A tensor of a state dict takes some forty instructions; what lies beside it (losses, an optimiser) is not endless.
INSTRUCTIONS = 50_000
# Tied weights share a storage under several names; many names for one storage would be a bomb.
_MAX_SHARING = 4


def read_pickle(path: str | os.PathLike[str]) -> ModelFile:
    """The NumPy or JAX arrays in a file that ``pickle.dump`` wrote; nothing in it is run.

    Args:
        path: a pickle of protocol 2 to 5: a dict, a list or an object of arrays.

    Raises:
        TensorFileError: damaged, no arrays in it, a global that could only run something.
    """
    path = existing_file(path)
    try:
        content = torch_pickle.load(path.read_bytes(), max_instructions=INSTRUCTIONS + path.stat().st_size // 100)
        return tensors_in(model_of(content, "/"), _no_storages, path.stat().st_size)._replace(framework=None)
    except TensorFileError as error:
        raise TensorFileError(f"{path.name}: {error}") from error
    except (*READ_ERRORS, LookupError) as error:
        raise TensorFileError(f"{path.name} is not a readable pickle (truncated or damaged?): {error}.") from error


def model_of(content: Any, separator: str) -> Found:
    """The model in what was saved: descriptions by name.

    Raises:
        TensorFileError: no tensors in it.
    """
    if isinstance(content, StoredTensor | PickledArray | Unreadable) or not isinstance(
        content, dict | list | tuple | Opaque
    ):
        what = "single tensor" if isinstance(content, StoredTensor | PickledArray) else type(content).__name__
        raise TensorFileError(f"it holds a {what}, not a state dict; {SAVE_AGAIN}.")
    found = find_model(content, separator, (StoredTensor, PickledArray))
    damaged = {
        name: leaf.value.reason
        for name, leaf in found.tensors.items()
        if isinstance(leaf, PickledArray) and isinstance(leaf.value, Unreadable)
    }
    tensors = {name: leaf for name, leaf in found.tensors.items() if name not in damaged}
    left_out = found.left_out | damaged
    if not tensors:
        reasons = "; ".join(f"{ascii(name[:80])[1:-1]} {reason}" for name, reason in list(left_out.items())[:3])
        raise TensorFileError(f"it holds no tensors by name{f' that can be read ({reasons})' * bool(reasons)}; "
                              f"{SAVE_AGAIN}.")  # fmt: skip
    return Found(tensors, left_out, found.positions)


def tensors_in(
    found: Found, read_storages: Callable[[Mapping[str, StoredTensor]], Mapping[str, np.ndarray]], file_size: int
) -> ModelFile:
    """The arrays of the model.

    Args:
        found: the model's descriptions, from `model_of`.
        read_storages: gives all elements of the storages, by key, of one tensor in each.
        file_size: bytes that the file has.

    Raises:
        TensorFileError: a tensor beyond its storage, or so many elements that memory would run out.
    """
    stored = {name: leaf for name, leaf in found.tensors.items() if isinstance(leaf, StoredTensor)}
    _check_claims(stored, file_size)
    storages = read_storages({tensor.key: tensor for tensor in stored.values()})
    arrays = {
        name: _view(storages[leaf.key], leaf) if isinstance(leaf, StoredTensor) else leaf.value
        for name, leaf in found.tensors.items()
    }
    return ModelFile(arrays, "pytorch", found.left_out, positions=found.positions)


def elements(content: bytes, tensor: StoredTensor, *, is_big: bool = False) -> np.ndarray:
    """The bytes of a storage as elements, read-only, in the byte order of this machine."""
    words = np.frombuffer(content, f"u{tensor.dtype.itemsize}")
    found = (words.byteswap() if is_big else words).view(tensor.dtype)
    found.flags.writeable = False
    return found


def _no_storages(stored: Mapping[str, StoredTensor]) -> Mapping[str, np.ndarray]:
    if stored:
        raise TensorFileError(f"{next(iter(stored))} lies in a storage that the file lacks; {SAVE_AGAIN}.")
    return {}


def _check_claims(tensors: Mapping[str, StoredTensor], file_size: int) -> None:
    """Refuse tensors that lie outside their storage, or that show few elements so often that memory would run out."""
    total = 0
    for name, tensor in tensors.items():
        shown = ascii(name[:80])
        if len(tensor.size) != len(tensor.stride) or min((tensor.offset, *tensor.size, *tensor.stride)) < 0:
            raise TensorFileError(f"{shown} has a size, stride or offset that is none: the file is damaged.")
        count = math.prod(tensor.size)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        if count and last >= tensor.numel:
            raise TensorFileError(
                f"{shown} reaches beyond its storage of {tensor.numel} elements: the file is damaged."
            )
        total += count * tensor.dtype.itemsize
        if count * tensor.dtype.itemsize > file_size or total > _MAX_SHARING * file_size:
            raise TensorFileError(
                f"{shown} repeats its elements up to more bytes than the file has (an expanded tensor); "
                "save .contiguous() tensors."
            )


def _view(storage: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    """The tensor's elements in its storage; NumPy checks the bounds once more."""
    if storage.dtype != tensor.dtype or storage.size != tensor.numel:
        raise TensorFileError(f"storage {ascii(tensor.key[:80])} is described in two ways: the file is damaged.")
    itemsize = tensor.dtype.itemsize
    strides = [step * itemsize for step in tensor.stride]
    return np.ndarray(tensor.size, tensor.dtype, storage, tensor.offset * itemsize, strides)  # pyright: ignore
