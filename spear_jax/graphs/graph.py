"""A graph with a row of features at each node, and the colours by which message passing tells nodes apart.

Refinement of colours (Weisfeiler and Leman 1968): at level 0 a node's colour is its row; at level l it is the colour of
level l - 1 together with the multiset of its neighbours'. A network of L convolutions computes functions of colours of
level L, and the loss of a pooled readout is a function of how often each is there (Xu et al. 2019).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from spear_jax.errors import SpearError


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph without loops.

    Attributes:
        rows: (n, columns) float64, the nodes' features.
        edges: (e, 2) int64, each edge once, the smaller end first, in rising order.

    Raises:
        SpearError: no nodes, rows that are no finite matrix, ends that are no nodes, loops or an edge given twice.
    """

    rows: np.ndarray
    edges: np.ndarray

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows, np.float64)
        if rows.ndim != 2 or not len(rows):
            raise SpearError(
                f"the rows of a graph have shape {rows.shape}; expected (nodes, columns), one node or more."
            )
        if not np.isfinite(rows).all():
            raise SpearError("the rows of a graph hold NaN or infinite values; expected a finite feature everywhere.")
        edges = np.asarray(self.edges, np.int64).reshape(-1, 2)
        outside = edges[((edges < 0) | (edges >= len(rows))).any(axis=1)]
        if len(outside):
            raise SpearError(
                f"an edge joins {tuple(outside[0].tolist())}; expected two nodes from 0 to {len(rows) - 1}."
            )
        edges = np.sort(edges, axis=1)
        if np.any(edges[:, 0] == edges[:, 1]):
            node = int(edges[edges[:, 0] == edges[:, 1]][0, 0])
            raise SpearError(f"node {node} is joined to itself; expected no loops: the convolutions add their own.")
        unique = np.unique(edges, axis=0)
        if len(unique) < len(edges):
            raise SpearError("an edge is given twice; expected each undirected edge once.")
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "edges", unique)

    @property
    def num_nodes(self) -> int:
        """n."""
        return len(self.rows)

    @property
    def degrees(self) -> np.ndarray:
        """(n,) number of neighbours of each node."""
        return np.bincount(self.edges.ravel(), minlength=self.num_nodes)

    def adjacency(self) -> np.ndarray:
        """(n, n) float64, 1 where an edge is."""
        matrix = np.zeros((self.num_nodes, self.num_nodes))
        matrix[self.edges[:, 0], self.edges[:, 1]] = 1
        return matrix + matrix.T

    def neighbours(self) -> list[list[int]]:
        """Of each node its neighbours, in rising order."""
        found: list[list[int]] = [[] for _ in range(self.num_nodes)]
        for one, other in self.edges.tolist():
            found[one].append(other)
            found[other].append(one)
        return [sorted(nodes) for nodes in found]

    def components(self) -> list[list[int]]:
        """Nodes of each connected part."""
        neighbours, left, found = self.neighbours(), set(range(self.num_nodes)), []
        while left:
            part, border = [], [left.pop()]
            while border:
                node = border.pop()
                part.append(node)
                fresh = [other for other in neighbours[node] if other in left]
                left.difference_update(fresh)
                border.extend(fresh)
            found.append(sorted(part))
        return found

    def parts(self) -> list[Graph]:
        """Its connected parts as graphs."""
        found = []
        for nodes in self.components():
            place = np.full(self.num_nodes, -1)
            place[nodes] = np.arange(len(nodes))
            edges = place[self.edges]
            found.append(Graph(self.rows[nodes], edges[edges[:, 0] >= 0]))
        return found

    @property
    def is_connected(self) -> bool:
        """Whether every node is reached from every other."""
        return len(self.components()) == 1


def colours(graph: Graph, level: int) -> list[bytes]:
    """Colour of each node at a level, the same for the same colour of any graph."""
    found, neighbours = [_digest(row.tobytes()) for row in graph.rows + 0.0], graph.neighbours()
    for _ in range(level):
        found = [
            _digest(found[node] + b"".join(sorted(found[other] for other in neighbours[node])))
            for node in range(graph.num_nodes)
        ]
    return found


def colour_counts(graphs: Iterable[Graph], level: int) -> Counter[bytes]:
    """How often each colour of a level is there, in all graphs together."""
    return Counter(colour for graph in graphs for colour in colours(graph, level))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def permuted(graph: Graph, order: np.ndarray) -> Graph:
    """The graph with its nodes in another order: node i is what node ``order[i]`` was."""
    places = np.argsort(order)
    return Graph(graph.rows[order], places[graph.edges])


def is_isomorphic(one: Graph, other: Graph) -> bool:
    """Whether a permutation of nodes takes one graph to the other, rows and edges alike."""
    if one.num_nodes != other.num_nodes or len(one.edges) != len(other.edges):
        return False
    mine, theirs = (_stable(graph) for graph in (one, other))
    if Counter(mine) != Counter(theirs):
        return False
    return next(_matchings(one, other, mine, theirs), None) is not None


def invariant(graph: Graph) -> bytes:
    """The same for isomorphic graphs; graphs that colours do not tell apart share it too."""
    stable = _stable(graph)
    parts = [_digest(b"".join(sorted(stable[node] for node in part))) for part in graph.components()]
    return _digest(b"".join(sorted(parts)))


def _stable(graph: Graph) -> list[bytes]:
    """Colours at a level at which no more nodes are told apart than at the one before."""
    level, number = 0, 0
    found = colours(graph, 0)
    while len(set(found)) > number:
        level, number = level + 1, len(set(found))
        found = colours(graph, level)
    return found


def _matchings(one: Graph, other: Graph, mine: list[bytes], theirs: list[bytes]) -> Iterator[dict[int, int]]:
    """Permutations of one graph's nodes onto the other's, by backtracking along edges."""
    here, there = one.neighbours(), [set(nodes) for nodes in other.neighbours()]
    order = _search_order(one, mine)
    places = {node: place for place, node in enumerate(order)}
    earlier = [[near for near in here[node] if places[near] < places[node]] for node in order]
    matched: dict[int, int] = {}

    def extend(place: int) -> Iterator[dict[int, int]]:
        if place == len(order):
            yield dict(matched)
            return
        node, taken = order[place], set(matched.values())
        for candidate in range(other.num_nodes):
            if candidate in taken or theirs[candidate] != mine[node]:
                continue
            if all(candidate in there[matched[near]] for near in earlier[place]):
                matched[node] = candidate
                yield from extend(place + 1)
                del matched[node]

    # Both have as many edges, so that a permutation that keeps edges keeps what is none too.
    yield from extend(0)


def _search_order(graph: Graph, colour: list[bytes]) -> list[int]:
    """Nodes with the rarest colours first, each next to an earlier one where there is one."""
    rarity, neighbours = Counter(colour), graph.neighbours()
    left, order, border = set(range(graph.num_nodes)), [], set()
    while left:
        node = min(border or left, key=lambda node: (rarity[colour[node]], node))
        order.append(node)
        left.discard(node)
        border = (border | set(neighbours[node])) & left
    return order
