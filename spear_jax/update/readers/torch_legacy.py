"""PyTorch files of the form before 1.6, which ``_use_new_zipfile_serialization=False`` still writes.

Five pickles, one behind another: a magic number, the version, facts of the machine, what was saved, and the keys of
the storages; then each storage in that order, as the number of its elements and their bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.errors import TensorFileError
from spear_jax.update.model_file import ModelFile
from spear_jax.update.readers import torch_pickle
from spear_jax.update.readers.pickled_calls import SAVE_AGAIN, StoredTensor
from spear_jax.update.readers.pickled_model import INSTRUCTIONS, elements, model_of, tensors_in
from spear_jax.update.readers.trees import Opaque

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_COUNT_BYTES = 8


def is_legacy(path: Path) -> bool:
    """Whether the file begins with the magic number of the old form."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_legacy(path: Path) -> ModelFile:
    """The tensors of the model in a file of the old form.

    Raises:
        TensorFileError: it ends early, or holds no tensors.
        ValueError, LookupError, TypeError: damaged.
    """
    size = path.stat().st_size
    limit = INSTRUCTIONS + size // 100
    # A file that is mapped gives what it has, where another sets memory aside for whatever a length claims.
    with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        try:
            _, _, machine, content, keys = (torch_pickle.load(file, max_instructions=limit) for _ in range(5))
        except (ValueError, IndexError) as error:
            if isinstance(error, TensorFileError):
                raise
            raise TensorFileError(
                "its pickles are damaged, in the form that torch.save wrote before; it writes another since "
                f"PyTorch 1.6; {SAVE_AGAIN}."
            ) from error
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise TypeError("no list of storages")
        is_big = isinstance(machine, dict) and machine.get("little_endian") is False
        start = file.tell()
        storages = lambda stored: _read_storages(file, start, keys, _all_storages(content) | dict(stored), is_big)
        return tensors_in(model_of(content, "."), storages, size)


def _all_storages(content: Any) -> dict[str, StoredTensor]:
    """One tensor of each storage that is named anywhere in what was saved: all have bytes, also an optimiser's."""
    found: dict[str, StoredTensor] = {}
    pending, seen = [content], set()
    while pending:
        item = pending.pop()
        if isinstance(item, StoredTensor):
            found[item.key] = item
        elif id(item) not in seen:
            seen.add(id(item))
            inside = item.content if isinstance(item, Opaque) else item
            if isinstance(inside, dict | list | tuple):
                pending += inside.values() if isinstance(inside, dict) else inside
    return found


def _read_storages(
    file: mmap.mmap, start: int, keys: list[str], stored: Mapping[str, StoredTensor], is_big: bool
) -> dict[str, np.ndarray]:
    """All elements of every storage by key."""
    file.seek(start)
    storages = {}
    for key in keys:
        if key not in stored:
            raise TensorFileError(
                f"storage {ascii(key[:80])} is of a kind whose size is not known; save it without exotic tensors."
            )
        count = int.from_bytes(file.read(_COUNT_BYTES), "big" if is_big else "little")
        tensor = stored[key]
        if count != tensor.numel:
            raise TensorFileError(f"storage {ascii(key[:80])} has {count} elements for {tensor.numel}: it is damaged.")
        content = file.read(count * tensor.dtype.itemsize)
        if len(content) != count * tensor.dtype.itemsize:
            raise TensorFileError("it ends before its tensors do: it is truncated; copy it again.")
        storages[key] = elements(content, tensor, is_big=is_big)
    return storages
