"""Graphs by span tests of fixed tolerances and depth-first gluing: GRAIN, restated from its published description.

GRAIN (Drencheva et al., ICLR 2025, "S") reads one graph from the gradient of a GCN. (1) Rows of nodes grow block by
block of features and stay where the L1 distance to the span of these columns of the first convolution's gradient is
below 1e-3; of more than 10,000 the nearest are kept. (2) A row with as many neighbours as its degree feature says, six
at most, stays where its state is in the row space of the second convolution's gradient. (3) A node with its neighbours
and theirs stays where its row beside its state is nearer than 1e-2 to the row space of the readout's gradient, which
reads nodes one by one. (4) What is left is glued depth first along nodes that lack neighbours, cycles are closed, and
the first graph whose gradient is nearer than 1e-6 ends it; without one the best graph met is the result. Ranks are
numbers of singular values above 1e-7, 1e-7 and 1e-8. It is told the number of nodes. It has no certificate.

Ours, where the description is silent or was not read: states are tested by the Euclidean distance of vectors of length
one, with the tolerance of the rows in (2); labels are read from the signs of the last bias gradient; the gradient's
distance is relative. Where the readout pools states, or no node passes (3), that step is left out. Time is limited, and
is that of the process, so that a busy machine does not count: (2) ends after half of it and (3) after three quarters,
with what they have by then, smallest degrees first. All is computed in float64. Step (2) looks at a few units first, by
which it is faster on a CPU and no other (see `neighbourhoods`).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.baselines.gluing import Gluing
from experiments.baselines.neighbourhoods import SpanTest, find_blocks, find_stars
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph
from spear_jax.graphs.layers import as_batch, loss_gradients
from spear_jax.graphs.observation import GraphObservation

# Multiple that numbers of nodes are padded to.
PADDED = 16


class Options(NamedTuple):
    """The published constants.

    Attributes:
        rank_tolerances: singular values below these count as none, in the two convolutions and in the readout.
        row_distance: L1 distance up to which the beginning of a row is kept.
        star_distance: relative distance up to which a node with its neighbours is.
        block_distance: likewise with two hops.
        gradient_distance: relative distance of the gradient up to which a graph is the one.
        max_rows: beginnings of rows that are kept.
        max_seconds: of the process, after which the search is stopped; ours.
    """

    rank_tolerances: tuple[float, float, float] = (1e-7, 1e-7, 1e-8)
    row_distance: float = 1e-3
    star_distance: float = 1e-3
    block_distance: float = 1e-2
    gradient_distance: float = 1e-6
    max_rows: int = 10_000
    max_seconds: float = 60.0


class Restated(NamedTuple):
    """What it finds.

    Attributes:
        graph: the first that has the gradient; else the nearest one that is complete, else the largest part of one;
            None where not even a node with its neighbours fits.
        distance: of its gradient, relative.
        is_found: whether that is below the tolerance.
        rows: number of rows that pass the first test.
        stars: number of nodes with their neighbours that pass the second, and the third where it stands.
        is_stopped: whether time ran out in any step.
    """

    graph: Graph | None
    distance: float
    is_found: bool
    rows: int
    stars: int
    is_stopped: bool


def depth_first_graphs(observation: GraphObservation, nodes: int, options: Options = Options()) -> Restated:
    """The graph behind the gradient of one.

    Args:
        observation: of a GCN of two convolutions, with a feature that says the degree.
        nodes: n, as the client reports it.
        options: constants.

    Raises:
        ValueError: another network, or rows that do not say the degree.
    """
    started, architecture, features = time.process_time(), observation.architecture, observation.features
    if architecture.kind != "gcn" or architecture.layers != 2 or architecture.loss == "mse" or features.degree is None:
        raise ValueError("this baseline needs a GCN of two convolutions, a loss of classes and a feature of degrees.")
    halfway, late, end = (started + part * options.max_seconds for part in (0.5, 0.75, 1.0))
    rows = node_rows(observation, options)
    basis = row_space(observation.gradients["convs.1.weight"], options.rank_tolerances[1])
    test = SpanTest.of(observation, 0, basis, options.star_distance, halfway)
    stars = find_stars(test, rows, _degrees(features, rows, nodes))
    pieces, order, is_stopped = stars.pieces, np.argsort(stars.distances, kind="stable"), stars.is_stopped
    if architecture.readout == "node":
        basis = row_space(observation.gradients["readout.0.weight"], options.rank_tolerances[2])
        test = SpanTest.of(observation, 1, basis, options.block_distance, late)
        parts, nearest, is_late = find_blocks(test, stars, rows)
        is_stopped = is_stopped or is_late
        if any(parts):
            order = np.array([star for star in np.argsort(nearest, kind="stable") if parts[star]])
            pieces = pieces._replace(parts=parts)
    judge = _Judge(observation, rows, options.gradient_distance)
    gluing = Gluing(pieces, nodes, judge, end)
    is_found = gluing.run(order.tolist())
    if judge.best is None and gluing.largest is not None:
        judge(*gluing.largest)
    return Restated(judge.best, judge.distance, is_found, len(rows), len(order), is_stopped or gluing.is_stopped)


def _degrees(features: Features, rows: np.ndarray, nodes: int) -> np.ndarray:
    """(k,) of rows, -1 where a connected graph of so many nodes has no such node or the degree is too large."""
    degrees = np.asarray(features.degrees(rows))
    is_possible = (degrees >= min(1, nodes - 1)) & (degrees <= min(features.max_degree, nodes - 1))
    return np.where(is_possible, degrees, -1)


def node_rows(observation: GraphObservation, options: Options = Options()) -> np.ndarray:
    """(k, columns) rows whose beginnings lie in the spans of the same columns of the first gradient."""
    gradient = np.asarray(observation.gradients["convs.0.weight"], np.float64)
    found, stop = np.zeros((1, 0)), 0
    for block in observation.features.blocks:
        stop += len(block.labels)
        parts = block.choices
        found = np.concatenate([np.repeat(found, len(parts), axis=0), np.tile(parts, (len(found), 1))], axis=1)
        basis = row_space(gradient[:, :stop], options.rank_tolerances[0])
        distances = np.abs(found - found @ basis.T @ basis).sum(axis=1)
        nearest = np.argsort(distances, kind="stable")[: options.max_rows]
        found = found[nearest[distances[nearest] < options.row_distance]]
    return found


def row_space(gradient: np.ndarray, tolerance: float) -> np.ndarray:
    """(rank, d) orthonormal rows that span those of a gradient (m, d), as far as singular values exceed a tolerance."""
    _, sizes, basis = np.linalg.svd(np.asarray(gradient, np.float64), full_matrices=False)
    return basis[sizes > tolerance]


class _Judge:
    """Holds the gradient of graphs against the one that came back, and keeps the nearest.

    Attributes:
        best: the nearest graph so far.
        distance: its distance.
    """

    def __init__(self, observation: GraphObservation, rows: np.ndarray, tolerance: float) -> None:
        self.architecture, self.rows, self.tolerance = observation.architecture, rows, tolerance
        self.params = {name: jnp.asarray(tensor, jnp.float64) for name, tensor in observation.params.items()}
        self.gradients = {name: np.asarray(part, np.float64) for name, part in observation.gradients.items()}
        last = self.gradients[f"readout.{observation.architecture.readout_layers - 1}.bias"]
        self.labels = jnp.asarray((last < 0).astype(np.float64)[None])
        self.best: Graph | None = None
        self.distance = float("inf")

    def __call__(self, kinds: list[int], edges: list[tuple[int, int]]) -> bool:
        """Whether the graph of rows of some kinds is near enough."""
        graph = Graph(self.rows[kinds], np.array(edges, np.int64).reshape(-1, 2))
        batch = as_batch([graph], np.dtype(np.float64), nodes=-(-graph.num_nodes // PADDED) * PADDED)
        found = loss_gradients(self.architecture, self.params, batch, self.labels)
        off = sum(float(np.sum((np.asarray(found[name]) - part) ** 2)) for name, part in self.gradients.items())
        distance = float(np.sqrt(off / sum(float(np.sum(part**2)) for part in self.gradients.values())))
        if self.best is None or distance < self.distance:
            self.best, self.distance = graph, distance
        return distance < self.tolerance
