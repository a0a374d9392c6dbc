"""The one heavy step of release and polish: weighted null vectors of all columns at once, by matrix products alone.

For each column i the vector q nearest to annihilating the rows that weigh, ``min_q sum_k w_ki (rows_k q)^2`` subject to
``start_i . q = 1`` (one step of inverse iteration). With q = start + v, v orthogonal to start, this is least squares in
v; its conjugate gradients (CGLS, Björck, Numerical Methods for Least Squares Problems, Sec. 7.4) cost two products of
(m, r) by (r, k) per step for all k columns together, where one Gram matrix per column costs r / 2 times as much. As
rows are orthonormal and zeros plenty, the condition number is that of a random submatrix, 5 at m = 8 r: few steps do.
The residual is formed in the rows, so nothing loses accuracy to a squared condition number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spear_jax import linalg
from spear_jax.types import Array


class Descent(NamedTuple):
    """Between two steps.

    Attributes:
        correction: (r, k) v, orthogonal to the start.
        gradient: (r, k) minus the gradient at v, orthogonal to the start.
        heading: (r, k) direction of the next step.
        norm: (1, k) squared norm of the gradient.
    """

    correction: Any
    gradient: Any
    heading: Any
    norm: Any


def first_step(rows: Float[Array, "m r"], weights: Float[Array, "m k"], start: Float[Array, "r k"]) -> Descent:
    """The descent from v = 0, for unit columns ``start``."""
    gradient = _orthogonal(-(rows.T @ (weights * (rows @ start))), start)
    return Descent(start * 0, gradient, gradient, (gradient**2).sum(axis=0, keepdims=True))


def next_step(
    rows: Float[Array, "m r"], weights: Float[Array, "m k"], start: Float[Array, "r k"], at: Descent, tiny: float
) -> Descent:
    """One conjugate-gradient step; ``tiny`` keeps columns that are done, whose norm vanishes, where they are."""
    image = rows @ at.heading
    length = at.norm / ((weights * image**2).sum(axis=0, keepdims=True) + tiny)
    gradient = _orthogonal(at.gradient - length * (rows.T @ (weights * image)), start)
    norm = (gradient**2).sum(axis=0, keepdims=True)
    heading = gradient + norm / (at.norm + tiny) * at.heading
    return Descent(at.correction + length * at.heading, gradient, heading, norm)


def unit(columns: Float[Array, "r k"]) -> Any:
    """The columns scaled to unit norm."""
    return columns / ((columns**2).sum(axis=0, keepdims=True)) ** 0.5


def _orthogonal(columns: Any, start: Any) -> Any:
    return columns - start * (columns * start).sum(axis=0, keepdims=True)


def null_vectors_float64(rows: Float[np.ndarray, "hits k r"]) -> Float[np.ndarray, "hits r"]:
    """Null vectors of hits on the host in float64, by SVD: the reference for `null_vector`."""
    return linalg.svd(rows)[2][:, -1]
