"""The problem that is left once some samples are known whole: ``G' = G - sum_i D_i x_i^T``, of smaller rank.

In the coordinates of the factorisation ``D = left Q`` and ``X^T = Q^-1 right``. A known sample gives its column q_i
and, from its input, its dual vector p_i, row i of Q^-1; as ``p_i . q_j = 0`` for every other j, the missing columns lie
in the null space of the known p_i, and what is left of the gradient is an exact projection: nothing is fitted anew.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spear_jax import linalg
from spear_jax.attacks.dense.problem import Problem

# A neuron that only known samples reached is left with rounding of this share of the largest row.
DEAD_ROW = 1e-12


class Remainder(NamedTuple):
    """The problem without the known samples, and the map of its directions into the original coordinates.

    Attributes:
        problem: of the rest.
        lift: (r, r') with orthonormal columns: a direction q of the rest is ``lift @ q`` in the coordinates before.
    """

    problem: Problem
    lift: Float[np.ndarray, "r s"]


def deflate(
    problem: Problem,
    directions: Float[np.ndarray, "k r"],
    dual: Float[np.ndarray, "k r"],
    error: Float[np.ndarray, " k"] | None = None,
) -> Remainder:
    """Take known samples out of a problem (docs/method.md, Sec. 7).

    Args:
        problem: k < r of its samples are known.
        directions: (k, r) unit directions of the known samples.
        dual: (k, r) their dual vectors, ``x_i = dual_i @ right``.
        error: (k,) expected errors of their inputs relative to their norms, which are noise of what is left; 0 where
            nothing bounds them.
    """
    whole, left, spectrum = problem.factorization, problem.left, problem.spectrum
    space = linalg.svd(dual)[2][len(dual) :].T
    # I - Q_K (P_K^T Q_K)^-1 P_K^T: the oblique projection that takes the known samples out.
    projection = np.eye(whole.rank) - directions.T @ linalg.solve(dual @ directions.T, dual)
    rotation, values, mix = linalg.svd(space.T @ projection * spectrum, full_matrices=False)
    lift = space @ rotation
    right = mix / spectrum @ np.asarray(whole.right)
    scale = 1 / np.sum(dual * directions, axis=1)
    taken = np.abs(scale) * np.linalg.norm(dual @ np.asarray(whole.right), axis=1)
    spoiled = 0.0 if error is None else float(np.linalg.norm(taken * error))
    noise_floor = float(np.hypot(whole.noise_floor, spoiled))
    # The errors lie in the row space, of dimension r, and the zero test takes noise by its coordinates.
    noise_std = float(np.hypot(whole.noise_std, spoiled / np.sqrt(len(left) * whole.rank)))
    noise = 2 * float(np.hypot(whole.noise_std * np.sqrt(right.shape[1]), spoiled / np.sqrt(len(left))))
    rows = np.linalg.norm(left @ lift * values, axis=1)
    factorization = dataclasses.replace(
        whole,
        left=left @ lift,
        right=values[:, None] * right,
        singular_values=np.append(values, noise_floor),
        rank=len(values),
        noise_floor=noise_floor,
        noise_std=noise_std,
        gap=float(values[-1] / noise_floor),
        live_mask=problem.live_mask & (rows > max(noise, DEAD_ROW * rows.max())),
    )
    rest = dataclasses.replace(
        problem,
        factorization=factorization,
        response=problem.response @ (mix / spectrum).T * values,
        bias_grad=problem.bias_grad - left @ (directions.T @ scale),
    )
    return Remainder(rest, lift)
