"""A direction that a view lacks, found from what candidates have outside of it.

Where aggregation is singular on classes of equal nodes, or two neighbourhoods share their active units, the row space
lacks one direction of the states. What true ones have outside of it is then parallel, while of wrong ones no two are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spear_jax.attacks.graphs.levels import NONE, outside, states_of
from spear_jax.attacks.graphs.neighbourhoods import Search
from spear_jax.attacks.graphs.views import View
from spear_jax.row_space import with_direction

# Candidates that are compared, how closely parallel vectors agree, and sets of them that are tried.
MOST_COMPARED, AGREE, MOST_TRIED = 1_000_000, 1e-7, 300


def with_missing_direction(search: Search, view: View) -> Iterator[View]:
    """The view with one more direction on which candidates agree, the one on which most agree first."""
    own, slots, outer = _compared(search)
    basis = np.asarray(view.found.space.basis, np.float64)[: view.rank]
    for places in _agreeing(outer):
        states = states_of(search.model, 0, search.tables, own[places], slots[places]).astype(np.float64)
        whole = states - (states @ basis.T) @ basis
        for few in _agreeing(whole)[:1]:
            if np.linalg.matrix_rank(states[few], tol=AGREE * np.linalg.norm(states)) > 1:
                yield view._replace(found=with_direction(view.found, np.linalg.svd(whole[few])[2][0]))


def _compared(search: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates, their neighbours, and what they have outside of the screen."""
    owns, near, outer, total = [np.zeros(0, int)], [np.zeros((0, search.max_degree), int)], [], 0
    for _, centres, candidates in search.outright() if search.screen is not None else ():
        for slots in candidates:
            total += len(centres) * len(slots)
            if total > MOST_COMPARED:
                break
            slots = np.pad(slots, ((0, 0), (0, search.max_degree - slots.shape[1])), constant_values=NONE)
            owns.append(np.repeat(centres, len(slots)))
            near.append(np.tile(slots, (len(centres), 1)))
            outer.append(outside(search.model, 0, search.screen, owns[-1], near[-1]))
    return np.concatenate(owns), np.concatenate(near), np.concatenate(outer) if outer else np.zeros((0, 1))


def _agreeing(vectors: np.ndarray) -> list[np.ndarray]:
    """Places of vectors that are parallel to others, two or more at a time, the largest sets first."""
    lengths = np.linalg.norm(vectors, axis=1)
    there = np.flatnonzero(lengths > AGREE * lengths.max(initial=0))
    units = vectors[there] / lengths[there, None]
    along = np.random.default_rng(0).normal(size=vectors.shape[1])
    units *= np.where(units @ along < 0, -1.0, 1.0)[:, None]
    order = np.argsort(units @ along, kind="stable")
    ends = np.linalg.norm(np.diff(units[order], axis=0), axis=1) > AGREE
    runs = [there[run] for run in np.split(order, np.flatnonzero(ends) + 1) if len(run) > 1]
    # Of equal vectors one counts: neighbourhoods with equal states are parallel anyway.
    return sorted(runs, key=lambda run: -len(np.unique(lengths[run].round(12))))[:MOST_TRIED]
