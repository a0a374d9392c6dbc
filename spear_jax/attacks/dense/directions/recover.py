"""Scale and inputs from r directions: ``X^T = Q^-1 R`` with ``Q = Qbar diag(s)`` (SPEAR, Thm. 3.2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from spear_jax import linalg
from spear_jax.numerics import EPS64, float64_linalg, to_float64
from spear_jax.types import Array, Factorization


def recover_scale(
    factorization: Factorization, bias_grad: Float[Array, " m"], directions: Float[np.ndarray, "r r"]
) -> Float[np.ndarray, " r"]:
    """The scales s with ``Qbar s = left^T bias_grad``, as ``bias_grad = D 1 = left Q 1``.

    Args:
        factorization: with orthonormal ``left``.
        bias_grad: (m,).
        directions: (r, r) unit directions, one a row: the columns of Qbar.
    """
    target = np.asarray(factorization.left).T @ np.asarray(bias_grad, dtype=np.float64)
    return linalg.solve(directions.T, target)


def disaggregation(
    factorization: Factorization, bias_grad: Float[Array, " m"], directions: Float[np.ndarray, "r r"]
) -> Float[np.ndarray, "r r"]:
    """Q, one direction a column, scaled so that ``D = left @ Q``."""
    return directions.T * recover_scale(factorization, bias_grad, directions)


def has_every_scale(disaggregation: Float[np.ndarray, "r r"]) -> bool:
    """Whether no column of Q vanishes next to the largest, so that its inverse means something."""
    scale = np.linalg.norm(disaggregation, axis=0)
    return bool(np.isfinite(scale).all() and scale.min() > EPS64 * scale.max())


def dual_vectors(
    factorization: Factorization, bias_grad: Float[Array, " m"], directions: Float[np.ndarray, "r r"]
) -> Float[np.ndarray, "r r"] | None:
    """Rows p_i of Q^-1, ``x_i = p_i @ right``, in the order of the directions; None where a scale vanishes."""
    mixing = disaggregation(factorization, bias_grad, directions)
    return linalg.inv(mixing) if has_every_scale(mixing) else None


def recover_inputs(factorization: Factorization, disaggregation: Float[np.ndarray, "r r"]) -> Float[np.ndarray, "r n"]:
    """The batch: ``Q X^T = right``, one sample a row, solved in float64."""
    return np.asarray(float64_linalg().solve(to_float64(disaggregation), to_float64(factorization.right)))
