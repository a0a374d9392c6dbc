"""The layer in the coordinates of its gradient's factorisation: all that any stage of the attack sees."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax.factorization import column_blocks
from spear_jax.numerics import to_float64
from spear_jax.observation import LayerObservation
from spear_jax.types import Factorization


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
