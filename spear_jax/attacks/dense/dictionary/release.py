"""From nearly right to right: directions released from orthogonality, by reweighted least squares.

The EM returns orthonormal columns, the true directions are only nearly orthogonal. A direction is the vector whose
entries vanish where its neurons are off, so ``q <- (X^T diag(w) X)^-1 q`` with ``w = P(off | z) / (y^2 + eps^2)``:
inverse iteration for the smallest weighted singular vector (`null_vectors`). Pre-activations come from the dual of all
directions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from spear_jax.attacks.dense.dictionary.em import TINY, unit_rms
from spear_jax.attacks.dense.directions.null_vectors import first_step, next_step, unit

# Inverse iterations of a release, and conjugate-gradient steps of each: 8 steps gave what an exact solve gave.
SOLVES, STEPS = 2, 12
# Standard deviation of the entries of a neuron that is off, while a direction is being refitted.
OFF_WIDTH = 0.15


def release(
    entries: Float[Array, "m r"],
    directions: Float[Array, "r k"],
    pre_activation: Float[Array, "m k"],
    confidence: Float[Array, ""],
    width: Float[Array, ""],
) -> Float[Array, "r k"]:
    """One reweighted step of every direction, each on its own.

    Args:
        entries: (m, r) rows, of unit mean square for a unit direction.
        directions: (r, k) columns.
        pre_activation: (m, k), any positive scale.
        confidence: slope of the log-odds that a neuron is off in its pre-activation of unit variance.
        width: eps, entries (of unit variance) below it count as zero.

    Returns:
        (r, k) unit columns.
    """
    rows = entries / jnp.sqrt(jnp.float32(entries.shape[0]))
    directions = unit(directions)
    weights = jax.nn.sigmoid(-confidence * unit_rms(pre_activation))
    weights = weights * width**2 / ((entries @ directions) ** 2 + width**2)
    step = lambda _, state: (next_step(rows, weights, state[1], state[0], TINY**3), state[1])
    for _ in range(SOLVES):
        at, _ = lax.fori_loop(0, STEPS, step, (first_step(rows, weights, directions), directions))
        directions = unit(directions + at.correction)
    return directions


class Refit(NamedTuple):
    """The regression of responsibilities on what the missing dual vectors can make of the layer.

    Attributes:
        response: (m, d) H on the null space of the known directions; columns of zeros are allowed.
        inverse: (d, d) inverse of ``response^T response`` with its ridge.
    """

    response: Float[Array, "m d"]
    inverse: Float[Array, "d d"]


def release_alone(
    entries: Float[Array, "m r"],
    refit: Refit,
    directions: Float[Array, "r k"],
    pre_activation: Float[Array, "m k"],
    schedule: Float[Array, "s 2"],
) -> Float[Array, "r k"]:
    """Release by release with no need of the other directions: pre-activations are refitted to what fires.

    A missing dual vector lies in the null space of the known directions, so the responsibilities after each release
    are regressed on the d responses of that space (docs/method.md, Sec. 5).

    Args:
        entries: (m, r) rows, of unit mean square for a unit direction.
        refit: of the null space.
        directions: (r, k) columns to start from.
        pre_activation: (m, k), any positive scale.
        schedule: (s, 2) confidence and width of each release.

    Returns:
        (r, k) unit columns.
    """

    def step(carry: tuple[Array, Array], options: Array) -> tuple[tuple[Array, Array], None]:
        directions, pre_activation = carry
        directions = release(entries, directions, pre_activation, options[0], options[1])
        odds = 0.5 * options[0] * unit_rms(pre_activation) + 0.5 * jnp.log(jnp.float32(OFF_WIDTH**2 / 2))
        odds = odds + 0.5 * unit_rms(entries @ directions) ** 2 * (1 / OFF_WIDTH**2 - 0.5)
        fires = jax.nn.sigmoid(odds)
        centred = fires - jnp.mean(fires, axis=0, keepdims=True)
        return (directions, refit.response @ (refit.inverse @ (refit.response.T @ centred))), None

    return lax.scan(step, (directions, pre_activation), schedule)[0][0]
