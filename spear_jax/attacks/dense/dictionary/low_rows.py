"""Rows on which a batch that is not centred looks centred: those of low offset, each scaled to what it tells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spear_jax import linalg
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage

# Steps towards Tyler's fixed point, and the least factor of one step.
TYLER_STEPS, MIN_LEVERAGE = 2, 0.2


class RowSet(NamedTuple):
    """Rows that look centred, in coordinates of their own: ``left[rows] q = scale (left' q')``, ``q' = change @ q``.

    Attributes:
        rows: (s,) indices.
        left: (s, r) orthonormal columns, of the scaled rows.
        spectrum: (r,) singular values of the scaled rows of G.
        rotation: (r, r) right singular vectors of these, one a row, in the coordinates of ``right``'s directions.
    """

    rows: Int[np.ndarray, " s"]
    left: Float[np.ndarray, "s r"]
    spectrum: Float[np.ndarray, " r"]
    rotation: Float[np.ndarray, "r r"]


@stage("low rows")
def low_rows(problem: Problem, fraction: float) -> RowSet:
    """The live rows of lowest offset, scaled by Tyler's steps.

    Args:
        problem: of the layer.
        fraction: share of the live rows to take, at least as many as the rank.
    """
    rank = problem.rank
    order = problem.live_rows[np.argsort(problem.offset[problem.live_rows], kind="stable")]
    rows = order[: max(round(fraction * len(order)), rank)]
    gradient = problem.left[rows] * problem.spectrum
    size = np.linalg.norm(gradient, axis=1, keepdims=True)
    for step in range(TYLER_STEPS + 1):
        left, values, rotation = linalg.svd(gradient / size, full_matrices=False)
        if step < TYLER_STEPS:
            leverage = np.linalg.norm(left, axis=1, keepdims=True) * np.sqrt(len(rows) / rank)
            size = size * np.maximum(leverage, MIN_LEVERAGE)
    return RowSet(rows, left, values, rotation)
