"""Which graph of a class is the likeliest: a guess from what molecules look like, outside of every certificate.

All members of a class have the same gradient, so nothing here rests on the update.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph

# A member's key: the smaller, the likelier.
Ranking = Callable[[Graph], tuple[Any, ...]]

# Sizes of common rings (of bonds that lie in a ring, those of nine in ten drugs).
COMMON_RINGS, COMMONEST = (5, 6), 6
YES = ("yes", "true", "1", "aromatic")


def by_rings(features: Features) -> Ranking:
    """Connected graphs first, those with rings of six or five, aromatic nodes in aromatic ones, then small ones."""
    column = _aromatic_column(features)

    def rank(graph: Graph) -> tuple[int, ...]:
        rings = smallest_rings(graph)
        unusual = sum(size > 0 and size not in COMMON_RINGS for size in rings)
        outside = 0 if column is None else _outside_aromatic_rings(graph, column)
        off = sum(abs(size - COMMONEST) for size in rings if size)
        return (len(graph.components()), outside, unusual, off, graph.num_nodes)

    return rank


def _aromatic_column(features: Features) -> int | None:
    """The column that says that a node is aromatic, None where blocks do not tell."""
    for block in features.blocks:
        for place, label in enumerate(block.labels):
            if "aromatic" in block.name.lower() and (label.lower() in YES or len(block.labels) == 1):
                return features.columns_of(block.name).start + place
    return None


def _outside_aromatic_rings(graph: Graph, column: int) -> int:
    """Aromatic nodes that lie in no ring of a common size all nodes of which are aromatic."""
    nodes = np.flatnonzero(graph.rows[:, column])
    if not len(nodes):
        return 0
    places = np.full(graph.num_nodes, -1)
    places[nodes] = np.arange(len(nodes))
    inside = places[graph.edges]
    part = Graph(graph.rows[nodes], inside[(inside >= 0).all(axis=1)])
    rings = smallest_rings(part)
    common = [edge for edge, size in zip(part.edges.tolist(), rings, strict=True) if size in COMMON_RINGS]
    return len(nodes) - len({node for edge in common for node in edge})


def smallest_rings(graph: Graph) -> list[int]:
    """Of each edge the length of the shortest cycle through it, 0 where there is none."""
    neighbours = graph.neighbours()
    return [_around(neighbours, one, other) for one, other in graph.edges.tolist()]


def _around(neighbours: list[list[int]], start: int, end: int) -> int:
    """Length of the shortest cycle through an edge, by breadth-first search that does not take it."""
    distance, border = {start: 0}, deque([start])
    while border:
        node = border.popleft()
        for other in neighbours[node]:
            if other in distance or (node, other) == (start, end):
                continue
            distance[other] = distance[node] + 1
            if other == end:
                return distance[other] + 1
            border.append(other)
    return 0
