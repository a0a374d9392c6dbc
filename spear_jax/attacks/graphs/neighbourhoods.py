"""Tests of candidate neighbourhoods, a node's row and a multiset of its neighbours', each only once."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import numpy as np

from spear_jax.attacks.graphs.levels import (
    ANY,
    NONE,
    Level,
    Model,
    make_tables,
    misfits,
    states_of,
)
from spear_jax.attacks.graphs.screens import make_screen, passing
from spear_jax.attacks.graphs.views import View
from spear_jax.row_space import FITS

# Candidates of one number of neighbours that are tested outright: up to two neighbours, and more.
MOST_OF_FEW, MOST_OF_MANY = 4_000_000, 300_000
# Combinations that are listed at a time, and at all.
LISTED, MOST_LISTED = 1 << 17, 4_000_000


class Search:
    """Neighbourhoods that were found to fit.

    Attributes:
        model: the network.
        kinds: level 0.
        max_degree: most neighbours.
        found: those that fit: number of the node's kind, numbers of its neighbours' in rising order.
        tables: of level 0.
        screen: of the first view.
    """

    def __init__(self, model: Model, kinds: Level, views: list[View], max_degree: int) -> None:
        self.model, self.kinds, self.views = model, kinds, views
        self.max_degree = max_degree
        self.tables = make_tables(model, 0, kinds)
        self.screen = make_screen(model, 0, self.tables, views)
        self.found: dict[tuple[int, tuple[int, ...]], None] = {}

    def centres(self, degree: int) -> np.ndarray:
        """Kinds of nodes that may have so many neighbours."""
        return np.flatnonzero((self.kinds.degrees == degree) | (self.kinds.degrees == ANY))

    def neighbours(self) -> np.ndarray:
        """Kinds that may be a neighbour."""
        return np.flatnonzero(self.kinds.degrees != 0)

    def test(self, centres: np.ndarray, candidates: Iterator[np.ndarray]) -> None:
        """Keep what fits of all these centres with all these multisets (k, d) of neighbours."""
        if not len(centres):
            return
        for slots in candidates:
            width = _width(slots.shape[1], self.max_degree)
            slots = np.pad(slots, ((0, 0), (0, width - slots.shape[1])), constant_values=NONE)
            for part in np.array_split(centres, max(1, len(centres) * len(slots) // LISTED)):
                own = np.repeat(part, len(slots))
                around = np.tile(slots, (len(part), 1))
                if self.screen is not None:
                    passed = passing(self.model, 0, self.screen, own, around)
                    own, around = own[passed], around[passed]
                fits = misfits(self.model, 0, self.tables, self.views, (own, around)) <= FITS
                for centre, near in zip(own[fits].tolist(), around[fits].tolist(), strict=True):
                    self.found[centre, tuple(kind for kind in near if kind != NONE)] = None

    def outright(self) -> Iterator[tuple[int, np.ndarray, Iterator[np.ndarray]]]:
        """Numbers of neighbours of which all combinations can be tested, their centres and multisets of neighbours."""
        around = self.neighbours()
        for degree in range(self.max_degree + 1):
            centres = self.centres(degree)
            cost = len(centres) * (comb(len(around) + degree - 1, degree) if degree else 1)
            if cost <= (MOST_OF_FEW if degree <= 2 else MOST_OF_MANY):
                yield degree, centres, multisets(around, degree) if len(centres) else iter(())

    def test_outright(self) -> list[int]:
        """Test all combinations of few neighbours; the numbers of neighbours of which there are too many."""
        tested = set()
        for degree, centres, candidates in self.outright():
            self.test(centres, candidates)
            tested.add(degree)
        return [degree for degree in range(self.max_degree + 1) if degree not in tested]

    def level(self, stars: list[tuple[int, tuple[int, ...]]]) -> Level:
        """Neighbourhoods as a level."""
        own = np.array([centre for centre, _ in stars], int)
        slots = np.full((len(stars), self.max_degree), NONE)
        for place, (_, near) in enumerate(stars):
            slots[place, : len(near)] = near
        states = states_of(self.model, 0, self.tables, own, slots)
        return Level(own, slots, (slots != NONE).sum(axis=1), self.kinds.rows[own], states)


def multisets(kinds: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Multisets (k, size) of some kinds, in rising order within each, some thousands at a time."""
    if size == 0:
        yield np.zeros((1, 0), int)
        return
    places = np.arange(len(kinds))[:, None]
    for _ in range(size - 1):
        counts = len(kinds) - places[:, -1]
        if counts.sum() > 2 * MOST_LISTED:
            raise MemoryError("more multisets than may be listed")  # callers count them first
        last = (
            np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(places[:, -1], counts)
        )
        places = np.concatenate([np.repeat(places, counts, axis=0), last[:, None]], axis=1)
    for start in range(0, len(places), LISTED):
        yield kinds[places[start : start + LISTED]]


def _width(degree: int, most: int) -> int:
    """Slots that candidates are padded to: few programs."""
    return (
        min(next(width for width in (2, 4, max(most, 4)) if degree <= width), max(most, 1))
        if degree <= most
        else degree
    )
