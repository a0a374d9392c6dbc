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

from spear_jax import linalg
from spear_jax.attacks.graphs.levels import ANY, Level, Model, read_by
from spear_jax.attacks.graphs.missing import with_missing_direction
from spear_jax.attacks.graphs.mixtures import may_be_mixed
from spear_jax.attacks.graphs.neighbourhoods import LISTED, Search, multisets
from spear_jax.attacks.graphs.views import View, is_bent
from spear_jax.stages import stage

# Candidates of one number of neighbours that are tested outright: up to two neighbours, and more.
MOST_OF_FEW, MOST_OF_MANY = 4_000_000, 300_000
# Candidates with one row that is not known, or all, that are tested at most.
MOST_WIDENED = 3_000_000


class Stars(NamedTuple):
    """Neighbourhoods that fit.

    Attributes:
        level: of them; empty where none fit.
        kinds: level 0.
        is_whole: whether all combinations that the rows allow were tested, and none that fits is a mixture of others.
        missing: directions of the view that no neighbourhood explains; 0 where that is not known.
    """

    level: Level
    kinds: Level
    is_whole: bool
    missing: int


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
    stars = _find(search)
    if not stars.missing:
        return _told(search, stars)
    for wider in with_missing_direction(search, views[0]):
        other = Search(model, kinds, [wider, *views[1:]], max_degree)
        more = _find(other)
        if len(more.level) and not more.missing:
            return _told(other, more)
    return stars


def _told(search: Search, stars: Stars) -> Stars:
    """The same, with whether what fits is told from mixtures of what does not."""
    is_told = stars.is_whole and is_bent(search.model.architecture, 1) and not may_be_mixed(search, stars.level)
    return stars._replace(is_whole=is_told)


def _find(search: Search) -> Stars:
    open_degrees = search.test_outright()
    if open_degrees:
        _with_known(search, open_degrees)
        if not len(search.found) or _stars(search, False).missing:
            _with_unknown(search, open_degrees)
    return _stars(search, not open_degrees)


def _stars(search: Search, is_whole: bool) -> Stars:
    """What is consistent of all that fits."""
    level = search.level(consistent(list(search.found), search.kinds.degrees, ()))
    view = search.views[0]
    if view.reads == "joint":  # of rows too, as nothing below the highest level is read
        return Stars(level, search.kinds, is_whole, view.rank * (not len(level)))
    missing = len(unexplained(view, read_by(search.model, 0, search.tables, view, level)))
    return Stars(level, search.kinds, is_whole and not view.is_guessed, missing)


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
                search.test(centres, multisets(around, degree))


def _with_unknown(search: Search, degrees: list[int]) -> None:
    """Nodes of more neighbours of which one row, of the node or of a neighbour, is not yet known."""
    known = np.array(sorted(_known(search, degrees)), int)
    around = np.intersect1d(known, search.neighbours())
    others = np.setdiff1d(search.neighbours(), around)
    for degree in degrees:
        centres = search.centres(degree)
        inside, strange = np.intersect1d(centres, known), np.setdiff1d(centres, known)
        if len(strange) * comb(len(around) + degree - 1, degree) <= MOST_WIDENED:
            search.test(strange, multisets(around, degree))
        if len(inside) * len(others) * comb(len(around) + degree - 2, degree - 1) <= MOST_WIDENED:
            search.test(inside, _with_one(around, others, degree))
    _with_known(search, degrees)


def _known(search: Search, degrees: list[int]) -> set[int]:
    """Rows that consistent neighbourhoods name; of nodes that were not tested nothing is asked."""
    found = consistent(list(search.found), search.kinds.degrees, degrees)
    return {kind for centre, near in found for kind in (centre, *near)}


def _with_one(kinds: np.ndarray, others: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Multisets (k, size) of some kinds and exactly one of the others."""
    for part in multisets(kinds, size - 1):
        for some in np.array_split(others, max(1, len(others) * len(part) // LISTED)):
            both = np.concatenate([np.tile(part, (len(some), 1)), np.repeat(some, len(part))[:, None]], axis=1)
            yield np.sort(both, axis=1)


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


def unexplained(view: View, states: np.ndarray) -> np.ndarray:
    """(k, d) what is left of a view's directions outside the span of what its layer reads, above its noise."""
    eps = float(np.finfo(states.dtype).eps)
    _, sizes, basis = linalg.svd(states.astype(np.float64), full_matrices=False)
    basis = basis[sizes > 64 * eps * sizes[:1]] if len(sizes) else np.zeros((0, view.found.directions.shape[1]))
    left = view.found.directions
    for _ in range(2):
        left = left - (left @ basis.T) @ basis
    floor = 30 * view.found.noise * np.sqrt(sum(left.shape)) + 1e3 * eps * np.linalg.norm(view.found.directions)
    values = linalg.svd(left, compute_uv=False)
    return left[: int((values > floor).sum())]
