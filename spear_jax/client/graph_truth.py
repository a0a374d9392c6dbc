"""The private side of a simulated update of a graph network, kept in a file of its own and read only to score."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np

from spear_jax.client.graph_batch import PrivateGraphs
from spear_jax.client.truth import read_truth, write_truth
from spear_jax.errors import SpearError, TruthError
from spear_jax.graphs.graph import Graph
from spear_jax.update.graph_features import features_from_json, features_to_json

_CONTENT = "graph truth"
_NEEDED = {"rows", "edges", "nodes_of", "edges_of"}


@dataclasses.dataclass(frozen=True, eq=False)
class GraphTruth:
    """What the client kept to itself.

    Attributes:
        private: the graphs, with their labels as the loss took them.
    """

    private: PrivateGraphs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the truth to ``.safetensors`` or ``.npz``, atomically: rows and edges end to end, and their numbers.

        Raises:
            TruthError: another extension, or the folder cannot be written.
        """
        graphs = self.private.graphs
        tensors = {
            "rows": np.concatenate([graph.rows for graph in graphs]),
            "edges": np.concatenate([graph.edges for graph in graphs]),
            "nodes_of": np.array([graph.num_nodes for graph in graphs], np.int64),
            "edges_of": np.array([len(graph.edges) for graph in graphs], np.int64),
        }
        if self.private.labels is not None:
            tensors["labels"] = np.asarray(self.private.labels, np.float64)
        metadata = {
            "content": _CONTENT,
            "names": json.dumps(self.private.names),
            "features": json.dumps(features_to_json(self.private.features)),
        }
        write_truth(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GraphTruth:
        """Reads what `save` wrote.

        Raises:
            TruthError: the file cannot be read, or holds something else (an update, for instance).
        """
        name = os.path.basename(path)
        tensors, metadata = read_truth(path)
        if metadata.get("content") != _CONTENT or not set(tensors) >= _NEEDED:
            raise TruthError(f"{name} is no truth about a graph network's update; pass the one that simulate wrote.")
        try:
            return cls(_private(tensors, metadata))
        except (SpearError, KeyError, TypeError, ValueError, IndexError) as error:
            raise TruthError(f"{name} is a damaged truth file ({error}); simulate it again.") from error


def _private(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> PrivateGraphs:
    nodes, edges = np.cumsum(tensors["nodes_of"]), np.cumsum(tensors["edges_of"])
    if (
        not len(nodes)
        or len(nodes) != len(edges)
        or nodes[-1] != len(tensors["rows"])
        or edges[-1] != len(tensors["edges"])
    ):
        raise ValueError("its numbers of nodes and edges do not fit what it holds")
    rows = np.split(tensors["rows"], nodes[:-1])
    ends = np.split(tensors["edges"], edges[:-1])
    names = tuple(json.loads(metadata["names"]))
    if len(names) != len(rows):
        raise ValueError(f"it has {len(names)} names for {len(rows)} graphs")
    graphs = tuple(Graph(row, edge) for row, edge in zip(rows, ends, strict=True))
    return PrivateGraphs(graphs, features_from_json(json.loads(metadata["features"])), names, tensors.get("labels"))
