"""Model files of any framework: their content chooses the reader, their suffix only where content says nothing.

`READERS` is all that knows of the formats.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.numpy import bfloat16

from spear_jax import tensor_files
from spear_jax.errors import UpdateError
from spear_jax.update.model_file import ModelFile, few, name_by_order
from spear_jax.update.named_activation import of_configuration
from spear_jax.update.readers import (
    configurations,
    keras_files,
    pickled_model,
    sharded,
    torch_files,
    torch_legacy,
    tree_files,
)

_SAFETENSORS_FORMAT = {"pt": "pytorch", "flax": "flax", "tf": "tensorflow"}
_HDF5_MAGIC, _NPY_MAGIC = b"\x89HDF\r\n\x1a\n", b"\x93NUMPY"
# Names that a folder with one model gives it.
_ONLY_FILES = ("model.safetensors", "pytorch_model.bin", "model.weights.h5", "flax_model.msgpack")


def read_model(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file or a file of gradients; nothing in it is run or trusted.

    Args:
        path: a file of PyTorch, also a whole checkpoint, a pickle of arrays, ``.safetensors`` (or the index or folder
            of several), Flax ``.msgpack``, an Orbax folder, a Keras file, or ``.npz`` of named arrays or of a list of
            arrays (``numpy.savez(file, *arrays)``, Flower's old form). The content tells which, whatever the name.

    Returns:
        The tensors of real numbers; what else lies beside them is named in ``left_out``. A ``config.json`` beside the
        file, or within a Keras file, may name the activation.

    Raises:
        UpdateError: anything wrong with the file or its contents, in one sentence.
    """
    path = Path(path)
    try:
        found = _read(path)
    except tensor_files.TensorFileError as error:
        raise UpdateError(str(error)) from error
    if any(name.startswith(("grad/", "client/")) for name in found.tensors):
        raise UpdateError(f"{path.name} is an update bundle already; pass it to spear-jax inspect or reconstruct.")
    for name in (*found.tensors, *found.left_out):
        if not name.isprintable():
            raise UpdateError(
                f"{path.name} has a tensor called {ascii(name[:80])}; expected a name that can be printed."
            )
    exotic = {name: reason for name, tensor in found.tensors.items() if (reason := _why_exotic(tensor))}
    tensors = {name: tensor for name, tensor in found.tensors.items() if name not in exotic}
    left_out = dict(found.left_out) | exotic
    if not tensors:
        reasons = few([f"{name[:80]} {reason}" for name, reason in left_out.items()])
        raise UpdateError(
            f"{path.name} holds no tensors{f' that can be read: {reasons}' * bool(reasons)}; "
            "give a file that holds the parameters of a model."
        )
    told = found.activation or of_configuration(configurations.beside(path), tensors)
    return _listed(found._replace(tensors=tensors, left_out=left_out, activation=told))


class Reader(NamedTuple):
    """One row of `READERS`.

    Attributes:
        words: its files as help and errors name them.
        suffixes: what the names of its files end in.
        holds: whether a file with this beginning, or with these members of a zip archive, is one of its files.
        read: gives what it holds.
    """

    words: str
    suffixes: tuple[str, ...]
    holds: Callable[[bytes, list[str]], bool]
    read: Callable[[Path], ModelFile]


def _read_npz(path: Path) -> ModelFile:
    left_out: dict[str, str] = {}
    tensors, metadata = tensor_files.read_npz_tensors(tensor_files.existing_file(path), left_out=left_out)
    return ModelFile(tensors, _SAFETENSORS_FORMAT.get(metadata.get("format", "")), left_out)


def _listed(found: ModelFile) -> ModelFile:
    """A list under names that only count (``arr_0`` of NumPy, ``0``) as what it is, and with names of its own."""
    if found.positions is None:
        for stem in ("arr_", ""):
            ordinals = [f"{stem}{index}" for index in range(len(found.tensors))]
            if set(found.tensors) == set(ordinals):
                in_order = {name: found.tensors[name] for name in ordinals}
                found = found._replace(tensors=in_order, positions=tuple(range(len(ordinals))), is_ordered=True)
    if found.positions is None:
        return found
    return found._replace(tensors=name_by_order(list(found.tensors.values())))


def _read_safetensors(path: Path) -> ModelFile:
    left_out: dict[str, str] = {}
    tensors, metadata = tensor_files.read_safetensors(tensor_files.existing_file(path), left_out=left_out)
    return ModelFile(tensors, _SAFETENSORS_FORMAT.get(metadata.get("format", "")), left_out, is_ordered=False)


def _is_safetensors(head: bytes, members: list[str]) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def _is_pickle(head: bytes, members: list[str]) -> bool:
    is_protocol = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return is_protocol and not head.startswith(torch_legacy.MAGIC)


READERS = (
    Reader(
        ".pt, .pth, .bin or .ckpt (PyTorch)",
        (".pt", ".pth", ".bin", ".ckpt"),
        lambda head, members: head.startswith(torch_legacy.MAGIC) or any(m.endswith("data.pkl") for m in members),
        torch_files.read_torch,
    ),
    Reader(
        ".npz",
        (".npz",),
        lambda head, members: any(member.endswith(".npy") for member in members),
        _read_npz,
    ),
    Reader(
        ".keras or .h5 (Keras)",
        (".keras", ".h5", ".hdf5"),
        lambda head, members: head.startswith(_HDF5_MAGIC) or keras_files.WEIGHTS in members,
        keras_files.read_keras,
    ),
    Reader(".safetensors", (".safetensors",), _is_safetensors, _read_safetensors),
    Reader(".pkl (arrays)", (".pkl", ".pickle"), _is_pickle, pickled_model.read_pickle),
    Reader(
        ".msgpack (Flax)",
        (".msgpack",),
        lambda head, members: head[:1] != b"" and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)),
        tree_files.read_tree,
    ),
)
SUFFIXES = ", ".join(reader.words for reader in READERS) + ", the folder of an Orbax checkpoint or of a model's files"


def _read(path: Path) -> ModelFile:
    if path.is_dir():
        return _read_folder(path)
    if path.name.endswith(sharded.INDEX):
        return sharded.read_sharded(path, _read_file)
    return _read_file(path)


def _read_folder(folder: Path) -> ModelFile:
    index = sharded.index_in(folder)
    only = [folder / name for name in _ONLY_FILES if (folder / name).is_file()]
    if index is not None:
        return sharded.read_sharded(index, _read_file)
    return _read_file(only[0]) if len(only) == 1 else tree_files.read_tree(folder)


def _read_file(path: Path) -> ModelFile:
    head, members = _beginning(path)
    by_suffix = [reader for reader in READERS if path.suffix in reader.suffixes]
    for reader in (*by_suffix, *READERS):
        if reader.holds(head, members):
            return reader.read(path)
    if by_suffix and not head.startswith(_NPY_MAGIC):
        return by_suffix[0].read(path)  # which says what is wrong with it
    what = "is a single array of NumPy" if head.startswith(_NPY_MAGIC) else f"has extension {path.suffix or '(none)'!r}"
    raise UpdateError(f"{path.name} {what}; expected {SUFFIXES}.")


def _beginning(path: Path) -> tuple[bytes, list[str]]:
    """The first bytes of a file, none where there is no such file, and the members of a zip archive."""
    if not path.is_file():
        return b"", []
    with open(path, "rb") as file:
        head = file.read(32)
    try:
        with zipfile.ZipFile(path) as archive:
            return head, archive.namelist()
    except (*tensor_files.ZIP_ERRORS, *tensor_files.READ_ERRORS):
        return head, []


def _why_exotic(tensor: np.ndarray) -> str | None:
    if tensor.dtype == bfloat16 or (tensor.dtype.kind in "fiub" and tensor.dtype.type.__module__ == "numpy"):
        return None
    return f"has dtype {tensor.dtype}; expected real numbers"
