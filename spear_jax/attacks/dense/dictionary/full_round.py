"""A round in all dimensions: one EM over all that is missing, then the releases (docs/method.md, Sec. 2 and 3)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.dictionary.admission import accept
from spear_jax.attacks.dense.dictionary.basis import Basis, pace_of, pad_columns
from spear_jax.attacks.dense.dictionary.em import tied_em
from spear_jax.attacks.dense.dictionary.release import release
from spear_jax.attacks.dense.dictionary.round import Round
from spear_jax.attacks.dense.directions import pool
from spear_jax.config import Schedule
from spear_jax.stages import stage

# (confidence, width) of the releases after the EM, and of those that follow once others are known.
RELEASES = ((3.0, 0.3), (4.0, 0.1), (4.0, 0.02))
LATER_RELEASES = ((4.0, 0.1), (4.0, 0.02), (6.0, 0.02))
# Singular values of the directions below this are raised to it before they are inverted.
DUAL_FLOOR, LATER_FLOOR = 0.05, 0.01
MAX_RELEASES = 6


def full_round(
    round_: Round, basis: Basis, grown: pool.CandidatePool, known: Float[np.ndarray, "k r"]
) -> pool.CandidatePool:
    """EM from one random start in all r dimensions, then releases, for as long as these find more.

    What is accepted is exact, which sharpens the pre-activations of the others: these are released again, once more
    from where the EM left them and then from where they are.

    Args:
        round_: of the problem; its key draws the start.
        basis: rows and coordinates of the round.
        grown: the pool.
        known: (k, r) unit directions that the EM stays orthogonal to.

    Returns:
        the pool with what was accepted.
    """
    rank = known.shape[1]
    columns = _em(basis, basis.enter(known), round_.key, round_.full_schedule())
    if not np.isfinite(columns).all():
        return grown
    start = columns
    for attempt in range(MAX_RELEASES):
        inside = basis.enter(known).T
        columns = _release(basis, inside, columns, is_first=attempt == 0)
        before, grown = grown, accept(round_, grown, basis.leave(columns.T), screen=True)
        known = np.concatenate([known, pool.added(before, grown)])
        known = known[pool.independent(known)]
        added = known[len(inside.T) :]
        missing = np.ones(columns.shape[1], bool)
        missing[optimize.linear_sum_assignment(-np.abs(basis.enter(added) @ start))[1]] = False
        start, columns = start[:, missing], columns[:, missing]
        if len(known) >= rank or (attempt > 1 and len(added) == 0):
            break
        if attempt == 0:
            columns = start
    return grown


@stage("em")
def _em(basis: Basis, known: Float[np.ndarray, "k r"], key: jax.Array, schedule: Schedule) -> Float[np.ndarray, "r j"]:
    """Columns from one random start, orthogonal to the known directions."""
    count, rank = known.shape
    sought = (np.arange(rank) < rank - count).astype(np.float32)[None]
    start = jax.random.normal(key, (rank, rank), jnp.float32) * sought
    span = np.zeros((rank, rank))
    span[:, :count] = linalg.qr(known.T)[0]
    found = _run_em(
        basis.tie, start, jnp.asarray(span, jnp.float32), pace_of(schedule), is_adaptive=schedule.is_adaptive
    )  # fmt: skip
    return np.asarray(found, np.float64)[:, : rank - count]


@stage("release")
def _release(
    basis: Basis, known: Float[np.ndarray, "r k"], columns: Float[np.ndarray, "r j"], *, is_first: bool
) -> Float[np.ndarray, "r j"]:
    """The releases of one attempt: pre-activations from the dual of all columns, those that are known among them."""
    floor = DUAL_FLOOR if is_first else LATER_FLOOR
    for step, (confidence, width) in enumerate(RELEASES if is_first else LATER_RELEASES):
        # The EM's columns are orthonormal: nothing to raise.
        inverse = dual(np.concatenate([known, columns], axis=1), floor if step or not is_first else 0.0)
        pre_activation = basis.all_response @ inverse[:, known.shape[1] :]
        columns = linalg.solve(
            basis.triangle, _run_release(basis, basis.triangle @ columns, pre_activation, confidence, width)
        )
    return columns


def dual(directions: Float[np.ndarray, "r k"], floor: float) -> Float[np.ndarray, "r k"]:
    """Dual basis ``Q (Q^T Q)^-1`` with singular values floored: unfinished directions may nearly coincide."""
    xp: Any = numerics.float64_namespace()
    left, values, right = numerics.float64_linalg().svd(xp.asarray(directions), full_matrices=False)
    return np.asarray((left / xp.maximum(values, floor)) @ right)


def _run_release(
    basis: Basis,
    columns: Float[np.ndarray, "r k"],
    pre_activation: Float[np.ndarray, "l k"],
    confidence: float,
    width: float,
) -> Float[np.ndarray, "r k"]:
    """`release` of padded columns."""
    arguments = (pad_columns(columns), pad_columns(pre_activation), jnp.float32(confidence), jnp.float32(width))
    return np.asarray(_compiled_release(basis.entries, *arguments), np.float64)[:, : columns.shape[1]]


_compiled_release = jax.jit(release)
_run_em = jax.jit(tied_em, static_argnames="is_adaptive")
