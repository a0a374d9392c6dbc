"""PyTorch files (``.pt``, ``.pth``, ``.bin``) read without PyTorch and without trust.

``torch.save`` writes a zip archive: ``<root>/data.pkl`` describes the tensors and ``<root>/data/<key>`` holds the
bytes of each storage, uncompressed. `torch_pickle` reads the description; here the bytes are fetched, after every size
was compared with the file's.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.errors import TensorFileError
from spear_jax.tensor_files import READ_ERRORS, ZIP_ERRORS, existing_file
from spear_jax.update.readers import torch_pickle
from spear_jax.update.readers.torch_pickle import SAVE_AGAIN, StoredTensor

# A tensor of a state dict takes some forty instructions; what lies beside it (losses, an optimiser) is not endless.
_INSTRUCTIONS, _INSTRUCTIONS_PER_RECORD = 50_000, 200
_PICKLE, _PICKLE_PER_RECORD = 2**22, 2**10
# Tied weights share a storage under several names; many names for one storage would be a bomb.
_MAX_SHARING = 4


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a state dict that ``torch.save`` wrote, by name, in their order.

    Args:
        path: archive of a state dict, or of a dict that holds one state dict under any key (``state_dict``, ``model``).

    Returns:
        Arrays in their stored shape and dtype (bfloat16 included), read-only views of the storages: of views and
        transposed tensors exactly the elements that PyTorch shows.

    Raises:
        TensorFileError: no such archive (TorchScript, older than PyTorch 1.6), damaged, no or several state dicts,
            anything but tensors and containers in the pickle, complex or other exotic tensors, more elements than the
            file has.
    """
    path = existing_file(path)
    try:
        if not zipfile.is_zipfile(path):
            raise TensorFileError(_why_no_archive(path))
        with zipfile.ZipFile(path) as archive:
            records, root = _records(archive, path.stat().st_size)
            tensors = _state_dict(_description(archive, records, root))
            _check_claims(tensors, path.stat().st_size)
            return _read(archive, records, root, tensors)
    except TensorFileError as error:
        raise TensorFileError(f"{path.name}: {error}") from error
    except (*ZIP_ERRORS, *READ_ERRORS, LookupError) as error:
        raise TensorFileError(
            f"{path.name} is not a readable PyTorch file (truncated or damaged?): {error}."
        ) from error


def _why_no_archive(path: Path) -> str:
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            return "it begins like a PyTorch archive but has no end: it is truncated; copy it again."
    return f"it is no zip archive, which torch.save writes since PyTorch 1.6; {SAVE_AGAIN}."


def _records(archive: zipfile.ZipFile, file_size: int) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """The archive's records by name, and the folder that they lie in."""
    records = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise TensorFileError(f"it is a zip archive without the data.pkl that torch.save writes; {SAVE_AGAIN}.")
    if f"{roots[0]}constants.pkl" in records:
        raise TensorFileError(
            "it is a TorchScript archive, which holds code; save torch.save(torch.jit.load(path).state_dict(), path)."
        )
    for name, info in records.items():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise TensorFileError(f"{ascii(name[:80])} is compressed, which torch.save never does; {SAVE_AGAIN}.")
    if sum(info.file_size for info in records.values()) > file_size:
        raise TensorFileError("its records claim more bytes than the file has: it is truncated or damaged.")
    return records, roots[0]


def _description(archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], root: str) -> Any:
    info = records[f"{root}data.pkl"]
    limit = _PICKLE + _PICKLE_PER_RECORD * len(records)
    if info.file_size > limit:
        raise TensorFileError(f"its data.pkl has {info.file_size} bytes; expected at most {limit}: {SAVE_AGAIN}.")
    max_instructions = _INSTRUCTIONS + _INSTRUCTIONS_PER_RECORD * len(records)
    return torch_pickle.load(archive.read(info), max_instructions=max_instructions)


def _state_dict(content: Any) -> dict[str, StoredTensor]:
    """The one mapping of tensors in what was saved."""
    if not isinstance(content, dict):
        what = "single tensor" if isinstance(content, StoredTensor) else type(content).__name__
        raise TensorFileError(f"it holds a {what}, not a state dict; {SAVE_AGAIN}.")
    nested = {key: value for key, value in content.items() if _is_state_dict(value)}
    if len(nested) > 1:
        names = ", ".join(ascii(key) for key in list(nested)[:5])
        raise TensorFileError(f"it holds several state dicts ({names}); save the one that was trained to its own file.")
    found = next(iter(nested.values()), content)
    tensors = {name: value for name, value in found.items() if isinstance(value, StoredTensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise TensorFileError(f"it holds no tensors by name; {SAVE_AGAIN}.")
    return tensors


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, StoredTensor) for item in value.values())


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


def _read(
    archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], root: str, tensors: Mapping[str, StoredTensor]
) -> dict[str, np.ndarray]:
    byteorder = archive.read(records[f"{root}byteorder"]).strip() if f"{root}byteorder" in records else b"little"
    if byteorder not in (b"little", b"big"):
        raise TensorFileError(f"its byteorder is {byteorder[:20]!r}; expected little or big.")
    stored = {tensor.key: tensor for tensor in tensors.values()}
    storages = {
        key: _read_storage(archive, records[f"{root}data/{key}"], tensor, byteorder == b"big")
        for key, tensor in stored.items()
    }
    return {name: _view(storages[tensor.key], tensor) for name, tensor in tensors.items()}


def _read_storage(archive: zipfile.ZipFile, info: zipfile.ZipInfo, tensor: StoredTensor, is_big: bool) -> np.ndarray:
    """All elements of a storage, read-only."""
    itemsize = tensor.dtype.itemsize
    if info.file_size != tensor.numel * itemsize:
        raise TensorFileError(
            f"storage {ascii(tensor.key[:80])} should have {tensor.numel * itemsize} bytes and has {info.file_size}: "
            "the file is damaged."
        )
    words = np.frombuffer(archive.read(info), f"u{itemsize}")
    elements = (words.byteswap() if is_big else words).view(tensor.dtype)
    elements.flags.writeable = False
    return elements


def _view(storage: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    """The tensor's elements in its storage; NumPy checks the bounds once more."""
    if storage.dtype != tensor.dtype or storage.size != tensor.numel:
        raise TensorFileError(f"storage {ascii(tensor.key[:80])} is described in two ways: the file is damaged.")
    itemsize = tensor.dtype.itemsize
    strides = [step * itemsize for step in tensor.stride]
    return np.ndarray(tensor.size, tensor.dtype, storage, tensor.offset * itemsize, strides)  # pyright: ignore
