"""Neurons that fired for one sample alone: each gives that sample, and with it its direction.

Row k of the gradient is then ``D_ki x_i^T`` and the bias gradient ``D_ki``, so that ``G_k / g_k = x_i`` (the ratio
rule), here the dual vector ``left_k / g_k``. Where inputs are not centred, neurons of low offset are of this kind
(LT-code peeling, Shariati and Alambardar Meybodi 2026). A row of several samples gives a weighted mean of them instead,
whose pattern is no sample's: the rows where it would not fire have no null vector, and nothing is proposed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from spear_jax import linalg
from spear_jax.attacks.dense.dictionary.basis import unit_rows
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage

# Share of the live rows that is tried, those of lowest offset.
TRIED = 0.25
# The null vector's eigenvalue must be below the next by this: it is at rounding for a sample, of the same size else.
ALONE = 1e-9


@stage("peel")
def peel(problem: Problem) -> Float[np.ndarray, "k r"]:
    """Directions that the rows of lowest offset give, each as if it had fired for one sample only.

    Args:
        problem: of the layer.

    Returns:
        (k, r) unit directions, as many as rows gave one; the same sample may come several times.
    """
    left, rank = problem.left, problem.rank
    lowest = problem.live_rows[np.argsort(problem.offset[problem.live_rows], kind="stable")]
    found = []
    for row in lowest[: round(TRIED * len(lowest))]:
        if problem.bias_grad[row] == 0:
            continue
        pre_activation = problem.response[problem.live_rows] @ (left[row] / problem.bias_grad[row])
        is_off = pre_activation + problem.bias[problem.live_rows] < 0
        if is_off.sum() < rank:
            continue
        rows = unit_rows(left[problem.live_rows[is_off]])
        values, vectors = linalg.eigh(rows.T @ rows)
        if rank > 1 and values[0] < ALONE * values[1]:
            found.append(vectors[:, 0])
    return np.array(found).reshape(len(found), rank)
