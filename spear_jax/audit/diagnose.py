"""Why an update cannot be inverted, read off the update itself and said in one sentence per reason.

Each reason is a measured property of the matrix that should be ``D X^T``: weights that shrank beside it, entries that
rounding, a mask or the client's optimiser made, or a rank that no smaller dimension is left to show. Whether a ReLU
follows the layer shows only in a search.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.dense.certificates.contradiction import took_steps
from spear_jax.attacks.dense.problem import pose
from spear_jax.factorization import column_blocks, factorize
from spear_jax.numerics import MIN_GAP, to_float64
from spear_jax.status import Reason, Status
from spear_jax.types import Array, Factorization, Result
from spear_jax.update.bundle import Update
from spear_jax.update.dense_layers import DenseLayer

# Rows and columns of the block of a layer that shows the shrinkage: enough to average rounding out, and eigenvalues of
# a matrix that size take about a second.
SHRINKAGE_ROWS, SHRINKAGE_COLUMNS = 1000, 2000
# Spread of the eigenvalues around their median, relative to it, up to which they are one value beside a few others.
MAX_EIGENVALUE_SPREAD = 0.5
# Least-squares corrections of the shrinkage outside the column space; each leaves a small share of the error.
SHRINKAGE_CORRECTIONS = 2
# Root mean square of a change, in units in the last place of typical weights, below which rounding dominates it.
ROUNDED_CHANGE = 4.0
# Mean fourth power of the singular values relative to that of independent entries, where it is 1. Over seeds masks came
# within 1 percent of it, gradients of 150 and 600 samples not below 1.4. Signs of these gradients had 1.3 or more for
# tables, 5 for photos, but 1.14 for Gaussian inputs: some pass for noise.
MAX_NOISE_CONCENTRATION = 1.15
# Kurtosis of the entries. A product D X^T mixes Gaussians of many scales, which have 3 or more (3.2 at least over
# photos, tables and noise); signs and Adam bound every step: 1 for one, and after 40 of rate 0.001 up to 2.3. Steps too
# large for their minimum swing around it, and are missed: after 40 signs had up to 5.6 at 0.01 and 7.1 at 0.1, Adam
# 2.3 and 2.95.
MAX_STEP_KURTOSIS = 2.9
# One sample's gradient alone, an outer product, may have fewer by chance; Adam's first step of it stays below this.
MAX_FIRST_STEP_KURTOSIS = 1.1
# Share of the smaller dimension from which a rank is no longer plainly that of a small batch.
LARGE_RANK = 0.25


class Finding(NamedTuple):
    """One reason why a layer's update cannot be inverted as it is.

    Attributes:
        name: ``"weight_decay"``, ``"rounding"``, ``"masked"``, ``"optimizer"`` or ``"full_rank"``.
        sentence: what was seen, what it means, and where something can be done, what.
    """

    name: str
    sentence: str


def diagnose(update: Update, layer: DenseLayer, *, factorization: Factorization | None = None) -> tuple[Finding, ...]:
    """What keeps the update of one layer from being inverted, the most telling reason first.

    Args:
        update: any kind; reasons that lie in the client's training are looked for in weights and their changes only.
        layer: one of its layers.
        factorization: of the layer's weight gradient, where it is known already.

    Returns:
        Findings, none for a gradient that shows fewer samples than the layer has rows and columns.

    Raises:
        UpdateError: as `Update.observation`.
    """
    observation = update.observation(layer.name)
    factorization = factorization or factorize(observation.weight_grad, rounding=observation.rounding)
    if "weight_decay" not in update.metadata:
        shrinkage = _shrinkage(observation.weight, observation.weight_grad, factorization)
        if shrinkage is not None and (update.kind == "gradient" or shrinkage * _learning_rate(update) < 1):
            return (_weight_decay(update, shrinkage),)
    live = _live(observation.weight_grad)
    is_covered = factorization.is_full or factorization.gap < MIN_GAP
    if is_covered and update.kind != "gradient" and _is_rounded(update, layer, live):
        return (Finding("rounding", _ROUNDING),)
    if _is_noise(live):
        return (Finding("masked", _MASKED),)
    if update.kind != "gradient" and _has_bounded_steps(live, factorization):
        return (Finding("optimizer", _OPTIMIZER.format(kurtosis=_kurtosis(live))),)
    return full_rank(factorization, observation.weight_grad)


def why_not(update: Update, layer: DenseLayer, result: Result) -> tuple[Finding, ...]:
    """Why a reconstruction is not whole, as far as the update itself shows; none where it is, or where nothing does."""
    certificate = result.certificate
    if (certificate.exact | certificate.approximate).any():
        return ()
    reason = certificate.reason
    if result.status is Status.CONTRADICTED and reason in (None, Reason.BASE_WEIGHTS, Reason.BATCH_NORM):
        observation = update.observation(layer.name)
        if update.kind != "gradient" and not observation.drift:
            problem = pose(observation, factorize(observation.weight_grad, rounding=observation.rounding))
            if took_steps(problem, result.directions, _learning_rate(update)):
                return (Finding("local_steps", Reason.LOCAL_STEPS.value),)
    if reason is not None:
        return (Finding(reason.name.lower(), reason.value),)
    return tuple(finding for finding in diagnose(update, layer) if finding.name == "weight_decay")


def full_rank(factorization: Factorization, weight_grad: Array) -> tuple[Finding, ...]:
    """The finding of a gradient that hides nothing in its column space, none for any other."""
    if not factorization.is_full:
        return ()
    nonzero = np.asarray(weight_grad) != 0
    reach = min(int(nonzero.any(axis=axis).sum()) for axis in (0, 1))
    return (Finding("full_rank", _FULL_RANK.format(rank=reach)),)


_ROUNDING = (
    "the change is hardly larger than the rounding of the weights, which covers the batch: "
    "take a gradient, weights in a wider dtype, or a round of larger steps"
)
_MASKED = "looks like independent noise: masked by secure aggregation, or noise far above the gradient"
_OPTIMIZER = (
    "the entries of the change are nearly alike in size (kurtosis {kurtosis:.2f}, a gradient's is above 3), as steps "
    "of signed gradients and Adam make them: it is no multiple of a gradient and hides no batch in its column space"
)
_FULL_RANK = (
    "full rank: the batch, or the sum of several, has at least {rank} samples, as many as the rank can show, "
    "or noise covers the singular values of a smaller one"
)


def _learning_rate(update: Update) -> float:
    """What the observation divided the change by."""
    return float(update.metadata.get("lr", "1"))


def _weight_decay(update: Update, shrinkage: float) -> Finding:
    if update.kind == "gradient":
        return Finding(
            "weight_decay",
            f"the gradient holds {shrinkage:.4g} times the weights, as an L2 penalty in the loss (weight decay) adds: "
            f"bundle again with --weight-decay {shrinkage:.4g}",
        )
    shrinkage = shrinkage * _learning_rate(update)
    per_step = -math.expm1(math.log1p(-shrinkage) / update.local_steps)
    if "lr" in update.metadata:
        options = f"--weight-decay {per_step / _learning_rate(update):.4g}"
    else:
        options = "--weight-decay X --lr Y"
    return Finding(
        "weight_decay",
        f"the weights shrank by {shrinkage:.3g} of themselves beside the gradient, as weight decay does: "
        f"bundle again with {options} (lr lambda = {per_step:.4g})",
    )


def _shrinkage(weight: Array, weight_grad: Array, factorization: Factorization) -> float | None:
    """The s for which ``weight_grad - s weight`` has low rank where ``weight_grad`` has not, None where there is none.

    From ``W_T = c W_0 - lr D X^T`` the sum of the gradients is ``(1 - c) / lr W_0 + D X^T``.
    """
    share = _common_eigenvalue(weight, weight_grad)
    if share is None:
        return None
    for _ in range(SHRINKAGE_CORRECTIONS):
        remainder = factorize(_without(weight, weight_grad, share))
        if remainder.is_full or remainder.rank >= len(factorization.singular_values):
            return None
        share = _fit_outside(to_float64(remainder.left), weight, weight_grad)
    remainder = factorize(_without(weight, weight_grad, share))
    noise_before = factorization.singular_values[min(remainder.rank, len(factorization.singular_values) - 1)]
    return share if noise_before > MIN_GAP * remainder.noise_floor else None


def _common_eigenvalue(weight: Array, weight_grad: Array) -> float | None:
    """The s that most eigenvalues of ``weight_grad pinv(weight)`` share, if positive: s I plus a matrix of low rank."""
    if weight.shape[0] > weight.shape[1]:
        weight, weight_grad = weight.T, weight_grad.T
    # Any block of rows and columns has the same form, with fewer rows than columns also a well-conditioned inverse.
    rows = _evenly(weight.shape[0], min(SHRINKAGE_ROWS, (3 * weight.shape[1]) // 4))
    block = np.ix_(rows, _evenly(weight.shape[1], SHRINKAGE_COLUMNS))
    weight, weight_grad = np.asarray(weight)[block], np.asarray(weight_grad)[block]
    solved = np.linalg.lstsq(to_float64(weight).T, to_float64(weight_grad).T)[0]
    eigenvalues = np.linalg.eigvals(solved)
    share = float(np.median(eigenvalues.real))
    spread = float(np.median(np.abs(eigenvalues - share)))
    return share if share > 0 and spread <= MAX_EIGENVALUE_SPREAD * share else None


def _evenly(size: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, max(most, 1))).astype(int))


def _without(weight: Array, weight_grad: Array, share: float) -> Array:
    return weight_grad - weight * weight.dtype.type(share)


def _fit_outside(left: Array, weight: Array, weight_grad: Array) -> float:
    """Least-squares s of ``weight_grad = s weight`` outside the column space of ``left``, (m, r) orthonormal."""

    def products(columns: slice, block: Array) -> np.ndarray:
        outside = block - left @ (left.T @ block)
        return np.array([np.vdot(outside, to_float64(weight_grad[:, columns])), np.vdot(outside, block)])

    along, size = np.sum(list(column_blocks(weight, products)), axis=0)
    return float(along / size)


def _live(weight_grad: Array) -> np.ndarray:
    """(k, l) float64, the gradient without its rows and columns of zeros."""
    nonzero = np.asarray(weight_grad) != 0
    return np.asarray(to_float64(weight_grad))[np.ix_(nonzero.any(axis=1), nonzero.any(axis=0))]


def _is_rounded(update: Update, layer: DenseLayer, live: np.ndarray) -> bool:
    name = layer.kernel_name
    sent, client = update.global_tensors[name], update.client_tensors[name]
    eps = float(max(jnp.finfo(sent.dtype).eps, jnp.finfo(client.dtype).eps))
    change = _learning_rate(update) * _root_mean_square(live)
    return change <= ROUNDED_CHANGE * eps * _root_mean_square(to_float64(sent))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.linalg.norm(values)) / math.sqrt(values.size)


def _is_noise(live: np.ndarray) -> bool:
    """Whether the singular values are as level as the Marchenko-Pastur law has them.

    For independent (m, n) entries ``sum s^4 / (sum s^2)^2`` is ``1/m + 1/n``; a product of rank r has 1/r at least.
    """
    m, n = live.shape
    gram = live @ live.T if m <= n else live.T @ live
    concentration = float(np.sum(gram**2)) / float(np.trace(gram)) ** 2
    return concentration <= (MAX_NOISE_CONCENTRATION + 2 / min(m, n)) * (1 / m + 1 / n)


def _has_bounded_steps(live: np.ndarray, factorization: Factorization) -> bool:
    is_small_batch = not factorization.is_full and factorization.rank <= LARGE_RANK * min(live.shape)
    return _kurtosis(live) <= (MAX_FIRST_STEP_KURTOSIS if is_small_batch else MAX_STEP_KURTOSIS)


def _kurtosis(values: np.ndarray) -> float:
    """Mean fourth power over the squared mean square of what is not zero: 1 for one magnitude, 3 for a Gaussian."""
    squares = values[values != 0] ** 2
    squares /= squares.mean()
    return float(np.mean(squares**2))
