"""Error bars of a reconstruction without the truth: what the noise of the gradient does to directions, scales, inputs.

Noise spoils the zero rows that hold each direction, the bias gradient that gives each scale, and the rows of ``right``.
All three are carried through ``X^T = Q^-1 R`` into the inputs and through ``Z = W X + bias`` into the pre-activations.
Inputs get expected errors, pre-activations bounds: the sign of one is decided where it is larger than its bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.problem import Problem
from spear_jax.numerics import float64_namespace
from spear_jax.stages import stage
from spear_jax.types import Factorization


class Errors(NamedTuple):
    """Expected errors behind a reconstruction.

    Attributes:
        mixing: (r,) norm of the error of each column of Q.
        scale: (r,) relative error of each scale.
    """

    mixing: Float[np.ndarray, " r"]
    scale: Float[np.ndarray, " r"]


@stage("error bars")
def expected_errors(
    problem: Problem,
    directions: Float[np.ndarray, "r r"],
    mixing: Float[np.ndarray, "r r"],
    off: Bool[np.ndarray, "m r"],
) -> Errors:
    """Expected errors of Q.

    Args:
        problem: of the layer.
        directions: (r, r) unit directions, one a row.
        mixing: (r, r) Q, the directions scaled, one a column.
        off: (m, r) rows on which the pre-activations have each sample off.
    """
    size = np.linalg.norm(mixing, axis=0)
    return Errors(direction_error(problem.factorization, directions, off) * size, scale_error(problem, directions))


def input_error(problem: Problem, inverse: Float[np.ndarray, "r r"], errors: Errors) -> Float[np.ndarray, " r"]:
    """Expected relative error of each input, as `pre_activation_slack` has it for the pre-activations.

    Args:
        problem: of the layer.
        inverse: (r, r) ``Q^-1``.
        errors: of Q.

    Returns:
        (r,); infinite for all inputs where the zeros leave a direction open; never below what rounding an input to
        the client's dtype does to it.
    """
    size = np.linalg.norm(inverse * problem.spectrum, axis=1)
    with np.errstate(invalid="ignore"):
        spoiled = row_noise(problem.factorization) + np.sqrt(np.sum((size * errors.mixing) ** 2))
        error = np.linalg.norm(inverse, axis=1) / size * spoiled + errors.scale
    return np.hypot(np.where(np.isnan(error), np.inf, error), limits.ROUNDED_INPUT * problem.client_eps)


def row_noise(factorization: Factorization) -> float:
    """Expected norm of the noise in ``u^T G`` for a unit vector u: what a row of ``right`` is off by."""
    in_features = np.asarray(factorization.right).shape[1]
    return max(factorization.noise_floor / numerics.ZERO_SIGMAS, factorization.noise_std * float(np.sqrt(in_features)))


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


def bias_noise(problem: Problem) -> float:
    """Root mean square noise of the bias gradient, from the part of it that no batch explains.

    Infinite where that part is more than noise: then the two gradients are not of the same samples, as where collinear
    inputs merge in one of them, and what lies within the column space may be wrong by as much.
    """
    left, bias_grad = problem.left, problem.bias_grad
    rows, rank = left.shape
    noise = float(np.linalg.norm(bias_grad - left @ (left.T @ bias_grad))) / np.sqrt(max(rows - rank, 1))
    rounding = problem.client_eps * float(np.linalg.norm(bias_grad)) / np.sqrt(rows)
    return noise if noise <= numerics.MIN_GAP * max(problem.factorization.noise_std, rounding) else np.inf


def scale_error(problem: Problem, directions: Float[np.ndarray, "r r"]) -> Float[np.ndarray, " r"]:
    """Expected relative error of each sample's scale, from the noise of the bias gradient."""
    inverse = linalg.inv(directions.T)
    shares = np.abs(inverse @ (problem.left.T @ problem.bias_grad))
    return bias_noise(problem) * np.linalg.norm(inverse, axis=1) / np.maximum(shares, np.finfo(float).tiny)


def direction_error(
    factorization: Factorization, directions: Float[np.ndarray, "k r"], off: Bool[np.ndarray, "m k"]
) -> Float[np.ndarray, " k"]:
    """Expected angle between each direction and the true one: noise of its zero rows over their conditioning.

    Infinite where the zero rows leave it open, as for two samples that fire alike: any mixture of theirs is as sparse,
    and some are sparser by one row, on which both samples fire and cancel. Such a row holds nothing: only rows count
    on which the pre-activation has the sample off.

    Args:
        factorization: of the weight gradient.
        directions: (k, r) unit directions.
        off: (m, k) rows on which the pre-activations have each sample off.
    """
    left = np.asarray(factorization.left)
    zero = numerics.zero_mask(factorization, directions)
    noise = np.linalg.norm(left @ directions.T * zero, axis=0)
    holding = zero & off
    spectrum = np.asarray(factorization.singular_values[: factorization.rank])
    seeming = (2 * factorization.noise_floor / spectrum) ** 2  # what the rows of a rival show of noise alone
    held = 1 - _strongest_rival(left, ~holding, directions) - seeming.max()
    for place in np.flatnonzero(held < limits.LOOSELY_HELD):
        # Power iteration has not converged where it matters most; dead rows are zero and add nothing.
        held[place] = _least_held(left[holding[:, place]], directions[place], seeming)
    error = (noise + numerics.EPS64) / np.sqrt(np.maximum(held, limits.MIN_HELD))
    return np.where(held < limits.MIN_HELD, np.inf, error)


def _least_held(
    rows: Float[np.ndarray, "z r"], direction: Float[np.ndarray, " r"], seeming: Float[np.ndarray, " r"]
) -> float:
    """Least ``|rows v|^2`` among unit v orthogonal to a direction, less what noise alone would show of v."""
    if len(direction) == 1:
        return 1.0
    others = linalg.qr(np.column_stack([direction, np.eye(len(direction))]))[0][:, 1:]
    return float(linalg.eigvalsh(others.T @ (rows.T @ rows - np.diag(seeming)) @ others)[0])


def _strongest_rival(
    left: Float[np.ndarray, "m r"], active: Bool[np.ndarray, "m k"], directions: Float[np.ndarray, "k r"]
) -> Float[np.ndarray, " k"]:
    """Largest ``|left v|^2`` over the active rows of each direction among unit v orthogonal to it, by Lanczos' method.

    As ``left`` has orthonormal columns, one less this is what the zero rows hold every other direction with.
    """
    if left.shape[1] == 1:
        return np.zeros(len(directions))
    start = np.random.default_rng(0).standard_normal(directions.T.shape)
    return np.minimum(_largest(*map(np.asarray, _lanczos(left, active, directions.T, start))), 1.0)


@numerics.compiled
def _lanczos(left: Any, active: Any, columns: Any, start: Any) -> tuple[Any, Any]:
    """Diagonal (s, k) and what is beside it (s - 1, k) of the matrix that `_strongest_rival` is about, each from a
    start of its own.

    Args:
        left: (m, r).
        active: (m, k) rows that count.
        columns: (r, k) unit directions to stay orthogonal to.
        start: (r, k).
    """
    xp: Any = float64_namespace()
    beside = lambda vectors: vectors - columns * (columns * vectors).sum(axis=0)
    rest, before, diagonal, beyond = beside(start), 0.0 * start, [], []
    for _ in range(limits.LANCZOS_STEPS):
        size = (rest**2).sum(axis=0) ** 0.5
        vectors = xp.where(size > numerics.EPS64, rest / xp.where(size > 0, size, 1.0), 0.0)
        image = beside(left.T @ (left @ vectors * active))
        diagonal.append((vectors * image).sum(axis=0))
        beyond.append(size)
        rest = image - diagonal[-1] * vectors - size * before
        before = vectors
    return xp.stack(diagonal), xp.stack(beyond[1:])


def _largest(diagonal: Float[np.ndarray, "s k"], beside: Float[np.ndarray, "s-1 k"]) -> Float[np.ndarray, " k"]:
    """Largest eigenvalue of each tridiagonal matrix."""
    steps, count = diagonal.shape
    matrix, place = np.zeros((count, steps, steps)), np.arange(steps)
    matrix[:, place, place] = diagonal.T
    matrix[:, place[1:], place[:-1]] = beside.T
    return linalg.eigvalsh(matrix)[:, -1]
