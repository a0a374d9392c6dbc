"""From nearly sparse to sparse: each direction fitted to all rows where it is zero, in float64.

Null vectors with weights ``width^2 / (y^2 + width^2)`` (iteratively reweighted least squares; docs/method.md, Sec. 4).
The width of each column falls with what its zero rows still show: one that falls ahead of the fit leaves a vertex,
exact on r - 1 rows and wrong on the rest, which cost up to a third of the zeros where m is little more than 4 r.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from spear_jax import numerics
from spear_jax.attacks.dense.directions.null_vectors import first_step, next_step, unit
from spear_jax.stages import stage
from spear_jax.types import Factorization

# Widths are relative to the rms entry: the first is the search's zero test, the last near rounding.
FIRST_WIDTH, LAST_WIDTH = 1e-2, 1e-12
# The next width is this many times the entry with r + SPARE smaller ones, and at most this share of the last width, but
# never below that entry itself, which ends at the noise.
WIDEN, SHRINK, SPARE = 3.0, 0.3, 4
MAX_WIDTHS = 24
# A column that has not halved what its zero rows show over this many widths is no direction: it is left as it is.
PATIENCE = 8
# The same where columns come back nearer after each release: at r = 256 that finds 107 of 109 in a third of the time.
LITTLE_PATIENCE = 2
# A null vector is solved until its gradient has fallen by this; the next width goes on from there.
REDUCTION = 1e-2
# It ends when this share of the columns is there: the others have more widths to come, among themselves.
MAX_STEPS, MOST = 80, 0.9
# Columns are padded to a multiple of this, so that few shapes are compiled.
COLUMN_BUCKET = 16


@stage("polish")
def polish(
    factorization: Factorization, directions: Float[np.ndarray, "k r"], patience: int = PATIENCE
) -> Float[np.ndarray, "k r"]:
    """Fit each direction to its zero rows.

    Args:
        factorization: of the weight gradient.
        directions: (k, r) unit directions, within 1e-2 or so of sparse ones.
        patience: widths over which a column must have come nearer.

    Returns:
        (k, r) float64 unit directions with canonical sign.
    """
    left = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    count, rank = left.shape
    if rank == 1 or len(directions) == 0:
        return directions
    xp: Any = numerics.float64_namespace()
    norms = np.linalg.norm(left, axis=1, keepdims=True)
    # Rows of unit norm weigh alike; an orthonormal basis of them keeps the null vectors well conditioned.
    rows, triangle = numerics.float64_linalg().qr(xp.asarray(left / norms))
    columns = triangle @ xp.asarray(directions.T)
    # Noise and rounding are the same in every row, so dividing by a small norm makes them larger there.
    noise = factorization.noise_std * numerics.noise_gain(factorization, directions) + numerics.EPS64
    floor = xp.asarray(noise[None] / norms) * count**0.5 / (columns**2).sum(axis=0, keepdims=True) ** 0.5
    place = min(rank + SPARE, count - 1)
    width, best = np.full(len(directions), FIRST_WIDTH), np.full((patience, len(directions)), np.inf)
    active = np.arange(len(directions))
    for _ in range(MAX_WIDTHS):
        chosen = np.resize(active, COLUMN_BUCKET * 2 ** max(0, math.ceil(math.log2(len(active) / COLUMN_BUCKET))))
        solved = unit(_null_vectors(rows, unit(columns[:, chosen]), width[None, chosen], floor[:, chosen]))
        columns = _put(columns, active, solved[:, : len(active)])
        entries = xp.partition(abs(rows @ solved[:, : len(active)]), place, axis=0)[place]
        shown = np.asarray(entries) * count**0.5
        narrowed = np.maximum(np.minimum(WIDEN * shown, SHRINK * width[active]), np.maximum(shown, LAST_WIDTH))
        going_on = (narrowed < 0.9 * width[active]) & (shown < 0.5 * best[0, active])
        width[active] = narrowed
        best[:, active] = np.concatenate([best[1:, active], shown[None]])
        active = active[going_on]
        if len(active) == 0:
            break
    finished = np.asarray(numerics.float64_linalg().solve(triangle, columns)).T
    return numerics.canonical_sign(finished / np.linalg.norm(finished, axis=1, keepdims=True))


def _put(columns: Any, places: np.ndarray, values: Any) -> Any:
    """The columns with these values at these places."""
    if isinstance(columns, np.ndarray):
        columns[:, places] = values
        return columns
    return columns.at[:, places].set(values)


@numerics.compiled
def _null_vectors(rows: Any, columns: Any, width: Any, floor: Any) -> Any:
    """Null vectors at one width, (1, k), from unit columns."""
    entries = rows @ columns * len(rows) ** 0.5
    weights = width**2 / (entries**2 + (floor + width) ** 2)
    start = first_step(rows, weights, columns)
    goal, tiny = REDUCTION**2 * start.norm + numerics.EPS64**2, float(np.finfo(np.float64).tiny)
    goes_on = lambda state: ((state[1].norm <= goal).mean() < MOST) & (state[0] < MAX_STEPS)
    step = lambda state: (state[0] + 1, next_step(rows, weights, columns, state[1], tiny))
    return columns + numerics.repeat(goes_on, step, (0, start))[1].correction
