"""The folder of a reconstruction of graphs: ``result.json``, one record with every member of every class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spear_jax.attacks.graphs.result import GraphClass, GraphResult
from spear_jax.audit import record
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph
from spear_jax.update.graph_features import features_from_json, features_to_json, row_from_json, row_to_json
from spear_jax.update.graph_update import GraphUpdate

FAMILY = "graphs"
# What other commands read of a record.
_NEEDED = (
    "status",
    "message",
    "graphs",
    "rows",
    "stars",
    "certificate",
    "views",
    "features",
    "update",
    "update_sha256",
)
_SIZES = (
    "kind", "columns", "widths", "activation", "is_activated", "pool", "readout", "readout_layers", "tasks", "loss",
    "heads",
)  # fmt: skip


class GraphAudited(NamedTuple):
    """What was reconstructed.

    Attributes:
        update: as loaded.
        path: where the update is from.
        features: name of the features file.
    """

    update: GraphUpdate
    path: str | os.PathLike[str]
    features: str


def make_record(result: GraphResult, audited: GraphAudited) -> dict[str, Any]:
    """One JSON-ready record of a reconstruction: classes, certificate, what it rests on, versions."""
    update, proof = audited.update, result.reproduction
    features, number = update.features, update.metadata.get("num_examples")
    return {
        "format_version": record.FORMAT_VERSION,
        "family": FAMILY,
        "status": result.status.name,
        "message": _capitalised(result.reason or result.status.value),
        "num_graphs": int(result.num_graphs),
        "num_examples": None if number is None else int(number),
        "certified": int(result.num_certified),
        "exact": sum(bool(one.exact) for one in result.classes),
        "graphs": [_class_to_json(features, one) for one in result.classes],
        "rows": [
            {"row": row_to_json(features, row[: features.columns]), "certified": bool(is_certified)}
            for row, is_certified in zip(result.rows, result.rows_exact, strict=True)
        ],
        "stars": {
            "list": [[int(star.centre), [int(row) for row in star.neighbours]] for star in result.stars],
            "certified": bool(result.stars_exact),
        },
        "certificate": None
        if proof is None
        else {"residual": record.finite(proof.residual), "limit": record.finite(proof.limit)},
        "views": [_plain(view._asdict()) for view in result.views],
        "seconds": dict(result.seconds),
        "features": features_to_json(features),
        "model": described(update),
        "limits": list(update.limits),
        "observed": observed(update),
        "update": str(audited.path),
        "update_sha256": update.sha256,
        "features_file": audited.features,
        "versions": record.versions(),
    }


def described(update: GraphUpdate) -> dict[str, Any]:
    """The model in words and numbers, and what of it was taken for granted."""
    architecture = update.model.architecture
    sizes = {name: getattr(architecture, name) for name in _SIZES}
    sizes |= {name: list(sizes[name]) for name in ("widths", "is_activated")}
    return sizes | {"library": update.model.naming.library, "assumed": list(update.model.assumed)}


def observed(update: GraphUpdate) -> dict[str, Any]:
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


def graph_to_json(features: Features, graph: Graph) -> dict[str, Any]:
    """A graph as files of graphs have it."""
    return {"nodes": [row_to_json(features, row) for row in graph.rows], "edges": graph.edges.tolist()}


def graph_from_json(features: Features, entry: Mapping[str, Any]) -> Graph:
    """A graph of a record.

    Raises:
        SpearError: it is none.
    """
    plain = features if features.blocks else None
    rows = [row_from_json(plain, node, "a node") for node in entry["nodes"]]
    return Graph(np.array(rows), np.array(entry["edges"], np.int64).reshape(-1, 2))


def verdict(one: Mapping[str, Any]) -> str:
    """What is said of a class of a record: ``"exact"``, ``"one of k"`` or ``"not certified"``."""
    if one["exact"]:
        return "exact"
    if not one["certified"]:
        return "not certified"
    size = len(one["members"])
    if one["cut"]:
        return f"one of at least {size}, cut at {size}"
    if size == 1:
        return "the only one of its size"
    return f"one of {size}" + (" or of larger ones" if one["may_be_larger"] else "")


def write_graph_record(folder: Path, content: dict[str, Any]) -> None:
    """Write the record, whole or not at all; what was made of an earlier one is removed."""
    record.remove_derived(folder)
    record.write_json(folder / record.RECORD, content)


def is_graphs(folder: Path) -> bool:
    """Whether a folder holds the record of a reconstruction of graphs."""
    return record.is_of_family(folder, FAMILY)


def read_graph_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The record that `write_graph_record` wrote.

    Raises:
        RecordError: no such folder, or its record is missing, damaged or of another family.
    """
    return record.read_family_record(folder, FAMILY, _NEEDED, _check)


def _check(content: dict[str, Any]) -> None:
    """Reads all that a page shows."""
    features = features_from_json(content["features"])
    for one in content["graphs"]:
        verdict(one)
        for member in one["members"]:
            graph_from_json(features, member)


def _plain(view: Mapping[str, Any]) -> dict[str, Any]:
    """A view of Python's own numbers."""
    return {name: value if isinstance(value, str) else int(value) for name, value in view.items()}


def _capitalised(sentence: str) -> str:
    """A sentence with a capital letter, unless it begins with the name of a tensor."""
    return sentence[:1].upper() + sentence[1:] if sentence.partition(" ")[0].isalpha() else sentence


def _class_to_json(features: Features, one: GraphClass) -> dict[str, Any]:
    # Behind an encoder with a bias rows end with a constant, which says nothing.
    members = [Graph(member.rows[:, : features.columns], member.edges) for member in one.members]
    return {
        "members": [graph_to_json(features, member) for member in members],
        "certified": bool(one.is_certified),
        "exact": bool(one.exact),
        "cut": bool(one.is_cut),
        "may_be_larger": bool(one.may_be_larger),
    }
