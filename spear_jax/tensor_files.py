"""Containers for named tensors and string metadata: ``.safetensors`` and ``.npz``, read without trust, written whole.

Neither container can carry code: safetensors has no such thing, and npz is read with pickling refused. Declared sizes
are compared with the size of the file before anything is allocated. In npz, which has no metadata of its own, the
string under ``key`` is a 0-d unicode array called ``meta/<key>``.
"""

from __future__ import annotations

import contextlib
import lzma
import math
import os
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jax.numpy import bfloat16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spear_jax.errors import SpearError, TensorFileError

_META = "meta/"
# Deflate cannot shrink anything by more than about 1032, so a larger claim is a lie.
_MAX_DEFLATE_RATIO = 1100
ZIP_ERRORS = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, RuntimeError)
READ_ERRORS = (OSError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, EOFError)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors and the string metadata of a ``.safetensors`` or ``.npz`` file.

    Args:
        path: the file; its extension decides how it is read.

    Returns:
        Tensors by name in their stored dtype (bfloat16 included), and metadata.

    Raises:
        TensorFileError: no such file, another extension, truncated or lying content, pickled arrays.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise TensorFileError(
            f"{path.name} has extension {path.suffix or '(none)'!r}; expected .safetensors or .npz: convert it first."
        )
    return _READERS[path.suffix](existing_file(path))


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there.

    Raises:
        TensorFileError: no such file, or a folder.
    """
    path = Path(path)
    if not path.is_file():
        raise TensorFileError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}.")
    return path


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors and metadata to ``.safetensors`` or ``.npz``; a reader never sees half a file.

    Args:
        path: where to write; the extension decides the container.
        tensors: arrays by name, any memory layout, kept in their dtype.
        metadata: strings by name.

    Raises:
        TensorFileError: another extension, or the folder cannot be written.
    """
    path = Path(path)
    # safetensors writes the buffer as it lies in memory, so a transposed view would come back scrambled.
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    metadata = dict(metadata or {})
    try:
        with atomic_path(path) as temporary:
            if path.suffix == ".safetensors":
                save_file(contiguous, temporary, metadata=metadata)
            elif path.suffix == ".npz":
                strings = {_META + key: np.array(value) for key, value in metadata.items()}
                with open(temporary, "wb") as file:
                    np.savez(file, **contiguous, **strings)  # pyright: ignore[reportArgumentType]
            else:
                raise TensorFileError(f"cannot write {path.name}: expected the extension .safetensors or .npz.")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TensorFileError(f"cannot write {path}: {reason}.") from error


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` for the block to write; it replaces ``path`` when the block ends well, else it vanishes.

    Raises:
        OSError: the folder is missing or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        # safetensors writes for the owner alone; a result is as readable as any file of the user's.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file, with pickling refused and sizes checked before allocation.

    Raises:
        TensorFileError: not an npz file, truncated, object arrays, or a header that claims more than the file holds.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if sum(info.compress_size for info in members) > path.stat().st_size:
                raise TensorFileError(f"{path.name}: its arrays claim more bytes than the file has: it is damaged.")
            for info in members:
                _check_npy_header(archive, info, path.name, path.stat().st_size)
            arrays = {}
            for info in members:
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    except TensorFileError:
        raise
    # NumPy takes a damaged header to pieces as Python tokens.
    except (*ZIP_ERRORS, *READ_ERRORS, SyntaxError, tokenize.TokenError) as error:
        raise TensorFileError(f"{path.name} is not a readable npz file (truncated or damaged?): {error}.") from error
    return {name: _restore_bfloat16(array) for name, array in arrays.items()}


def _read_npz_bundle(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays = read_npz(path)
    metadata = {name.removeprefix(_META): array for name, array in arrays.items() if name.startswith(_META)}
    for key, array in metadata.items():
        if array.ndim or array.dtype.kind != "U":
            raise TensorFileError(f"{path.name}: {_META}{key} is {array.dtype}{array.shape}; expected a 0-d string.")
    tensors = {name: array for name, array in arrays.items() if not name.startswith(_META)}
    return tensors, {key: str(array) for key, array in metadata.items()}


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except (SafetensorError, *READ_ERRORS) as error:
        raise TensorFileError(
            f"{path.name} is not a readable safetensors file (truncated or damaged?): {error}."
        ) from error


def _check_npy_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file_name: str, file_size: int) -> None:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise TensorFileError(f"{file_name}: {info.filename} is npy version {version}; expected 1.0 or 2.0.")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
        header_size = file.tell()
    if dtype.hasobject:
        raise TensorFileError(
            f"{file_name}: {info.filename} is pickled (dtype object), which could run code and is refused; "
            "save plain numeric arrays."
        )
    declared = math.prod(shape) * dtype.itemsize
    packed = min(info.compress_size, file_size)
    if header_size + declared != info.file_size or info.file_size > _MAX_DEFLATE_RATIO * (packed + 1):
        raise TensorFileError(
            f"{file_name}: {info.filename} declares {dtype}{list(shape)}, {declared} bytes, but the file holds "
            f"{info.file_size - header_size}: it is truncated or damaged."
        )


def _restore_bfloat16(array: np.ndarray) -> np.ndarray:
    # The npy format has no bfloat16 and stores it as two opaque bytes.
    return array.view(bfloat16) if array.dtype == np.dtype("V2") else array


_READERS = {".safetensors": _read_safetensors, ".npz": _read_npz_bundle}


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder to write to and those above it, before anything is computed.

    Raises:
        SpearError: it is a file, or lies where nothing can be made.
    """
    if not os.fspath(folder):
        raise SpearError("the name of the folder to write to is empty; give one.")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = "is a file" if folder.is_file() else f"cannot be made ({(error.strerror or str(error)).lower()})"
        raise SpearError(f"{folder} {problem}; expected a folder to write to: give another one.") from error
