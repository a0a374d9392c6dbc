"""Whether the inputs are centred, and the neurons that fire for one sample alone.

With ``x_i = mean + delta_i`` every neuron has an offset ``w_k . mean + bias_k``: some fire for each sample, some for
none, columns of D are correlated and the mean dominates the spectrum. Neurons of low offset fire for few samples each;
on these D is nearly orthogonal as in a centred batch (`dictionary.low_rows`).
"""

from __future__ import annotations

import numpy as np

from spear_jax.attacks.dense.problem import Problem

# Share of the gradient's energy along the mean input, beyond the 1 / b of any batch, from which a batch counts as
# skewed. Photos normalised by their data set's statistics show 0.02 to 0.1 (8 samples: up to 0.35), pixels in [0, 1]
# and tables 0.6 to 0.99, digits either way 0.25 to 0.5, which both regimes solve.
SKEWED = 0.3
# Cosine from which two rows are multiples of each other.
PARALLEL = 1 - 1e-12


def is_skewed(problem: Problem, asked: str = "auto") -> bool:
    """Whether the inputs share so much that the search should choose its rows.

    Args:
        problem: of the layer.
        asked: ``"centred"`` or ``"skewed"`` to have it taken so, ``"auto"`` to look at the gradient.
    """
    return asked == "skewed" if asked != "auto" else problem.mean_share > SKEWED + 1 / problem.rank


def single_rows(problem: Problem) -> int:
    """Neurons that fired for one sample only: their rows of G are multiples of its input, parallel to one another.

    A sample that such a neuron alone knows cannot be told from a mixture and is not counted.
    """
    rows = problem.left[problem.live_mask] * problem.spectrum
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    likeness = np.abs(rows @ rows.T) - np.eye(len(rows))
    return int(np.sum(likeness.max(axis=1, initial=0) > PARALLEL))
