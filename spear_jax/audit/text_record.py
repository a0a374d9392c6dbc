"""The folder of a text reconstruction: ``result.json`` (one record) and ``texts.txt`` (what is certified, to read)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spear_jax.attacks.text.result import TextResult
from spear_jax.audit import record
from spear_jax.tensor_files import atomic_path
from spear_jax.update.text_update import TextUpdate

FAMILY, TEXTS = "text", "texts.txt"
# What other commands read of a record.
_NEEDED = ("status", "message", "sequences", "traces", "tokens", "certificate", "views", "update", "update_sha256")

Decode = Callable[[Sequence[int]], str]


class TextAudited(NamedTuple):
    """What was reconstructed.

    Attributes:
        update: as loaded.
        path: where the update is from.
        model: name of the model's folder or file.
        adapter: name of the adapter's folder, None without.
        decode: turns tokens into text, None where that is not known.
        also: files and hashes of further rounds, with which the tokens were found.
    """

    update: TextUpdate
    path: str | os.PathLike[str]
    model: str
    adapter: str | None = None
    decode: Decode | None = None
    also: tuple[tuple[str, str], ...] = ()


def make_record(result: TextResult, audited: TextAudited) -> dict[str, Any]:
    """One JSON-ready record of a reconstruction: text, certificate, what it rests on, versions."""
    update, proof = audited.update, result.reproduction
    number = update.metadata.get("num_examples")
    sequences = [
        {
            "tokens": _ids(one.tokens),
            "text": _decoded(one.tokens, audited.decode),
            "label": one.label,
            "copies": one.copies or None,
            "start": one.start,
            "exact": bool(is_exact),
        }
        for one, is_exact in zip(result.sequences, result.exact, strict=True)
    ]
    traces = [{"tokens": _ids(trace), "text": _decoded(trace, audited.decode)} for trace in _traces(result)]
    return {
        "format_version": record.FORMAT_VERSION,
        "family": FAMILY,
        "status": result.status.name,
        "message": result.status.value,
        "num_sequences": result.num_sequences,
        "num_examples": None if number is None else int(number),
        "certified": result.num_certified,
        "sequences": sequences,
        "traces": traces,
        "tokens": {
            "ids": _ids(result.tokens),
            "texts": None if audited.decode is None else [audited.decode([token]) for token in _ids(result.tokens)],
            "certified": bool(result.tokens_exact),
            "rounds": result.rounds,
        },
        "certificate": None if proof is None else {name: record.finite(getattr(proof, name)) for name in _PROOF},
        "views": [view._asdict() for view in result.views],
        "seconds": dict(result.seconds),
        "model": _model(audited),
        "observed": observed(update),
        "update": str(audited.path),
        "update_sha256": update.sha256,
        "also": [{"update": path, "update_sha256": sha256} for path, sha256 in audited.also],
        "versions": record.versions(),
    }


_PROOF = ("residual", "limit", "factor")


def observed(update: TextUpdate) -> dict[str, Any]:
    """What the client sent and how it came about, as far as the update says."""
    return {
        "kind": update.kind,
        "dtype": " ".join(sorted({str(tensor.dtype) for tensor in update.came_back.values()})),
        "half": update.is_half,
        "tensors": len(update.came_back),
        "untrained": len(update.untrained),
        "local_steps": update.local_steps,
        "lr": float(update.metadata["lr"]) if "lr" in update.metadata else None,
    }


def certified_lines(content: dict[str, Any]) -> list[str]:
    """The certified sequences of a record, a line each and as often as they were there: text, or else token ids."""
    return [
        spoken(one)
        for one in content["sequences"]
        if one["exact"]
        for _ in range(one["copies"] or 1)
    ]  # fmt: skip


def spoken(one: dict[str, Any]) -> str:
    """A sequence of a record in one line of printable characters: its text, or else its token ids."""
    return escaped(one["text"]) if one["text"] is not None else " ".join(map(str, one["tokens"]))


def escaped(text: str) -> str:
    """Text in which what would not print (line ends, terminal codes, marks that turn the writing) is written out."""
    plain = text.replace("\\", "\\\\")
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in plain)


def write_text_record(folder: Path, content: dict[str, Any]) -> None:
    """Write both files, each whole or not at all, the record last; what was made of an earlier one is removed."""
    record.remove_derived(folder)
    lines = certified_lines(content)
    if lines:
        with atomic_path(folder / TEXTS) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    record.write_json(folder / record.RECORD, content)


def is_text(folder: Path) -> bool:
    """Whether a folder holds the record of a text reconstruction."""
    return record.is_of_family(folder, FAMILY)


def read_text_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The record that `write_text_record` wrote.

    Raises:
        RecordError: no such folder, or its record is missing, damaged or of another family.
    """
    return record.read_family_record(folder, FAMILY, _NEEDED, _check)


def _check(content: dict[str, Any]) -> None:
    """Reads all that a page shows."""
    for one in (*content["sequences"], *content["traces"]):
        spoken(one)


def _model(audited: TextAudited) -> dict[str, Any]:
    architecture = audited.update.model.architecture
    sizes = ("family", "layers", "width", "vocabulary", "positions", "classes")
    return {"name": audited.model, "adapter": audited.adapter} | {name: getattr(architecture, name) for name in sizes}


def _traces(result: TextResult) -> list[np.ndarray]:
    """The beginnings that no listed sequence goes on from."""
    listed = [_ids(one.tokens) for one in result.sequences]
    begins = lambda trace: any(one[: len(trace)] == _ids(trace) for one in listed)
    return [trace for trace in result.prefixes if not begins(trace)]


def _decoded(tokens: np.ndarray, decode: Decode | None) -> str | None:
    return None if decode is None else decode(_ids(tokens))


def _ids(tokens: np.ndarray) -> list[int]:
    return tokens.tolist()


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
