"""What can be said of a reconstruction without the truth: the ReLU pattern (SPEAR, Sec. 4.2, the score lambda).

With the inputs found, ``Z = W X + bias`` must be positive exactly where ``D = left @ Q`` is not zero. Neither was
fitted to the other: Q comes from zeros of the gradient's column space, Z from weights that the gradient does not hold.
An entry too close to zero for the noise to tell its sign counts for neither side; a certificate needs nearly all
entries decided.

Over several local steps D is a sum, zero only where a neuron was off in all of them, while Z moves by an amount that
the update itself tells, from the first step to the last. Where Z is farther from zero than it moved, the neuron was on
or off throughout, and there the two sides must agree. As that leaves many entries out, each direction must besides
follow from its zeros alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from spear_jax import numerics
from spear_jax.factorize import column_blocks
from spear_jax.numerics import float64_namespace, to_float64
from spear_jax.observation import LayerObservation
from spear_jax.recover import disaggregation, has_every_scale
from spear_jax.types import Array, Certificate, Factorization

# Share of the live entries of a sample whose pattern the noise must leave decided for a certificate to mean anything.
MIN_DECIDED = 0.9
# The same for what is called approximate: fewer are decided, all of them must agree.
MIN_LOOSELY_DECIDED = 0.2
# A wrong sample agrees with a live entry by chance half of the time: with fewer entries than these, luck certifies.
MIN_ENTRIES = 32
# A true column has non-zero entries below the zero tolerance by chance; more than this tail probability is no chance.
CHANCE = 1e-4
# Squared singular value below which the zero rows of a direction hold it against no rival: far above rounding.
MIN_HELD, LOOSELY_HELD = 1e-10, 0.05
# Leverage of a row among the zero rows of a direction: at 1 the direction rests on that row alone. True directions
# reached 0.65 (b = 20, m = 200), mixtures of two or more columns have 1 or leave a further direction open.
MAX_LEVERAGE = 0.95
# Singular values of zero rows, relative to the largest, that count for their rank.
MIN_SINGULAR = 1e-6
# Share of neurons that may have gone farther than `_movement` says: one in 200 at most was seen. A mixture of two
# columns contradicts a quarter, unless the neurons of one are nearly all among the other's.
MAX_RETURNED = 0.02
# Agreement of two patterns that have nothing to do with one another is as good at most this often.
MAX_COINCIDENCE = 1e-9
# Steps of the power iteration behind the error of a direction; an estimate within a factor of two is enough.
POWER_STEPS = 50


class Evidence(NamedTuple):
    """What a certificate needs of the observation, computed once.

    Attributes:
        response: (m, r) float64, ``weight @ right^T``: pre-activations are ``response @ Q^-T + bias``.
        bias: (m,) float64.
        bias_grad: (m,) float64.
        weight_norms: (m,) float64 norms of the rows of ``weight``.
        client_eps: unit of the gradient's dtype.
        drift: of the observation.
        factorization: of the weight gradient.
    """

    response: Float[np.ndarray, "m r"]
    bias: Float[np.ndarray, " m"]
    bias_grad: Float[np.ndarray, " m"]
    weight_norms: Float[np.ndarray, " m"]
    client_eps: float
    drift: float
    factorization: Factorization


def gather_evidence(observation: LayerObservation, factorization: Factorization) -> Evidence:
    """Project the known weights on the row space of the gradient, in column blocks."""
    right = to_float64(factorization.right)
    blocks = list(column_blocks(observation.weight, lambda columns, block: block @ right[:, columns].T))
    squares = column_blocks(observation.weight, lambda _, block: (block**2).sum(axis=1))
    return Evidence(
        response=np.asarray(sum(blocks)),
        bias=np.asarray(observation.bias, np.float64),
        bias_grad=np.asarray(observation.bias_grad, np.float64),
        weight_norms=np.sqrt(np.asarray(sum(squares))),
        client_eps=float(jnp.finfo(observation.weight_grad.dtype).eps),
        drift=float(observation.drift),
        factorization=factorization,
    )


def certify(evidence: Evidence, directions: Float[np.ndarray, "r r"]) -> Certificate:
    """Certificate of r directions, without the weight residual, which needs a pass over the gradient.

    Args:
        evidence: of the observation.
        directions: (r, r) unit directions, one a row.

    Returns:
        per sample, in the order of the directions; nothing is exact where a scale vanishes.
    """
    factorization = evidence.factorization
    mixing = disaggregation(factorization, evidence.bias_grad, directions)
    if not has_every_scale(mixing):
        return nothing_exact(len(directions))
    scale, inverse = np.linalg.norm(mixing, axis=0), np.linalg.inv(mixing)
    grad_z = np.asarray(factorization.left) @ mixing
    centred = evidence.response @ inverse.T
    errors = _Errors(direction_error(factorization, directions) * scale, scale_error(evidence, directions))
    slack = _pre_activation_slack(evidence, inverse, centred, errors) + _movement(evidence, inverse)
    pre_activation = centred + evidence.bias[:, None]
    agrees, decided = _compare(evidence, directions, scale, grad_z, pre_activation, slack)
    live = np.asarray(factorization.live_mask)[:, None]
    num_live = max(int(live.sum()), 1)
    num_decided = np.sum(decided & live, axis=0)
    enough = num_decided >= max(MIN_LOOSELY_DECIDED * num_live, MIN_ENTRIES)
    # Where the noise decides too little, nothing agrees: a wild guess must not score by being vague.
    matching = np.sum(np.where(enough, agrees, agrees & decided) & live, axis=0) / num_live
    error = _input_error(factorization, inverse, errors)
    is_bounded = error < numerics.MAX_APPROXIMATE_ERROR
    is_confirmed = (matching == 1) & enough & is_bounded
    if evidence.drift and factorization.rank > 1:
        is_on = np.abs(grad_z) > numerics.zero_tolerance(factorization, directions) * scale
        matching, is_unlikely = _plain_pattern(is_on[live[:, 0]], pre_activation[live[:, 0]] > 0)
        contradicting = np.sum(~agrees & live, axis=0)
        is_confirmed = is_unlikely & (contradicting <= MAX_RETURNED * num_live) & is_bounded
        is_confirmed[is_confirmed] = is_determined(factorization, directions[is_confirmed])
    # The neurons of a single sample are live where they fired: it has no zeros, and needs none.
    exact = is_confirmed & (error < numerics.MAX_ERROR / numerics.ERROR_MARGIN)
    if not evidence.drift:
        exact &= num_decided >= MIN_DECIDED * num_live
    residual = np.linalg.norm(evidence.bias_grad - grad_z.sum(axis=1)) / np.linalg.norm(evidence.bias_grad)
    return Certificate(
        exact=exact,
        approximate=is_confirmed & ~exact,
        error=error,
        matching=matching,
        matching_score=float(matching.mean()),
        weight_residual=float("nan"),
        bias_residual=float(residual),
        labels=None,
    )


def _plain_pattern(
    is_on: Bool[np.ndarray, "m r"], is_active: Bool[np.ndarray, "m r"]
) -> tuple[Float[np.ndarray, " r"], Bool[np.ndarray, " r"]]:
    """Share of entries where two patterns agree, and whether chance would hardly bring it about.

    For weights that moved: then some entries contradict and a share is undecided for every choice of directions, and
    the plain share tells choices apart.
    """
    share = np.mean(is_on == is_active, axis=0)
    first, second = is_on.mean(axis=0), is_active.mean(axis=0)
    by_chance = first * second + (1 - first) * (1 - second)
    return share, stats.binom.sf(share * len(is_on) - 0.5, len(is_on), by_chance) < MAX_COINCIDENCE


def is_determined(factorization: Factorization, directions: Float[np.ndarray, "k r"]) -> Bool[np.ndarray, " k"]:
    """Whether each direction follows from its zeros, and from more of them than it takes to make one.

    The zero rows of a mixture of s columns are those where all s are zero, which leave s dimensions open, and whatever
    rows the mixture was made to vanish on, s - 1 of them: each of these has leverage 1. A true direction loses nothing
    with any one row. Only coincidence makes a mixture pass, an entry that is zero within the noise by chance.

    Args:
        factorization: of the weight gradient.
        directions: (k, r) unit directions.
    """
    rank, left = factorization.rank, np.asarray(factorization.left)
    verdicts = np.zeros(len(directions), bool)
    for place, zero in enumerate(numerics.zero_mask(factorization, directions).T):
        if zero.sum() < rank:
            continue
        basis, spectrum, _ = np.linalg.svd(left[zero], full_matrices=False)
        held = spectrum > MIN_SINGULAR * spectrum[0]
        # Noise gives the direction itself a singular value too: it is the smallest.
        basis = basis[:, : rank - 1]
        verdicts[place] = held[: rank - 1].all() and (basis**2).sum(axis=1).max(initial=0) < MAX_LEVERAGE
    return verdicts


def nothing_exact(rank: int) -> Certificate:
    """The certificate of a batch of which nothing can be said."""
    return Certificate(
        exact=np.zeros(rank, bool),
        approximate=np.zeros(rank, bool),
        error=np.full(rank, np.inf),
        matching=np.zeros(rank),
        matching_score=0.0,
        weight_residual=float("nan"),
        bias_residual=float("nan"),
        labels=None,
    )


def all_or_none(certificate: Certificate) -> Certificate:
    """The certificate as patterns alone can give it: every sample, or none.

    A direction that is off by a little of another, ``q_j + a q_i``, shows in its own pattern but moves input i by only
    ``a x_j``, which changes fewer than one sign of m where a is below 1 / m. While a pattern disagrees, the others'
    agreement does not prove their inputs; `network` and `next_layer` can.
    """
    if (certificate.exact | certificate.approximate).all():
        return certificate
    nobody = certificate.exact & False
    return dataclasses.replace(certificate, exact=nobody, approximate=nobody)


def _compare(
    evidence: Evidence,
    directions: Float[np.ndarray, "r r"],
    scale: Float[np.ndarray, " r"],
    grad_z: Float[np.ndarray, "m r"],
    pre_activation: Float[np.ndarray, "m r"],
    slack: Float[np.ndarray, "m r"],
) -> tuple[Bool[np.ndarray, "m r"], Bool[np.ndarray, "m r"]]:
    """Entries where the patterns agree, and entries that the noise leaves decided."""
    tolerance = numerics.zero_tolerance(evidence.factorization, directions) * scale
    is_zero = np.abs(grad_z) <= tolerance
    is_active, is_inactive = pre_activation > slack, pre_activation < -slack
    missing = is_active & is_zero
    agrees = ~(missing | (is_inactive & ~is_zero))
    # Entries of a true column fall below the tolerance by chance, at the density its small entries show.
    small = 0.1 * np.sqrt(np.mean(grad_z**2, axis=0))
    density = np.sum((np.abs(grad_z) < small) & ~is_zero, axis=0) + 1
    expected = density * tolerance / np.maximum(small, np.finfo(float).tiny)
    by_chance = missing & (np.sum(missing, axis=0) <= stats.poisson.isf(CHANCE, np.minimum(expected, 1.0)))
    return agrees | by_chance, is_active | is_inactive


class _Errors(NamedTuple):
    """Expected errors behind a reconstruction.

    Attributes:
        mixing: (r,) norm of the error of each column of Q.
        scale: (r,) relative error of each scale.
    """

    mixing: Float[np.ndarray, " r"]
    scale: Float[np.ndarray, " r"]


def _input_error(
    factorization: Factorization, inverse: Float[np.ndarray, "r r"], errors: _Errors
) -> Float[np.ndarray, " r"]:
    """Expected relative error of each input, as `_pre_activation_slack` has it for the pre-activations."""
    size = np.linalg.norm(inverse * np.asarray(factorization.singular_values[: factorization.rank]), axis=1)
    noise = factorization.noise_floor / numerics.ZERO_SIGMAS
    with np.errstate(invalid="ignore"):
        spoiled = noise + np.sqrt(np.sum((size * errors.mixing) ** 2))
    return np.nan_to_num(np.linalg.norm(inverse, axis=1) / size * spoiled + errors.scale, nan=np.inf)


def _pre_activation_slack(
    evidence: Evidence, inverse: Float[np.ndarray, "r r"], centred: Float[np.ndarray, "m r"], errors: _Errors
) -> Float[np.ndarray, "m r"]:
    """Bound on the error of each pre-activation: noise in ``right`` and in the directions, carried through Q^-1.

    ``X^T = Q^-1 R``: noise of norm ``|N|`` in R moves ``w . x_i`` by at most ``|N| |P_i| |w|``, P = Q^-1, and an error
    dq_j of direction j moves x_i by ``(P_i . dq_j) x_j``.
    """
    factorization = evidence.factorization
    dual = np.linalg.norm(inverse, axis=1)
    # An unbounded error decides nothing of its own sample; what it does to the others, `_input_error` judges.
    wobble = np.where(np.isfinite(errors.mixing), errors.mixing, 0)
    from_right = factorization.noise_floor / numerics.ZERO_SIGMAS * evidence.weight_norms
    from_directions = np.sqrt((centred**2) @ (wobble**2))
    from_noise = (from_right + from_directions)[:, None] * dual[None, :]
    return numerics.ZERO_SIGMAS * (from_noise + np.abs(centred) * errors.scale[None, :])


def _movement(evidence: Evidence, inverse: Float[np.ndarray, "r r"]) -> Float[np.ndarray, "m r"] | float:
    """How far pre-activations may have been from their first value over the client's steps.

    The way from the first value to the last, known exactly, and as much again as is typical for the sample, as the
    way need not be straight: in simulated rounds (learning rates 0.001 to 0.3, 1 and 5 epochs) one of thousands went
    farther.
    """
    if not evidence.drift:
        return 0.0
    factorization = evidence.factorization
    left, right = np.asarray(factorization.left), np.asarray(factorization.right)
    moved = left @ ((right @ right.T) @ inverse.T) + evidence.bias_grad[:, None]
    moved = evidence.drift * np.abs(moved)
    return moved + np.sqrt(np.mean(moved[np.asarray(factorization.live_mask)] ** 2, axis=0))


def scale_error(evidence: Evidence, directions: Float[np.ndarray, "r r"]) -> Float[np.ndarray, " r"]:
    """Expected relative error of each sample's scale, from the part of the bias gradient that no batch explains."""
    left = np.asarray(evidence.factorization.left)
    rows, rank = left.shape
    shares = left.T @ evidence.bias_grad
    noise = np.linalg.norm(evidence.bias_grad - left @ shares) / np.sqrt(max(rows - rank, 1))
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
    for place in np.flatnonzero(held < LOOSELY_HELD):
        # Power iteration has not converged where it matters most; dead rows are zero and add nothing.
        held[place] = np.linalg.eigvalsh(left[zero[:, place]].T @ left[zero[:, place]])[1]
    error = (noise + numerics.ROUNDING * numerics.EPS64) / np.sqrt(np.maximum(held, MIN_HELD))
    return np.where(held < MIN_HELD, np.inf, error)


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
    for _ in range(POWER_STEPS):
        vectors = vectors - columns * (columns * vectors).sum(axis=0)
        vectors = vectors / (vectors**2).sum(axis=0) ** 0.5
        rows = left @ vectors * active
        rayleigh = (rows**2).sum(axis=0)
        vectors = left.T @ rows
    return np.minimum(np.asarray(rayleigh), 1.0)


def weight_residual(
    observation: LayerObservation, factorization: Factorization, mixing: Float[np.ndarray, "r r"], inputs: Array
) -> float:
    """``|G - D X^T| / |G|`` in the Frobenius norm, in column blocks."""
    xp: Any = float64_namespace()
    grad_z = to_float64(factorization.left) @ to_float64(mixing)
    batch = to_float64(inputs)
    pairs = column_blocks(
        observation.weight_grad,
        lambda columns, block: xp.stack([xp.sum((block - grad_z @ batch[:, columns]) ** 2), xp.sum(block**2)]),
    )
    missing, total = np.asarray(sum(pairs))
    return float(np.sqrt(missing / total))
