"""Private graphs, from files to what a client's loss is computed over.

A file of graphs is JSON, ``{"features": {...}, "graphs": [{"nodes": [[label per block], ...], "edges": [[i, j], ...],
"label": 1}, ...]}`` with features as `update.graph_features` reads them, or a list of SMILES, one a line.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spear_jax.client.batch import draw
from spear_jax.client.graph_smiles import molecule_features, read_smiles
from spear_jax.errors import DataError, SpearError
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph
from spear_jax.update.graph_features import features_from_json, read_object, row_from_json

SMILES_SUFFIXES = (".smi", ".smiles", ".txt")
_GRAPH_ENTRIES = ("nodes", "edges", "label", "name", "smiles")


class PrivateGraphs(NamedTuple):
    """Graphs of a client.

    Attributes:
        graphs: B of them.
        features: the rows that their nodes may have.
        names: of the graphs, empty strings where they have none.
        labels: (B, t) float64, one number a task, NaN where it is missing; a class where t = 1. None without labels.
        model: what the file says of the model, as ``"model"`` in a features file.
    """

    graphs: tuple[Graph, ...]
    features: Features
    names: tuple[str, ...]
    labels: np.ndarray | None = None
    model: Mapping[str, Any] = {}

    @property
    def size(self) -> int:
        """B, number of graphs."""
        return len(self.graphs)

    def chosen(self, places: np.ndarray) -> PrivateGraphs:
        """Some of the graphs, by their places."""
        return self._replace(
            graphs=tuple(self.graphs[place] for place in places),
            names=tuple(self.names[place] for place in places),
            labels=None if self.labels is None else self.labels[places],
        )


def draw_graphs(private: PrivateGraphs, batch_size: int, seed: int = 0) -> PrivateGraphs:
    """Some graphs of a data set, without replacement.

    Args:
        private: the data set.
        batch_size: B, how many to draw.
        seed: of ``numpy.random.default_rng``.

    Raises:
        DataError: fewer than one or more than there are.
    """
    return private.chosen(draw(private.size, batch_size, seed, f"there are {private.size} graphs"))


@functools.cache
def demo_molecules() -> PrivateGraphs:
    """All bundled molecules, of 9 to 41 atoms without hydrogens and without stereochemistry."""
    file = importlib.resources.files("spear_jax.client") / "molecules.json"
    with importlib.resources.as_file(file) as path:
        return read_graphs(path)


def among(private: PrivateGraphs, every: PrivateGraphs) -> PrivateGraphs:
    """Graphs whose features say what a larger set tells, as public data would: possible rows, and whether connected."""
    possible = np.unique(np.concatenate([graph.rows for graph in every.graphs]), axis=0)
    is_connected = all(graph.is_connected for graph in every.graphs)
    features = dataclasses.replace(private.features, possible=possible, is_connected=is_connected)
    return private._replace(features=features)


def read_graphs(path: str | os.PathLike[str]) -> PrivateGraphs:
    """Read all graphs of a file.

    Args:
        path: ``.json``, or SMILES in ``.smi`` or ``.txt``, which need the package RDKit.

    Raises:
        DataError: another extension, a file that cannot be read, or what is wrong with which graph, in one sentence.
    """
    path = Path(path)
    if path.suffix.lower() in SMILES_SUFFIXES:
        found = read_smiles(path)
        if not found:
            raise DataError(f"{path.name} holds no molecule; expected one SMILES a line.")
        graphs, names = tuple(one.graph for one in found), tuple(one.name for one in found)
        return PrivateGraphs(graphs, molecule_features(), names)
    if path.suffix.lower() != ".json":
        raise DataError(f"{path.name} has extension {path.suffix or '(none)'!r}; expected .json, .smi or .txt.")
    try:
        return graphs_from_json(read_object(path))
    except SpearError as error:
        raise DataError(f"{path.name}: {error}") from error


def graphs_from_json(content: Mapping[str, Any]) -> PrivateGraphs:
    """Graphs of the object in a file.

    Raises:
        SpearError: what is wrong with which graph.
    """
    for entry in ("features", "graphs"):
        if entry not in content:
            raise DataError(f'it has no entry "{entry}"; expected {{"features": {{...}}, "graphs": [...]}}.')
    features, entries = features_from_json(content["features"]), content["graphs"]
    if not isinstance(entries, list) or not entries:
        raise DataError('"graphs" holds none; expected a list of {"nodes": [...], "edges": [...]}.')
    graphs = tuple(_graph(features, entry, number) for number, entry in enumerate(entries))
    names = tuple(str(entry.get("name", "")) for entry in entries)
    model = content.get("model", {})
    return PrivateGraphs(graphs, features, names, _labels(entries), model if isinstance(model, dict) else {})


def labelled(private: PrivateGraphs, architecture: Architecture, seed: int = 0) -> PrivateGraphs:
    """The graphs with labels that the model has outputs for: their own, or where they have none drawn ones."""
    if private.labels is not None:
        return private
    return private._replace(labels=_drawn(private.size, architecture.tasks, architecture.loss, seed))


def targets(private: PrivateGraphs, architecture: Architecture, seed: int = 0) -> Float[np.ndarray, "B t"]:
    """Labels as the loss takes them: (B, tasks), shares of each class for cross-entropy.

    Args:
        private: the graphs; where they have no labels, these are drawn.
        architecture: of the model.
        seed: of that draw.

    Raises:
        DataError: labels that the model has no output for.
    """
    tasks, loss = architecture.tasks, architecture.loss
    labels = np.asarray(labelled(private, architecture, seed).labels)
    if loss == "cross entropy":
        classes = labels[:, 0]
        is_class = np.isfinite(classes) & (classes == np.floor(classes)) & (classes >= 0) & (classes < tasks)
        if labels.shape[1] != 1 or not is_class.all():
            raise DataError(
                f"a label is no class of the model's {tasks}; expected a whole number from 0 to {tasks - 1}."
            )
        return np.eye(tasks)[classes.astype(int)]
    if labels.shape[1] != tasks:
        raise DataError(f"the graphs have {labels.shape[1]} labels each; expected one for each of {tasks} outputs.")
    known = labels[np.isfinite(labels)]
    if loss == "bce" and not np.isin(known, (0, 1)).all():
        raise DataError("a label is neither 0 nor 1; expected one of these for each output of the model.")
    if not np.isfinite(labels).any(axis=1).all():
        raise DataError("a graph has no label at all, so that it leaves no gradient; leave it out.")
    return labels


def _drawn(count: int, tasks: int, loss: str, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if loss == "cross entropy":
        return generator.integers(tasks, size=(count, 1)).astype(np.float64)
    if loss == "mse":
        return generator.normal(size=(count, tasks))
    return generator.integers(2, size=(count, tasks)).astype(np.float64)


def _graph(features: Features, entry: Any, number: int) -> Graph:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("nodes"), list)
        or not isinstance(entry.get("edges"), list)
    ):
        raise DataError(f'graph {number} is no {{"nodes": [...], "edges": [[i, j], ...]}}; expected both lists.')
    unknown = [name for name in entry if name not in _GRAPH_ENTRIES]
    if unknown:
        raise DataError(
            f"graph {number} has an entry {ascii(unknown[0])[:40]}; expected only {', '.join(_GRAPH_ENTRIES)}: edges "
            "have no features here."
        )
    rows = [
        row_from_json(features if features.blocks else None, node, f"node {place} of graph {number}")
        for place, node in enumerate(entry["nodes"])
    ]
    for edge in entry["edges"]:
        if not isinstance(edge, list) or len(edge) != 2 or not all(type(end) is int for end in edge):
            raise DataError(
                f"graph {number} has the edge {ascii(edge)[:40]}; expected two numbers of nodes, as [0, 1]."
            )
        if not all(0 <= end < len(rows) for end in edge):  # before int64, which not every number of a file fits
            joined = ascii(tuple(edge))[:40]
            raise DataError(f"graph {number}: an edge joins {joined}; expected two nodes from 0 to {len(rows) - 1}.")
    try:
        graph = Graph(np.array(rows), np.array(entry["edges"], np.int64).reshape(-1, 2))
    except SpearError as error:
        raise DataError(f"graph {number}: {error}") from error
    _check(features, graph, number)
    return graph


def _check(features: Features, graph: Graph, number: int) -> None:
    """That a graph is as its features say: what is public of them must be true of it."""
    if graph.rows.shape[1] != features.columns:
        raise DataError(f"graph {number} has {graph.rows.shape[1]} columns; the features describe {features.columns}.")
    said = features.degrees(graph.rows)
    if said is not None and np.any(said != graph.degrees):
        node = int(np.flatnonzero(said != graph.degrees)[0])
        raise DataError(
            f"node {node} of graph {number} has {graph.degrees[node]} neighbours, but its features say {said[node]}; "
            f'give the right label in block {features.degree!r}, or "degree": null.'
        )
    if features.possible is not None:
        known = {row.tobytes() for row in features.possible + 0.0}
        unknown = [node for node, row in enumerate(graph.rows + 0.0) if row.tobytes() not in known]
        if unknown:
            raise DataError(f'node {unknown[0]} of graph {number} has a row that is none of "rows"; add it there.')
    if graph.degrees.max() > features.max_degree:
        node = int(graph.degrees.argmax())
        raise DataError(
            f"node {node} of graph {number} has {graph.degrees[node]} neighbours; max_degree is {features.max_degree}."
        )
    if features.max_nodes is not None and graph.num_nodes > features.max_nodes:
        raise DataError(f"graph {number} has {graph.num_nodes} nodes; max_nodes is {features.max_nodes}.")
    if features.is_connected and not graph.is_connected:
        raise DataError(f'graph {number} is not connected, but "is_connected" is true; say false, or leave it out.')


def _labels(entries: list[Any]) -> np.ndarray | None:
    """Labels of all graphs, (B, t); None where no graph has one."""
    given = [entry.get("label") for entry in entries]
    if all(label is None for label in given):
        return None
    rows = [label if isinstance(label, list) else [label] for label in given]
    if len({len(row) for row in rows}) > 1 or not rows[0]:
        raise DataError("graphs have different numbers of labels; expected one, or one list of one length, for each.")
    for number, row in enumerate(rows):
        for label in row:
            if label is not None and (isinstance(label, bool) or not isinstance(label, int | float)):
                raise DataError(f"graph {number} has the label {ascii(label)[:40]}; expected a number, or null.")
    return np.array([[np.nan if label is None else label for label in row] for row in rows], np.float64)
