"""All directions together: expectation maximisation in which pre-activations are tied to directions.

With ``D = left @ C`` and ``P = C^-T``, the inputs are ``x_i = right^T p_i`` and the pre-activations
``z_i = H p_i + bias`` with ``H = weight @ right^T``: the known weights tell where a direction should be zero. In
centred batches the columns of D are nearly uncorrelated, so P is close to Q and ``Z = H Q`` serves until the directions
are found. The model of an entry y of a column (unit variance) given its pre-activation z (unit variance): normal, of
variance ``1 - rho^2`` where the neuron is off, ``1 + rho^2`` where it is on, on with log-odds ``kappa z``; rho grows
from vague to sure. Not in the SPEAR paper; related to complete dictionary learning, which knows no z.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

# Correlations with the true column that the adaptive mode chooses from, per column, by likelihood.
RHO_GRID = (0.3, 0.45, 0.6, 0.7, 0.8, 0.88, 0.94, 0.97)
# Choosing costs more than the products of a step, so it is done every fourth.
RHO_INERTIA, RHO_PERIOD = 0.7, 4
# Log-odds of firing per unit of pre-activation at correlation rho: a probit link's slope, 1.7 rho / sqrt(1 - rho^2).
PROBIT = 1.7
# A column whose update is weak loses weight in the orthogonalisation, but never below this share of the strongest: less
# would make the polar factor ill conditioned and let columns coincide.
MIN_WEIGHT = 0.01
# Singular values of a weighted update relative to the bound on the largest; smaller ones are left below one, which
# costs an ambiguous start a step or two. POLAR_ERROR is what float32 resolves.
SMALLEST_SINGULAR, POLAR_ERROR = 1e-3, 1e-6
TINY = 1e-12
# One number for each column, or one for all.
PerColumn = Float[Array, "1 #k"]


class Tie(NamedTuple):
    """What the EM sees: entries and responses of an orthonormal basis, in float32.

    Attributes:
        entries: (m, r) ``sqrt(m) left``: ``entries @ q`` has unit mean square for a unit q.
        response: (m, r) H in the same coordinates, Frobenius norm ``sqrt(m)``.
        regressors: (m, r) the columns of ``weight @ V`` whitened, ``regressors^T regressors = m I``.
        shrinkage: (r,) Wiener weights of the regressors.
    """

    entries: Float[Array, "m r"]
    response: Float[Array, "m r"]
    regressors: Float[Array, "m r"]
    shrinkage: Float[Array, " r"]


class Pace(NamedTuple):
    """What of a `Schedule` is no shape, so that it does not recompile.

    Attributes:
        numbers: (4,) ``data_share, sharpness, rho_start, rho_end``.
        iterations: () EM steps.
    """

    numbers: Float[Array, " 4"]
    iterations: Int[Array, ""]


def tied_em(
    tie: Tie, start: Float[Array, "r k"], known: Float[Array, "r r"], pace: Pace, *, is_adaptive: bool
) -> Float[Array, "r k"]:
    """Run the EM from one start.

    Args:
        tie: entries and responses.
        start: (r, k) any full-rank matrix; k directions are sought.
        known: (r, r) orthonormal basis of the directions already known, zero columns for the rest; what is found stays
            orthogonal to them.
        pace: of the `Schedule`.
        is_adaptive: of the `Schedule`.

    Returns:
        (r, k) orthonormal columns.
    """
    data_share, sharpness, rho_start, rho_end = pace.numbers
    iterations = pace.iterations
    rows = tie.entries.shape[0]
    project = lambda q: q - known @ (known.T @ q)
    # A start may hold zero columns, so that one compiled shape serves any number of sought directions.
    sought = jnp.any(start != 0, axis=0, keepdims=True).astype(start.dtype)

    def step(index: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        # Nothing is computed outside the loop: there fusion, and with it rounding, depends on what surrounds it.
        update, _, responsibilities, rho, best = carry
        directions = polar(project(update)) * sought
        progress = index.astype(start.dtype) / iterations.astype(start.dtype)
        entries = tie.entries @ directions
        pre_activation = _pre_activation(tie, directions, responsibilities, data_share)
        if is_adaptive:
            cap = rho_start + (rho_end - rho_start) * jnp.minimum(1.0, 2 * progress)
            likeliest = lambda: _likeliest_rho(entries, pre_activation)
            best = lax.cond(index % RHO_PERIOD == 0, likeliest, lambda: best)
            rho = jnp.minimum(RHO_INERTIA * rho + (1 - RHO_INERTIA) * best, cap)
        else:
            rho = jnp.ones_like(rho) * (rho_start * (1 - progress) + rho_end * progress)
        off, on = 1 - rho**2, 1 + rho**2
        precision_gap = 1 / off - 1 / on
        on_probability = jax.nn.sigmoid(log_odds(entries, pre_activation, rho))
        # The gradient of the likelihood, less what it would be for entries that carry no signal (a Newton step).
        slope = on_probability + entries**2 * on_probability * (1 - on_probability) * precision_gap
        update = project(tie.entries.T @ (entries * on_probability) / rows - directions * _mean(slope))
        length = jnp.sqrt(jnp.sum(update**2, axis=0, keepdims=True)) + TINY
        gain = 2 * rho**2 / (1 - rho**4) if is_adaptive else jnp.ones_like(rho)
        weight = (length * gain) ** sharpness
        weight = jnp.maximum(weight / jnp.max(weight), MIN_WEIGHT)
        return update / length * weight * sought, directions, on_probability, rho, best

    off_everywhere = jnp.zeros((rows, start.shape[1]), start.dtype)
    rho = jnp.ones((1, start.shape[1]), start.dtype) * rho_start
    # The last update is one too many: the step before it has the directions.
    return lax.fori_loop(0, iterations + 1, step, (start, start, off_everywhere, rho, rho))[1]


def log_odds(
    entries: Float[Array, "m k"],
    pre_activation: Float[Array, "m k"],
    rho: PerColumn,
) -> Float[Array, "m k"]:
    """Log-odds that each neuron is on, from its pre-activation and its entry, both of unit variance."""
    off, on = 1 - rho**2, 1 + rho**2
    return _prior(pre_activation, rho) + 0.5 * jnp.log(off / on) + 0.5 * entries**2 * (1 / off - 1 / on)


def log_likelihood(
    entries: Float[Array, "m k"],
    pre_activation: Float[Array, "m k"],
    rho: PerColumn,
) -> Float[Array, " k"]:
    """Mean log-likelihood of each column, up to a constant."""
    off = 1 - rho**2
    evidence = jax.nn.softplus(log_odds(entries, pre_activation, rho)) - jax.nn.softplus(_prior(pre_activation, rho))
    return jnp.mean(evidence - 0.5 * jnp.log(off) - 0.5 * entries**2 / off, axis=0)


def unit_rms(columns: Float[Array, "m k"]) -> Float[Array, "m k"]:
    """The columns scaled to unit mean square."""
    return columns / jnp.sqrt(_mean(columns**2) + TINY)


def polar(matrix: Float[Array, "r k"]) -> Float[Array, "r k"]:
    """Nearest matrix with orthonormal columns, ``A (A^T A)^(-1/2)``, by scaled Newton-Schulz steps.

    ``A <- A (3 - A^T A) / 2`` drives every singular value in (0, sqrt 3) to 1 by products alone; scaling to the
    interval the values are known to fill speeds up the small ones (Chen and Chow 2014, "A stable scaling of
    Newton-Schulz for improving the sign function computation", Sec. 3). Columns of zeros stay zero.
    """
    gram = matrix.T @ matrix
    matrix = matrix / jnp.sqrt(jnp.max(jnp.sum(jnp.abs(gram), axis=0)) + TINY)  # a bound on the largest eigenvalue
    identity = jnp.eye(matrix.shape[1], dtype=matrix.dtype)

    def step(matrix: Array, scale: Array) -> tuple[Array, None]:
        matrix = scale * matrix
        return matrix @ (1.5 * identity - 0.5 * (matrix.T @ matrix)), None

    return lax.scan(step, matrix, jnp.asarray(_scales(), matrix.dtype))[0]


def _scales() -> list[float]:
    """Scaling of each Newton-Schulz step, as the interval [lower, 1] of the singular values narrows to [1, 1]."""
    lower, scales = SMALLEST_SINGULAR, []
    while lower < 1 - POLAR_ERROR:
        scales.append(float(np.sqrt(3 / (1 + lower + lower**2))))
        lower = scales[-1] * lower * (3 - (scales[-1] * lower) ** 2) / 2
    return scales


def _mean(columns: Float[Array, "m k"]) -> Float[Array, "1 k"]:
    return jnp.mean(columns, axis=0, keepdims=True)


def _prior(
    pre_activation: Float[Array, "m k"],
    rho: PerColumn,
) -> Float[Array, "m k"]:
    return PROBIT * rho / jnp.sqrt(1 - rho**2) * pre_activation


def _pre_activation(
    tie: Tie, directions: Float[Array, "r k"], responsibilities: Float[Array, "m k"], data_share: Float[Array, ""]
) -> Float[Array, "m k"]:
    """Tied pre-activations mixed with those that the responsibilities themselves predict, by shrunk regression."""
    tied = unit_rms(tie.response @ directions)
    centred = responsibilities - _mean(responsibilities)
    regressed = unit_rms(tie.regressors @ (tie.shrinkage[:, None] * (tie.regressors.T @ centred)))
    return unit_rms((1 - data_share) * tied + data_share * regressed)


def _likeliest_rho(entries: Float[Array, "m k"], pre_activation: Float[Array, "m k"]) -> Float[Array, "1 k"]:
    grid = jnp.asarray(RHO_GRID, entries.dtype)
    scores = lax.map(lambda rho: log_likelihood(entries, pre_activation, rho[None, None]), grid)
    return grid[lax.argmax(scores, 0, jnp.int32)][None]
