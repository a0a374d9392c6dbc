"""How far apart two samples may be that merged into one root: a pair that noise hides counts as one singular value.

Two samples x + e and x - e of one label have gradients that differ by ``act''(z) o (W e) o (W2^T d2)``, of first order
in e, so the pair adds a singular value of second order: hidden where that is below the noise. The root is then a
weighted mean of the two, and where nobody counted the samples its bar must say so. Where the activation has kinks its
second derivative is zero: a pair that fires the same neurons merges at any distance (docs/certificates.md).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax.activations import apply
from spear_jax.attacks.dense.roots.equations import placed
from spear_jax.attacks.dense.roots.exact import Sides, in_lanes, sides_of
from spear_jax.attacks.dense.roots.stack import Stack

# Share of the largest derivative below which a neuron's gradient does not tell what came back to it.
FLAT = 1e-2


def twin_distance(
    stack: Stack, points: Float[np.ndarray, "k r"], duals: Float[np.ndarray, "k r"]
) -> Float[np.ndarray, " k"]:
    """Distance within which each root may be the mean of two samples, in the units of inputs; 0 where none is bounded.

    Args:
        stack: of the layers.
        points: the roots.
        duals: theirs, which give the gradients.
    """
    if stack.activation.is_kinked or stack.between is not None or not stack.takes_out:
        return np.zeros(len(points))
    factorization = stack.problem.factorization
    rows, columns = len(stack.problem.bias), factorization.right.shape[1]
    white = factorization.noise_std * (np.sqrt(rows) + np.sqrt(columns))
    edge = max(factorization.noise_floor if len(factorization.singular_values) > stack.rank else 0.0, white)
    both = np.concatenate([points, duals], axis=1)
    (bend,) = in_lanes(partial(_bends, sides_of(stack)), both)
    return np.sqrt(edge * np.sqrt(columns) / np.maximum(bend, np.finfo(float).tiny))


@jax.jit
def _bends(sides: Sides, both: jax.Array) -> tuple[jax.Array]:
    """Size of the change of the gradient along all inputs of unit size together."""
    points, duals = jnp.split(both, 2, axis=1)
    z, _ = placed(sides.equations, points)
    slopes = lambda z: apply(sides.equations.kind, sides.equations.slope, z, jnp.zeros(len(z)))[1]
    slope, bend = jax.jvp(slopes, (z,), (jnp.ones_like(z),))
    gradient = (duals * sides.spectrum[None]) @ sides.left.T
    is_steep = jnp.abs(slope) > FLAT * jnp.max(jnp.abs(slope), axis=1, keepdims=True)
    back = jnp.where(is_steep, gradient / jnp.where(is_steep, slope, 1), 0)
    norms = jnp.sum(sides.probes[0] ** 2, axis=1)
    return (jnp.sqrt(jnp.sum((bend * back) ** 2 * norms[None], axis=1)),)
