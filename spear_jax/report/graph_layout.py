"""Where the nodes of a small graph are drawn: distances on paper as near to the graph's own as a plane allows.

Stress majorisation (Gansner, Koren and North 2004) of the shortest paths, from classical scaling and from circles; the
layout of least stress is taken. Everything is deterministic: a page of the same record is the same page.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from scipy.sparse.csgraph import shortest_path

Edges = Iterable[tuple[int, int]]
# Sweeps of the majorisation, and the share of stress that one must save for another to follow.
MOST_SWEEPS, LEAST_SAVED = 200, 1e-4
# Edge lengths between the bounding boxes of two components.
GAP = 1.2
STARTS = 5


def layout(num_nodes: int, edges: Edges) -> Float[np.ndarray, "n 2"]:
    """Positions of the nodes, in units of an edge's length.

    Components stand beside one another, the largest first, each turned so that it is wider than high.

    Args:
        num_nodes: n.
        edges: pairs of nodes, each once, either way round.

    Returns:
        float64, the least coordinate of either axis being zero; an empty array without nodes.
    """
    adjacency = np.zeros((num_nodes, num_nodes), bool)
    for i, j in edges:
        adjacency[i, j] = adjacency[j, i] = i != j
    distances = shortest_path(adjacency, unweighted=True) if num_nodes else np.zeros((0, 0))
    places, right = np.zeros((num_nodes, 2)), 0.0
    for component in _components(distances):
        part = _upright(_stress_layout(distances[np.ix_(component, component)]))
        part -= part.min(axis=0)
        places[component] = part + [right, 0.0]
        right += part[:, 0].max() + GAP
    return places


def stress(places: Float[np.ndarray, "n 2"], distances: Float[np.ndarray, "n n"]) -> float:
    """Sum over pairs of the squared relative error of their distance."""
    rows, columns = np.triu_indices(len(places), 1)
    apart = np.linalg.norm(places[rows] - places[columns], axis=1)
    wanted = distances[rows, columns]
    return float(np.sum((apart / wanted - 1) ** 2))


def _components(distances: np.ndarray) -> list[np.ndarray]:
    """Nodes of each connected component, the largest first."""
    found = {tuple(np.flatnonzero(np.isfinite(row)).tolist()) for row in distances}
    return [np.array(one) for one in sorted(found, key=lambda one: (-len(one), one))]


def _stress_layout(distances: np.ndarray) -> np.ndarray:
    """The best of a few layouts of one component."""
    if len(distances) == 1:
        return np.zeros((1, 2))
    found = [_majorise(start, distances) for start in _starts(distances)]
    return min(found, key=lambda places: stress(places, distances))


def _starts(distances: np.ndarray) -> list[np.ndarray]:
    """Classical scaling, and the same disturbed, which leaves folds that the sweeps alone would keep."""
    num_nodes = len(distances)
    centring = np.eye(num_nodes) - 1 / num_nodes
    values, vectors = np.linalg.eigh(-0.5 * centring @ distances**2 @ centring)
    scaled = vectors[:, [-1, -2]] * np.sqrt(np.maximum(values[[-1, -2]], 0.0))
    generator = np.random.default_rng(0)
    size = float(distances.max())
    disturbed = [scaled + generator.normal(0, 0.15 * size, scaled.shape) for _ in range(STARTS)]
    return [scaled + generator.normal(0, 1e-3, scaled.shape), *disturbed]


def _majorise(places: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Sweeps of the majorisation, none of which raises the stress."""
    safe = np.where(distances > 0, distances, 1.0)
    weights = np.where(distances > 0, safe**-2, 0.0)
    laplacian = np.diag(weights.sum(axis=1)) - weights
    solve = np.linalg.pinv(laplacian)
    before = stress(places, distances)
    for _ in range(MOST_SWEEPS):
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        pulled = np.where(apart > 1e-9, weights * distances / np.where(apart > 1e-9, apart, 1.0), 0.0)
        places = solve @ (np.diag(pulled.sum(axis=1)) - pulled) @ places
        after = stress(places, distances)
        if before - after <= LEAST_SAVED * before:
            break
        before = after
    return places


def _upright(places: np.ndarray) -> np.ndarray:
    """The same, turned so that its longest extent lies along the first axis."""
    centred = places - places.mean(axis=0)
    _, _, axes = np.linalg.svd(centred)
    return centred @ axes.T
