"""Error bars of a reconstruction without the truth: what the noise of the gradient does to directions, scales, inputs.

Noise spoils the zero rows that hold each direction, the bias gradient that gives each scale, and the rows of ``right``.
All three are carried through ``X^T = Q^-1 R`` into the inputs and through ``Z = W X + bias`` into the pre-activations.
Inputs get expected errors, pre-activations bounds: the sign of one is decided where it is larger than its bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from spear_jax import numerics
from spear_jax.attacks.dense.certificates import limits
from spear_jax.numerics import float64_namespace
from spear_jax.types import Factorization


class Errors(NamedTuple):
    """Expected errors behind a reconstruction.

    Attributes:
        mixing: (r,) norm of the error of each column of Q.
        scale: (r,) relative error of each scale.
    """

    mixing: Float[np.ndarray, " r"]
    scale: Float[np.ndarray, " r"]


def expected_errors(
    factorization: Factorization,
    bias_grad: Float[np.ndarray, " m"],
    directions: Float[np.ndarray, "r r"],
    mixing: Float[np.ndarray, "r r"],
) -> Errors:
    """Expected errors of Q.

    Args:
        factorization: of the weight gradient.
        bias_grad: (m,) float64.
        directions: (r, r) unit directions, one a row.
        mixing: (r, r) Q, the directions scaled, one a column.
    """
    size = np.linalg.norm(mixing, axis=0)
    return Errors(direction_error(factorization, directions) * size, scale_error(factorization, bias_grad, directions))


def input_error(
    factorization: Factorization, inverse: Float[np.ndarray, "r r"], errors: Errors
) -> Float[np.ndarray, " r"]:
    """Expected relative error of each input, as `pre_activation_slack` has it for the pre-activations.

    Args:
        factorization: of the weight gradient.
        inverse: (r, r) ``Q^-1``.
        errors: of Q.

    Returns:
        (r,); infinite for all inputs where the zeros leave a direction open.
    """
    size = np.linalg.norm(inverse * np.asarray(factorization.singular_values[: factorization.rank]), axis=1)
    noise = factorization.noise_floor / numerics.ZERO_SIGMAS
    with np.errstate(invalid="ignore"):
        spoiled = noise + np.sqrt(np.sum((size * errors.mixing) ** 2))
    return np.nan_to_num(np.linalg.norm(inverse, axis=1) / size * spoiled + errors.scale, nan=np.inf)


def pre_activation_slack(
    factorization: Factorization,
    weight_norms: Float[np.ndarray, " m"],
    inverse: Float[np.ndarray, "r r"],
    centred: Float[np.ndarray, "m r"],
    errors: Errors,
) -> Float[np.ndarray, "m r"]:
    """Bound on the error of each pre-activation: noise in ``right`` and in the directions, carried through Q^-1.

    ``X^T = Q^-1 R``: noise of norm ``|N|`` in R moves ``w . x_i`` by at most ``|N| |P_i| |w|``, P = Q^-1, and an error
    dq_j of direction j moves x_i by ``(P_i . dq_j) x_j``.

    Args:
        factorization: of the weight gradient.
        weight_norms: (m,) norms of the rows of the weight.
        inverse: (r, r) ``Q^-1``.
        centred: (m, r) pre-activations without the bias.
        errors: of Q.
    """
    dual = np.linalg.norm(inverse, axis=1)
    # An unbounded error decides nothing of its own sample; what it does to the others, `input_error` judges.
    wobble = np.where(np.isfinite(errors.mixing), errors.mixing, 0)
    from_right = factorization.noise_floor / numerics.ZERO_SIGMAS * weight_norms
    from_directions = np.sqrt((centred**2) @ (wobble**2))
    from_noise = (from_right + from_directions)[:, None] * dual[None, :]
    return numerics.ZERO_SIGMAS * (from_noise + np.abs(centred) * errors.scale[None, :])


def movement(
    factorization: Factorization,
    bias_grad: Float[np.ndarray, " m"],
    drift: float,
    inverse: Float[np.ndarray, "r r"],
) -> Float[np.ndarray, "m r"]:
    """How far pre-activations may have been from their first value over the client's steps.

    The way from the first value to the last, known exactly, and as much again as is typical for the sample, as the
    way need not be straight: in simulated rounds (learning rates 0.001 to 0.3, 1 and 5 epochs) one of thousands went
    farther.

    Args:
        factorization: of the weight gradient.
        bias_grad: (m,) float64.
        drift: of the observation, above 0.
        inverse: (r, r) ``Q^-1``.
    """
    left, right = np.asarray(factorization.left), np.asarray(factorization.right)
    moved = left @ ((right @ right.T) @ inverse.T) + bias_grad[:, None]
    moved = drift * np.abs(moved)
    return moved + np.sqrt(np.mean(moved[np.asarray(factorization.live_mask)] ** 2, axis=0))


def scale_error(
    factorization: Factorization, bias_grad: Float[np.ndarray, " m"], directions: Float[np.ndarray, "r r"]
) -> Float[np.ndarray, " r"]:
    """Expected relative error of each sample's scale, from the part of the bias gradient that no batch explains."""
    left = np.asarray(factorization.left)
    rows, rank = left.shape
    shares = left.T @ bias_grad
    noise = np.linalg.norm(bias_grad - left @ shares) / np.sqrt(max(rows - rank, 1))
    inverse = np.linalg.inv(directions.T)
    return noise * np.linalg.norm(inverse, axis=1) / np.maximum(np.abs(inverse @ shares), np.finfo(float).tiny)


def direction_error(factorization: Factorization, directions: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """Expected angle between each direction and the true one: noise of its zero rows over their conditioning.

    Infinite where the zero rows leave it open, as for two samples that fire alike: any mixture of theirs is as sparse.
    """
    left = np.asarray(factorization.left)
    zero = numerics.zero_mask(factorization, directions)
    noise = np.linalg.norm(left @ directions.T * zero, axis=0)
    held = 1 - _strongest_rival(left, ~zero, directions)
    for place in np.flatnonzero(held < limits.LOOSELY_HELD):
        # Power iteration has not converged where it matters most; dead rows are zero and add nothing.
        held[place] = np.linalg.eigvalsh(left[zero[:, place]].T @ left[zero[:, place]])[1]
    error = (noise + numerics.ROUNDING * numerics.EPS64) / np.sqrt(np.maximum(held, limits.MIN_HELD))
    return np.where(held < limits.MIN_HELD, np.inf, error)


def _strongest_rival(
    left: Float[np.ndarray, "m r"], active: Bool[np.ndarray, "m k"], directions: Float[np.ndarray, "k r"]
) -> Float[np.ndarray, " k"]:
    """Largest ``|left v|^2`` over the active rows of each direction among unit v orthogonal to it, by power iteration.

    As ``left`` has orthonormal columns, one less this is what the zero rows hold every other direction with.
    """
    if left.shape[1] == 1:
        return np.zeros(len(directions))
    xp: Any = float64_namespace()
    left, active, columns = xp.asarray(left), xp.asarray(active), xp.asarray(directions.T)
    vectors, rayleigh = xp.asarray(np.random.default_rng(0).standard_normal(columns.shape)), xp.zeros(len(directions))
    for _ in range(limits.POWER_STEPS):
        vectors = vectors - columns * (columns * vectors).sum(axis=0)
        vectors = vectors / (vectors**2).sum(axis=0) ** 0.5
        rows = left @ vectors * active
        rayleigh = (rows**2).sum(axis=0)
        vectors = left.T @ rows
    return np.minimum(np.asarray(rayleigh), 1.0)
