"""From nearly right to right: directions released from orthogonality, by reweighted least squares.

The EM returns orthonormal columns, the true directions are only nearly orthogonal. A direction is the vector whose
entries vanish where its neurons are off, so ``q <- (X^T diag(w) X)^-1 q`` with ``w = P(off | z) / (y^2 + eps^2)``:
inverse iteration for the smallest weighted singular vector. Pre-activations come from the dual of all directions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from spear_jax.tied_em import Tie, unit_rms

# Ridge of the weighted Gram matrix, relative to its mean eigenvalue: what float32 resolves.
RIDGE = 1e-7
# Entries of one batch of weighted Gram matrices (64 MiB in float32).
BATCH_ENTRIES = 2**24


def release(
    tie: Tie,
    directions: Float[Array, "r k"],
    pre_activation: Float[Array, "m k"],
    confidence: Float[Array, ""],
    width: Float[Array, ""],
) -> Float[Array, "r k"]:
    """One reweighted step of every direction, each on its own.

    Args:
        tie: for its entries.
        directions: (r, k) unit columns.
        pre_activation: (m, k), any positive scale.
        confidence: slope of the log-odds that a neuron is off in its pre-activation of unit variance.
        width: eps, entries (of unit variance) below it count as zero.
    """
    rows, rank = tie.entries.shape
    weights = jax.nn.sigmoid(-confidence * unit_rms(pre_activation))
    weights = weights / (unit_rms(tie.entries @ directions) ** 2 + width**2)

    def one(column: tuple[Array, Array]) -> Array:
        direction, weight = column
        gram = (tie.entries * weight[:, None]).T @ tie.entries / rows
        ridge = RIDGE * jnp.trace(gram) / rank
        factor = jax.scipy.linalg.cho_factor(gram + ridge * jnp.eye(rank, dtype=gram.dtype))
        for _ in range(2):
            direction = jax.scipy.linalg.cho_solve(factor, direction)
            direction = direction / jnp.sqrt(jnp.sum(direction**2))
        return direction

    batch = max(1, BATCH_ENTRIES // (rows * rank))
    return lax.map(one, (directions.T, weights.T), batch_size=batch).T
