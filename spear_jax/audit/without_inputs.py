"""A record without anything that was recovered: counts, certificates, sizes and cost, but no value, token or graph.

What may stay is named; whatever else a record holds is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spear_jax.audit import graph_record, text_record
from spear_jax.audit.record import RECORD, refuse_newer_format
from spear_jax.errors import RecordError

# Of every family.
_KEPT = (
    "format_version", "family", "purged", "status", "message", "num_examples", "certified", "views", "seconds", "model",
    "observed", "update", "update_sha256", "versions",
)  # fmt: skip
_DENSE = (
    "batch_size", "directions_found", "approximate", "copies", "notes", "findings", "layer", "first_candidates",
    "moved_before", "shape", "noise_floor", "gap", "stats", "config", "seed", "layout", "image_shape",
)  # fmt: skip
_CERTIFICATE = (
    "matching_score", "weight_residual", "bias_residual", "error_median", "error_max", "mean_of", "scale", "factor",
    "factor_range", "reason", "residual", "limit",
)  # fmt: skip
# What tells the record of an audit from any other JSON file.
_OURS = ("status", "update", "update_sha256", "versions")


def without_inputs(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what was recovered.

    Args:
        record: the dictionary of ``result.json``, of any family; one without inputs stays as it is.

    Returns:
        The dictionary with the names that may stay. Of sequences there is their length, of graphs numbers of nodes and
        edges; tokens, rows and neighbourhoods are counted, and labels are left out.
    """
    family = record.get("family")
    parts = {text_record.FAMILY: _TEXT, graph_record.FAMILY: _GRAPHS}.get(str(family), {})
    names = (*_KEPT, "num_sequences", "num_graphs", "exact", "limits") if parts else (*_KEPT, *_DENSE)
    kept = {name: value for name, value in record.items() if name in names}
    kept |= {name: counted(record[name]) for name, counted in parts.items() if name in record}
    if "certificate" in record:
        proof = record["certificate"]
        kept["certificate"] = proof and {name: proof[name] for name in _CERTIFICATE if name in proof}
    return kept


def read_without_inputs(folder: Path) -> dict[str, Any]:
    """The record of a folder without what was recovered, whether that is still there or was purged.

    Raises:
        RecordError: there is no record of an audit, or one of a newer format.
    """
    content = own_record(folder)
    if content is None:
        raise RecordError(f"{folder} holds no record of an audit; give the --out folder of spear-jax reconstruct.")
    refuse_newer_format(folder, content)
    try:
        return without_inputs(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"{folder} holds a damaged record ({error}); run spear-jax reconstruct.") from error


def own_record(folder: Path) -> dict[str, Any] | None:
    """The record of an audit in a folder, as it stands there; None where there is none, or another JSON file."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and all(name in content for name in _OURS) else None


def _sequences(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    length = lambda one: one["length"] if "length" in one else len(one["tokens"])
    return [{"length": length(one)} | {name: one[name] for name in ("copies", "exact") if name in one} for one in found]


def _tokens(found: Mapping[str, Any]) -> dict[str, Any]:
    count = found["count"] if "count" in found else len(found["ids"])
    return {"count": count} | {name: found[name] for name in ("certified", "rounds") if name in found}


def _classes(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    size = lambda one: one if isinstance(one, list) else [len(one["nodes"]), len(one["edges"])]
    said = ("certified", "exact", "cut", "may_be_larger")
    return [
        {"members": [size(member) for member in one["members"]]} | {name: one[name] for name in said if name in one}
        for one in found
    ]


def _rows(found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return {name: found[name] for name in ("count", "certified")}
    return {"count": len(found), "certified": sum(bool(one["certified"]) for one in found)}


def _stars(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"count": found["count"] if "count" in found else len(found["list"]), "certified": found["certified"]}


_Counted = Mapping[str, Callable[[Any], Any]]
_TEXT: _Counted = {"sequences": _sequences, "traces": _sequences, "tokens": _tokens}
_GRAPHS: _Counted = {"graphs": _classes, "rows": _rows, "stars": _stars}
