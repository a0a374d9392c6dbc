"""Keras files: ``.weights.h5`` and the older ``.h5`` (HDF5), and ``.keras``, a zip archive with the former in it.

Read with h5py, an extra. Only arrays that lie in the file itself are read: links to other files, arrays stored outside
and virtual ones are left out, and of the configuration only the names of activations are looked at.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.errors import TensorFileError
from spear_jax.tensor_files import READ_ERRORS, ZIP_ERRORS, existing_file
from spear_jax.update.model_file import ModelFile
from spear_jax.update.named_activation import of_configuration
from spear_jax.update.readers import configurations

WEIGHTS = "model.weights.h5"  # in a .keras archive
_OPTIMISERS = ("optimizer", "optimizer_weights", "_optimizer")
_MAX_COMPRESSION, _SMALL = 1000, 2**24
_DEEPEST, _MAX_ITEMS = 60, 100_000


def read_keras(path: str | os.PathLike[str]) -> ModelFile:
    """The arrays of a Keras file by their path in it, as ``layers/dense/vars/0`` or ``dense/dense/kernel:0``.

    Args:
        path: ``.weights.h5``, ``.h5`` of Keras 2, or ``.keras``.

    Returns:
        Arrays in their stored dtype, without the optimiser's. HDF5 sorts by name, so their order says nothing.

    Raises:
        TensorFileError: h5py is not installed, damaged, no arrays, sizes that the file cannot hold.
    """
    path = existing_file(path)
    try:
        import h5py
    except ImportError as error:
        raise TensorFileError(f"reading {path.name} needs h5py: pip install 'spear-jax[keras]'.") from error
    try:
        with h5py.File(_hdf5(path), "r") as file:
            arrays, left_out = _arrays(h5py, file)
    except TensorFileError as error:
        raise TensorFileError(f"{path.name}: {error}") from error
    except (*ZIP_ERRORS, *READ_ERRORS, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TensorFileError(f"{path.name} is not a readable Keras file (truncated or damaged?): {reason}.") from error
    if not arrays:
        raise TensorFileError(f"{path.name} holds no arrays; save the weights of a model, model.save_weights(path).")
    activation = of_configuration(configurations.within(path), arrays)
    return ModelFile(arrays, "keras", left_out, is_ordered=False, activation=activation)


def _hdf5(path: Path) -> Path | io.BytesIO:
    """The HDF5 file itself: this one, or the one in an archive."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(WEIGHTS)
        size = path.stat().st_size
        if info.compress_size > size or info.file_size > _MAX_COMPRESSION * size + _SMALL:
            raise TensorFileError(f"{WEIGHTS} claims {info.file_size} bytes: the archive is damaged.")
        return io.BytesIO(archive.read(info))


def _arrays(h5py: Any, file: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays, left_out, total = {}, {}, 0
    for name, dataset in _datasets(h5py, file, "", 0):
        stored, declared = dataset.id.get_storage_size(), math.prod(dataset.shape or ()) * dataset.dtype.itemsize
        total += declared
        if len(arrays) + len(left_out) > _MAX_ITEMS or total > _MAX_COMPRESSION * file.id.get_filesize() + _SMALL:
            raise TensorFileError(f"{name[:80]} and others declare more arrays than the file holds: it is damaged.")
        if dataset.dtype.kind not in "fiub":
            left_out[name] = f"has dtype {dataset.dtype}; expected real numbers"
        elif dataset.external or dataset.is_virtual or (declared and not stored):
            left_out[name] = "lies in another file, or is not filled"
        else:
            arrays[name] = np.asarray(dataset[()])
    return arrays, left_out


def _datasets(h5py: Any, group: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Every array that a hard link leads to, groups of an optimiser aside."""
    for name in group:
        if depth > _DEEPEST or (not depth and name in _OPTIMISERS):
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield f"{path}{name}", item
        elif isinstance(item, h5py.Group):
            yield from _datasets(h5py, item, f"{path}{name}/", depth + 1)
