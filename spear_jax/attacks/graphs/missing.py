"""A direction that a view lacks, found from what candidates have outside of it.

Where aggregation is singular on classes of equal nodes, or two neighbourhoods share their active units, the row space
lacks one direction of the states. What true ones have outside of it is then parallel, while of wrong ones no two are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from spear_jax import linalg
from spear_jax.attacks.graphs.levels import NONE, states_of
from spear_jax.attacks.graphs.neighbourhoods import Search
from spear_jax.attacks.graphs.rows import seen_rows
from spear_jax.attacks.graphs.screens import outside
from spear_jax.attacks.graphs.views import View
from spear_jax.graphs.observation import GraphObservation

# Candidates that are compared, and sets of them that are tried; how closely parallel vectors agree, by dtype.
MOST_COMPARED, MOST_TRIED = 250_000, 300
AGREE = {"float64": 1e-7, "float32": 2e-3}


def with_missing_row_direction(observation: GraphObservation, view: View) -> View | None:
    """The view of rows with one more direction, on which most rows of different size agree; None where no two do.

    Rows that differ from true ones by the same labels agree too, but are all of one size outside of the view.
    """
    rows = seen_rows(observation, view.name)
    basis = np.asarray(view.found.space.basis, np.float64)[: view.rank]
    outer = rows - (rows @ basis.T) @ basis
    agree = AGREE[view.found.space.basis.dtype.name]
    sets = _agreeing(outer, agree)
    if not sets:
        return None
    return view.guessed(linalg.svd(outer[sets[0]], full_matrices=False)[2][0])


def with_missing_direction(search: Search, view: View) -> Iterator[View]:
    """The view with one more direction on which candidates agree, the one on which most agree first.

    Only of views that read nodes' states: what enters a layer inside a convolution is not aggregated, and lacks none.
    """
    if view.reads != "states" or view.has_one:
        return
    own, slots, outer = _compared(search)
    basis = np.asarray(view.found.space.basis, np.float64)[: view.rank]
    agree = AGREE[view.found.space.basis.dtype.name]
    for places in _agreeing(outer, agree):
        states = states_of(search.model, 0, search.tables, own[places], slots[places]).astype(np.float64)
        whole = states - (states @ basis.T) @ basis
        for few in _agreeing(whole, agree)[:1]:
            if linalg.matrix_rank(states[few], tol=agree * np.linalg.norm(states)) > 1:
                yield view.guessed(linalg.svd(whole[few])[2][0])


def _compared(search: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates, their neighbours, and what they have outside of the screen."""
    owns, near, outer, total = [np.zeros(0, int)], [np.zeros((0, search.max_degree), int)], [], 0
    screen = search.screen
    for _, centres, candidates in () if screen is None else search.outright():
        for slots in candidates:
            total += len(centres) * len(slots)
            if total > MOST_COMPARED or screen is None:
                break
            slots = np.pad(slots, ((0, 0), (0, search.max_degree - slots.shape[1])), constant_values=NONE)
            owns.append(np.repeat(centres, len(slots)))
            near.append(np.tile(slots, (len(centres), 1)))
            outer.append(outside(search.model, 0, screen, owns[-1], near[-1]))
    return np.concatenate(owns), np.concatenate(near), np.concatenate(outer) if outer else np.zeros((0, 1))


def _agreeing(vectors: np.ndarray, agree: float) -> list[np.ndarray]:
    """Places of vectors that are parallel to others, two or more at a time, the largest sets first."""
    lengths = np.linalg.norm(vectors, axis=1)
    there = np.flatnonzero(lengths > 10 * agree * lengths.max(initial=0))
    units = vectors[there] / lengths[there, None]
    along = np.random.default_rng(0).normal(size=vectors.shape[1])
    units *= np.where(units @ along < 0, -1.0, 1.0)[:, None]
    pairs = KDTree(units).query_pairs(agree, output_type="ndarray")
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(there), len(there)))
    _, part = connected_components(joined, directed=False)
    order = np.argsort(part, kind="stable")
    runs = [there[run] for run in np.split(order, np.flatnonzero(np.diff(part[order])) + 1) if len(run) > 1]
    # Of equal vectors one counts: neighbourhoods with equal states are parallel anyway.
    return sorted(runs, key=lambda run: (-_sizes(lengths[run], agree), -len(run)))[:MOST_TRIED]


def _sizes(lengths: np.ndarray, agree: float) -> int:
    """Number of different lengths among some."""
    return 1 + int(np.sum(np.diff(np.sort(lengths)) > agree * lengths.max()))
