"""The scale of each sample as the layers above see it: one unknown factor, as many equations as there are neurons.

The scale of a reconstructed input rests on the bias gradient alone: x is divided by whatever the client multiplied
that with and not the weight gradient, as clipping tensor by tensor, or a learning rate of its own for biases, does.
The layers above are not homogeneous: the softmax, and their biases, tell x from c x. A sample's gradient leaves the
column space as c leaves 1; where it lies in it the factor is read off, with its error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.reply import Reply, judge
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage

# Factors that are tried where the network refuses every sample as it is.
COARSE = np.geomspace(1 / 64, 64, 97)
# Finer grids around the best one, each over so many steps of the last: where no direction shows the scale but by the
# neurons above that fire, the factor must hit a window between two of them.
ZOOMS, ZOOM = 3, 4.0
# Gauss-Newton steps from the best of them, the longest one, and the relative difference that stands for a derivative.
STEPS, LONGEST, DIFFERENCE = 10, 0.1, 1e-5


# Rounding of the client's forward and backward pass, in units of its dtype, averages out over a layer's neurons.
ROUNDED = 0.02
# Samples whose shares must agree: two agree at some factor always.
LEAST_SHARES = 3


class Factor(NamedTuple):
    """A factor and its expected error, relative; infinite where nothing sees it."""

    value: float
    error: float

    @property
    def is_seen(self) -> bool:
        """Whether the factor is known well enough for an exact sample."""
        return bool(limits.DEVIATES * self.error <= limits.MAX_ERROR)

    def is_not(self, value: float) -> bool:
        """Whether it is another one, beyond its error."""
        return bool(abs(self.value / value - 1) > limits.DEVIATES * self.error)


UNSEEN = Factor(1.0, float("inf"))


class Factors(NamedTuple):
    """Factors by which the network would have the inputs multiplied.

    Attributes:
        value: (r,) of each sample.
        error: (r,) their expected errors, relative; infinite where the network does not see the scale.
        reply: the network's, to the inputs so multiplied.
    """

    value: Float[np.ndarray, " r"]
    error: Float[np.ndarray, " r"]
    reply: Reply

    @property
    def common(self) -> Factor:
        """One factor for all samples that are confirmed with theirs, and its expected error."""
        weight = np.where(self.reply.confirmed, self.error, np.inf) ** -2.0
        if not weight.sum():
            return UNSEEN
        return Factor(float(weight @ self.value / weight.sum()), float(weight.sum() ** -0.5))

    def deviates(self, value: float) -> np.ndarray:
        """(r,) whether a sample's factor is another one, beyond its error."""
        return self.reply.confirmed & (np.abs(self.value / value - 1) > limits.DEVIATES * self.error)


@stage("scale")
def find_factors(problem: Problem, dual: Float[np.ndarray, "r r"], reply: Reply) -> Factors:
    """The factor of each sample that brings its gradient nearest to the column space; 1 where that sees no scale.

    Args:
        problem: of the layer, with the model above.
        dual: (r, r) p_i, one a row.
        reply: the network's, to these; where it confirms none the search starts from a grid.
    """
    value = np.full(len(dual), 1.0 if reply.confirmed.any() else _nearest(problem, dual))
    moving = np.arange(len(dual))
    for _ in range(STEPS):
        here, slope = _along(problem, dual[moving], value[moving])
        size = np.linalg.norm(slope, axis=0)
        step = -np.sum(slope * here.outside, axis=0) / np.where(size > here.noise, size, np.inf) ** 2
        value[moving] *= 1 + np.clip(step, -LONGEST, LONGEST)
        moving = moving[np.abs(step) >= DIFFERENCE * limits.MAX_ERROR]
        if len(moving) == 0:
            break
    here, slope = _along(problem, dual, value)
    size = np.linalg.norm(slope, axis=0)
    spread = np.hypot(here.distance / np.sqrt(max(len(slope) - len(dual), 1)), ROUNDED * problem.client_eps)
    with np.errstate(divide="ignore"):
        error = np.where(size > here.noise, spread / size, np.inf)
    return Factors(value, error, here)


def shared_factor(problem: Problem, dual: Float[np.ndarray, "r r"], reply: Reply) -> Factor:
    """One factor for all, from the sizes of the samples' columns: single samples have equal shares in a mean loss.

    It sees what no direction shows, as with two classes, where ``D(y)`` depends on the scale by its size alone.

    Args:
        problem: of the layer, with the model above.
        dual: (r, r) p_i, one a row.
        reply: the network's, to these.
    """
    if len(dual) < LEAST_SHARES:
        return UNSEEN
    start = 1.0 if reply.confirmed.all() else _nearest(problem, dual)
    tolerance = limits.NETWORK_MARGIN * float(np.max(reply.noise))
    fits = [_fit_shares(problem, start * dual, sign) for sign in (1, -1)]
    fits = [factor for factor, left_over in fits if left_over <= tolerance]
    return fits[0]._replace(value=start * fits[0].value) if len(fits) == 1 else UNSEEN


def _nearest(problem: Problem, dual: Float[np.ndarray, "r r"]) -> float:
    """The factor for all at which the samples are nearest to the column space, by ever finer grids."""
    centre, grid = 1.0, COARSE
    for _ in range(ZOOMS + 1):
        distances = [np.mean(judge(problem, centre * factor * dual).distance) for factor in grid]
        centre *= float(grid[int(np.argmin(distances))])
        grid = grid ** (ZOOM / len(grid))
    return centre


def _fit_shares(problem: Problem, dual: Float[np.ndarray, "r r"], sign: int) -> tuple[Factor, float]:
    """The factor that brings the logarithms of all shares of one sign together, and what is left between them."""
    slope, left_over = np.zeros(len(dual)), np.inf
    spreads = [np.std(_log_shares(judge(problem, factor * dual), sign)) for factor in COARSE]
    if not np.isfinite(np.min(np.nan_to_num(spreads, nan=np.inf))):
        return UNSEEN, np.inf
    value = float(COARSE[int(np.nanargmin(spreads))])
    for _ in range(STEPS):
        here = _log_shares(judge(problem, value * dual), sign)
        slope = (_log_shares(judge(problem, value * (1 + DIFFERENCE) * dual), sign) - here) / DIFFERENCE
        slope, here = slope - slope.mean(), here - here.mean()
        if not np.isfinite(slope).all() or not slope.any():
            return UNSEEN, np.inf
        step = -float(slope @ here) / float(slope @ slope)
        left_over = float(np.linalg.norm(here + step * slope)) / np.sqrt(len(dual) - 2)
        value *= 1 + float(np.clip(step, -LONGEST, LONGEST))
    return Factor(value, (left_over + problem.client_eps) / float(np.linalg.norm(slope))), left_over


def _log_shares(reply: Reply, sign: int) -> Float[np.ndarray, " r"]:
    """Logarithm of each sample's share, for the first label that fits with this sign; NaN without one."""
    shares = np.where(reply.fits & (sign * reply.ratios > 0), sign * reply.ratios, np.nan)
    place = np.argmax(np.isfinite(shares), axis=1)
    return np.log(shares[np.arange(len(shares)), place])


def _along(
    problem: Problem, dual: Float[np.ndarray, "k r"], value: Float[np.ndarray, " k"]
) -> tuple[Reply, Float[np.ndarray, "m k"]]:
    """The reply at these factors, and the derivative of what lies outside by the logarithm of each."""
    here = judge(problem, dual * value[:, None])
    there = judge(problem, dual * (value * (1 + DIFFERENCE))[:, None])
    return here, np.where(here.labels == there.labels, there.outside - here.outside, 0.0) / DIFFERENCE
