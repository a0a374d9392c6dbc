"""How alike two graphs are, as GRAIN measures it: nodes are matched, then features and hidden states compared.

GSM-0, 1 and 2 (Drencheva et al., ICLR 2025, Sec. 5): F1 of the features of matched nodes, and R2 of what one and two
layers of a graph network make of the matched parts, all times the smaller number of nodes over the larger. The network
here is a GCN of width 300 with fixed random weights, so that scores of different updates compare.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph

WIDTH = 300


class Similarity(NamedTuple):
    """GSM of a graph with a true one, each in [0, 1] and 1 for isomorphic graphs.

    Attributes:
        gsm_0: F1 of features.
        gsm_1: R2 of states behind one layer, at least 0.
        gsm_2: R2 of states behind two layers, at least 0.
    """

    gsm_0: float
    gsm_1: float
    gsm_2: float


def similarity(found: Graph, true: Graph, features: Features) -> Similarity:
    """GSM of a graph that was found with the true one.

    Args:
        found: whose rows are as long as the true ones'.
        true: the private graph.
        features: whose blocks tell what an entry of F1 is; without blocks a whole row is one.
    """
    mine, theirs = _matched(found, true)
    share = min(found.num_nodes, true.num_nodes) / max(found.num_nodes, true.num_nodes)
    scores = [_f1(found.rows[mine], true.rows[theirs], features)]
    parts = zip(_states(_part(found, mine)), _states(_part(true, theirs)), strict=True)
    scores += [_r2(one, other) for one, other in parts]
    return Similarity(*(share * score for score in scores))


def _matched(found: Graph, true: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Places of nodes matched one to one, those most alike in row, neighbours and their neighbours."""
    levels = zip((found.rows, *_states(found)), (true.rows, *_states(true)), strict=True)
    cost = np.zeros((found.num_nodes, true.num_nodes))
    for mine, theirs in levels:
        scale = max(float(np.mean(np.sum(theirs**2, axis=1))), 1e-12)
        cost += np.sum((mine[:, None] - theirs[None]) ** 2, axis=2) / scale
    return linear_sum_assignment(cost)


def _part(graph: Graph, nodes: np.ndarray) -> Graph:
    """The graph of some nodes and the edges between them."""
    places = {int(node): place for place, node in enumerate(nodes)}
    edges = [(places[i], places[j]) for i, j in graph.edges.tolist() if i in places and j in places]
    return Graph(graph.rows[nodes], np.array(edges, np.int64).reshape(-1, 2))


def _states(graph: Graph) -> list[np.ndarray]:
    """What each of two layers of the fixed network makes of the nodes, (n, `WIDTH`)."""
    adjacency = graph.adjacency() + np.eye(graph.num_nodes)
    scale = 1 / np.sqrt(adjacency.sum(axis=1))
    mixing = scale[:, None] * adjacency * scale[None]
    first, second = _weights(graph.rows.shape[1])
    hidden = np.maximum(mixing @ graph.rows @ first, 0)
    return [hidden, np.maximum(mixing @ hidden @ second, 0)]


@functools.lru_cache(maxsize=8)
def _weights(columns: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = ((columns, WIDTH), (WIDTH, WIDTH))
    first, second = (generator.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape)) for shape in shapes)
    return first, second


def _f1(found: np.ndarray, true: np.ndarray, features: Features) -> float:
    """F1 of each block's labels, blocks weighed by their columns and labels by how often they truly are there."""
    if not features.blocks:
        return _weighted_f1([row.tobytes() for row in found + 0.0], [row.tobytes() for row in true + 0.0])
    scores = []
    for block in features.blocks:
        columns = features.columns_of(block.name)
        labels = ([row.tobytes() for row in part[:, columns] + 0.0] for part in (found, true))
        scores.append(len(block.labels) * _weighted_f1(*labels))
    return sum(scores) / features.columns


def _weighted_f1(found: list[bytes], true: list[bytes]) -> float:
    total = 0.0
    for label in set(true):
        both = sum(a == b == label for a, b in zip(found, true, strict=True))
        total += true.count(label) * 2 * both / (found.count(label) + true.count(label))
    return total / len(true)


def _r2(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the variance of all entries that is explained, at least 0."""
    variance = float(np.sum((true - true.mean()) ** 2))
    left = float(np.sum((found - true) ** 2))
    if variance == 0:
        return float(left == 0)
    return max(1 - left / variance, 0.0)
