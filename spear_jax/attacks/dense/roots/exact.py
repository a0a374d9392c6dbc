"""Roots in float64: sharpened on all equations, judged by the noise, and the gradients that take a sample out.

A sample's own gradient is ``d = act'(z) o (W2^T d2)`` with ``d2`` in the column space of the next layer's gradient and
``d`` in that of this one: linear in ``d2``, so the next layer's weights give both, and the equations left over confirm
the sample by the other side of the gradient (docs/span.md, Sec. 1, *dual*).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spear_jax.activations import apply
from spear_jax.attacks.dense.roots.newton import Course, Equations, descend
from spear_jax.attacks.dense.roots.pair import Found, Pair
from spear_jax.numerics import in_float64, search_matmul

# Lanes of a compiled program; fewer are padded.
LANES, DUAL_LANES = 32, 8
# Newton steps of a polish, and its damping: it starts at a root.
POLISH_STEPS, POLISH_DAMPING = 8, 1e-9
# Steps of inverse iteration: the wanted vector's value is the noise's, the next one a share of one.
INVERSE_STEPS = 4


def in_lanes(function: Any, points: Float[np.ndarray, "k r"], lanes: int = LANES) -> tuple[np.ndarray, ...]:
    """``function(points)`` in float64, in blocks of one shape; every result has the points along its first axis."""
    blocks = []
    for start in range(0, max(len(points), 1), lanes):
        block = points[start : start + lanes]
        padding = np.ones((lanes - len(block), points.shape[1]))
        results = in_float64(function, np.concatenate([block, padding]))
        blocks.append([result[: len(block)] for result in results])
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))


def polish(pair: Pair, points: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k r"]:
    """Points after a few Newton steps on the equations of all neurons, with no sample taken out."""
    rest = pair.whole
    if rest.basis.shape[1] == 0:
        return points
    place = np.zeros((len(points), rest.equations.response.shape[0]))
    place[:, : rest.basis.shape[1]] = (points - rest.origin) @ rest.basis
    (ended,) = in_lanes(partial(_sharpen, rest.equations), place)
    return rest.origin + ended[:, : rest.basis.shape[1]] @ rest.basis.T


@jax.jit
def _sharpen(equations: Equations, place: Float[Array, "l q"]) -> tuple[jax.Array]:
    course = Course(jnp.zeros(len(place)), jnp.asarray(POLISH_STEPS), jnp.asarray(False), POLISH_DAMPING)
    return (descend(equations, place, course).place,)


def scores(pair: Pair, points: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """Squared residual of each point over what noise and rounding explain, per equation left over: near 1 for roots."""
    residual, variance, _ = _residuals(pair, points)
    return residual / (pair.surplus * variance)


def noise_cost(pair: Pair, points: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """Squared residual that noise and rounding explain, relative to the activations."""
    _, variance, size = _residuals(pair, points)
    return pair.surplus * variance / size


def _residuals(pair: Pair, points: Float[np.ndarray, "k r"]) -> tuple[np.ndarray, ...]:
    return in_lanes(partial(_residual, pair.sides), points)


def _seen(sides: dict[str, Any], points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Activations and their derivatives at points."""
    z = search_matmul(points, sides["response"].T) + sides["bias"][None]
    return apply(sides["kind"], sides["slope"], z, jnp.zeros(len(points)))


@jax.jit
def _residual(sides: dict[str, Any], points: jax.Array) -> tuple[jax.Array, ...]:
    """Squared residuals, the variance of one equation, and the size of the activations."""
    noise, next_noise, rounding = sides["sizes"]
    hidden, slopes = _seen(sides, points)
    extended = jnp.concatenate([hidden, jnp.ones((len(points), 1))], axis=1)
    inside = search_matmul(extended, sides["seen"].T)
    residual = jnp.sum((extended - search_matmul(inside, sides["seen"])) ** 2, axis=1)
    own = jnp.sum((points / sides["spectrum"][None]) ** 2, axis=1) * jnp.mean(
        slopes**2 * sides["weight_norms"][None] ** 2, axis=1
    )
    later = jnp.sum((inside / sides["next_spectrum"][None]) ** 2, axis=1)
    variance = noise**2 * own + next_noise**2 * later + rounding**2 * jnp.mean(hidden**2, axis=1)
    return residual, variance, jnp.sum(hidden**2, axis=1)


def with_duals(pair: Pair, points: Float[np.ndarray, "k r"]) -> Found:
    """The points with the duals of both layers."""
    duals, next_duals, outside = in_lanes(partial(_duals, pair.sides), points, DUAL_LANES)
    return Found(points, duals, next_duals, outside)


@jax.jit
def _duals(sides: dict[str, Any], points: jax.Array) -> tuple[jax.Array, ...]:
    """Duals of both layers, and the share of ``d`` outside the column space."""
    hidden, slopes = _seen(sides, points)
    inside = search_matmul(hidden, sides["seen"][:, :-1].T) + sides["seen"][:, -1][None]

    def one(point: jax.Array, inside: jax.Array, slopes: jax.Array) -> tuple[jax.Array, ...]:
        gradients = slopes[:, None] * sides["back"]  # d is a mixture of these columns
        within = sides["left"].T @ gradients
        size = gradients.T @ gradients
        outside = size - within.T @ within
        trace = jnp.trace(outside) / len(outside)
        factors = jax.scipy.linalg.lu_factor(outside + 1e-15 * trace * jnp.eye(len(outside)))

        def nearer(_: jax.Array, mixture: jax.Array) -> jax.Array:
            mixture = jax.scipy.linalg.lu_solve(factors, size @ mixture)
            return mixture / jnp.sqrt(mixture @ size @ mixture)

        start = jax.random.normal(jax.random.key(0), (len(outside),), point.dtype)
        mixture = jax.lax.fori_loop(0, INVERSE_STEPS, nearer, start)
        gradient = gradients @ mixture
        off = jnp.linalg.norm(gradient - sides["left"] @ (sides["left"].T @ gradient)) / jnp.linalg.norm(gradient)
        dual = (within @ mixture) / sides["spectrum"]
        after = mixture / sides["next_spectrum"]
        return dual / (dual @ point), after / (after @ inside), off

    return jax.vmap(one)(points, inside, slopes)
