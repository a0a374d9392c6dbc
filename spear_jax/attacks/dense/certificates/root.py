"""When a root of the span equations is a sample, and how far it may be off (docs/span.md, Sec. 4).

A root fits the equations to the noise. It is a sample where it is the only root far around (*isolation*), where no
single neuron holds it and noise does not feign what does (`held`), and where its own gradient lies in the column space
too, which no equation of the root asked for (*dual*). Its error bar holds where the residual rises as the linear model
behind the bar has it (*profile*). Roots that are none: between two samples that fire the same neurons there is a line
of them, and an activation that is all but linear on the data fits anything on the plane of the samples.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.doubles import fits_another, spare_equations
from spear_jax.attacks.dense.certificates.held import Hold, Inverse, Noise, Total, View, extreme, hold
from spear_jax.attacks.dense.certificates.mixed import explains, mixed_noise, mixed_view
from spear_jax.attacks.dense.certificates.twins import twin_distance
from spear_jax.attacks.dense.outcome import Samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.roots.equations import placed, seen_above
from spear_jax.attacks.dense.roots.exact import DUAL_LANES, Sides, in_lanes, scores, sides_of, with_duals
from spear_jax.attacks.dense.roots.found import SAME, Found
from spear_jax.attacks.dense.roots.stack import Stack
from spear_jax.factorization import is_flat, white_edge
from spear_jax.stages import stage

# Gauss-Newton steps that whiten the equations.
WHITENINGS = 3


class Basin(NamedTuple):
    """What the equations say around each root.

    Attributes:
        points: (k, r) the roots, by generalised least squares.
        misfit: (k,) chi squared per degree of freedom.
        guessed: (k,) share of the variance that is the client's rounding, of which only the order is known.
        inside, outside: (k,) expected squared errors of the input, within the row space and beyond.
        condition: (k,) root of the ratio of the extreme eigenvalues of the normal matrix.
        rise: (k, 2) of chi squared at three deviations along the weakest direction, both ways, over what it should be.
        hold: (k,) each, what holds the root.
        scale_error: (k,) relative error of the scale where neither bias gradient is believed.
    """

    points: Float[np.ndarray, "k r"]
    misfit: Float[np.ndarray, " k"]
    guessed: Float[np.ndarray, " k"]
    inside: Float[np.ndarray, " k"]
    outside: Float[np.ndarray, " k"]
    condition: Float[np.ndarray, " k"]
    rise: Float[np.ndarray, "k 2"]
    hold: Hold
    scale_error: Float[np.ndarray, " k"]

    @property
    def error(self) -> Float[np.ndarray, " k"]:
        """Expected error of each input, relative to its size."""
        return np.sqrt(self.inside + self.outside) / np.linalg.norm(self.points, axis=1)


@stage("root certificate")
def judge_roots(problem: Problem, stack: Stack, found: Found, num_examples: int | None = None) -> tuple[Samples, float]:
    """What the certificate says of each root, in the order they were found, and the error of their common scale.

    Confirmed is what is a sample; its error is infinite where that is all that can be said, and the picture has no bar.
    The scale is what the layers see of it where no bias gradient is believed: infinite where that is nothing.

    Args:
        problem: of the layer.
        stack: the equations.
        found: roots with their duals.
        num_examples: batch size as the client reports it: where it is the rank, no root can be two samples that merged.
    """
    directions = found.duals * problem.spectrum
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    if len(found.points) == 0:
        return Samples(directions, found.points, np.zeros(0, bool), np.zeros(0), np.zeros(0)), np.inf
    basin = basins(stack, found.points)
    size, error = np.linalg.norm(basin.points, axis=1), basin.error
    confirmed = _is_root(problem, stack, basin) & _is_isolated(basin) & _has_gradient(stack, found, basin)
    confirmed &= _is_held(stack, basin) & _is_first(basin.points) & _has_sign(stack, basin.points)
    confirmed &= ~fits_another(stack, basin.points, error)
    if stack.mixes:
        confirmed &= explains(stack, basin.points, error)
    has_bar = _has_profile(basin) & _is_strong(stack) & _is_flat(stack)
    if num_examples != problem.rank:
        error = np.hypot(error, twin_distance(stack, basin.points, found) / size)
    # Where one direction has all of the error, it exceeds its own size more often.
    error = error * (1 + limits.ROOT_SINGLE * basin.hold.single)
    bars = np.where(has_bar, np.maximum(error, limits.ROUNDED_INPUT * problem.client_eps), np.inf)
    # A share of what the equations left over is no pattern, but says as much: 1 at a root.
    matching = confirmed.astype(float)
    bars = np.where(confirmed, bars, np.inf)
    samples = Samples(directions, basin.points / problem.spectrum, confirmed, matching, bars)
    seen = np.where(confirmed & np.isfinite(basin.scale_error), basin.scale_error, np.inf)
    return samples, float(np.sum(seen**-2.0) ** -0.5) if np.isfinite(seen).any() else np.inf


def _is_held(stack: Stack, basin: Basin) -> Bool[np.ndarray, " k"]:
    """Whether enough equations hold each root, each without any one of them, and not by their noise."""
    hold = basin.hold
    if spare_equations(stack, basin.points) < limits.ROOT_SURPLUS:
        return np.zeros(len(basin.points), bool)
    enough = (hold.surplus >= limits.ROOT_SURPLUS) & (hold.feigned <= limits.ROOT_FEIGNED)
    return enough & (hold.without_one <= limits.ROOT_WITHOUT_ONE**2)


def _is_first(points: Float[np.ndarray, "k r"]) -> Bool[np.ndarray, " k"]:
    """Whether none before it is the same: refined, two roots may be one."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) > SAME * np.linalg.norm(points, axis=1)[:, None]
    return np.array([bool(row[:number].all()) for number, row in enumerate(apart)])


def _has_sign(stack: Stack, points: Float[np.ndarray, "k r"]) -> Bool[np.ndarray, " k"]:
    """Whether the mirror image of each root is none: behind an odd activation without biases it is."""
    if stack.has_total:
        return np.ones(len(points), bool)
    here, there = scores(stack, points), scores(stack, -points)
    return there > limits.ROOT_MIRROR * np.maximum(here, 1)


def _is_flat(stack: Stack) -> bool:
    """Whether nothing sticks out of the noise beyond the samples, which would be one more."""
    return is_flat(stack.problem.factorization) and all(upper.is_flat for upper in stack.viewing)


def _is_root(problem: Problem, stack: Stack, basin: Basin) -> Bool[np.ndarray, " k"]:
    """Whether the residual is the noise's. Rounding of the gradients is measured, but it is not of one size."""
    is_rounding = problem.noise_in_roundings <= limits.ROUNDED_NOISE
    uneven = limits.UNEVEN_MISFIT * (is_rounding & (basin.condition < limits.UNEVEN_CONDITION))
    limit = limits.ROOT_MISFIT + uneven + limits.ROUNDED_MISFIT * basin.guessed
    return np.isfinite(basin.misfit) & (basin.misfit < limit)


def _is_isolated(basin: Basin) -> Bool[np.ndarray, " k"]:
    return np.isfinite(basin.condition) & (basin.condition < limits.ROOT_CONDITION)


def _has_profile(basin: Basin) -> Bool[np.ndarray, " k"]:
    """Where all noise is rounding, this side's own arithmetic blurs the rise too."""
    high = (limits.ROOT_PROFILE + basin.guessed)[:, None]
    return np.all((basin.rise > 1 / high) & (basin.rise < high), axis=1)


def _is_strong(stack: Stack) -> bool:
    """Whether every direction of all gradients that give equations stands well above the noise."""
    factorization = stack.problem.factorization
    shape = len(factorization.left), factorization.right.shape[1]
    sides = [(stack.problem.spectrum, white_edge(factorization.noise_std, shape))]
    for upper in stack.viewing:
        sides.append((upper.spectrum, white_edge(upper.noise, (len(upper.left), upper.seen.shape[1]))))
    return all(limits.ROOT_STRENGTH * edge <= spectrum[-1] for spectrum, edge in sides)


def _has_gradient(stack: Stack, found: Found, basin: Basin) -> Bool[np.ndarray, " k"]:
    """Whether each root's own gradients lie in the column spaces, as far as noise and the root's own error go."""
    fits = lambda found, error: found.outside <= limits.ROOT_MARGIN * (found.expected + error)
    has = fits(found, basin.error)
    # One that is weakly held was found less sharply than it is known now.
    moved = np.linalg.norm(basin.points - found.points, axis=1)
    again = ~has & (moved <= SAME * np.linalg.norm(basin.points, axis=1))
    if again.any():
        has[again] = fits(with_duals(stack, basin.points[again]), basin.error[again])
    return has


def basins(stack: Stack, points: Float[np.ndarray, "k r"]) -> Basin:
    """The equations around points, whitened by the noise of all gradients."""
    found = in_lanes(partial(_basins, sides_of(stack)), points, DUAL_LANES)
    points, misfit, guessed, inside, spread, condition, rise, scale, *held = found
    beyond = stack.problem.factorization.right.shape[1] - stack.rank
    return Basin(points, misfit, guessed, inside, spread * beyond, condition, rise, Hold(*held), scale)


class _Local(NamedTuple):
    """The whitened equations at one point: chi squared; the gradient, and the normal matrix, of half of it."""

    misfit: Float[Array, ""]
    gradient: Float[Array, " r"]
    normal: Float[Array, "r r"]


@jax.jit
def _basins(sides: Sides, points: jax.Array) -> tuple[jax.Array, ...]:
    """`Basin` of a block of points."""
    noise_at, local = partial(_noise_at, sides), partial(_local, sides)

    def one(point: jax.Array) -> tuple[jax.Array, ...]:
        def step(_: jax.Array, around: tuple[jax.Array, _Local]) -> tuple[jax.Array, _Local]:
            point = _stepped(*around)
            return point, local(noise_at(point), (point, jnp.zeros(())))

        nowhere = _Local(jnp.zeros(()), point * 0, jnp.zeros((len(point), len(point))))  # allows no step
        point, here = jax.lax.fori_loop(0, WHITENINGS + 1, step, (point, nowhere))
        noise = noise_at(point)
        factor = jax.scipy.linalg.cho_factor(here.normal)
        solve = partial(jax.scipy.linalg.cho_solve, factor)
        weakest, least = extreme(solve, len(point))
        _, largest = extreme(lambda v: here.normal @ v, len(point))
        inverse = Inverse(solve, jnp.trace(solve(jnp.eye(len(point)))), least)
        held, misfit, spread = hold(_views(sides, noise, (point, jnp.zeros(()))), _total(sides, noise, point), inverse)
        unit = jnp.maximum(misfit, 1)  # what is left over is the better estimate of the noise where it is the larger
        covariance = jnp.maximum(unit * inverse.trace, spread)
        away = 3 * jnp.sqrt(unit * least) * weakest
        asked = (jnp.stack([point + away, point - away, point]), jnp.asarray([0.0, 0.0, 1.0]))
        there = jax.lax.map(partial(local, noise), asked)
        rise = (there.misfit[:2] - here.misfit) / (9 * unit)
        scale = _scale_error(there.normal[2], point)
        return point, misfit, noise.guessed, covariance, noise.own, jnp.sqrt(largest * least), rise, scale, *held

    return jax.lax.map(one, points)


def _stepped(point: jax.Array, local: _Local) -> jax.Array:
    """A Gauss-Newton step, none where the equations do not allow one."""
    step = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(local.normal), local.gradient)
    return jnp.where(jnp.isfinite(step).all(), point - step, point)


def _scale_error(normal: jax.Array, point: jax.Array) -> jax.Array:
    """Error of the scale of a point, relative, by a normal matrix; infinite where that does not see it."""
    solve = partial(jax.scipy.linalg.cho_solve, jax.scipy.linalg.cho_factor(normal))
    _, largest = extreme(lambda v: normal @ v, len(point))
    _, least = extreme(solve, len(point))
    error = jnp.sqrt(jnp.abs(point @ solve(point))) / jnp.sum(point**2) ** 0.5
    return jnp.where(largest * least < limits.ROOT_CONDITION**2, error, jnp.inf)


def _noise_at(sides: Sides, point: jax.Array) -> Noise:
    """The noise there: that of the row spaces is of one size each, that of the inputs the neurons'."""
    if len(sides.equations.back):
        return mixed_noise(sides, point)
    equations = sides.equations
    z, x = placed(equations, point[None])
    hidden, push = jax.linearize(lambda z, x: seen_above(equations, z, x, jnp.zeros(1)), z, x)
    shaken = jax.vmap(lambda z, x: push(z[None], x[None]))(*(probe.T for probe in sides.probes))
    own = sides.noise**2 * jnp.sum((point / sides.spectrum) ** 2)
    weights, shares = [], []
    for number, (seen, shake) in enumerate(zip(hidden, shaken, strict=True)):
        inside = equations.seen[number] @ seen[0] + equations.ones[number] * equations.constants[number]
        later = sides.noises[number] ** 2 * jnp.sum((inside / sides.spectra[number]) ** 2)
        guessed = sides.rounding**2 * jnp.mean(seen**2)
        variance = later + guessed + own * jnp.append(jnp.sum(shake**2, axis=0)[0], 0.0)
        weights.append(1 / jnp.sqrt(variance))
        shares.append(guessed / variance)
    return Noise(tuple(weights), own + sides.rounding**2, jnp.mean(jnp.concatenate(shares)))


def _local(sides: Sides, noise: Noise, asked: tuple[jax.Array, jax.Array]) -> _Local:
    """The equations at a point, whitened; of what is asked see `_views`."""
    total = _total(sides, noise, asked[0])
    weight = (1 - asked[1]) / total.noise
    misfit, gradient = weight * total.off**2, weight * total.off * total.row
    normal = weight * jnp.outer(total.row, total.row)
    for view in _views(sides, noise, asked):
        misfit, gradient = misfit + view.residual @ view.residual, gradient + view.jacobian.T @ view.residual
        normal = normal + view.jacobian.T @ view.jacobian
    return _Local(misfit, gradient, normal)


def _total(sides: Sides, noise: Noise, point: jax.Array) -> Total:
    """The equation of the bias gradient."""
    return Total(sides.total, sides.total @ point - sides.has_total, noise.own, sides.has_total)


def _views(sides: Sides, noise: Noise, asked: tuple[jax.Array, jax.Array]) -> list[View]:
    """The equations of each view, whitened.

    Args:
        sides: of the layers.
        noise: to whiten by.
        asked: (r,) the point, and () whether the scales of all bias gradients are unknown, 0 or 1.
    """
    (point, is_free), equations, views = asked, sides.equations, []
    if len(equations.back):
        return [mixed_view(sides, noise.weights[0], point)]
    at = lambda point: [y[0] for y in seen_above(equations, *placed(equations, point[None]), jnp.zeros(1))]
    hidden, jacobians = at(point), jax.jacfwd(at)(point)
    for number, weights in enumerate(noise.weights):
        rows, one, constant = equations.seen[number], equations.ones[number], equations.constants[number]
        known = jnp.append(rows, one[:, None], axis=1).T * weights[:, None]
        free = jnp.zeros(len(weights)).at[-1].set(is_free)  # a column that takes the constant's equation away
        known = jnp.append(known, free[:, None], axis=1)
        gram = known.T @ known + jnp.diag(jnp.zeros(known.shape[1]).at[-1].set(1 - is_free))
        factor = jax.scipy.linalg.cho_factor(gram, lower=True)
        without = lambda array, known=known, factor=factor: (
            array - known @ jax.scipy.linalg.cho_solve(factor, known.T @ array)
        )
        whole = jnp.append(jacobians[number], jnp.zeros((1, len(point))), axis=0) * weights[:, None]
        inner = jax.scipy.linalg.solve_triangular(factor[0], known.T, lower=True)
        room = (1 - jnp.sum(inner**2, axis=0)).at[-1].multiply(constant)
        turned = (rows @ jacobians[number]) / sides.spectra[number][:, None]
        turned = turned * sides.noises[number] * jnp.sqrt(jnp.sum(room * weights**2))
        residual = without(jnp.append(hidden[number], constant) * weights)
        views.append(View(residual, without(whole), whole, room, turned))
    return views
