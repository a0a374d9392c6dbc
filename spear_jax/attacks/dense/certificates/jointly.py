"""The certificate of a batch that explains both gradients together, sample by sample.

The fit leaves the gradients D of the layer free, and those of the next layer D2: that ``D = act'(z) o (W2^T D2)`` is
asked of neither, so it is a witness of its own. How far the two may be apart, and how far a sample may be off, is what
happens to a batch that is known: the recovered one, its gradients made anew with noise, and solved again. Where most
samples pass, each that does has a bar; a wrong minimum leaves nearly all of them apart, the right ones too.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import stats

from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.outcome import Samples
from spear_jax.attacks.dense.roots.joint import (
    Fit,
    Joint,
    chained,
    descend,
    fit_of,
    pull,
    seen_by_next,
    solve,
    with_one,
)
from spear_jax.numerics import in_float64

# Batches made anew, and the steps that solve each: of conjugate gradients to first order, then of a descent.
DRAWS, DRAW_STEPS, FINAL_STEPS, DRAWS_KEY = 12, 400, 40, 0
# Least share of a typical mixture that any one is seen by, for arithmetic's sake.
FLOOR = 1e-12


class Witness(NamedTuple):
    """What a batch's own gradients say of it.

    Attributes:
        error: (b,) expected norm of each input's error.
        apart: (b,) how far the gradients of each sample are from what the next layer's say, over what is expected.
        blur: (b,) that expectation, relative to the gradients' size: at 1 nothing is said.
        leaning: (2,) for each layer what the batch leaves of its bias gradient within the span of the samples'
            gradients, over what it leaves outside it, per dimension: noise does not prefer it, a factor that the
            client gave the bias gradient alone does.
        unlikely: (2,) what these exceed once in ten thousand batches.
    """

    error: Float[np.ndarray, " b"]
    apart: Float[np.ndarray, " b"]
    blur: Float[np.ndarray, " b"]
    leaning: Float[np.ndarray, " 2"]
    unlikely: Float[np.ndarray, " 2"]

    @property
    def has_scale(self) -> bool:
        """Whether the bias gradients, on which the scale of all samples rests, are those of the kernels' batch."""
        return bool(np.all(self.leaning <= self.unlikely))

    @property
    def stands(self) -> np.ndarray:
        """(b,) whether each sample's gradients are what they must be, in a batch of which most are."""
        passes = (self.apart <= limits.JOINT_APART) & (self.blur <= limits.JOINT_BLUR) & np.isfinite(self.error)
        return passes & (np.mean(passes) >= limits.JOINT_SHARE)


def witness(joint: Joint, inputs: Float[np.ndarray, "b d"], beyond: int) -> Witness:
    """Ask a batch's own gradients.

    Args:
        joint: the layers, float64.
        inputs: the batch, where a descent in float64 ended.
        beyond: dimensions of the inputs that are outside the basis, where nothing but noise is.
    """
    count, rows = len(inputs), np.array([len(joint.grad), len(joint.next_grad)])
    unlikely = stats.f.isf(limits.CHANCE, count, np.maximum(rows - count, 1))
    error, apart, blur, leaning = in_float64(_witness, joint, inputs, np.float64(beyond))
    return Witness(error, apart, blur, leaning, unlikely)


def confirmed(
    known: Samples, found: Witness, size: Float[np.ndarray, " b"], twins: Float[np.ndarray, " b"], *, is_flat: bool
) -> Samples:
    """The samples that stand, with bars; those that nearly do, or that a root vouches for, as pictures without.

    Args:
        known: directions and dual vectors of all samples, confirmed where a root is near.
        found: what their own gradients say.
        size: norms of the inputs.
        twins: distance within which each may be the mean of two.
        is_flat: whether no further sample sticks out of the noise of either gradient, and the scale is the batch's.
    """
    error, stands = found.error * np.maximum(found.apart, 1) / size, found.stands
    is_picture = stands | (stands.any() & (found.apart <= limits.JOINT_PICTURE) & (found.blur <= limits.JOINT_BLUR))
    is_picture = (is_picture | known.confirmed) & (error <= limits.JOINT_RECOGNISED)
    bars = np.where(stands & is_flat, np.hypot(error, twins / size), np.inf)
    return known._replace(confirmed=is_picture, matching=is_picture.astype(float), error=bars)


def hold_each_other(slopes: Float[np.ndarray, "b m"]) -> Bool[np.ndarray, " b"]:
    """Whether another sample fires nearly the same neurons of a kinked activation, given its derivatives."""
    squares = np.sum(slopes**2, axis=1)
    apart = squares[:, None] + squares[None] - 2 * slopes @ slopes.T + np.diag(np.full(len(slopes), np.inf))
    return np.any(apart < limits.JOINT_ALIKE * (squares[:, None] + squares[None]) / 2, axis=1)


@jax.jit
def _witness(joint: Joint, inputs: Float[Array, "b d"], beyond: Float[Array, ""]) -> tuple[jax.Array, ...]:
    """The fields of `Witness`."""
    fit = fit_of(joint, inputs, jnp.zeros((), inputs.dtype))
    told = chained(joint, fit)
    world = fit._replace(own=told)
    keys = jax.random.split(jax.random.key(DRAWS_KEY), DRAWS)
    errors, apart = jax.lax.map(partial(_drawn, joint, inputs, world), keys)
    within = jnp.maximum(jnp.mean(errors, axis=0), _mixing_error(joint, inputs, world))
    outside = beyond * jnp.diag(jnp.linalg.inv(told @ told.T))
    expected = jnp.sqrt(jnp.mean(apart, axis=0))
    size = jnp.linalg.norm(told, axis=1)
    leaning = jnp.stack([_leaning(fit.own, fit.apart), _leaning(fit.later, fit.later_apart)])
    return jnp.sqrt(within + outside), jnp.linalg.norm(fit.own - told, axis=1) / expected, expected / size, leaning


def _leaning(gradients: Float[Array, "b m"], apart: Float[Array, "m w"]) -> Float[Array, ""]:
    """How much more of a bias gradient's residual lies within the span of the samples' gradients than outside."""
    (count, rows), residual = gradients.shape, apart[:, -1]
    within = jnp.sum((jnp.linalg.qr(gradients.T)[0].T @ residual) ** 2)
    return within / count / ((jnp.sum(residual**2) - within) / max(rows - count, 1))


def _drawn(joint: Joint, inputs: jax.Array, world: Fit, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared errors of the inputs, and squared distances of their gradients, in a world where all is as recovered."""
    keys = jax.random.split(key)
    noise = jax.random.normal(keys[0], joint.grad.shape, inputs.dtype)
    later_noise = jax.random.normal(keys[1], joint.next_grad.shape, inputs.dtype)
    target = pull(joint, world, noise, later_noise)
    move = solve(joint, world, target, jnp.zeros((), inputs.dtype), DRAW_STEPS)
    none = jnp.zeros((), inputs.dtype)
    seen, _ = seen_by_next(joint, inputs, none)
    again = joint._replace(
        grad=world.own.T @ with_one(inputs, joint.one) + noise,
        next_grad=world.later.T @ with_one(seen, joint.next_one) + later_noise,
    )
    ended, fit = descend(again, inputs + move, none, FINAL_STEPS)
    return jnp.sum((ended - inputs) ** 2, axis=1), jnp.sum((fit.own - chained(joint, fit)) ** 2, axis=1)


def _mixing_error(joint: Joint, inputs: jax.Array, world: Fit) -> Float[Array, " b"]:
    """Squared error of each input along the others, which the layer's own gradient does not see: exactly.

    Two samples that fire the same neurons mix freely, and conjugate gradients never look along such a line.
    """
    count = len(inputs)
    along = (inputs @ joint.weight.T)[None] * world.slopes[:, None]
    flat = jnp.pad(along.reshape(count * count, -1), ((0, 0), (0, 1)))
    flat = flat - (flat @ world.seen) @ world.seen.T
    weighed = jnp.repeat(jnp.repeat(world.later @ world.later.T, count, axis=0), count, axis=1)
    seen = weighed * (flat @ flat.T)
    floor = FLOOR * jnp.trace(seen) / len(seen)  # what is not seen at all is far off, and nothing else
    factor = jax.scipy.linalg.cho_factor(seen + floor * jnp.eye(len(seen), dtype=seen.dtype), lower=True)
    sizes = jnp.linalg.qr(inputs.T, mode="r").T  # as long as the inputs, and as far apart
    moves = jnp.einsum("ij,kd->ikjd", jnp.eye(count, dtype=inputs.dtype), sizes).reshape(count * count, -1)
    spread = jax.scipy.linalg.solve_triangular(factor[0], moves, lower=True)
    squares = jnp.sum(spread**2, axis=0).reshape(count, -1)
    return jnp.where(jnp.isfinite(squares).all(), jnp.sum(squares, axis=1), jnp.inf)
