"""Inputs that are not centred: how neurons differ, and the rows on which a batch looks centred again.

With ``x_i = mean + delta_i`` every neuron has an offset ``w_k . mean + bias_k``: some fire for each sample, some for
none, columns of D are correlated and the mean dominates the spectrum. The server sees the mean, since
``G^T g / g^T g`` with the bias gradient g is a weighted mean input. Neurons of low offset fire for few samples each;
on these, every row scaled to what it tells (Tyler's fixed point), D is nearly orthogonal as in a centred batch.
Directions are the same for any set of rows, so what one set finds serves the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spear_jax.attacks.dense.problem import Evidence

# Share of the gradient's energy along the mean input, beyond the 1 / b of any batch, from which a batch counts as
# skewed. Photos normalised by their data set's statistics show 0.02 to 0.1 (8 samples: up to 0.35), pixels in [0, 1]
# and tables 0.6 to 0.99, digits either way 0.25 to 0.5, which both regimes solve.
SKEWED = 0.3
# Cosine from which two rows are multiples of each other.
PARALLEL = 1 - 1e-12


class RowModel(NamedTuple):
    """What the server knows of how often each neuron fires.

    Attributes:
        live: (l,) rows that fired for at least one sample.
        offset: (m,) pre-activation of the mean input.
        mean_share: share of the gradient's energy along the mean input: 1 / b or so for centred inputs, near 1 where
            all inputs are much alike.
        rank: of the gradient.
    """

    live: Int[np.ndarray, " l"]
    offset: Float[np.ndarray, " m"]
    mean_share: float
    rank: int

    def regime(self, asked: str = "auto") -> str:
        """``"skewed"`` where the inputs share so much that the search should choose its rows, else ``"centred"``."""
        return asked if asked != "auto" else "skewed" if self.mean_share > SKEWED + 1 / self.rank else "centred"


def row_model(evidence: Evidence) -> RowModel:
    """Offsets and skew, from the gradient, the bias gradient and the known weights."""
    factorization = evidence.factorization
    spectrum = np.asarray(factorization.singular_values[: factorization.rank])
    along = spectrum * (np.asarray(factorization.left).T @ evidence.bias_grad)
    size = evidence.bias_grad @ evidence.bias_grad
    offset = evidence.response @ (along / size / spectrum) + evidence.bias
    share = along @ along / (size * (spectrum @ spectrum))
    return RowModel(np.flatnonzero(np.asarray(factorization.live_mask)), offset, float(share), factorization.rank)


def single_rows(evidence: Evidence) -> int:
    """Neurons that fired for one sample only: their rows of G are multiples of its input, parallel to one another.

    A sample that such a neuron alone knows cannot be told from a mixture and is not counted.
    """
    factorization = evidence.factorization
    live = np.asarray(factorization.live_mask)
    rows = np.asarray(factorization.left)[live] * np.asarray(factorization.singular_values[: factorization.rank])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    likeness = np.abs(rows @ rows.T) - np.eye(len(rows))
    return int(np.sum(likeness.max(axis=1, initial=0) > PARALLEL))
