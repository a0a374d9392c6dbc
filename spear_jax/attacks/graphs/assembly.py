"""Graphs of given colour counts: all of them, up to isomorphism.

A node's colour says how many neighbours of each colour of the level below it has, so that edges are a problem of degree
sequences between those. Edges are set node by node along what is connected already; nodes of one colour with the same
neighbours so far are interchangeable, and one of them stands for all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spear_jax.attacks.graphs.levels import NONE, Level
from spear_jax.graphs.graph import Graph, invariant, is_isomorphic

# Graphs of one count that are listed, assemblies that are completed for them, and edges that are set.
MOST_MEMBERS, MOST_ASSEMBLIES, MOST_STEPS = 256, 4_000, 100_000


class Assembled(NamedTuple):
    """Graphs of one count of colours.

    Attributes:
        graphs: no two isomorphic, connected ones first.
        is_cut: whether the search ended at a limit.
    """

    graphs: list[Graph]
    is_cut: bool


def assemble(
    level: Level, counts: np.ndarray, features: np.ndarray, is_connected: bool, most: int = MOST_MEMBERS
) -> Assembled:
    """All graphs with these numbers of nodes of each colour.

    Args:
        level: colours of the highest level.
        counts: (m,) int, nodes of each.
        features: (r, columns) rows of features that the level numbers.
        is_connected: whether only connected graphs are wanted.
        most: graphs that are listed.
    """
    colours = np.repeat(np.arange(len(counts)), counts)
    search, found = _Search(level, colours.tolist(), is_connected), defaultdict(list)
    is_cut, assemblies, total = False, 0, 0
    for edges in search.assemblies():
        assemblies += 1
        graph = Graph(features[level.rows[colours]], np.array(edges, int).reshape(-1, 2))
        alike = found[invariant(graph)]
        if not any(is_isomorphic(graph, other) for other in alike):
            alike.append(graph)
            total += 1
        if assemblies >= MOST_ASSEMBLIES or total >= most:
            is_cut = True
            break
    graphs = [graph for alike in found.values() for graph in alike]
    graphs.sort(key=lambda graph: not graph.is_connected)
    return Assembled(graphs, is_cut or search.is_out_of_steps)


class _Search:
    """Backtracking over edges."""

    def __init__(self, level: Level, colours: list[int], is_connected: bool) -> None:
        self.colours, self.is_connected = colours, is_connected
        self.own = [int(level.own[colour]) for colour in colours]
        self.needs = [Counter(slot for slot in level.slots[colour].tolist() if slot != NONE) for colour in colours]
        self.near: list[set[int]] = [set() for _ in colours]
        self.touched: list[int] = []
        self.by_own: dict[int, list[int]] = defaultdict(list)
        for node, own in enumerate(self.own):
            self.by_own[own].append(node)
        self.rarity = Counter(colours)
        self.steps, self.is_out_of_steps = 0, False

    def assemblies(self) -> Iterator[list[tuple[int, int]]]:
        """Edges of all graphs in which no node wants another neighbour."""
        node = next((node for node in self.touched if self.needs[node]), None)
        if node is None:
            yield from self._in_new_part()
            return
        wanted = min(self.needs[node])
        for partners in self._partners(node, wanted):
            self.steps += 1
            if self.steps > MOST_STEPS:
                self.is_out_of_steps = True
                return
            fresh = [partner for partner in partners if not self.near[partner]]
            self._join(node, partners)
            self.touched += fresh
            yield from self.assemblies()
            del self.touched[len(self.touched) - len(fresh) :]
            self._part(node, partners)

    def _in_new_part(self) -> Iterator[list[tuple[int, int]]]:
        """Begin at a node that has no neighbours yet, or end where there is none."""
        seen = set(self.touched)
        left = [node for node in range(len(self.colours)) if node not in seen]
        if not left:
            yield [(node, other) for node, near in enumerate(self.near) for other in near if node < other]
            return
        if self.touched and self.is_connected:
            return
        root = min(left, key=lambda node: (self.rarity[self.colours[node]], node))
        self.touched.append(root)
        yield from self.assemblies()
        self.touched.pop()

    def _partners(self, node: int, wanted: int) -> Iterator[list[int]]:
        """Choices of all neighbours of one colour below that a node still wants, one of each interchangeable kind."""
        alike: dict[tuple[int, frozenset[int]], list[int]] = defaultdict(list)
        for other in self.by_own[wanted]:
            if other != node and other not in self.near[node] and self.needs[other][self.own[node]] > 0:
                alike[self.colours[other], frozenset(self.near[other])].append(other)
        yield from _choices(list(alike.values()), self.needs[node][wanted])

    def _join(self, node: int, partners: list[int]) -> None:
        for partner in partners:
            self.near[node].add(partner)
            self.near[partner].add(node)
            for one, other in ((node, partner), (partner, node)):
                self.needs[one][self.own[other]] -= 1
                if not self.needs[one][self.own[other]]:
                    del self.needs[one][self.own[other]]

    def _part(self, node: int, partners: list[int]) -> None:
        for partner in partners:
            self.near[node].discard(partner)
            self.near[partner].discard(node)
            self.needs[node][self.own[partner]] += 1
            self.needs[partner][self.own[node]] += 1


def _choices(groups: list[list[int]], count: int) -> Iterator[list[int]]:
    """Nodes, so many of them, the first ones of each group."""
    if count == 0:
        yield []
        return
    if not groups or sum(map(len, groups)) < count:
        return
    for taken in range(min(len(groups[0]), count), -1, -1):
        for others in _choices(groups[1:], count - taken):
            yield groups[0][:taken] + others
