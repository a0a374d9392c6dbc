"""Level 1: which node with which neighbours lies in what the next layer reads, over all that the rows allow.

Nodes of few neighbours are tested with all rows. What is accepted there names the rows that are there, so that the many
combinations of nodes with more neighbours are tested over these first, then with one more that is not known, until the
neighbourhoods explain every direction of the view and each neighbour has a neighbourhood that names it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import NamedTuple

import numpy as np

from spear_jax.attacks.graphs.levels import (
    ANY,
    NONE,
    Level,
    Model,
    Tables,
    make_screen,
    make_tables,
    misfits,
    passing,
    states_of,
)
from spear_jax.attacks.graphs.views import View
from spear_jax.row_space import FITS
from spear_jax.stages import stage

# Candidates of one number of neighbours that are tested outright: up to two neighbours, and more.
MOST_OF_FEW, MOST_OF_MANY = 4_000_000, 300_000
# Candidates with one row that is not known, or all, that are tested at most.
MOST_WIDENED = 3_000_000
# Combinations that are listed at a time.
LISTED = 1 << 17


class Stars(NamedTuple):
    """Neighbourhoods that fit.

    Attributes:
        level: of them; empty where none fit.
        kinds: level 0.
        is_whole: whether all combinations that the rows allow were tested.
        tested: number of combinations that were tested.
    """

    level: Level
    kinds: Level
    is_whole: bool
    tested: int


class Search:
    """Tests of neighbourhoods, each only once."""

    def __init__(self, model: Model, kinds: Level, views: list[View], max_degree: int) -> None:
        self.model, self.kinds, self.views = model, kinds, views
        self.max_degree, self.tested = max_degree, 0
        self._tables: Tables = make_tables(model, 0, kinds)
        self._screen = make_screen(model, 0, self._tables, views)
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
                self.tested += len(own)
                if self._screen is not None:
                    passed = passing(self.model, 0, self._screen, own, around)
                    own, around = own[passed], around[passed]
                fits = misfits(self.model, 0, self._tables, self.views, own, around) <= FITS
                for centre, near in zip(own[fits].tolist(), around[fits].tolist(), strict=True):
                    self.found[centre, tuple(kind for kind in near if kind != NONE)] = None

    def level(self, stars: list[tuple[int, tuple[int, ...]]]) -> Level:
        """Neighbourhoods as a level."""
        own = np.array([centre for centre, _ in stars], int)
        slots = np.full((len(stars), self.max_degree), NONE)
        for place, (_, near) in enumerate(stars):
            slots[place, : len(near)] = near
        states = states_of(self.model, 0, self._tables, own, slots)
        return Level(own, slots, (slots != NONE).sum(axis=1), self.kinds.rows[own], states)


@stage("graphs: neighbourhoods")
def find_stars(model: Model, kinds: Level, views: list[View], max_degree: int) -> Stars:
    """The neighbourhoods that fit some views, each neighbour of which has one that names it back.

    Args:
        model: the network.
        kinds: level 0.
        views: of level 1, one or more.
        max_degree: most neighbours.
    """
    search = Search(model, kinds, views, max_degree)
    around, open_degrees = search.neighbours(), []
    for degree in range(max_degree + 1):
        centres = search.centres(degree)
        cost = len(centres) * comb(len(around) + degree - 1, degree) if len(around) or not degree else 0
        if cost <= (MOST_OF_FEW if degree <= 2 else MOST_OF_MANY):
            search.test(centres, _multisets(around, degree))
        elif len(centres):
            open_degrees.append(degree)
    if open_degrees:
        _with_known(search, open_degrees)
        found = consistent(list(search.found), kinds.degrees, ())
        is_explained = bool(found) and all(explains(search.level(found), model, view) for view in views[:1])
        if not is_explained:
            _with_unknown(search, open_degrees)
    found = consistent(list(search.found), kinds.degrees, ())
    return Stars(search.level(found), kinds, not open_degrees, search.tested)


def _with_known(search: Search, degrees: list[int]) -> None:
    """Nodes of more neighbours over rows that accepted neighbourhoods name, as long as these name more."""
    known: set[int] = set()
    while True:
        fresh = _known(search, degrees)
        if fresh <= known:
            return
        known |= fresh
        around = np.intersect1d(sorted(known), search.neighbours())
        for degree in degrees:
            centres = np.intersect1d(sorted(known), search.centres(degree))
            if len(centres) * comb(len(around) + degree - 1, degree) <= MOST_WIDENED:
                search.test(centres, _multisets(around, degree))


def _with_unknown(search: Search, degrees: list[int]) -> None:
    """Nodes of more neighbours of which one row, of the node or of a neighbour, is not yet known."""
    known = np.array(sorted(_known(search, degrees)), int)
    around = np.intersect1d(known, search.neighbours())
    others = np.setdiff1d(search.neighbours(), around)
    for degree in degrees:
        centres = search.centres(degree)
        inside, outside = np.intersect1d(centres, known), np.setdiff1d(centres, known)
        if len(outside) * comb(len(around) + degree - 1, degree) <= MOST_WIDENED:
            search.test(outside, _multisets(around, degree))
        if len(inside) * len(others) * comb(len(around) + degree - 2, degree - 1) <= MOST_WIDENED:
            search.test(inside, _with_one(around, others, degree))
    _with_known(search, degrees)


def _known(search: Search, degrees: list[int]) -> set[int]:
    """Rows that consistent neighbourhoods name; of nodes that were not tested nothing is asked."""
    found = consistent(list(search.found), search.kinds.degrees, degrees)
    return {kind for centre, near in found for kind in (centre, *near)}


def _multisets(kinds: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Multisets (k, size) of some kinds, in rising order within each, some thousands at a time."""
    if size == 0:
        yield np.zeros((1, 0), int)
        return
    places = np.arange(len(kinds))[:, None]
    for _ in range(size - 1):
        counts = len(kinds) - places[:, -1]
        if counts.sum() > MOST_WIDENED:
            raise MemoryError("more multisets than may be listed")  # callers count them first
        last = (
            np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(places[:, -1], counts)
        )
        places = np.concatenate([np.repeat(places, counts, axis=0), last[:, None]], axis=1)
    for start in range(0, len(places), LISTED):
        yield kinds[places[start : start + LISTED]]


def _with_one(kinds: np.ndarray, others: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Multisets (k, size) of some kinds and exactly one of the others."""
    for part in _multisets(kinds, size - 1):
        for some in np.array_split(others, max(1, len(others) * len(part) // LISTED)):
            both = np.concatenate([np.tile(part, (len(some), 1)), np.repeat(some, len(part))[:, None]], axis=1)
            yield np.sort(both, axis=1)


def _width(degree: int, most: int) -> int:
    """Slots that candidates are padded to: few programs."""
    return (
        min(next(width for width in (2, 4, max(most, 4)) if degree <= width), max(most, 1))
        if degree <= most
        else degree
    )


def consistent(
    stars: list[tuple[int, tuple[int, ...]]], degrees: np.ndarray, open_degrees: list[int] | tuple[int, ...]
) -> list[tuple[int, tuple[int, ...]]]:
    """The neighbourhoods each neighbour of which has one that names the node back, in their order.

    Args:
        stars: kind of the node, kinds of its neighbours.
        degrees: (m,) of each kind.
        open_degrees: of nodes with so many neighbours not all neighbourhoods were tested: they count as there.
    """
    is_open = {
        kind for kind in range(len(degrees)) if degrees[kind] in open_degrees or (open_degrees and degrees[kind] == ANY)
    }
    while True:
        named = {(centre, kind) for centre, near in stars for kind in near}
        kept = [
            (centre, near) for centre, near in stars if all((kind, centre) in named or kind in is_open for kind in near)
        ]
        if len(kept) == len(stars):
            return kept
        stars = kept


def explains(level: Level, model: Model, view: View) -> bool:
    """Whether states of colours span all directions of a view; views within convolutions are taken as explained."""
    if view.reads != "states":
        return True
    return not len(unexplained(view, level.states))


def unexplained(view: View, states: np.ndarray) -> np.ndarray:
    """(k, d) what is left of a view's directions outside the span of some states, above its noise."""
    eps = float(np.finfo(states.dtype).eps)
    _, sizes, basis = np.linalg.svd(states.astype(np.float64), full_matrices=False)
    basis = basis[sizes > 64 * eps * sizes[:1]] if len(sizes) else np.zeros((0, view.found.directions.shape[1]))
    left = view.found.directions
    for _ in range(2):
        left = left - (left @ basis.T) @ basis
    floor = 30 * view.found.noise * np.sqrt(sum(left.shape)) + 1e3 * eps * np.linalg.norm(view.found.directions)
    values = np.linalg.svd(left, compute_uv=False)
    return left[: int((values > floor).sum())]
