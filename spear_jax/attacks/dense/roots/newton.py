"""Levenberg-Marquardt on the span equations, from many starts side by side: products of matrices, nothing else.

A lane is one start. The normal equations of all lanes are solved by conjugate gradients with one preconditioner, which
is what they would be if every lane had the mean derivative, so each step is a handful of products with the same two
matrices (docs/span.md, Sec. 3). Shapes depend on the bucket alone, never on how many samples are known.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from spear_jax.attacks.dense.roots.equations import Equations, views, with_mixture
from spear_jax.numerics import search_matmul

# Steps with rounded kinks: their width is halved so many times, with so many steps each; then those of the true one.
STAGES, STAGE_STEPS, STEPS = 4, 15, 60
# Widths of the kinks at the start, in units of a typical pre-activation.
WIDTHS = (0.15, 0.6)
# Sizes of the starts, as powers of two, for the plain residual and the relative one: what gives most distinct samples.
SIZES, RELATIVE_SIZES = (0.0, 2.0), (-2.0, 0.0)
# Damping at the start, and what it is multiplied with after a step that helped, and after one that did not.
DAMPING, EASE, RESIST = 0.1, 0.2, 4.0
# A step that gains less than this share of the residual, undamped, is the last one.
GAIN, UNDAMPED = 1e-4, 1e-2
# Steps of conjugate gradients at most, and the share of the gradient that they leave.
CONJUGATE_STEPS, FORCING = 40, 0.1
# Lanes that the preconditioner is the mean of, and what keeps it regular, in roundings of its mean diagonal.
METRIC_LANES, METRIC_FLOOR = 8, 30.0
# A residual this many roundings of its size is a root for the search.
ROOT = 100.0


class Lanes(NamedTuple):
    """Where each lane stands.

    Attributes:
        place: (l, q) u.
        cost: (l,) squared residual, over that of the activations where these are the unit.
        size: (l,) what the cost is small against.
        damping: (l,).
        is_live: (l,) whether steps still help.
    """

    place: Float[Array, "l q"]
    cost: Float[Array, " l"]
    size: Float[Array, " l"]
    damping: Float[Array, " l"]
    is_live: Bool[Array, " l"]


class Start(NamedTuple):
    """How starts are drawn: from a sphere around the origin of u.

    Attributes:
        key: start i uses ``fold_in(key, i)``.
        radius: () typical of samples.
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
    mixed = len(equations.back)
    places, widths = jax.vmap(partial(_draw, start, equations.response.shape[0] - mixed))(indices)
    places = jnp.pad(places, ((0, 0), (0, mixed)), constant_values=1)

    def stage(number: jax.Array, ended: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        is_true = number == STAGES
        width = jnp.where(is_true, 0.0, widths * jnp.exp2(-number.astype(widths.dtype)))
        course = Course(width, jnp.where(is_true, STEPS, STAGE_STEPS), start.is_relative & is_true)
        lanes = descend(equations, with_mixture(equations, ended[0], width), course)
        return lanes.place, lanes.cost / lanes.size

    first = jnp.where(start.unit > 0, 0, STAGES)
    places, cost = lax.fori_loop(first, STAGES + 1, stage, (places, jnp.zeros(len(places), places.dtype)))
    return jnp.concatenate([places, cost[:, None]], axis=1)


def _draw(start: Start, width: int, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A start of random direction and size, and the width of its kinks."""
    drawn = jax.random.uniform(jax.random.fold_in(start.key, index), (width + 2,), start.radius.dtype)
    direction = jnp.where(jnp.arange(width, dtype=jnp.int32) < start.dimensions, 2 * drawn[:width] - 1, 0)
    low, high = (jnp.where(start.is_relative, *ends) for ends in zip(RELATIVE_SIZES, SIZES, strict=True))
    radius = start.radius * 2 ** (low + (high - low) * drawn[width])
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


class _Residual(NamedTuple):
    """How far points are from solving the equations.

    Attributes:
        cost, size: (l,) as `Lanes` has them.
        apart: per view (l, m_k), what its cost's gradient is made of.
    """

    cost: Float[Array, " l"]
    size: Float[Array, " l"]
    apart: tuple[Array, ...]


class _Descent(NamedTuple):
    """What a step of `descend` hands to the next.

    Attributes:
        number: of steps done.
        lanes: where each lane stands.
        metric, inverse: (q, q) the preconditioner, and its inverse.
    """

    number: Int[Array, ""]
    lanes: Lanes
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
    seen = partial(views, equations, width=course.width)

    def step(before: _Descent) -> _Descent:
        lanes = before.lanes
        values, push = jax.linearize(seen, lanes.place)
        here = _residual(equations, values, course)
        is_live = lanes.is_live & (here.cost > root * here.size)
        lanes = lanes._replace(cost=here.cost, size=here.size, is_live=is_live)
        known = (before.metric, before.inverse)
        metric, inverse = lax.cond(before.number == 0, lambda: _metric(equations, lanes.place, course), lambda: known)
        move = _conjugate_gradients(equations, (here, push), lanes, (metric, inverse))
        place = with_mixture(equations, lanes.place + move, course.width)
        lanes = _moved(lanes, place, _residual(equations, seen(place), course))
        return _Descent(before.number + 1, lanes, metric, inverse)

    value = jnp.full(count, jnp.inf, dtype)
    lanes = Lanes(place, value, value, jnp.full(count, course.damping, dtype), jnp.ones(count, bool))
    start = _Descent(jnp.asarray(0), lanes, *[jnp.zeros((q, q), dtype)] * 2)
    return lax.while_loop(lambda now: now.lanes.is_live.any() & (now.number < course.steps), step, start).lanes


def _moved(lanes: Lanes, place: jax.Array, there: _Residual) -> Lanes:
    """The lanes that a step helped at their new places, and how each goes on."""
    helps = lanes.is_live & (there.cost < lanes.cost)
    gain = (lanes.cost - there.cost) / lanes.cost
    is_last = helps & (((gain < GAIN) & (lanes.damping < UNDAMPED)) | (gain < GAIN**2))
    damping = jnp.where(helps, jnp.maximum(lanes.damping * EASE, 1e-12), lanes.damping * RESIST)
    return Lanes(
        place=jnp.where(helps[:, None], place, lanes.place),
        cost=jnp.where(helps, there.cost, lanes.cost),
        size=jnp.where(helps, there.size, lanes.size),
        damping=damping,
        is_live=lanes.is_live & ~is_last & (damping < 1e9),
    )


def _residual(equations: Equations, values: tuple[jax.Array, ...], course: Course) -> _Residual:
    """The residual of what the layers above see of points."""
    cost, size, apart = 0.0, 0.0, []
    for hidden, seen, one, constant, balance in zip(
        values, equations.seen, equations.ones, equations.constants, equations.balance, strict=True
    ):
        inside = search_matmul(hidden, seen.T) + constant * balance * one[None]
        left = hidden - search_matmul(inside, seen)
        apart.append(left)
        short = constant * (balance - search_matmul(inside, one))
        cost = cost + jnp.sum(left**2, axis=1) + short**2
        size = size + jnp.sum(hidden**2, axis=1)
    assert not isinstance(size, float)
    relative = cost / size
    pull = jnp.where(course.is_relative, relative, 0)[:, None]
    apart = tuple(left - pull * hidden for left, hidden in zip(apart, values, strict=True))
    return _Residual(jnp.where(course.is_relative, relative, cost), jnp.where(course.is_relative, 1.0, size + 1), apart)


def _outside(equations: Equations, changes: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """What of changes lies outside the row spaces."""
    pairs = zip(changes, equations.seen, strict=True)
    return tuple(change - search_matmul(search_matmul(change, seen.T), seen) for change, seen in pairs)


def _metric(equations: Equations, place: jax.Array, course: Course) -> tuple[jax.Array, jax.Array]:
    """The mean normal matrix of a few lanes, and its inverse; the preconditioner of all."""
    few, width = place[:METRIC_LANES], course.width[:METRIC_LANES]
    _, push = jax.linearize(partial(views, equations, width=width), few)
    q = few.shape[1]
    basis = jnp.broadcast_to(jnp.eye(q, dtype=few.dtype)[:, None], (q, *few.shape))
    jacobian = jax.vmap(push)(basis)
    flat = tuple(part.reshape(-1, part.shape[2]) for part in jacobian)
    side = lambda part: part.reshape(q, -1)
    pairs = zip(_outside(equations, flat), flat, strict=True)
    products = [search_matmul(side(left), side(right).T) for left, right in pairs]
    metric = jnp.sum(jnp.stack(products), axis=0) / len(few)
    # Dimensions beyond the known ones are zero in everything else.
    trace = jnp.trace(metric) / len(metric)
    metric = metric + jnp.diag(jnp.where(jnp.diag(metric) > 0, METRIC_FLOOR * jnp.finfo(few.dtype).eps * trace, trace))
    return metric, jnp.linalg.inv(metric)


def _conjugate_gradients(
    equations: Equations, around: tuple[_Residual, Any], lanes: Lanes, preconditioner: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """The damped Gauss-Newton step of every lane.

    Args:
        equations: to solve.
        around: the residual where the lanes stand, and the derivative of what is seen there.
        lanes: where they stand.
        preconditioner: the metric of the damping, and its inverse.
    """
    (here, push), (metric, inverse) = around, preconditioner
    transposed = jax.linear_transpose(push, lanes.place)
    pull = lambda changes: transposed(changes)[0]
    dot = lambda a, b: jnp.sum(a * b, axis=1)

    def normal(move: jax.Array) -> jax.Array:
        return pull(_outside(equations, push(move))) + lanes.damping[:, None] * search_matmul(move, metric)

    gradient = -pull(here.apart)
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
