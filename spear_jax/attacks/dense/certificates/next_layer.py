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

from spear_jax import numerics
from spear_jax.attacks.dense.certificates.pattern import MIN_DECIDED, MIN_ENTRIES
from spear_jax.attacks.dense.problem import Evidence
from spear_jax.errors import SpearError
from spear_jax.factorization import factorize
from spear_jax.types import Array, Factorization

# Equations beyond the unknowns that the fit must have left over to say anything.
MIN_SURPLUS = 16
# The null vector must be alone: the next singular value is so many times its own.
MIN_SEPARATION = 1e3
# Every other sample must show on the rows where one is off: least singular value there, in units of the noise floor.
SHOWN = 2.0


class Samples(NamedTuple):
    """What the layer above tells of each known direction.

    Attributes:
        directions: (k, r) unit directions.
        dual: (k, r) p_i, so that ``x_i = p_i @ right``; NaN rows where nothing could be said.
        exact: (k,) whether the sample is certified.
        matching: (k,) share of live entries where ``Z > 0`` agrees with ``D != 0``.
        error: (k,) expected error of the input relative to its norm; infinite where nothing could be said.
    """

    directions: Float[np.ndarray, "k r"]
    dual: Float[np.ndarray, "k r"]
    exact: Bool[np.ndarray, " k"]
    matching: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]


def no_samples(directions: Float[np.ndarray, "k r"]) -> Samples:
    """Of these directions nothing is known yet."""
    count = len(directions)
    return Samples(
        directions, np.full(directions.shape, np.nan), np.zeros(count, bool), np.zeros(count), np.full(count, np.inf)
    )


def check_gradient(next_weight_grad: Array, out_features: int) -> np.ndarray:
    """The gradient of the layer above as an array.

    Raises:
        ValueError: of another shape, not floating, not finite.
    """
    gradient = np.asarray(next_weight_grad)
    if gradient.ndim != 2 or gradient.shape[1] != out_features or not np.issubdtype(gradient.dtype, np.floating):
        raise SpearError(
            f"next_weight_grad is {gradient.dtype} of shape {gradient.shape}; expected floating numbers of shape "
            f"(out, {out_features}), the kernel gradient of the layer above."
        )
    if not np.isfinite(gradient).all():
        raise SpearError("next_weight_grad holds NaN or infinite values; leave it out, or pass the client's gradient.")
    return gradient


def samples_alone(
    evidence: Evidence, next_weight_grad: Float[Array, "j m"], directions: Float[np.ndarray, "k r"]
) -> Samples:
    """Each sample whose direction is known, certified on its own.

    Args:
        evidence: of the observed layer.
        next_weight_grad: (j, m) gradient of the next layer's kernel, (out, in), as `check_gradient` returns it.
        directions: (k, r) unit directions.
    """
    count, nothing = len(directions), no_samples(directions)
    if count == 0 or not np.any(next_weight_grad):
        return nothing
    above = factorize(next_weight_grad)
    if above.is_full or above.rank < 2:
        return nothing
    rows = np.asarray(above.right) / above.singular_values[: above.rank, None]
    zero = numerics.zero_mask(evidence.factorization, directions)
    live = np.asarray(evidence.factorization.live_mask)
    for place in range(count):
        if not _is_unique(evidence.factorization, zero[:, place] & live):
            continue
        activation = _activation(rows.T, zero[:, place] & live)
        if activation is not None:
            found = _fit(evidence, activation, zero[:, place], live)
            for part, value in zip(nothing[1:], found, strict=True):
                part[place] = value
    return nothing


def either(first: Samples, second: Samples) -> Samples:
    """Samples that one of two certifies, of the same directions in the same order; the first where both do."""
    take = (second.exact & ~first.exact)[:, None]
    return Samples(
        np.where(take, second.directions, first.directions),
        np.where(take, second.dual, first.dual),
        first.exact | second.exact,
        np.where(take[:, 0], second.matching, first.matching),
        np.where(take[:, 0], second.error, first.error),
    )


def _is_unique(factorization: Factorization, zero: Bool[np.ndarray, " m"]) -> bool:
    """Whether every other sample shows on these rows, above the noise.

    Of two samples that fire the same neurons any affine mixture fits every equation, so nothing else would refuse it.
    """
    rank = factorization.rank
    if rank == 1:
        return True
    gradient = np.asarray(factorization.left)[zero] * np.asarray(factorization.singular_values[:rank])
    if len(gradient) < rank - 1:
        return False
    return bool(np.linalg.svd(gradient, compute_uv=False)[rank - 2] > SHOWN * factorization.noise_floor)


def _activation(basis: Float[np.ndarray, "m j"], zero: Bool[np.ndarray, " m"]) -> Float[np.ndarray, " m"] | None:
    """``Y_i`` up to a positive scale, from the rows where it vanishes; None where these leave it open."""
    values, vectors = np.linalg.eigh(basis[zero].T @ basis[zero])
    open_, held = max(float(values[0]), 0.0) ** 0.5, max(float(values[1]), 0.0) ** 0.5
    if np.sum(zero) < basis.shape[1] or held < MIN_SEPARATION * max(open_, numerics.EPS64**0.5):
        return None
    activation = basis @ vectors[:, 0]
    return activation * np.sign(activation.sum())


def _fit(
    evidence: Evidence, activation: Float[np.ndarray, " m"], zero: Bool[np.ndarray, " m"], live: Bool[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " r"], bool, float, float]:
    """Dual vector, verdict, matching and error of one sample by least squares on its active rows."""
    spectrum = evidence.factorization.singular_values[: evidence.factorization.rank]
    response = evidence.response / spectrum
    active = live & ~zero
    unknowns = response.shape[1] + 1
    surplus = int(active.sum()) - unknowns
    if surplus < MIN_SURPLUS:
        return np.full(unknowns - 1, np.nan), False, 0.0, np.inf
    system = np.column_stack([response[active], -activation[active]])
    wanted = -evidence.bias[active]
    if not evidence.bias.any():
        along = np.asarray(evidence.factorization.left).T @ evidence.bias_grad / spectrum
        size = np.linalg.norm(system, axis=0).max() / np.linalg.norm(along)
        system, wanted = np.vstack([system, np.append(size * along, 0.0)]), np.append(wanted, size)
    orthogonal, triangle = np.linalg.qr(system)
    solution = np.linalg.solve(triangle, orthogonal.T @ wanted)
    left_over = system @ solution - wanted
    noise = np.linalg.norm(left_over) / np.sqrt(surplus)
    spread = noise * np.linalg.norm(np.linalg.inv(triangle), axis=1)
    pre_activation = response @ solution[:-1] + evidence.bias
    slack = numerics.ZERO_SIGMAS * (noise + np.sqrt((response**2) @ spread[:-1] ** 2))
    agrees = np.where(pre_activation > slack, ~zero, np.where(pre_activation < -slack, zero, True)) & live
    decided = (np.abs(pre_activation) > slack) & live
    error = float(np.linalg.norm(spread[:-1]) / np.linalg.norm(solution[:-1]) + spread[-1] / abs(solution[-1]))
    exact = bool(agrees[live].all() and solution[-1] > 0 and error < numerics.MAX_ERROR / numerics.ERROR_MARGIN)
    exact &= bool(decided.sum() >= max(MIN_DECIDED * live.sum(), MIN_ENTRIES))
    return solution[:-1] / spectrum, exact, float(agrees.sum() / max(live.sum(), 1)), error
