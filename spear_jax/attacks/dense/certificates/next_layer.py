"""One sample from one direction: through the gradient of the layer above (docs/method.md, Sec. 6).

While directions are missing, no dual vector is known and with it no input. The next layer's gradient ``G2 = D2 Y^T``,
``Y = relu(Z)``, gives each sample without the others: its ``Y_i`` lies in the row space of G2 and vanishes where its
direction does, which makes it a null vector; on the other rows ``H p_i + bias = scale Y_i`` is linear in the dual
vector p_i and the scale, with far more equations than unknowns. What the surplus leaves over certifies the sample.
Without biases that is homogeneous; then the scale comes from the bias gradient ``g = left sum_j q_j``, as
``p_i . left^T g = 1``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.certificates import error_bars, limits
from spear_jax.attacks.dense.certificates.scale import UNSEEN, Factor
from spear_jax.attacks.dense.outcome import Samples, no_samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage

# Samples that are asked for the scale of all.
ASKED = 8


@stage("next layer")
def samples_alone(problem: Problem, directions: Float[np.ndarray, "k r"]) -> Samples:
    """Each sample whose direction is known, certified on its own.

    Args:
        problem: of the layer; without a next layer's gradient that hides anything no sample is certified.
        directions: (k, r) unit directions.
    """
    count, nothing = len(directions), no_samples(directions)
    rows = None if problem.above is None else problem.above.row_space
    if count == 0 or rows is None:
        return nothing
    zero = numerics.zero_mask(problem.factorization, directions)
    live = problem.live_mask
    for place in range(count):
        if not _is_unique(problem, zero[:, place] & live):
            continue
        activation = _activation(rows, zero[:, place] & live)
        if activation is not None:
            found = _fit(problem, activation, zero[:, place], live)
            for part, value in zip(nothing[1:], found, strict=True):
                part[place] = value
    return nothing


def next_layer_factor(problem: Problem, directions: Float[np.ndarray, "r r"], dual: Float[np.ndarray, "r r"]) -> Factor:
    """One factor by which the next layer's gradient would have all inputs multiplied; its biases tell x from c x.

    Args:
        problem: of the layer.
        directions: (r, r) unit directions.
        dual: (r, r) p_i that the bias gradient gives, one a row.
    """
    if not problem.bias.any():
        return UNSEEN
    known = samples_alone(problem, directions[:ASKED])
    told = known.confirmed
    if not told.any():
        return UNSEEN
    size = lambda vectors: np.linalg.norm(vectors * problem.spectrum, axis=1)
    values, weight = size(known.dual[told]) / size(dual[:ASKED][told]), known.error[told] ** -2.0
    factor = Factor(float(weight @ values / weight.sum()), float(weight.sum() ** -0.5))
    is_common = np.abs(values / factor.value - 1) <= limits.DEVIATES * known.error[told]
    return factor if is_common.all() else UNSEEN


def _is_unique(problem: Problem, zero: Bool[np.ndarray, " m"]) -> bool:
    """Whether every other sample shows on these rows, above the noise, and not by a single row.

    Of two samples that fire the same neurons any affine mixture fits every equation, so nothing else would refuse it;
    one that was made to vanish on one row more has that row alone to show the other.
    """
    rank = problem.rank
    if rank == 1:
        return True
    gradient = problem.left[zero] * problem.spectrum
    if len(gradient) < rank - 1:
        return False
    basis = linalg.svd(gradient, full_matrices=False)[0][:, : rank - 1]
    gradient = gradient[(basis**2).sum(axis=1) < limits.MAX_LEVERAGE]
    if len(gradient) < rank - 1:
        return False
    return bool(linalg.svd(gradient, compute_uv=False)[rank - 2] > limits.SHOWN * problem.factorization.noise_floor)


class Activation(NamedTuple):
    """``Y_i`` of one sample.

    Attributes:
        value: (m,) up to a positive scale.
        error: relative, what the rows where it vanishes leave open: of another sample, mixed in, little else shows.
    """

    value: Float[np.ndarray, " m"]
    error: float


def _activation(basis: Float[np.ndarray, "m j"], zero: Bool[np.ndarray, " m"]) -> Activation | None:
    """``Y_i`` from the rows where it vanishes; None where these leave it open."""
    if np.sum(zero) < basis.shape[1]:
        return None
    _, values, vectors = linalg.svd(basis[zero], full_matrices=False)
    held, open_ = float(values[-2]), float(values[-1])
    if held < limits.MIN_SEPARATION * max(open_, numerics.EPS64**0.5):
        return None
    value = basis @ vectors[-1]
    return Activation(value * np.sign(value.sum()), open_ / held)


def _fit(
    problem: Problem, seen: Activation, zero: Bool[np.ndarray, " m"], live: Bool[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " r"], bool, float, float]:
    """Dual vector, verdict, matching and error of one sample by least squares on its active rows."""
    spectrum = problem.spectrum
    response = problem.response / spectrum
    active = live & ~zero
    unknowns = response.shape[1] + 1
    surplus = int(active.sum()) - unknowns
    if surplus < limits.MIN_SURPLUS:
        return np.full(unknowns - 1, np.nan), False, 0.0, np.inf
    system = np.column_stack([response[active], -seen.value[active]])
    wanted = -problem.bias[active]
    if not problem.bias.any():
        along = problem.left.T @ problem.bias_grad / spectrum
        size = np.linalg.norm(system, axis=0).max() / np.linalg.norm(along)
        system, wanted = np.vstack([system, np.append(size * along, 0.0)]), np.append(wanted, size)
    orthogonal, triangle = linalg.qr(system)
    solution = linalg.solve(triangle, orthogonal.T @ wanted)
    left_over = system @ solution - wanted
    noise = np.linalg.norm(left_over) / np.sqrt(surplus)
    spread = noise * np.linalg.norm(linalg.inv(triangle), axis=1)
    pre_activation = response @ solution[:-1] + problem.bias
    slack = numerics.ZERO_SIGMAS * (noise + np.sqrt((response**2) @ spread[:-1] ** 2))
    agrees = np.where(pre_activation > slack, ~zero, np.where(pre_activation < -slack, zero, True)) & live
    decided = (np.abs(pre_activation) > slack) & live
    error = float(np.linalg.norm(spread[:-1]) / np.linalg.norm(solution[:-1]) + spread[-1] / abs(solution[-1]))
    if not problem.bias.any():
        error += error_bars.bias_noise(problem) * float(np.linalg.norm(solution[:-1] / spectrum))
    error = float(np.hypot(error + seen.error, limits.ROUNDED_INPUT * problem.client_eps))
    exact = bool(agrees[live].all() and solution[-1] > 0 and error < limits.MAX_ERROR / limits.ERROR_MARGIN)
    exact &= bool(decided.sum() >= max(limits.MIN_DECIDED * live.sum(), limits.MIN_ENTRIES))
    return solution[:-1] / spectrum, exact, float(agrees.sum() / max(live.sum(), 1)), error
