"""Levenberg-Marquardt on the span equations, from many starts side by side: products of matrices, nothing else.

A lane is one start. The normal equations of all lanes are solved by conjugate gradients with one preconditioner, which
is what they would be if every lane had the mean derivative, so each step is a handful of products with the same two
matrices (docs/span.md, Sec. 3). Shapes depend on the bucket alone, never on how many samples are known.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from spear_jax.activations import apply
from spear_jax.numerics import search_matmul

# Steps with rounded kinks: their width is halved so many times, with so many steps each; then those of the true one.
STAGES, STAGE_STEPS, STEPS = 4, 15, 60
# Widths of the kinks at the start, in units of a typical pre-activation, and sizes of the starts, as powers of two.
WIDTHS, SIZES = (0.15, 0.6), (0.0, 2.0)
# Damping at the start, and what it is multiplied with after a step that helped, and after one that did not.
DAMPING, EASE, RESIST = 0.1, 0.2, 4.0
# A step that gains less than this share of the residual, undamped, is the last one.
GAIN, UNDAMPED = 1e-4, 1e-2
# Steps of conjugate gradients at most, and the share of the gradient that they leave.
CONJUGATE_STEPS, FORCING = 40, 0.1
# A residual this many roundings of its size is a root for the search.
ROOT = 100.0


class Equations(NamedTuple):
    """``act(u @ response + bias)`` and the constant one lie in the span of the rows of ``[seen | one]``.

    Attributes:
        response: (q, m).
        bias: (m,).
        seen: (k, m), with `one` orthonormal rows, or zero.
        one: (k,).
        slope: (m,) of the activation.
        kind: () of the activation.
    """

    response: Float[Array, "q m"]
    bias: Float[Array, " m"]
    seen: Float[Array, "k m"]
    one: Float[Array, " k"]
    slope: Float[Array, " m"]
    kind: Int[Array, ""]


class Lanes(NamedTuple):
    """Where each lane stands.

    Attributes:
        place: (l, q) u.
        cost: (l,) squared residual, over that of the activations where these are the unit.
        size: (l,) what the cost is small against.
        residual: (l, m) by which the gradient of the cost is made.
        slopes: (l, m) derivatives of the activations.
        damping: (l,).
        is_live: (l,) whether steps still help.
    """

    place: Float[Array, "l q"]
    cost: Float[Array, " l"]
    size: Float[Array, " l"]
    residual: Float[Array, "l m"]
    slopes: Float[Array, "l m"]
    damping: Float[Array, " l"]
    is_live: Bool[Array, " l"]


class Start(NamedTuple):
    """How starts are drawn: from a sphere around the origin of u.

    Attributes:
        key: start i uses ``fold_in(key, i)``.
        radius: () of the smallest ones.
        unit: () size of a typical pre-activation; 0 where no kink is to be rounded.
        dimensions: () of u, those beyond are zero.
        is_relative: () whether the residual is taken relative to the activations.
    """

    key: jax.Array
    radius: Float[Array, ""]
    unit: Float[Array, ""]
    dimensions: Int[Array, ""]
    is_relative: Bool[Array, ""]


@jax.jit
def explore(shared: tuple[Equations, Start], indices: UInt[Array, " l"]) -> Float[Array, "l w"]:
    """Descend from the starts of these indices: the place each ends at, and last its cost over its size.

    Args:
        shared: the equations and how to start, the same for every batch of lanes.
        indices: (l,) numbers of the starts.
    """
    equations, start = shared
    places, widths = jax.vmap(partial(_draw, start, equations.response.shape[0]))(indices)

    def stage(number: jax.Array, ended: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        is_true = number == STAGES
        width = jnp.where(is_true, 0.0, widths * jnp.exp2(-number.astype(widths.dtype)))
        course = Course(width, jnp.where(is_true, STEPS, STAGE_STEPS), start.is_relative & is_true)
        lanes = descend(equations, ended[0], course)
        return lanes.place, lanes.cost / lanes.size

    first = jnp.where(start.unit > 0, 0, STAGES)
    places, cost = lax.fori_loop(first, STAGES + 1, stage, (places, jnp.zeros(len(places), places.dtype)))
    return jnp.concatenate([places, cost[:, None]], axis=1)


def _draw(start: Start, width: int, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A start of random direction and size, and the width of its kinks."""
    drawn = jax.random.uniform(jax.random.fold_in(start.key, index), (width + 2,), start.radius.dtype)
    direction = jnp.where(jnp.arange(width, dtype=jnp.int32) < start.dimensions, 2 * drawn[:width] - 1, 0)
    radius = start.radius * 2 ** (SIZES[0] + (SIZES[1] - SIZES[0]) * drawn[width])
    kink = start.unit * WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** drawn[width + 1]
    return radius * direction / jnp.linalg.norm(direction), kink


class Course(NamedTuple):
    """How lanes descend.

    Attributes:
        width: (l,) of the kinks.
        steps: () at most.
        is_relative: () whether the cost is relative to the activations: the plain one has a false minimum where these
            are small, the relative one where they are large.
        damping: at the start.
    """

    width: Float[Array, " l"]
    steps: Int[Array, ""]
    is_relative: Bool[Array, ""]
    damping: float = DAMPING


class _Descent(NamedTuple):
    """What a step of `descend` hands to the next.

    Attributes:
        number: of steps done.
        lanes: where each lane stands.
        tried: (l, q) where it may go next.
        metric, inverse: (q, q) the preconditioner, and its inverse.
    """

    number: Int[Array, ""]
    lanes: Lanes
    tried: Float[Array, "l q"]
    metric: Float[Array, "q q"]
    inverse: Float[Array, "q q"]


def descend(equations: Equations, place: Float[Array, "l q"], course: Course) -> Lanes:
    """Levenberg-Marquardt until no lane gains, or the steps are done.

    Args:
        equations: to solve.
        place: (l, q) where to start.
        course: how.
    """
    count, q, dtype = *place.shape, place.dtype
    root = (ROOT * jnp.finfo(dtype).eps) ** 2

    def step(before: _Descent) -> _Descent:
        # The first one only looks where the lanes stand, so that the program holds the equations once.
        is_first, lanes = before.number == 0, before.lanes
        there = _at(equations, before.tried, course)
        helps = is_first | (lanes.is_live & (there.cost < lanes.cost))
        gain = (lanes.cost - there.cost) / lanes.cost
        is_last = helps & ~is_first & (((gain < GAIN) & (lanes.damping < UNDAMPED)) | (gain < GAIN**2))
        damped = jnp.where(helps, jnp.maximum(lanes.damping * EASE, 1e-12), lanes.damping * RESIST)
        damped = jnp.where(is_first, lanes.damping, damped)
        pick = lambda new, old: jnp.where(helps.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        chosen = jax.tree.map(pick, there, lanes)
        is_live = lanes.is_live & ~is_last & (damped < 1e9) & (chosen.cost > root * chosen.size)
        lanes = chosen._replace(damping=damped, is_live=is_live)
        known = (before.metric, before.inverse)
        metric, inverse = lax.cond(is_first, lambda: _metric(equations, lanes), lambda: known)
        move = _conjugate_gradients(equations, lanes, metric, inverse)
        return _Descent(before.number + 1, lanes, lanes.place + move, metric, inverse)

    nothing = jnp.zeros((count, len(equations.bias)), dtype)
    value = jnp.full(count, jnp.inf, dtype)
    lanes = Lanes(place, value, value, nothing, nothing, jnp.full(count, course.damping, dtype), jnp.ones(count, bool))
    start = _Descent(jnp.asarray(0), lanes, place, *[jnp.zeros((q, q), dtype)] * 2)
    return lax.while_loop(lambda now: now.lanes.is_live.any() & (now.number <= course.steps), step, start).lanes


def _at(equations: Equations, place: jax.Array, course: Course) -> Lanes:
    """The lanes at these places."""
    z = search_matmul(place, equations.response) + equations.bias[None]
    hidden, slopes = apply(equations.kind, equations.slope, z, course.width)
    inside = search_matmul(hidden, equations.seen.T) + equations.one[None]
    residual = hidden - search_matmul(inside, equations.seen)
    cost = jnp.sum(residual**2, axis=1) + (1 - search_matmul(inside, equations.one)) ** 2
    size = jnp.sum(hidden**2, axis=1)
    relative = cost / size
    residual = residual - jnp.where(course.is_relative, relative, 0)[:, None] * hidden
    cost, size = jnp.where(course.is_relative, relative, cost), jnp.where(course.is_relative, 1.0, size + 1)
    return Lanes(place, cost, size, residual, slopes, jnp.zeros_like(cost), jnp.ones(len(place), bool))


def _metric(equations: Equations, lanes: Lanes) -> tuple[jax.Array, jax.Array]:
    """What the normal matrix would be with the mean derivative, and its inverse; the preconditioner of all lanes."""
    mean, spread = lanes.slopes.mean(axis=0), lanes.slopes.var(axis=0)
    jacobian = equations.response * mean[None]
    outside = jacobian - search_matmul(search_matmul(jacobian, equations.seen.T), equations.seen)
    metric = search_matmul(outside, jacobian.T) + search_matmul(
        equations.response * jnp.maximum(spread, 1e-6)[None], equations.response.T
    )
    # Dimensions beyond the known ones are zero in everything else.
    trace = jnp.trace(metric) / len(metric)
    metric = metric + jnp.diag(jnp.where(jnp.diag(metric) > 0, 30 * jnp.finfo(metric.dtype).eps * trace, trace))
    return metric, jnp.linalg.inv(metric)


def _conjugate_gradients(equations: Equations, lanes: Lanes, metric: jax.Array, inverse: jax.Array) -> jax.Array:
    """The damped Gauss-Newton step of every lane."""
    dot = lambda a, b: jnp.sum(a * b, axis=1)

    def normal(move: jax.Array) -> jax.Array:
        change = lanes.slopes * search_matmul(move, equations.response)
        change = change - search_matmul(search_matmul(change, equations.seen.T), equations.seen)
        damped = lanes.damping[:, None] * search_matmul(move, metric)
        return search_matmul(lanes.slopes * change, equations.response.T) + damped

    gradient = -search_matmul(lanes.slopes * lanes.residual, equations.response.T)
    small = jnp.minimum(FORCING, jnp.sqrt(lanes.cost / lanes.size)) ** 2
    ahead = search_matmul(gradient, inverse)
    first = dot(gradient, ahead)

    def step(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        number, move, rest, along, squared, is_live = carry
        changed = normal(along)
        length = jnp.where(is_live, squared / jnp.maximum(dot(along, changed), jnp.finfo(move.dtype).tiny), 0)
        move, rest = move + length[:, None] * along, rest - length[:, None] * changed
        ahead = search_matmul(rest, inverse)
        after = dot(rest, ahead)
        is_live = is_live & (after > small * first)
        along = ahead + jnp.where(squared > 0, after / squared, 0)[:, None] * along
        return number + 1, move, rest, along, after, is_live

    goes_on = lambda carry: carry[5].any() & (carry[0] < CONJUGATE_STEPS)
    carry = (jnp.asarray(0), jnp.zeros_like(gradient), gradient, ahead, first, lanes.is_live)
    return lax.while_loop(goes_on, step, carry)[1]
