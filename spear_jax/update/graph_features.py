"""What an auditor knows of a graph network's inputs and of what its names do not tell, from one JSON file.

``{"features": {"blocks": [{"name": "type", "labels": ["C", "N", "O"]}, ...], "rows": [...], "degree": "degree",
"max_degree": 6, "max_nodes": 60, "is_connected": true}, "model": {"pool": "mean", "activation": "relu", ...}}``

A row of features is written as one label per block (null where a block is empty) or, without blocks, as its numbers.
Entries that are absent keep their defaults; a file of graphs begins with the same two entries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spear_jax.errors import SpearError, UpdateError
from spear_jax.graphs.features import Block, Features

_LARGEST_FILE = 2**28
_ENTRIES = ("blocks", "rows", "degree", "max_degree", "max_nodes", "is_connected")


class FeaturesFile(NamedTuple):
    """What a features file says.

    Attributes:
        features: the possible rows.
        model: of the model, what the names of its tensors do not tell, as `graph_model` reads it; empty where absent.
    """

    features: Features
    model: dict[str, Any]


def read_features(path: str | os.PathLike[str]) -> FeaturesFile:
    """Read a features file: what is public of the nodes of graphs.

    Args:
        path: of a ``.json`` file; other entries than ``features`` and ``model`` are left alone.

    Raises:
        UpdateError: it cannot be read, or describes no features, in one sentence.
    """
    path = Path(path)
    try:
        content = read_object(path)
        if "features" not in content:
            raise UpdateError('it has no entry "features"; expected an object with "blocks", "rows" or both.')
        model = content.get("model", {})
        if not isinstance(model, dict):
            raise UpdateError(f'"model" is {_short(model)}; expected an object, as {{"pool": "mean"}}.')
        return FeaturesFile(features_from_json(content["features"]), model)
    except SpearError as error:
        raise UpdateError(f"{path.name}: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UpdateError: no such file, or it holds something else.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UpdateError(f"it cannot be read: {(error.strerror or str(error)).lower()}.") from error
    except (ValueError, RecursionError) as error:
        raise UpdateError(
            f"it is no JSON ({' '.join(str(error).split())}); write it as docs/graphs.md says."
        ) from error
    if not isinstance(content, dict):
        raise UpdateError(f"it is {_short(content)}; expected a JSON object.")
    return content


def features_from_json(entries: Any) -> Features:
    """Features from the object under ``"features"``.

    Raises:
        UpdateError: what is wrong with it, in one sentence.
    """
    if not isinstance(entries, Mapping):
        raise UpdateError(f'"features" is {_short(entries)}; expected an object with "blocks", "rows" or both.')
    unknown = [name for name in entries if name not in _ENTRIES]
    if unknown:
        raise UpdateError(f'"features" has an entry {unknown[0]!r}; expected only {", ".join(_ENTRIES)}.')
    try:
        blocks = tuple(_block(entry, number) for number, entry in enumerate(_list(entries, "blocks")))
        rows = _list(entries, "rows")
        if not blocks and not rows:
            raise UpdateError('"features" has neither "blocks" nor "rows"; features are not guessed: give one of both.')
        plain = Features(blocks=blocks, possible=None if blocks else np.zeros((1, 1)))
        possible = [row_from_json(plain if blocks else None, row, f"row {i}") for i, row in enumerate(rows)]
        if len({len(row) for row in possible}) > 1:
            raise UpdateError('the rows under "rows" have different lengths; expected one number for each column.')
        return Features(
            blocks=blocks,
            possible=np.array(possible) if possible else None,
            degree=_degree(entries, blocks),
            max_degree=_count(entries, "max_degree", Features.max_degree),
            max_nodes=None if entries.get("max_nodes") is None else _count(entries, "max_nodes", 1),
            is_connected=_flag(entries, "is_connected"),
        )
    except UpdateError:
        raise
    except SpearError as error:
        raise UpdateError(str(error)) from error


def features_to_json(features: Features) -> dict[str, Any]:
    """The object under ``"features"`` that `features_from_json` reads; defaults are left out."""
    content: dict[str, Any] = {}
    if features.blocks:
        content["blocks"] = [
            {"name": block.name, "labels": list(block.labels)} | ({"may_be_empty": True} if block.may_be_empty else {})
            for block in features.blocks
        ]
    if features.possible is not None:
        content["rows"] = [row_to_json(features, row) for row in features.possible]
    if features.blocks:
        content["degree"] = features.degree  # absent, a block of this name would be taken
    for name in ("max_degree", "max_nodes", "is_connected"):
        if getattr(features, name) != getattr(Features, name):
            content[name] = getattr(features, name)
    return content


def row_from_json(features: Features | None, entry: Any, where: str) -> np.ndarray:
    """A node's row, float64.

    Args:
        features: the blocks by which labels are read, None for numbers.
        entry: one label per block, or one number per column.
        where: what the row is of, for the error.

    Raises:
        UpdateError: another length, or labels that the blocks do not have.
    """
    if not isinstance(entry, list) or not entry:
        raise UpdateError(f"{where} is {_short(entry)}; expected a list of labels, one a block, or of numbers.")
    blocks = () if features is None else features.blocks
    if features is None or (len(entry) != len(blocks) and len(entry) == features.columns):
        return _numbers(entry, where)
    if len(entry) != len(blocks):
        raise UpdateError(
            f"{where} has {len(entry)} entries; expected one for each of {len(blocks)} blocks "
            f"({', '.join(block.name for block in blocks)})" + f", or of {features.columns} columns."
        )
    return np.concatenate([_one_hot(block, label, where) for block, label in zip(blocks, entry, strict=True)])


def row_to_json(features: Features, row: np.ndarray) -> list[Any]:
    """The labels of a row where its features have blocks, else its numbers."""
    return list(features.labels(row).values()) if features.blocks else np.asarray(row).tolist()


def _one_hot(block: Block, label: Any, where: str) -> np.ndarray:
    row = np.zeros(len(block.labels))
    if label is None and block.may_be_empty:
        return row
    name = _label(label)
    if name not in block.labels:
        raise UpdateError(
            f"{where} has {_short(label)} in block {block.name!r}; expected one of {_few(block.labels)}"
            + (", or null." if block.may_be_empty else ".")
        )
    row[block.labels.index(name)] = 1
    return row


def _block(entry: Any, number: int) -> Block:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or "labels" not in entry:
        raise UpdateError(f'block {number} is {_short(entry)}; expected {{"name": ..., "labels": [...]}}.')
    labels = [_label(label) for label in _list(entry, "labels")]
    if None in labels:
        raise UpdateError(f"block {entry['name']!r} has a label that is neither text nor a whole number.")
    return Block(entry["name"], tuple(name for name in labels if name is not None), _flag(entry, "may_be_empty"))


def _degree(entries: Mapping[str, Any], blocks: Sequence[Block]) -> str | None:
    """Name of the block that says the degree: the one given; where none is, a block of that very name."""
    if "degree" in entries:
        name = entries["degree"]
        if name is not None and not isinstance(name, str):
            raise UpdateError(f'"degree" is {_short(name)}; expected the name of a block, or null.')
        return name
    return "degree" if any(block.name == "degree" for block in blocks) else None


def _numbers(entry: list[Any], where: str) -> np.ndarray:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in entry):
        raise UpdateError(f"{where} holds {_short(entry)}; expected numbers, as there are no blocks for its labels.")
    return np.array(entry, np.float64)


def _label(value: Any) -> str | None:
    """A label as text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)


def _list(entries: Mapping[str, Any], name: str) -> list[Any]:
    found = entries.get(name, [])
    if not isinstance(found, list):
        raise UpdateError(f'"{name}" is {_short(found)}; expected a list.')
    return found


def _count(entries: Mapping[str, Any], name: str, default: int) -> int:
    found = entries.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise UpdateError(f'"{name}" is {_short(found)}; expected a whole number of at least 1.')
    return found


def _flag(entries: Mapping[str, Any], name: str) -> bool:
    found = entries.get(name, False)
    if not isinstance(found, bool):
        raise UpdateError(f'"{name}" is {_short(found)}; expected true or false.')
    return found


def _few(labels: Sequence[str], shown: int = 8) -> str:
    more = len(labels) - shown
    return ", ".join(labels[:shown]) + (f" and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    """A JSON value in a few characters, nothing of it that would not print."""
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
