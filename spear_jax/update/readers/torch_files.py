"""PyTorch files (``.pt``, ``.pth``, ``.bin``, ``.ckpt``) read without PyTorch and without trust.

``torch.save`` writes a zip archive: ``<root>/data.pkl`` describes the tensors and ``<root>/data/<key>`` holds the
bytes of each storage, uncompressed. `torch_pickle` reads the description; here the bytes are fetched, after every size
was compared with the file's. Before PyTorch 1.6 it wrote one pickle behind another and the bytes behind them
(`torch_legacy`).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.errors import TensorFileError
from spear_jax.tensor_files import READ_ERRORS, ZIP_ERRORS, existing_file
from spear_jax.update.model_file import ModelFile
from spear_jax.update.readers import torch_legacy, torch_pickle
from spear_jax.update.readers.pickled_calls import SAVE_AGAIN, StoredTensor
from spear_jax.update.readers.pickled_model import INSTRUCTIONS, elements, model_of, tensors_in

_INSTRUCTIONS_PER_RECORD = 200
_PICKLE, _PICKLE_PER_RECORD = 2**22, 2**10


def read_torch(path: str | os.PathLike[str]) -> ModelFile:
    """The tensors of the model in a file that ``torch.save`` wrote, by name, in their order.

    Args:
        path: archive of a state dict, of a module, of a list of gradients, or of a checkpoint that holds one of these
            beside anything else.

    Returns:
        Arrays in their stored shape and dtype (bfloat16 included), read-only views of the storages: of views and
        transposed tensors exactly the elements that PyTorch shows. Complex and other exotic tensors are left out.

    Raises:
        TensorFileError: no such archive (TorchScript), damaged, no tensors, a global that could only run something,
            more elements than the file has.
    """
    path = existing_file(path)
    try:
        if torch_legacy.is_legacy(path):
            return torch_legacy.read_legacy(path)
        if not zipfile.is_zipfile(path):
            raise TensorFileError(_why_no_archive(path))
        with zipfile.ZipFile(path) as archive:
            records, root = _records(archive, path.stat().st_size)
            found = model_of(_description(archive, records, root), ".")
            storages = lambda stored: _read_storages(archive, records, root, stored)
            return tensors_in(found, storages, path.stat().st_size)
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
    max_instructions = INSTRUCTIONS + _INSTRUCTIONS_PER_RECORD * len(records)
    return torch_pickle.load(archive.read(info), max_instructions=max_instructions)


def _read_storages(
    archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], root: str, stored: Mapping[str, StoredTensor]
) -> dict[str, np.ndarray]:
    """All elements of every storage by key."""
    byteorder = archive.read(records[f"{root}byteorder"]).strip() if f"{root}byteorder" in records else b"little"
    if byteorder not in (b"little", b"big"):
        raise TensorFileError(f"its byteorder is {byteorder[:20]!r}; expected little or big.")
    storages = {}
    for key, tensor in stored.items():
        info, expected = records[f"{root}data/{key}"], tensor.numel * tensor.dtype.itemsize
        if info.file_size != expected:
            raise TensorFileError(
                f"storage {ascii(key[:80])} should have {expected} bytes and has {info.file_size}: the file is damaged."
            )
        storages[key] = elements(archive.read(info), tensor, is_big=byteorder == b"big")
    return storages
