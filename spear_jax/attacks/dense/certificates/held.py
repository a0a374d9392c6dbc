"""What holds a root: equations enough, none of them alone, and none by its noise.

Chi squared over all equations hides much: a vertex that a single neuron holds, neurons that fire for all samples and
say nothing, one equation that contradicts all others. So each equation is left out once (the jackknife, Miller 1974;
with heteroscedastic noise MacKinnon and White 1985, HC3), by the leverage that the linear model has of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Share of its own derivative that an equation keeps beside the row space, from which it says anything.
SAYS = 0.03
# Share of an equation that is left beside the unknowns, below which it is met whatever it says.
MET = 1e-6
# Steps of the iterations for the extreme eigenvalues.
POWER_STEPS = 12


class Noise(NamedTuple):
    """The noise of the equations at one point.

    Attributes:
        weights: per view (w,) one over the deviation of each neuron's equation, and of that of the constant.
        own: variance of an entry of the input, and of ``total . p``.
        guessed: share of the variance of an equation that is rounding.
    """

    weights: tuple[Array, ...]
    own: Float[Array, ""]
    guessed: Float[Array, ""]


class View(NamedTuple):
    """The whitened equations of one view at a point.

    Attributes:
        residual: (w,) beside the row space.
        jacobian: (w, r) beside the row space.
        whole: (w, r) not projected.
        room: (w,) share of each equation beside the row space.
        turned: (k, r) what noise of the row space makes of the derivative, as a root of the matrix that it adds.
    """

    residual: Float[Array, " w"]
    jacobian: Float[Array, "w r"]
    whole: Float[Array, "w r"]
    room: Float[Array, " w"]
    turned: Float[Array, "k r"]


class Total(NamedTuple):
    """The equation of the bias gradient.

    Attributes:
        row: (r,).
        off: () its residual.
        noise: () its variance.
        is_there: () 0 without a bias gradient, else 1.
    """

    row: Float[Array, " r"]
    off: Float[Array, ""]
    noise: Float[Array, ""]
    is_there: Float[Array, ""]


class Inverse(NamedTuple):
    """The inverse of the normal matrix.

    Attributes:
        solve: applied to vectors or columns.
        trace: () of it, the expected squared error.
        longest: () its largest eigenvalue.
    """

    solve: Callable[[jax.Array], jax.Array]
    trace: Float[Array, ""]
    longest: Float[Array, ""]


class Hold(NamedTuple):
    """How a root is held.

    Attributes:
        surplus: equations that say anything, beyond the unknowns.
        without_one: expected squared error without the neuron that matters most, over that with all.
        feigned: largest share of what holds a direction that noise of the row spaces feigns.
        single: share of the expected squared error that lies along one direction.
    """

    surplus: Any
    without_one: Any
    feigned: Any
    single: Any


def hold(views: list[View], total: Total, inverse: Inverse) -> tuple[Hold, jax.Array, jax.Array]:
    """How a root is held, chi squared per equation left over of those that say anything, and the jackknife's variance.

    Args:
        views: at the root.
        total: there.
        inverse: of the normal matrix.
    """
    size, solve = len(total.row), inverse.solve
    moved = solve(total.row) / total.noise
    left = 1 - total.row @ moved
    count, misfit = total.is_there, total.off**2 / total.noise
    spread = jnp.where(left > MET, jnp.sum(moved**2) * (total.off / left) ** 2, 0)
    worst, feign = jnp.zeros(()), jnp.zeros((0, size))
    for view in views:
        says = jnp.sum(view.jacobian**2, axis=1) > SAYS**2 * view.room * jnp.sum(view.whole**2, axis=1)
        says = says.at[-1].set(True)  # of the constant
        moved = solve(view.jacobian.T).T
        left = view.room - jnp.sum(view.jacobian * moved, axis=1)
        is_met, left = left <= MET * view.room, jnp.maximum(left, jnp.finfo(left.dtype).tiny)
        pull = jnp.sum(moved**2, axis=1) / left
        spread = spread + jnp.sum(jnp.where(is_met | ~says, 0, pull * view.residual**2 / left))
        grown = jnp.where(says & is_met, jnp.inf, jnp.where(says, pull, 0))
        worst = jnp.maximum(worst, jnp.max(grown[:-1]))
        count = count + jnp.sum(jnp.where(says, view.room, 0))
        misfit = misfit + jnp.sum(jnp.where(says, view.residual**2, 0))
        feign = jnp.concatenate([feign, view.turned])
    _, feigned = extreme(lambda v: feign @ solve(feign.T @ v), len(feign))
    held = Hold(count - size, 1 + worst / inverse.trace, feigned, inverse.longest / inverse.trace)
    return held, misfit / jnp.maximum(count - size, 1), spread


def extreme(times: Callable[[jax.Array], jax.Array], size: int) -> tuple[jax.Array, jax.Array]:
    """The vector that a symmetric map stretches most, and by how much, by power iteration."""
    tiny = jnp.finfo(jnp.float64).tiny
    step = lambda _, v: times(v) / (jnp.linalg.norm(times(v)) + tiny)
    vector = jax.lax.fori_loop(0, POWER_STEPS, step, jnp.cos(jnp.arange(size, dtype=float) ** 2) + 0.1)
    vector = vector / (jnp.linalg.norm(vector) + tiny)
    return vector, vector @ times(vector)
