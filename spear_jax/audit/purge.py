"""What an audit recovered, removed from the folders that it wrote; records stay, without inputs.

Only folders that an audit wrote are touched, and in them only files by the names that it gives.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from spear_jax.audit import record
from spear_jax.audit.folder import SUMMARY
from spear_jax.audit.resume import is_state
from spear_jax.audit.without_inputs import own_record, without_inputs
from spear_jax.errors import RecordError
from spear_jax.tensor_files import TEMPORARY

# The update that an audit makes of two model files: whoever has it can recover everything again.
BUNDLE = "audited_update.safetensors"
_RECOVERED = (record.INPUTS, record.STATE, BUNDLE, *record.DERIVED)


class Purge(NamedTuple):
    """What is to be removed, or was.

    Attributes:
        files: with inputs, states, pages and what else shows recovered data.
        records: that stay without what was recovered.
    """

    files: tuple[Path, ...]
    records: tuple[Path, ...]


def find_recovered(folder: Path) -> Purge:
    """What `purge` would remove below a folder; links to other folders are not followed.

    Raises:
        RecordError: nothing below it was written by an audit, or a record there cannot be read.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder} is no folder; give one that spear-jax audit or reconstruct wrote.")
    files: list[Path] = []
    records: list[Path] = []
    is_known = False
    for place, _, names in os.walk(folder):
        here = Path(place)
        found = own_record(here)
        if found is None and (here / record.RECORD).exists():
            raise RecordError(f"{here / record.RECORD} is no record of an audit, or damaged; nothing was removed.")
        is_ours = found is not None or is_state(here / record.STATE) or (here / SUMMARY).is_file()
        is_known = is_known or is_ours
        if is_ours:
            files += [here / name for name in sorted(names) if _is_recovered(name)]
        if found is not None and not found.get("purged"):
            records.append(here / record.RECORD)
    if not is_known:
        raise RecordError(f"nothing below {folder} was written by spear-jax audit or reconstruct; nothing was removed.")
    return Purge(tuple(files), tuple(records))


def purge(found: Purge) -> None:
    """Remove the files and what was recovered from the records, the records first: what is stopped can be repeated."""
    for path in found.records:
        content = own_record(path.parent)
        if content is not None:
            record.write_json(path, without_inputs(content) | {"purged": True})
    _unlink(found.files)


def _unlink(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _is_recovered(name: str) -> bool:
    """Whether a file of a folder of ours is one to remove, or the half of one that a killed run left."""
    is_half = TEMPORARY.fullmatch(name)
    return name in _RECOVERED or bool(is_half and is_half[1] in (*_RECOVERED, record.RECORD))
