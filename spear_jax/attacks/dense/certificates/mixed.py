"""The equations of a root that is sought by its own gradient, and the layer above as their witness.

Where the next layer has fewer outputs than there are samples its gradient's rows hide nothing. A sample's gradient
``act'(z) o (c @ back)`` must then lie in the column space of the layer's, with c unknown too (docs/span.md, Sec. 1,
*col*). All samples together must give the next layer's gradient, which none of these equations has seen.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spear_jax import linalg
from spear_jax.activations import apply, derivative
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.held import Noise, View
from spear_jax.attacks.dense.roots.equations import best_mixture, placed
from spear_jax.attacks.dense.roots.exact import Sides, in_lanes, sides_of
from spear_jax.attacks.dense.roots.stack import Stack


def explains(stack: Stack, points: Float[np.ndarray, "k r"], error: Float[np.ndarray, " k"]) -> bool:
    """Whether all samples together give the next layer's gradient; not before all are found.

    Args:
        stack: of the layers.
        points: the roots.
        error: relative, of the inputs.
    """
    if len(points) < stack.rank or np.linalg.cond(points) > 1 / np.finfo(float).eps:
        return False
    upper, dual = stack.uppers[0], linalg.inv(points).T
    seen, slopes = in_lanes(partial(_seen, sides_of(stack)), points)
    gradients = (dual * stack.problem.spectrum) @ stack.problem.left.T  # of the samples, (k, m)
    back = stack.whole.back.T
    pairs = zip(slopes, gradients, strict=True)
    shares = np.stack([linalg.lstsq(slope[:, None] * back, gradient)[0] for slope, gradient in pairs])
    extended = np.column_stack([seen, np.full(len(seen), upper.constant)])
    left = upper.spectrum[:, None] * upper.seen - shares.T @ extended
    # An error of one sample turns the gradients of those that are hard to tell from it.
    turned = np.linalg.norm(points, axis=1) * np.linalg.norm(dual, axis=1)
    each = np.linalg.norm(shares, axis=1) * np.linalg.norm(extended, axis=1) * turned * (error + stack.rounding)
    allowed = limits.ROOT_MARGIN * np.hypot(upper.noise * np.sqrt(left.size), np.linalg.norm(each))
    return bool(np.linalg.norm(left) <= allowed)


@jax.jit
def _seen(sides: Sides, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the next layer sees, and the activation's derivatives."""
    z, _ = placed(sides.equations, points)
    return apply(sides.equations.kind, sides.equations.slope, z, jnp.zeros(len(z)))


def mixed_noise(sides: Sides, point: jax.Array) -> Noise:
    """The noise of the equations at a point."""
    own_gradient = _gradient(sides, point)
    gradient = own_gradient.columns @ own_gradient.mixture
    own = sides.noise**2 * jnp.sum((point / sides.spectrum) ** 2)
    turned = sides.noise**2 * jnp.sum((sides.left.T @ gradient / sides.spectrum) ** 2)
    shaken = jnp.sum((own_gradient.bent[:, None] * sides.probes[0]) ** 2, axis=1) * own
    above = sides.noises[0] ** 2 * jnp.sum((own_gradient.mixture / sides.spectra[0]) ** 2)
    weights = jnp.sum(sides.equations.weights[0] ** 2, axis=0)
    guessed = sides.rounding**2 * jnp.mean(gradient**2)
    variance = turned + guessed + shaken + above * weights * own_gradient.slopes**2
    whitening = jnp.append(1 / jnp.sqrt(variance), 0.0)
    return Noise((whitening,), own + sides.rounding**2, jnp.mean(guessed / variance))


def mixed_view(sides: Sides, weights: jax.Array, point: jax.Array) -> View:
    """The equations at a point, whitened, with the mixture's freedom taken out; the last one is none.

    Args:
        sides: of the layers.
        weights: (m + 1,) to whiten by.
        point: (r,).
    """
    _, columns, mixture, bent = _gradient(sides, point)
    weights = weights[:-1]
    others = jnp.linalg.qr(mixture[:, None], mode="complete")[0][:, 1:]
    known = jnp.concatenate([sides.left, columns @ others], axis=1) * weights[:, None]
    basis = jnp.linalg.qr(known)[0]
    without = lambda array: array - basis @ (basis.T @ array)
    jacobian = bent[:, None] * sides.equations.response.T
    turned = (sides.left.T @ jacobian) / sides.spectrum[:, None] * sides.noise
    room = 1 - jnp.sum(basis**2, axis=1)
    turned = turned * jnp.sqrt(jnp.sum(room * weights**2))
    whole = jacobian * weights[:, None]
    grow = lambda array: jnp.concatenate([array, jnp.zeros((1, *array.shape[1:]))])
    residual = without(columns @ mixture * weights)
    return View(grow(residual), grow(without(whole)), grow(whole), grow(room), turned)


class _Gradient(NamedTuple):
    """A sample's own gradient as a mixture.

    Attributes:
        slopes: (m,) derivatives of the activation.
        columns: (m, c) that the gradient is a mixture of.
        mixture: (c,) the one that fits, for a gradient of unit length.
        bent: (m,) derivative of the gradient by the pre-activations.
    """

    slopes: Float[Array, " m"]
    columns: Float[Array, "m c"]
    mixture: Float[Array, " c"]
    bent: Float[Array, " m"]


def _gradient(sides: Sides, point: jax.Array) -> _Gradient:
    """The gradient of the sample at a point that lies in the column space best."""
    z = placed(sides.equations, point[None])[0]
    derivatives = lambda z: derivative(z, sides.equations.kind, sides.equations.slope, jnp.zeros(1))
    slopes, bend = (part[0] for part in jax.jvp(derivatives, (z,), (jnp.ones_like(z),)))
    columns = slopes[:, None] * sides.equations.back.T
    mixture = best_mixture([columns], [sides.left.T @ columns])
    return _Gradient(slopes, columns, mixture, bend * (mixture @ sides.equations.back))
