"""The half-space test: could some input make exactly these neurons fire?

Neuron k fires for sample i where ``H_k . p_i + bias_k > 0``: the support of a true direction is cut out of the rows
``[H, bias]`` by a hyperplane. A sparse vector that mixes samples has a union of supports, which in general is not.
With m rows in r + 1 unknowns the test bites while m is well above 2 r (Cover 1965, "Geometrical and statistical
properties of systems of linear inequalities"); nearly nested supports pass it, and `network` tells these.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from spear_jax import linalg
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage

# Newton steps of the squared hinge loss; true supports took 3 to 6. A loss that falls by less than this share is stuck.
MAX_STEPS, STUCK = 40, 1e-4
# Ridge relative to the mean eigenvalue, and halvings of the line search.
RIDGE, HALVINGS = 1e-9, 12
# Rows that a support may have on the wrong side: one entry that the zero test misjudged.
MAX_WRONG = 1


@stage("half-space test")
def is_half_space(problem: Problem, supports: Bool[np.ndarray, "m k"]) -> Bool[np.ndarray, " k"]:
    """Whether a hyperplane leaves at most `MAX_WRONG` live rows of each support on the wrong side.

    Args:
        problem: of the layer, for response and bias.
        supports: (m, k) where each direction is not zero.
    """
    live = problem.live_mask
    features = np.column_stack([problem.response[live] / problem.spectrum, problem.bias[live]])
    features = linalg.qr(features)[0] * np.sqrt(live.sum())
    return np.array(
        [_wrong_rows(features, np.where(column, 1.0, -1.0)) <= MAX_WRONG for column in supports[live].T], bool
    )


def _wrong_rows(features: Float[np.ndarray, "l d"], sign: Float[np.ndarray, " l"]) -> int:
    """Rows on the wrong side of the best hyperplane that Newton's method on the squared hinge loss finds."""
    rows, size = features.shape
    at = 2 * features.T @ sign / rows
    for _ in range(MAX_STEPS):
        margin = sign * (features @ at)
        if (margin > 0).all():
            break
        active = margin < 1
        inside = features[active]
        step = linalg.solve(
            inside.T @ inside + RIDGE * rows * np.eye(size), inside.T @ (sign[active] * (1 - margin[active]))
        )
        along = sign * (features @ step)
        length = _line_search(margin, along)
        if _loss(margin + length * along) > (1 - STUCK) * _loss(margin):
            break
        at = at + length * step
    return int(np.sum(sign * (features @ at) <= 0))


def _line_search(margin: Float[np.ndarray, " l"], along: Float[np.ndarray, " l"]) -> float:
    """Where the loss along a step is least, by bisection of its slope, which rises."""
    slope = lambda length: -np.sum(np.maximum(1 - margin - length * along, 0) * along)
    low, high = 0.0, 1.0
    while slope(high) < 0 and high < 2.0**HALVINGS:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return high


def _loss(margin: Float[np.ndarray, " l"]) -> float:
    return float(np.sum(np.maximum(1 - margin, 0) ** 2))
