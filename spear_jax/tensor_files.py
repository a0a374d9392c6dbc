"""Containers for named tensors and string metadata: ``.safetensors`` and ``.npz``, read without trust, written whole.

Neither container can carry code: safetensors has no such thing, and npz is read with pickling refused. Declared sizes
are compared with the size of the file before anything is allocated. In npz, which has no metadata of its own, the
string under ``key`` is a 0-d unicode array called ``meta/<key>``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import math
import os
import re
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jax.numpy import bfloat16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spear_jax.errors import SpearError, TensorFileError

# Recovered data are personal data: of the owner alone, whatever the umask of whoever runs an audit.
OWNER_FILE, OWNER_FOLDER = 0o600, 0o700
# Names of half-written files beside the whole ones, which a killed process leaves behind.
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")
_META = "meta/"
_PICKLED = "is pickled (dtype object), which could run code; it is not read"
# What NumPy and JAX have a dtype for; the others of safetensors (F8_E4M3, C64, F4) are no numbers to compute with.
_SAFETENSORS_DTYPES = frozenset("BOOL U8 I8 U16 I16 F16 BF16 U32 I32 F32 U64 I64 F64".split())
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


def content_hash(sides: Sequence[Mapping[str, np.ndarray]], metadata: Mapping[str, str]) -> str:
    """SHA-256 of tensors and metadata, whatever container, order or memory layout they have."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for tensors in sides:
        for name in sorted(tensors):
            array = np.asarray(tensors[name], order="C")
            digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` for the block to write; it replaces ``path`` when the block ends well, else it vanishes.

    The file is readable by its owner alone from its first byte on (POSIX): what leaks from an update is personal data.

    Raises:
        OSError: the folder is missing or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_FILE))
        yield temporary
        os.chmod(temporary, OWNER_FILE)  # a block may have replaced it
        os.replace(temporary, path)
    except OSError as error:
        # The name beside it says nothing to a user, and a full disk names no file.
        if error.filename in (None, os.fspath(temporary)) and error.errno is not None:
            error.filename = os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_npz(path: str | os.PathLike[str], *, left_out: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file, with pickling refused and sizes checked before allocation.

    Args:
        path: the file.
        left_out: takes the names of pickled arrays, with why they are not read, which raise an error without it.

    Raises:
        TensorFileError: not an npz file, truncated, object arrays, or a header that claims more than the file holds.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if sum(info.compress_size for info in members) > path.stat().st_size:
                raise TensorFileError(f"{path.name}: its arrays claim more bytes than the file has: it is damaged.")
            if left_out is not None:
                pickled = [info for info in members if _npy_header(archive, info, path.name)[1].hasobject]
                left_out |= {info.filename.removesuffix(".npy"): _PICKLED for info in pickled}
                members = [info for info in members if info not in pickled]
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


def read_npz_tensors(
    path: Path, *, left_out: dict[str, str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As `read_tensors`, of a file that is an npz whatever its extension; ``left_out`` as for `read_npz`."""
    arrays = read_npz(path, left_out=left_out)
    metadata = {name.removeprefix(_META): array for name, array in arrays.items() if name.startswith(_META)}
    for key, array in metadata.items():
        if array.ndim or array.dtype.kind != "U":
            raise TensorFileError(f"{path.name}: {_META}{key} is {array.dtype}{array.shape}; expected a 0-d string.")
    tensors = {name: array for name, array in arrays.items() if not name.startswith(_META)}
    return tensors, {key: str(array) for key, array in metadata.items()}


def read_safetensors(
    path: Path, *, left_out: dict[str, str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As `read_tensors`, of a file that is safetensors whatever its extension.

    Args:
        path: the file.
        left_out: takes the names of tensors whose dtype is of no real numbers, or of fewer bits than can be computed
            with, and why they are not read; such a tensor raises an error without it.

    Raises:
        TensorFileError: truncated or lying content, an exotic dtype.
    """
    try:
        with safe_open(path, framework="np") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}
            exotic = {name: dtype for name, dtype in dtypes.items() if dtype not in _SAFETENSORS_DTYPES}
            if left_out is not None:
                left_out |= {name: f"has dtype {dtype}; expected real numbers" for name, dtype in exotic.items()}
            elif exotic:
                name, dtype = next(iter(exotic.items()))
                raise TensorFileError(f"{path.name}: {name} has dtype {dtype}; save it as F32, or leave it out.")
            wanted = [name for name in dtypes if name not in exotic]
            return {name: file.get_tensor(name) for name in wanted}, dict(file.metadata() or {})
    except TensorFileError:
        raise
    except (SafetensorError, *READ_ERRORS) as error:
        raise TensorFileError(
            f"{path.name} is not a readable safetensors file (truncated or damaged?): {error}."
        ) from error


def _npy_header(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, file_name: str
) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and dtype that an array declares, and the bytes before its elements."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise TensorFileError(f"{file_name}: {info.filename} is npy version {version}; expected 1.0 or 2.0.")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
        return shape, dtype, file.tell()


def _check_npy_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file_name: str, file_size: int) -> None:
    shape, dtype, header_size = _npy_header(archive, info, file_name)
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


_READERS = {".safetensors": read_safetensors, ".npz": read_npz_tensors}


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder to write to and those above it, before anything is computed.

    What is made can be entered by its owner alone (POSIX); a folder that is there stays as it is.

    Raises:
        SpearError: it is a file, or lies where nothing can be made.
    """
    if not os.fspath(folder):
        raise SpearError("the name of the folder to write to is empty; give one.")
    folder = Path(folder)
    try:
        for one in (*reversed(folder.parents), folder):
            one.mkdir(OWNER_FOLDER, exist_ok=True)
    except OSError as error:
        problem = "is a file" if folder.is_file() else f"cannot be made ({(error.strerror or str(error)).lower()})"
        raise SpearError(f"{folder} {problem}; expected a folder to write to: give another one.") from error
