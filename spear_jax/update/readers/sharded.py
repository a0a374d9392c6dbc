"""Models in several files with an index of which tensor lies where, as Hugging Face stores large ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from spear_jax.errors import TensorFileError
from spear_jax.tensor_files import existing_file
from spear_jax.update.model_file import ModelFile, few

INDEX = ".index.json"
_LARGEST_INDEX = 2**26


def index_in(folder: Path) -> Path | None:
    """The one index of a folder, or None.

    Raises:
        TensorFileError: several.
    """
    found = sorted(folder.glob(f"*{INDEX}"))
    if len(found) > 1:
        raise TensorFileError(f"{folder} holds {few([path.name for path in found])}; give one of them as the model.")
    return found[0] if found else None


def read_sharded(index: Path, read: Callable[[Path], ModelFile]) -> ModelFile:
    """The tensors of all files that an index names, in its order.

    Args:
        index: ``model.safetensors.index.json``, with the files beside it.
        read: reads one of these.

    Raises:
        TensorFileError: no such index, a file that is missing or not beside it, a tensor that its file lacks.
    """
    places = _places(existing_file(index))
    shards = {name: read(index.parent / name) for name in sorted(set(places.values()))}
    lacking = [
        tensor
        for tensor, shard in places.items()
        if tensor not in shards[shard].tensors and tensor not in shards[shard].left_out
    ]
    if lacking:
        raise TensorFileError(f"{index.name} names {few(lacking)}, which no file beside it holds; copy all of them.")
    tensors = {name: shards[shard].tensors[name] for name, shard in places.items() if name in shards[shard].tensors}
    left_out = {name: reason for shard in shards.values() for name, reason in shard.left_out.items()}
    first = next(iter(shards.values()))
    return ModelFile(tensors, first.framework, left_out, is_ordered=False)


def _places(index: Path) -> dict[str, str]:
    """File by tensor; files lie beside the index and nowhere else."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError("it is too large for an index")
        places = json.loads(index.read_text())["weight_map"]
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise TypeError("its weight_map is no map of file names")
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise TensorFileError(f"{index.name} is no index of a model in several files: {error}.") from error
    for name in places.values():
        if Path(name).name != name:
            raise TensorFileError(f"{index.name} names {ascii(name[:80])}, which does not lie beside it; refused.")
        if not (index.parent / name).is_file():
            raise TensorFileError(f"{index.name} names {name}, which is not beside it; copy all files of the model.")
    if not places:
        raise TensorFileError(f"{index.name} names no tensors; give the index of a model.")
    return places
