"""The problem as the dictionary method's rounds see it: rows scaled and whitened, in few shapes to compile."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax import linalg
from spear_jax.attacks.dense.dictionary.em import Pace, Tie
from spear_jax.attacks.dense.dictionary.low_rows import low_rows
from spear_jax.attacks.dense.directions.polish import COLUMN_BUCKET
from spear_jax.attacks.dense.problem import Problem
from spear_jax.config import Schedule


class Basis(NamedTuple):
    """The problem in float64, in coordinates ``q' = change @ q`` of the factorisation's.

    The EM sees the rows of ``left``; what it finds is released on all live rows. In a centred batch both are the same
    and nothing changes coordinates.

    Attributes:
        left: (s, r) rows of the EM, orthonormal columns.
        response: (s, r) H on these rows, Frobenius norm ``sqrt(s)``.
        tie: both in float32, with the whitened regressors.
        all_response: (l, r) H on live rows, to any scale.
        entries: (l, r) live rows in float32, orthonormal columns times ``sqrt(l)``: ``entries @ triangle @ q'``.
        triangle: (r, r) coordinates of the releases from those of the basis.
        change: (r, r) coordinates of the basis from those of the factorisation.
    """

    left: Float[np.ndarray, "s r"]
    response: Float[np.ndarray, "s r"]
    tie: Tie
    all_response: Float[np.ndarray, "l r"]
    entries: Float[jax.Array, "l r"]
    triangle: Float[np.ndarray, "r r"]
    change: Float[np.ndarray, "r r"]

    def enter(self, directions: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k r"]:
        """Unit directions of the factorisation in the coordinates of the basis."""
        return unit_rows(directions @ self.change.T)

    def leave(self, directions: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k r"]:
        """Directions of the basis in the coordinates of the factorisation, of unit norm."""
        return unit_rows(linalg.solve(self.change, directions.T).T)


def make_basis(problem: Problem) -> Basis:
    """All live rows as they are, for batches that are centred (docs/method.md, Sec. 2)."""
    left, response, spectrum = problem.left[problem.live_mask], problem.response[problem.live_mask], problem.spectrum
    scaled = response * np.sqrt(len(left)) / np.linalg.norm(response)
    tie = make_tie(left, scaled, response / spectrum, _shrinkage(spectrum, len(left)))
    same = np.eye(problem.rank)
    return Basis(left, scaled, tie, scaled, tie.entries, same, same)


def make_row_basis(problem: Problem, fraction: float) -> Basis:
    """Rows of low offset for the EM, every live row at unit norm for the releases (docs/method.md, Sec. 8).

    Args:
        problem: of the layer.
        fraction: of the live rows that the EM sees.
    """
    spectrum, chosen = problem.spectrum, low_rows(problem, fraction)
    raw = problem.response / spectrum @ chosen.rotation.T
    response = raw[chosen.rows] * chosen.spectrum
    response = response * np.sqrt(len(response)) / np.linalg.norm(response)
    # The mean input has the first direction nearly to itself, which says nothing of how well the others are known.
    shares = np.append(chosen.spectrum[1:2], chosen.spectrum[1:])
    tie = make_tie(chosen.left, response, raw[chosen.rows], _shrinkage(shares, len(response)))
    all_left = problem.left[problem.live_rows] * spectrum @ chosen.rotation.T / chosen.spectrum
    all_left, triangle = linalg.qr(unit_rows(all_left))
    return Basis(
        left=chosen.left,
        response=response,
        tie=tie,
        all_response=raw[problem.live_rows] * chosen.spectrum,
        entries=jnp.asarray(all_left * np.sqrt(len(all_left)), jnp.float32),
        triangle=triangle,
        change=chosen.spectrum[:, None] * chosen.rotation / spectrum,
    )


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
    values, vectors = linalg.eigh(raw.T @ raw / len(raw))
    whitened = raw @ (vectors / np.sqrt(np.maximum(values, values[-1] * 1e-14))) @ vectors.T
    single = lambda array: jnp.asarray(array, jnp.float32)
    return Tie(single(left * np.sqrt(len(left))), single(response), single(whitened), single(shrinkage))


def unit_rows(array: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k r"]:
    """The rows at unit norm; a row of zeros stays."""
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.finfo(float).tiny)


def pad_columns(array: Float[np.ndarray, "j k"]) -> jax.Array:
    """Columns repeated up to a multiple of the bucket, so that few shapes are compiled, in float32."""
    return jnp.asarray(np.pad(array, ((0, 0), (0, -array.shape[1] % COLUMN_BUCKET)), mode="edge"), jnp.float32)


def pace_of(schedule: Schedule) -> Pace:
    """What of the schedule is no shape."""
    return Pace(jnp.asarray(schedule[1:5], jnp.float32), jnp.int32(schedule.iterations))


def _shrinkage(spectrum: Float[np.ndarray, " r"], rows: int) -> Float[np.ndarray, " r"]:
    """Wiener weights: how much of a regressor of this singular value is signal."""
    share = spectrum**2 / np.sum(spectrum**2)
    return share / (share + 4 / rows)
