"""Trees of arrays that JAX programs store: Flax's ``.msgpack`` files and Orbax checkpoint folders."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import mmap
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.errors import SpearError, TensorFileError
from spear_jax.tensor_files import READ_ERRORS, existing_file
from spear_jax.update.model_file import ModelFile
from spear_jax.update.readers.trees import find_model

# Each value of a msgpack file costs up to some hundred bytes of memory; ten thousand arrays have fewer than this.
_MAX_VALUES = 100_000
# Orbax compresses, and zeros compress well, but a model is not made of zeros.
_MAX_COMPRESSION, _SMALL = 100, 2**24
_ORBAX_MARK = "_METADATA"
_AFTERMATH = 0.2  # seconds that reads under way take to fail
# Bytes after the first of a msgpack value of fixed size, and of the length of one that says its own.
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4,
          0xD3: 8}  # fmt: skip
_PLAIN = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_CONTAINER = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}


def read_tree(path: str | os.PathLike[str]) -> ModelFile:
    """The arrays of the model in a Flax ``.msgpack`` file or an Orbax checkpoint folder by name, as ``Dense_0/kernel``.

    Args:
        path: what ``flax.serialization.to_bytes`` gave, or the folder of one Orbax checkpoint (or of one step that
            holds one). Of a training state only ``params`` is taken (`find_model`).

    Returns:
        Arrays in their stored dtype; values that are no arrays are left out.

    Raises:
        TensorFileError: neither of the two, damaged, values without end, no arrays, sizes that the file cannot hold.
    """
    path = Path(path)
    is_folder = path.is_dir()
    try:
        tree = _restore_orbax(_checkpoint(path)) if is_folder else _restore_msgpack(existing_file(path))
        found = find_model(tree, "/", (np.ndarray, np.generic))
    except TensorFileError:
        raise
    except (*READ_ERRORS, LookupError, AssertionError, RuntimeError) as error:
        what = "Orbax checkpoint" if is_folder else "Flax msgpack file"
        raise TensorFileError(
            f"{path} is not a readable {what} (truncated or damaged?): {' '.join(str(error).split())[:200]}."
        ) from error
    if not found.tensors:
        raise TensorFileError(f"{path} holds no arrays by name; save the params of a model.")
    arrays = {name: np.asarray(leaf) for name, leaf in found.tensors.items()}
    return ModelFile(arrays, "flax", found.left_out, positions=found.positions)


def _restore_msgpack(path: Path) -> Any:
    from flax.serialization import msgpack_restore  # slow to import

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _count_values(content, 0, len(content)) > _MAX_VALUES:
            raise TensorFileError(
                f"{path.name} holds more than {_MAX_VALUES} values; save the params of a model alone."
            )
        return msgpack_restore(content)  # pyright: ignore[reportArgumentType]


def _count_values(data: mmap.mmap, start: int, stop: int) -> int:
    """Values in the one msgpack value at these bytes and in the arrays it holds, counted from the headers alone.

    The library sets memory aside for as many items as a header claims; here every claim is compared with the bytes.
    The count ends soon after ``_MAX_VALUES``.

    Raises:
        SpearError: the bytes end before the value, or go on after it.
    """
    values, pending = 0, 1
    while pending and start < stop and pending <= stop - start and values <= _MAX_VALUES:
        size, items, extension = _header(data, start)
        if extension is not None:
            values += _count_values(data, extension, min(start + size, stop))
        values, pending, start = values + 1, pending - 1 + items, start + size
    if values <= _MAX_VALUES and (pending or start != stop):
        raise SpearError("the headers claim another number of bytes")
    return values


def _header(data: mmap.mmap, position: int) -> tuple[int, int, int | None]:
    """Bytes of the value here (of a container, of its header), items in it, start of an extension's own value."""
    code = data[position]
    length = lambda width: int.from_bytes(data[position + 1 : position + 1 + width], "big")
    if code < 0x80 or code >= 0xE0:
        return 1, 0, None
    if code < 0x90:
        return 1, 2 * (code & 0x0F), None
    if code < 0xA0:
        return 1, code & 0x0F, None
    if code < 0xC0:
        return 1 + (code & 0x1F), 0, None
    if code in _FIXED:
        return 1 + _FIXED[code], 0, None
    if code in _PLAIN:
        return 1 + _PLAIN[code] + length(_PLAIN[code]), 0, None
    if code in _CONTAINER:
        width, per_item = _CONTAINER[code]
        return 1 + width, per_item * length(width), None
    if code in _FIXED_EXT:
        return 2 + _FIXED_EXT[code], 0, position + 2
    if code in _EXT:
        width = _EXT[code]
        return 2 + width + length(width), 0, position + 2 + width
    raise SpearError(f"byte {code:#x} begins no msgpack value")


def _checkpoint(folder: Path) -> Path:
    """The folder with the arrays: this one, or the only one in it."""
    if (folder / _ORBAX_MARK).is_file():
        return folder
    inside = sorted(mark.parent.name for mark in folder.glob(f"*/{_ORBAX_MARK}"))
    if len(inside) == 1:
        return folder / inside[0]
    deeper = sorted(str(mark.parent.relative_to(folder)) for mark in folder.glob(f"*/*/{_ORBAX_MARK}"))
    if inside or deeper:
        raise TensorFileError(
            f"{folder} holds several Orbax checkpoints; give one, as {folder / (inside or deeper)[-1]}."
        )
    raise TensorFileError(
        f"{folder} is no Orbax checkpoint: no file {_ORBAX_MARK} is in it; give the folder that has one."
    )


def _restore_orbax(folder: Path) -> Any:
    try:
        import jax
        import orbax.checkpoint as ocp
        from etils import epath
    except ImportError as error:
        raise TensorFileError(f"reading {folder.name} needs Orbax: pip install orbax-checkpoint.") from error
    handler, where = ocp.PyTreeCheckpointHandler(), epath.Path(folder.absolute())
    with _without_aftermath():
        described = handler.metadata(where).tree
    declared = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(described))
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if declared > _MAX_COMPRESSION * stored + _SMALL:
        raise TensorFileError(f"{folder.name} declares {declared} bytes of arrays but has {stored}: it is damaged.")
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described)
    with _without_aftermath():
        return handler.restore(where, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


@contextlib.contextmanager
def _without_aftermath() -> Iterator[None]:
    """Orbax reads arrays side by side; when one fails, keep the others from printing tracebacks of their own."""
    logger, was_disabled, hook = logging.getLogger("asyncio"), logging.getLogger("asyncio").disabled, sys.unraisablehook
    logger.disabled, sys.unraisablehook = True, lambda _: None
    try:
        yield
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold the tasks, which complain when they are collected
        gc.collect()
        time.sleep(_AFTERMATH)
        raise
    finally:
        logger.disabled, sys.unraisablehook = was_disabled, hook
