"""A round in all dimensions: one EM over all that is missing, then the releases (docs/method.md, Sec. 2 and 3)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax import numerics
from spear_jax.basis import Basis, pad_columns, schedule_numbers
from spear_jax.config import Schedule
from spear_jax.release import release
from spear_jax.tied_em import Tie, tied_em

# (confidence, width) of the releases after the EM.
RELEASES = ((3.0, 0.3), (4.0, 0.1), (4.0, 0.02))
DUAL_FLOOR = 0.05


def full_round(
    basis: Basis, known: Float[np.ndarray, "k r"], key: jax.Array, schedule: Schedule
) -> Float[np.ndarray, "j r"]:
    """EM from one random start in all r dimensions, orthogonal to the known directions, then the releases."""
    rank, count = known.shape[1], len(known)
    sought = (np.arange(rank) < rank - count).astype(np.float32)[None]
    start = jax.random.normal(key, (rank, rank), jnp.float32) * sought
    span = np.zeros((rank, rank))
    span[:, :count] = np.linalg.qr(known.T)[0]
    found = _run_em(
        basis.tie, start, jnp.asarray(span, jnp.float32), *schedule_numbers(schedule), is_adaptive=schedule.is_adaptive
    )  # fmt: skip
    directions = np.asarray(found, np.float64)[:, : rank - count]
    if not np.isfinite(directions).all():
        return np.zeros((0, rank))
    for step, (confidence, width) in enumerate(RELEASES):
        everything = np.concatenate([known.T, directions], axis=1)
        pre_activation = basis.response @ dual(everything, DUAL_FLOOR if step else 0.0)[:, count:]
        directions = _run_release(basis.tie, directions, pre_activation, confidence, width)
    return directions.T


def dual(directions: Float[np.ndarray, "r k"], floor: float) -> Float[np.ndarray, "r k"]:
    """Dual basis ``Q (Q^T Q)^-1`` with singular values floored: unfinished directions may nearly coincide."""
    xp: Any = numerics.float64_namespace()
    left, values, right = xp.linalg.svd(xp.asarray(directions), full_matrices=False)
    return np.asarray((left / xp.maximum(values, floor)) @ right)


def _run_release(
    tie: Tie,
    directions: Float[np.ndarray, "r k"],
    pre_activation: Float[np.ndarray, "m k"],
    confidence: float,
    width: float,
) -> Float[np.ndarray, "r k"]:
    """`release` of padded columns."""
    arguments = (pad_columns(directions), pad_columns(pre_activation), jnp.float32(confidence), jnp.float32(width))
    return np.asarray(_release(tie, *arguments), np.float64)[:, : directions.shape[1]]


_release = jax.jit(release)
_run_em = jax.jit(tied_em, static_argnames="is_adaptive")
