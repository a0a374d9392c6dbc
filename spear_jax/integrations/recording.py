"""What every recorder does: one client's contribution to one round becomes an update bundle.

A recorder listens: whatever goes wrong in it is logged, and the federation goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import SpearError, UpdateError
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import save_update
from spear_jax.update.make import make_update
from spear_jax.update.metadata import metadata_problem
from spear_jax.update.model_file import ModelFile, name_by_order

_log = logging.getLogger(__name__)


def received_update(
    sent: Mapping[str, np.ndarray],
    came_back: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, str],
    facts: Mapping[str, object],
    names: Sequence[str] | None = None,
) -> Update:
    """One client's contribution to one round.

    Args:
        sent: the tensors the server sent, by name; the names "0", "1", ... are those of a list.
        came_back: what the client answered, under the same names.
        metadata: what the user says of every update, ``kind`` among it; goes before the facts.
        facts: what the messages say, such as ``num_examples``; kept where it is valid metadata.
        names: one for each tensor sent, in order, instead of those it has. A list is named by `name_by_order` without.

    Raises:
        UpdateError: as many names are needed as tensors; anything that makes no update, see `make_update`.
    """
    if names is None:
        is_list = list(sent) == [str(index) for index in range(len(sent))]
        names = list(name_by_order(list(sent.values())) if is_list else sent)
    if len(set(names)) != len(sent):
        raise UpdateError(f"{len(set(names))} different names were given for {len(sent)} tensors; give one for each.")
    new_name = dict(zip(sent, names, strict=True))
    before, after = (
        ModelFile({new_name.get(name, name): tensor for name, tensor in tensors.items()}, None)
        for tensors in (sent, came_back)
    )
    known = {"kind": "weights"} | _valid(facts) | dict(metadata)
    return make_update(before, after, kind=known["kind"], metadata=known, as_received=True)


def record(update: Update, folder: str | os.PathLike[str], server_round: int, client: object) -> Path:
    """Writes ``<folder>/round-0001/client-<id>.safetensors``; nothing is ever overwritten.

    Raises:
        UpdateError: the file exists, or cannot be written.
    """
    name = re.sub(r"[^\w.-]", "_", str(client))
    path = Path(folder) / f"round-{server_round:04d}" / f"client-{name}.safetensors"
    if path.exists():
        raise UpdateError(f"{path} exists; record every run in a folder of its own.")
    make_folder(path.parent)
    save_update(update, path)
    return path


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a folder and those above it.

    Raises:
        UpdateError: it cannot be made.
    """
    try:
        tensor_files.make_folder(folder)
    except SpearError as error:
        raise UpdateError(f"cannot make the folder to record to: {error}") from error


def check_metadata(metadata: Mapping[str, object]) -> dict[str, str]:
    """Metadata of every update as strings.

    Raises:
        UpdateError: a value is not what its key needs.
    """
    strings = {key: str(value) for key, value in metadata.items()}
    problem = metadata_problem({"kind": "weights"} | strings)
    if problem is not None:
        raise UpdateError(problem)
    return strings


@contextlib.contextmanager
def listening(server_round: int, client: object) -> Iterator[None]:
    """Logs any exception of its block as a warning: neither a client nor a full disk may stop the federation."""
    try:
        yield
    except Exception as error:
        _log.warning("round %s, client %s: the update was not recorded: %s", server_round, client, error)


def _valid(facts: Mapping[str, object]) -> dict[str, str]:
    texts = {key: _text(value) for key, value in facts.items()}
    return {key: text for key, text in texts.items() if metadata_problem({"kind": "weights", key: text}) is None}


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
