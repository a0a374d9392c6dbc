"""How far apart two samples may be that merged into one root: a pair that noise hides counts as one singular value.

Two samples x + e and x - e of one label have gradients that differ by ``act''(z) o (W e) o (W2^T d2)``, of first order
in e, so the pair adds a singular value of second order: hidden where that is below the noise. The root is then a
weighted mean of the two, and where nobody counted the samples its bar must say so. Where the activation has kinks its
second derivative is zero: a pair that fires the same neurons merges at any distance (docs/span.md, Sec. 4).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.roots.equations import first_seen, placed
from spear_jax.attacks.dense.roots.exact import Sides, in_lanes, sides_of
from spear_jax.attacks.dense.roots.found import Found
from spear_jax.attacks.dense.roots.stack import Stack
from spear_jax.factorization import white_edge


def twin_distance(stack: Stack, points: Float[np.ndarray, "k r"], found: Found) -> Float[np.ndarray, " k"]:
    """Distance within which each root may be the mean of two samples, in the units of inputs.

    0 behind kinks, where nothing bounds it and the certificate says that it may be a mean; infinite where the layer's
    gradient is a sum over several steps, which hides a pair in its own way.

    Args:
        stack: of the layers.
        points: the roots.
        found: the same, before they were refined, with their duals.
    """
    if not stack.takes_out:
        return np.full(len(points), np.inf)
    if stack.activation.is_kinked and stack.between is None:
        return np.zeros(len(points))
    factorization, next_dual = stack.problem.factorization, found.next_duals[:, : len(stack.uppers[0].spectrum)]
    rows, columns = len(stack.problem.bias), factorization.right.shape[1]
    white = white_edge(factorization.noise_std, (rows, columns))
    edge = max(factorization.noise_floor if len(factorization.singular_values) > stack.rank else 0.0, white)
    (bend,) = in_lanes(partial(_bends, sides_of(stack)), np.concatenate([points, next_dual], axis=1))
    return np.sqrt(edge * np.sqrt(columns) / np.maximum(bend, np.finfo(float).tiny))


@jax.jit
def _bends(sides: Sides, both: jax.Array) -> tuple[jax.Array]:
    """Size of the change of the gradients along all inputs of unit size together."""
    points, next_duals = both[:, : len(sides.spectrum)], both[:, len(sides.spectrum) :]
    z, x = placed(sides.equations, points)
    back = ((next_duals * sides.spectra[0][None]) @ sides.lefts[0].T) @ sides.equations.weights[0]

    def gradient(z: jax.Array, x: jax.Array) -> jax.Array:
        _, pull = jax.vjp(lambda z: first_seen(sides.equations, z, x, jnp.zeros(len(z))), z)
        return pull(back)[0]

    def bent(along_z: jax.Array, along_x: jax.Array) -> jax.Array:
        along = jnp.tile(along_z, (len(z), 1)), jnp.tile(along_x, (len(z), 1))
        return jnp.sum(jax.jvp(gradient, (z, x), along)[1] ** 2, axis=1)

    return (jnp.sqrt(jnp.sum(jax.vmap(bent)(*(probe.T for probe in sides.probes)), axis=0)),)
