"""The problem as the dictionary method's rounds see it: live rows, scaled and whitened, in few shapes to compile."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax.certify import Evidence
from spear_jax.config import Schedule
from spear_jax.tied_em import Tie

# Columns are padded to a multiple of this.
COLUMN_BUCKET = 16


class Basis(NamedTuple):
    """The problem on live rows in float64: what every stage of a round starts from.

    Attributes:
        left: (m, r) live rows of the left factor.
        response: (m, r) H on live rows, Frobenius norm ``sqrt(m)``.
        tie: both in float32, with the whitened regressors.
    """

    left: Float[np.ndarray, "m r"]
    response: Float[np.ndarray, "m r"]
    tie: Tie


def make_basis(evidence: Evidence) -> Basis:
    """Scale and whiten what the EM sees (docs/method.md, Sec. 2)."""
    factorization = evidence.factorization
    live = np.asarray(factorization.live_mask)
    left, response = np.asarray(factorization.left)[live], evidence.response[live]
    rows = len(left)
    spectrum = np.asarray(factorization.singular_values[: factorization.rank])
    share = spectrum**2 / np.sum(spectrum**2)
    scaled = response * np.sqrt(rows) / np.linalg.norm(response)
    return Basis(left, scaled, make_tie(left, scaled, response / spectrum, share / (share + 4 / rows)))


def make_tie(
    left: Float[np.ndarray, "m r"],
    response: Float[np.ndarray, "m r"],
    raw: Float[np.ndarray, "m r"],
    shrinkage: Float[np.ndarray, " r"],
) -> Tie:
    """Entries, responses and whitened regressors in float32.

    Args:
        left: orthonormal columns.
        response: H in their coordinates, Frobenius norm ``sqrt(m)``.
        raw: what the regressors are made of.
        shrinkage: Wiener weights of the regressors.
    """
    values, vectors = np.linalg.eigh(raw.T @ raw / len(raw))
    whitened = raw @ (vectors / np.sqrt(np.maximum(values, values[-1] * 1e-14))) @ vectors.T
    single = lambda array: jnp.asarray(array, jnp.float32)
    return Tie(single(left * np.sqrt(len(left))), single(response), single(whitened), single(shrinkage))


def pad_columns(array: Float[np.ndarray, "j k"]) -> jax.Array:
    """Columns repeated up to a multiple of the bucket, so that few shapes are compiled, in float32."""
    return jnp.asarray(np.pad(array, ((0, 0), (0, -array.shape[1] % COLUMN_BUCKET)), mode="edge"), jnp.float32)


def schedule_numbers(schedule: Schedule) -> tuple[jax.Array, jax.Array]:
    """What of the schedule is no shape: it does not recompile."""
    return jnp.asarray(schedule[1:5], jnp.float32), jnp.int32(schedule.iterations)
