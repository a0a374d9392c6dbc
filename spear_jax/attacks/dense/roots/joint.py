"""All samples together: the batch that explains both gradients best, where noise drowns directions of either.

Roots are sought one by one in the row space that the next layer's gradient shows, and noise turns that space. Here the
space is what the samples say it is: for inputs X, and what the next layer saw of them Y, the gradients ``[G | g]`` and
``[G2 | g2]`` are least-squares fits ``D^T [X 1]`` and ``D2^T [Y 1]``, D and D2 free, and X is where both leave least,
in units of their noise (variable projection: Golub and Pereyra 1973, with the Jacobian of Kaufman 1975). Nothing is
truncated, so nothing is lost that the gradients still show (docs/span.md, Sec. 5).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from spear_jax.activations import apply
from spear_jax.numerics import search_matmul

# Widths that the activation is averaged over, stage after stage, in units of a typical pre-activation; steps with each.
WIDTHS, STAGE_STEPS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02), 8
# Gauss-Hermite quadrature of that average: nodes, and shares that sum up to 1.
QUADRATURE = [*np.polynomial.hermite_e.hermegauss(5)] / np.array([[1.0], [np.sqrt(2 * np.pi)]])
# Steps with the activation itself, and those of conjugate gradients for each.
STEPS, CONJUGATE_STEPS, FORCING = 300, 150, 1e-3
# Damping at the start, what it is multiplied with after a step that helped and one that did not, and where it ends.
DAMPING, EASE, RESIST, MOST_DAMPING = 1e-2, 0.2, 5.0, 1e3
# Times less noise than G that g may have.
UNEVEN = 100.0
# A step that gains less than this share of what is left over is the last one.
GAIN = 3e-7
# Sizes of the random changes that starts make of what is known, in units of what is typical of samples, and the share
# of the samples that they change.
SHAKES, SHAKEN = (0.5, 1.0, 1.0, 2.0), (1.0, 1.0, 0.5, 0.25)


class Joint(NamedTuple):
    """Two layers and their gradients, in an orthonormal basis of the inputs that both the kernel and G lie in.

    Attributes:
        weight: (m, d) kernel.
        bias: (m,).
        grad: (m, d + 1) ``[G | g]`` over the noise of its entries.
        next_weight: (j, m) kernel of the next layer.
        next_grad: (j, m + 1) ``[G2 | g2]`` over the noise of its entries.
        one, next_one: () noise of an entry of G over that of g, and so on: what stands for 1 in ``[X 1]``.
        noise, next_noise: () of the entries of G and G2.
        kind, slope: () of the activation.
    """

    weight: Float[Array, "m d"]
    bias: Float[Array, " m"]
    grad: Float[Array, "m d+1"]
    next_weight: Float[Array, "j m"]
    next_grad: Float[Array, "j m+1"]
    one: Float[Array, ""]
    next_one: Float[Array, ""]
    noise: Float[Array, ""]
    next_noise: Float[Array, ""]
    kind: Int[Array, ""]
    slope: Float[Array, ""]


class Fit(NamedTuple):
    """How the gradients are explained by inputs X.

    Attributes:
        own: (b, m) gradients D of the pre-activations, over the noise.
        later: (b, j) those of the next layer.
        rows: (d + 1, b) orthonormal, of the row space of ``[X 1]``.
        seen: (m + 1, b) of ``[Y 1]``.
        slopes: (b, m) derivative of the activation.
        apart, later_apart: (m, d + 1) and (j, m + 1) what is left over.
        cost: () its square.
    """

    own: Float[Array, "b m"]
    later: Float[Array, "b j"]
    rows: Float[Array, "w b"]
    seen: Float[Array, "v b"]
    slopes: Float[Array, "b m"]
    apart: Float[Array, "m w"]
    later_apart: Float[Array, "j v"]
    cost: Float[Array, ""]


class Start(NamedTuple):
    """Where descents start.

    Attributes:
        key: start i uses ``fold_in(key, i)``.
        inputs: (b, d) what is known.
        is_open: (b,) samples of which nothing is known: they are drawn at random.
        spread: (r, d) what random points of the row space are made of.
        is_first: () whether start 0 leaves all that is known as it is.
    """

    key: jax.Array
    inputs: Float[Array, "b d"]
    is_open: Bool[Array, " b"]
    spread: Float[Array, "r d"]
    is_first: Bool[Array, ""]


def with_one(rows: Float[Array, "b d"], one: Float[Array, ""]) -> Float[Array, "b d+1"]:
    """Rows with the same at the end of each."""
    return jnp.append(rows, jnp.full((len(rows), 1), one), axis=1)


def explained(rows: Float[Array, "b w"], gradient: Float[Array, "m w"]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients with which rows explain a gradient best, a basis of the rows, and what is left over."""
    basis, factor = jnp.linalg.qr(rows.T)
    inside = search_matmul(gradient, basis)
    own = jax.scipy.linalg.solve_triangular(factor, inside.T)
    return own, basis, gradient - search_matmul(inside, basis.T)


def seen_by_next(
    joint: Joint, inputs: Float[Array, "b d"], width: Float[Array, ""]
) -> tuple[Float[Array, "b m"], Float[Array, "b m"]]:
    """What the next layer sees, and the derivative of the activation.

    Args:
        joint: the layers.
        inputs: of the layer.
        width: of the Gaussian noise of the pre-activations that both are averaged over, 0 for none.
    """
    z = search_matmul(inputs, joint.weight.T) + joint.bias[None]
    nodes, shares = (jnp.asarray(values, z.dtype)[:, None, None] for values in QUADRATURE)
    shaken = (z[None] + width * nodes).reshape(-1, z.shape[1])
    rounded = jnp.full(len(shaken), width / 2, z.dtype)  # kinks between the nodes
    mean = lambda values: jnp.sum(shares * values.reshape(-1, *z.shape), axis=0)
    seen, slopes = apply(joint.kind, joint.slope, shaken, rounded)
    return mean(seen), mean(slopes)


def fit_of(joint: Joint, inputs: Float[Array, "b d"], width: Float[Array, ""]) -> Fit:
    """The best explanation of both gradients by these inputs."""
    seen, slopes = seen_by_next(joint, inputs, width)
    own, rows, apart = explained(with_one(inputs, joint.one), joint.grad)
    later, seen_rows, later_apart = explained(with_one(seen, joint.next_one), joint.next_grad)
    cost = jnp.sum(apart**2) + jnp.sum(later_apart**2)
    return Fit(own, later, rows, seen_rows, slopes, apart, later_apart, cost)


def chained(joint: Joint, fit: Fit) -> Float[Array, "b m"]:
    """The gradients of the pre-activations that follow from those of the next layer: what `Fit.own` must be."""
    return fit.slopes * search_matmul(fit.later, joint.next_weight) * (joint.next_noise / joint.noise)


def pull(joint: Joint, fit: Fit, apart: Float[Array, "m w"], later: Float[Array, "j v"]) -> Float[Array, "b d"]:
    """How inputs should change for these residuals, which the gradients of the fit weigh."""
    first = _outside(search_matmul(fit.own, apart), fit.rows)[:, :-1]
    second = _outside(search_matmul(fit.later, later), fit.seen)[:, :-1]
    return first + search_matmul(second * fit.slopes, joint.weight)


def normal(joint: Joint, fit: Fit, move: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """The normal equations' matrix times a change of the inputs."""
    grown = lambda rows: jnp.pad(rows, ((0, 0), (0, 1)))
    first = search_matmul(_gram(fit.own), _outside(grown(move), fit.rows))
    along = search_matmul(move, joint.weight.T) * fit.slopes
    second = search_matmul(_gram(fit.later), _outside(grown(along), fit.seen))
    second = _outside(second, fit.seen)[:, :-1]
    return _outside(first, fit.rows)[:, :-1] + search_matmul(second * fit.slopes, joint.weight)


def solve(
    joint: Joint, fit: Fit, target: Float[Array, "b d"], damping: Float[Array, ""], steps: int = CONJUGATE_STEPS
) -> Float[Array, "b d"]:
    """The damped normal equations, by conjugate gradients; what the layer's own gradient says preconditions them."""
    own = _gram(fit.own)
    unit = jnp.sum(joint.weight**2) / joint.weight.shape[1] * jnp.mean(fit.slopes**2)
    scale = damping * (jnp.diag(own) + unit * jnp.sum(fit.later**2, axis=1))
    floor = 30 * jnp.finfo(own.dtype).eps * jnp.trace(own)
    factor = jax.scipy.linalg.cho_factor(own + jnp.diag(scale + floor))
    damped = lambda move: normal(joint, fit, move) + scale[:, None] * move
    found, _ = jax.scipy.sparse.linalg.cg(
        damped, target, tol=FORCING, maxiter=steps, M=partial(jax.scipy.linalg.cho_solve, factor)
    )
    return found


def _gram(rows: Float[Array, "b w"]) -> Float[Array, "b b"]:
    return search_matmul(rows, rows.T)


def _outside(rows: Float[Array, "b w"], basis: Float[Array, "w r"]) -> Float[Array, "b w"]:
    """What of rows is orthogonal to a basis."""
    return rows - search_matmul(search_matmul(rows, basis), basis.T)


class _Descent(NamedTuple):
    """What a step hands to the next."""

    number: Int[Array, ""]
    inputs: Float[Array, "b d"]
    fit: Fit
    damping: Float[Array, ""]
    is_over: Bool[Array, ""]


def descend(joint: Joint, inputs: Float[Array, "b d"], width: Float[Array, ""], steps: Any) -> tuple[jax.Array, Fit]:
    """Levenberg-Marquardt from these inputs until no step gains, or the steps are done."""

    def step(now: _Descent) -> _Descent:
        gradient = pull(joint, now.fit, now.fit.apart, now.fit.later_apart)
        inputs = now.inputs + solve(joint, now.fit, gradient, now.damping)
        fit = fit_of(joint, inputs, width)
        helps = fit.cost < now.fit.cost
        is_last = jnp.where(helps, now.fit.cost - fit.cost < GAIN * fit.cost, now.damping > MOST_DAMPING)
        damping = now.damping * jnp.where(helps, EASE, RESIST)
        inputs, fit = jax.tree.map(partial(jnp.where, helps), (inputs, fit), (now.inputs, now.fit))
        return _Descent(now.number + 1, inputs, fit, jnp.maximum(damping, 1e-6), is_last)

    dtype = inputs.dtype
    start = _Descent(
        jnp.asarray(0), inputs, fit_of(joint, inputs, width), jnp.asarray(DAMPING, dtype), jnp.asarray(False)
    )
    ended = lax.while_loop(lambda now: ~now.is_over & (now.number < steps), step, start)
    return ended.inputs, ended.fit


@jax.jit
def explore(shared: tuple[Joint, Start], index: UInt[Array, ""]) -> Float[Array, " w"]:
    """The batch that a start ends at, flat, and last its cost.

    Args:
        shared: the layers and where to start.
        index: () of the start.
    """
    joint, start = shared
    dtype, (count, _) = start.inputs.dtype, start.inputs.shape
    shake, share = (jnp.asarray(values, dtype)[index % len(SHAKES)] for values in (SHAKES, SHAKEN))
    keys = jax.random.split(jax.random.fold_in(start.key, index))
    is_kept = jax.random.uniform(keys[0], (count,), dtype) >= jnp.where(start.is_first & (index == 0), 0, share)
    size = jnp.where(start.is_open, 1, jnp.where(is_kept, 0, shake))
    drawn = jax.random.normal(keys[1], (count, len(start.spread)), dtype)
    inputs = start.inputs + size[:, None] * search_matmul(drawn, start.spread)
    z = search_matmul(inputs, joint.weight.T) + joint.bias[None]
    widths = jnp.asarray((*WIDTHS, 0), dtype) * jnp.sqrt(jnp.mean(z**2))

    def stage(number: jax.Array, ended: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        steps = jnp.where(number < len(WIDTHS), STAGE_STEPS, STEPS)
        inputs, fit = descend(joint, ended[0], widths[number], steps)
        return inputs, fit.cost

    inputs, cost = lax.fori_loop(0, len(widths), stage, (inputs, jnp.zeros((), dtype)))
    return jnp.append(inputs.ravel(), cost)


@jax.jit
def sharpen(joint: Joint, inputs: Float[Array, "b d"]) -> tuple[Joint, jax.Array, jax.Array]:
    """The layers with the noise of the bias gradients as a batch shows it, the batch after a descent, and its cost.

    Args:
        joint: the layers.
        inputs: a place that is near already.
    """
    fit = fit_of(joint, inputs, jnp.zeros((), inputs.dtype))
    rms = lambda apart: jnp.sqrt(jnp.sum(apart[:, -1] ** 2) / jnp.maximum(len(apart) - len(inputs), 1))
    shares = [1 / jnp.maximum(rms(apart), 1 / UNEVEN) for apart in (fit.apart, fit.later_apart)]
    weighed = lambda grad, share: grad.at[:, -1].multiply(share)
    joint = joint._replace(
        grad=weighed(joint.grad, shares[0]),
        next_grad=weighed(joint.next_grad, shares[1]),
        one=joint.one * shares[0],
        next_one=joint.next_one * shares[1],
    )
    inputs, fit = descend(joint, inputs, jnp.zeros((), inputs.dtype), STEPS)
    return joint, inputs, fit.cost


@jax.jit
def explain(joint: Joint, inputs: Float[Array, "b d"]) -> tuple[jax.Array, ...]:
    """The gradients of both layers with which a batch explains what came back, what the next layer sees, and slopes."""
    none = jnp.zeros((), inputs.dtype)
    fit, (seen, slopes) = fit_of(joint, inputs, none), seen_by_next(joint, inputs, none)
    return fit.own, fit.later, seen, slopes
