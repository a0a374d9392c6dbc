"""Depth-first gluing of neighbourhoods to a connected graph of a given number of nodes, a step of `depth_first_graphs`.

Every node of the graph that grows has a neighbourhood. The first one that lacks neighbours gets the next one: a new
node, or one that lacks neighbours too, which closes a cycle. Where whole blocks of two hops are known, only what is a
part of one stays. Choices for one node are made in rising order, so that no order of equal neighbours comes twice.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

Edges = list[tuple[int, int]]
# Of each neighbourhood, multisets of its neighbours' neighbourhoods, in rising order.
Parts = list[set[tuple[int, ...]]]
# Judges a complete graph by the rows of its nodes and its edges: whether it is the one.
Judge = Callable[[list[int], Edges], bool]


class Pieces(NamedTuple):
    """Neighbourhoods.

    Attributes:
        kinds: number of the row of each one's centre.
        near: numbers of its neighbours' rows, in rising order.
        parts: those that are part of a block of two hops which fits; None where blocks were not tested.
    """

    kinds: list[int]
    near: list[tuple[int, ...]]
    parts: Parts | None = None

    def naming(self, kind: int, other: int) -> list[int]:
        """Neighbourhoods of nodes of another kind that name one of this kind."""
        return [star for star, centre in enumerate(self.kinds) if centre == other and kind in self.near[star]]


class Gluing:
    """The search and the graph that it has so far.

    Attributes:
        largest: kinds of nodes and edges of the largest part of a graph met.
        is_stopped: whether time ran out.
    """

    def __init__(self, pieces: Pieces, nodes: int, judge: Judge, deadline: float) -> None:
        self.pieces, self.nodes, self.judge, self.deadline = pieces, nodes, judge, deadline
        self.stars: list[int] = []
        self.around: list[list[int]] = []
        self.lacks: list[list[int]] = []
        self.edges: Edges = []
        self.tried: set[tuple[tuple[int, ...], ...]] = set()
        self.largest: tuple[list[int], Edges] | None = None
        self.is_stopped = False
        self.naming = functools.cache(pieces.naming)

    def run(self, starts: list[int]) -> bool:
        """Grow graphs from one neighbourhood after another until the judge takes one."""
        for star in starts:
            self._put(star)
            if self._grow(0, -1, -1):
                return True
            self._take()
            if self.is_stopped:
                break
        return False

    def _grow(self, node: int, kind: int, least: int) -> bool:
        """Give the first node that lacks neighbours all it may have next.

        Args:
            node: none before it lacks any.
            kind: of the neighbour that came last.
            least: the choice made for it; further ones of this kind for this node are not below.
        """
        self.is_stopped = self.is_stopped or time.process_time() > self.deadline
        if self.is_stopped:
            return False
        first = next((place for place in range(node, len(self.stars)) if self.lacks[place]), None)
        if self.largest is None or len(self.stars) > len(self.largest[0]):
            self.largest = (self._kinds(), list(self.edges))
        if first is None:
            return len(self.stars) == self.nodes and self._judged()
        wanted = self.lacks[first][0]
        bound = least if (first, wanted) == (node, kind) else -1
        for choice in self._choices(first, wanted):
            if choice < bound:
                continue
            is_new = choice >= self.nodes
            other = self._put(choice - self.nodes) if is_new else choice
            self._join(first, other)
            # A node that closed a cycle is no choice again, a neighbourhood of a new node is.
            if self._grow(first, wanted, choice):
                return True
            self._part(first, other)
            if is_new:
                self._take()
            if self.is_stopped:
                return False
        return False

    def _choices(self, node: int, kind: int) -> Iterator[int]:
        """Numbers of nodes that lack this one, then those of new nodes' neighbourhoods, from the number of nodes on."""
        star = self.stars[node]
        own = self.pieces.kinds[star]
        for other in range(node + 1, len(self.stars)):
            theirs = self.stars[other]
            is_wanted = self.pieces.kinds[theirs] == kind and own in self.lacks[other]
            if is_wanted and other not in self.around[node] and self._fits(node, theirs) and self._fits(other, star):
                yield other
        if len(self.stars) < self.nodes:
            for fresh in self.naming(own, kind):
                is_open = self.pieces.parts is None or (star,) in self.pieces.parts[fresh]
                if is_open and self._fits(node, fresh):
                    yield self.nodes + fresh

    def _fits(self, node: int, star: int) -> bool:
        """Whether a node may have one more neighbour of this neighbourhood."""
        if self.pieces.parts is None:
            return True
        together = sorted([*(self.stars[other] for other in self.around[node]), star])
        return tuple(together) in self.pieces.parts[self.stars[node]]

    def _judged(self) -> bool:
        """What the judge says; graphs of the same blocks have the same gradient and are shown to it once."""
        blocks = [
            (star, *sorted(self.stars[other] for other in near))
            for star, near in zip(self.stars, self.around, strict=True)
        ]
        signature = tuple(sorted(blocks))
        if signature in self.tried:
            return False
        self.tried.add(signature)
        return self.judge(self._kinds(), list(self.edges))

    def _kinds(self) -> list[int]:
        return [self.pieces.kinds[star] for star in self.stars]

    def _put(self, star: int) -> int:
        self.stars.append(star)
        self.around.append([])
        self.lacks.append(list(self.pieces.near[star]))
        return len(self.stars) - 1

    def _take(self) -> None:
        for stack in (self.stars, self.around, self.lacks):
            stack.pop()

    def _join(self, node: int, other: int) -> None:
        for one, two in ((node, other), (other, node)):
            self.around[one].append(two)
            self.lacks[one].remove(self.pieces.kinds[self.stars[two]])
        self.edges.append((node, other))

    def _part(self, node: int, other: int) -> None:
        for one, two in ((node, other), (other, node)):
            self.around[one].remove(two)
            self.lacks[one] = sorted([*self.lacks[one], self.pieces.kinds[self.stars[two]]])
        self.edges.pop()
