"""Model files of any framework: the suffix chooses the reader, and `READERS` is all that knows of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.numpy import bfloat16

from spear_jax import tensor_files
from spear_jax.errors import UpdateError
from spear_jax.update.make import ModelFile, name_by_order
from spear_jax.update.readers import torch_files, tree_files

_SAFETENSORS_FORMAT = {"pt": "pytorch", "flax": "flax", "tf": "tensorflow"}


def read_model(path: str | os.PathLike[str]) -> ModelFile:
    """Reads a model file or a file of gradients; nothing in it is run or trusted.

    Args:
        path: ``.pt``, ``.pth`` or ``.bin`` of PyTorch, ``.safetensors``, Flax ``.msgpack``, an Orbax folder, or
            ``.npz`` of named arrays or of a list of arrays (``numpy.savez(file, *arrays)``, Flower's old form).

    Raises:
        UpdateError: anything wrong with the file or its contents, in one sentence.
    """
    path = Path(path)
    try:
        tensors, framework = _read(path)
    except tensor_files.TensorFileError as error:
        raise UpdateError(str(error)) from error
    if any(name.startswith(("grad/", "client/")) for name in tensors):
        raise UpdateError(f"{path.name} is an update bundle already; pass it to spear-jax inspect or reconstruct.")
    if not tensors:
        raise UpdateError(f"{path.name} holds no tensors; give a file that holds the parameters of a model.")
    for name, tensor in tensors.items():
        _check_tensor(path.name, name, tensor)
    return ModelFile(tensors, framework)


def _read_containers(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """Tensors of a ``.safetensors`` or ``.npz`` file, and the framework that its metadata name."""
    tensors, metadata = tensor_files.read_tensors(path)
    ordinals = [f"arr_{index}" for index in range(len(tensors))]
    if path.suffix == ".npz" and set(tensors) == set(ordinals):
        tensors = name_by_order([tensors[name] for name in ordinals])
    return tensors, _SAFETENSORS_FORMAT.get(metadata.get("format", ""))


class Reader(NamedTuple):
    """One row of `READERS`.

    Attributes:
        suffixes: what the names of its files end in; a folder goes to the reader of `FOLDER`.
        words: the suffixes as help and errors name them.
        read: gives the tensors by name and the framework, None where the file does not tell.
    """

    suffixes: tuple[str, ...]
    words: str
    read: Callable[[Path], tuple[dict[str, np.ndarray], str | None]]


FOLDER = "folder"
READERS = (
    Reader(
        (".pt", ".pth", ".bin"),
        ".pt, .pth or .bin (PyTorch)",
        lambda path: (torch_files.read_state_dict(path), "pytorch"),
    ),
    Reader((".safetensors", ".npz"), ".safetensors, .npz", _read_containers),
    Reader(
        (".msgpack", FOLDER),
        ".msgpack (Flax) or the folder of an Orbax checkpoint",
        lambda path: (tree_files.read_tree(path), "flax"),
    ),
)
SUFFIXES = ", ".join(reader.words for reader in READERS)


def _read(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    kind = FOLDER if path.is_dir() else path.suffix
    for reader in READERS:
        if kind in reader.suffixes:
            return reader.read(path)
    raise UpdateError(f"{path.name} has extension {path.suffix or '(none)'!r}; expected {SUFFIXES}.")


def _check_tensor(file_name: str, name: str, tensor: np.ndarray) -> None:
    if not name.isprintable():
        raise UpdateError(f"{file_name} has a tensor called {ascii(name[:80])}; expected a name that can be printed.")
    if tensor.dtype.kind not in "fiub" and tensor.dtype != bfloat16:
        raise UpdateError(f"{file_name}: {name[:80]} has dtype {tensor.dtype}; expected real numbers: leave it out.")
